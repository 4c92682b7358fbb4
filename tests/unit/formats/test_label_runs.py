# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Labels read in runs are the labels that single rows give, or are left to the reader of single rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from edgeprov.errors import FormatError
from edgeprov.formats.label import Label, encode_label, read_label_numbers, read_label_values, split_labels
from edgeprov.formats.label_runs import read_number_runs, read_value_runs
from edgeprov.formats.packing import Cursor

NOW = 1_767_225_600_000_000_000


Halves = tuple[bytes, bytes]


def encode(values: list[Any], first: int = 0, source: str = "biopsy", at: int = NOW) -> Halves:
    """The rows of a labels part and of a label-values part."""
    rows = [
        encode_label(Label(n=first + i, value=value, source=None if value is None else source, labelled_at_ns=at + i))
        for i, value in enumerate(values)
    ]
    split = split_labels(rows)
    return b"".join(numbers for numbers, _ in split), b"".join(values for _, values in split)


def joined(*parts: Halves) -> Halves:
    return b"".join(numbers for numbers, _ in parts), b"".join(values for _, values in parts)


def one_by_one(data: bytes, width: int) -> list[tuple[Any, ...]]:
    return Cursor(data, "labels").rows(width, 1_000)


def plain(columns: Any) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=True))


def check_at_once(data: Halves) -> Any:
    """Both halves are read in runs, and as single rows are; returns the values."""
    numbers, values = read_number_runs(data[0]), read_value_runs(data[1])
    assert numbers is not None
    assert values is not None
    assert plain(numbers) == one_by_one(data[0], 3)
    assert plain(values) == one_by_one(data[1], 2)
    return values[0]


@pytest.mark.parametrize("first", [0, 100, 200, 65_000, 2**32 - 9, 2**63 - 2_000])
@pytest.mark.parametrize(
    "make",
    [
        lambda r: r.randrange(10),
        lambda r: r.choice([True, False, 3, -4]),
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
    assert list(map(type, check_at_once(data))) == [type(row[0]) for row in one_by_one(data[1], 2)]


def test_long_and_changing_sources_and_times_and_withdrawn_labels() -> None:
    long, umlaut = encode([1] * 200, source="x" * 200), encode([1.5] * 100, 500, "ü")
    check_at_once(joined(long, umlaut, encode([None] * 100, 900, at=5)))


def test_nothing_is_no_labels() -> None:
    assert plain(read_number_runs(b"")) == []
    assert plain(read_value_runs(b"")) == []


@pytest.mark.parametrize("value", ["malignant", b"x", (1, 2), "", -100, -(2**40)])
def test_other_values_are_left_to_the_reader_of_rows(value: Any) -> None:
    _, data = encode([value] * 50)
    assert read_value_runs(data) is None
    found = read_label_values(Cursor(data, "labels"))
    assert plain((found.values, found.sources)) == one_by_one(data, 2)


def test_changing_lengths_are_left_to_the_reader_of_rows() -> None:
    _, data = joined(*(encode([1], i, "a" * (1 + i % 2)) for i in range(100)))
    assert read_value_runs(data) is None


@pytest.mark.parametrize(("half", "width", "read"), [(0, 3, read_number_runs), (1, 2, read_value_runs)])
def test_no_changed_byte_is_read_otherwise_than_row_by_row(half: int, width: int, read: Callable[..., Any]) -> None:
    """Whatever a byte becomes: the same labels as from single rows, or left to their reader, which refuses."""
    data = joined(encode([1] * 3, 254), encode([0.5] * 2, 65_534), encode([300] * 2, 7, "y" * 40, at=9))[half]
    for position in range(len(data)):
        for byte in range(256):
            changed = data[:position] + bytes((byte,)) + data[position + 1 :]
            runs = read(changed)
            if runs is not None:
                assert repr(plain(runs)) == repr(one_by_one(changed, width)), (position, byte)


@pytest.mark.parametrize(
    ("half", "runs", "read"), [(0, read_number_runs, read_label_numbers), (1, read_value_runs, read_label_values)]
)
def test_every_cut_is_refused(half: int, runs: Callable[..., Any], read: Callable[..., Any]) -> None:
    data = encode([1] * 30)[half]
    whole = {end for end in range(len(data)) if end % (len(data) // 30) == 0}
    for end in set(range(len(data))) - whole:
        assert runs(data[:end]) is None
        with pytest.raises(FormatError):
            read(Cursor(data[:end], "labels"))
