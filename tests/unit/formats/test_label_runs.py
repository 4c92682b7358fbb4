# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Labels read in runs are the labels that single rows give, or are left to the reader of single rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from edgeprov.errors import FormatError
from edgeprov.formats.label_runs import read_runs
from edgeprov.formats.packing import Cursor
from edgeprov.formats.record import Label, LabelColumns, encode_label, read_labels

NOW = 1_767_225_600_000_000_000


def encode(values: list[Any], first: int = 0, source: str = "biopsy", at: int = NOW) -> bytes:
    rows = (Label(n=first + i, value=value, source=source, labelled_at_ns=at + i) for i, value in enumerate(values))
    return b"".join(map(encode_label, rows))


def one_by_one(data: bytes) -> list[tuple[Any, ...]]:
    return Cursor(data, "labels").rows(4, 1_000)


def plain(columns: Any) -> list[tuple[Any, ...]]:
    if isinstance(columns, LabelColumns):
        columns = (columns.numbers, columns.values, columns.sources, columns.labelled_at_ns)
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("first", [0, 100, 200, 65_000, 2**32 - 9, 2**63 - 2_000])
@pytest.mark.parametrize(
    "make",
    [
        lambda r: r.randrange(10),
        lambda r: r.choice([None, True, False, 3, -4]),
        lambda r: r.choice([200, 255]),
        lambda r: 70_000 + r.randrange(9),
        lambda r: 2**62 + r.randrange(9),
        lambda r: r.random() - 0.5,
    ],
    ids=["class", "one byte", "uint8", "uint32", "uint64", "float"],
)
def test_rows_that_look_alike_are_read_at_once(make: Callable[[random.Random], Any], first: int) -> None:
    pick = random.Random(first)
    data = encode([make(pick) for _ in range(1_500)], first)
    runs = read_runs(data)
    assert runs is not None
    assert plain(runs) == one_by_one(data)
    assert list(map(type, runs.values)) == [type(row[1]) for row in one_by_one(data)]


def test_long_and_changing_sources_and_times() -> None:
    data = encode([1] * 200, source="x" * 200) + encode([1.5] * 100, 500, "ü") + encode([None] * 100, 900, at=5)
    runs = read_runs(data)
    assert runs is not None
    assert plain(runs) == one_by_one(data)


def test_nothing_is_no_labels() -> None:
    assert plain(read_runs(b"")) == []


@pytest.mark.parametrize("value", ["malignant", b"x", (1, 2), "", -100, -(2**40)])
def test_other_values_are_left_to_the_reader_of_rows(value: Any) -> None:
    data = encode([value] * 50)
    assert read_runs(data) is None
    assert plain(read_labels(Cursor(data, "labels"))) == one_by_one(data)


def test_changing_lengths_are_left_to_the_reader_of_rows() -> None:
    data = b"".join(encode([1], i, "a" * (1 + i % 2)) for i in range(100))
    assert read_runs(data) is None


def test_no_changed_byte_is_read_otherwise_than_row_by_row() -> None:
    """Whatever a byte becomes: the same labels as from single rows, or left to their reader, which refuses."""
    data = encode([1] * 3, 254) + encode([0.5] * 2, 65_534) + encode([300] * 2, 7, "y" * 40, at=9)
    for position in range(len(data)):
        for byte in range(256):
            changed = data[:position] + bytes((byte,)) + data[position + 1 :]
            runs = read_runs(changed)
            if runs is not None:
                assert repr(plain(runs)) == repr(one_by_one(changed)), (position, byte)


def test_every_cut_is_refused() -> None:
    data = encode([1] * 30)
    whole = {end for end in range(len(data)) if end % (len(data) // 30) == 0}
    for end in set(range(len(data))) - whole:
        assert read_runs(data[:end]) is None
        with pytest.raises(FormatError):
            read_labels(Cursor(data[:end], "labels"))
