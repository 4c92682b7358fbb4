# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Labels: whole rows, the two halves that a kit keeps apart, and the order in which labels of a record count."""

from __future__ import annotations

import math

import pytest

from edgeprov.errors import FormatError, SubjectMismatch
from edgeprov.formats.datakit import encode_part_header, parse_part
from edgeprov.formats.label import (
    Label,
    LabelNumbers,
    LabelValues,
    encode_label,
    join_labels,
    label_rank,
    parse_label,
)
from edgeprov.formats.packing import pack
from edgeprov.limits import LIMITS
from tests.support.kits import encode_label_parts, labels_of

LABELS = [
    Label(n=3, value=1, source="lab", labelled_at_ns=50),
    Label(n=4, value="malignant", source="dr-a", labelled_at_ns=40),
    Label(n=3, value=None, source=None, labelled_at_ns=60),
    Label(n=5, value=(0.5, None), source="lab", labelled_at_ns=70),
]


@pytest.mark.parametrize("value", [True, -5, 0.25, "benign", b"\x00", (1, 2), (1, None), ()])
def test_a_label_comes_back(value: object) -> None:
    label = Label(n=9, value=value, source="biopsy", labelled_at_ns=77)  # type: ignore[arg-type]
    assert parse_label(encode_label(label)) == label


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": 1}, ((1,),), (math.nan,), object()])
def test_what_is_no_label_value_is_not_written(value: object) -> None:
    with pytest.raises(FormatError):
        encode_label(Label(n=9, value=value, source="x", labelled_at_ns=7))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "row",
    [
        [1, True, "x"],
        [1, True, 5, 7],
        [-1, True, "x", 7],
        [1, True, "x", -7],
        [1, {"a": 1}, "x", 7],
        [1, [[1]], "x", 7],
        [1, None, "x", 7],
        [1, True, None, 7],
        5,
    ],
)
def test_what_is_no_label_is_refused(row: object) -> None:
    with pytest.raises(FormatError):
        parse_label(pack(row))


def test_a_long_label_is_refused() -> None:
    with pytest.raises(FormatError):
        encode_label(Label(n=1, value="x" * 70_000, source="x", labelled_at_ns=1))


def test_a_withdrawn_label_has_neither_value_nor_source() -> None:
    label = Label(n=9, value=None, source=None, labelled_at_ns=77)
    assert parse_label(encode_label(label)) == label
    for wrong in (
        Label(n=9, value=None, source="x", labelled_at_ns=7),
        Label(n=9, value=1, source=None, labelled_at_ns=7),
    ):
        with pytest.raises(FormatError):
            encode_label(wrong)


def test_labels_come_back_from_their_two_parts() -> None:
    parts = [parse_part(plain) for plain in encode_label_parts(LABELS).values()]
    (labels,) = labels_of(parts)
    assert list(labels) == LABELS
    assert labels.rows() == [encode_label(label) for label in LABELS]
    assert list(parts[0].labels.withdrawn) == [False, False, True, False]


def test_numbers_and_times_are_read_without_any_value() -> None:
    part = parse_part(encode_label_parts(LABELS)["labels"])
    assert (list(part.labels.numbers), list(part.labels.labelled_at_ns)) == ([3, 4, 3, 5], [50, 40, 60, 70])
    assert not part.label_values.values


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("labels", [[1, 2]]),
        ("labels", [[1, 2, None]]),
        ("labels", [[1, 2, 0]]),
        ("labels", [[-1, 2, False]]),
        ("labels", [[1, -2, False]]),
        ("labels", [[1, 2, False, "x"]]),
        ("labels", [[1, 2, False]] * 40 + [[1, 2, 1]]),
        ("label-values", [[1]]),
        ("label-values", [[1, None]]),
        ("label-values", [[None, "lab"]]),
        ("label-values", [[None, "lab"]] * 40),
        ("label-values", [[math.nan, "lab"]]),
        ("label-values", [[[[1]], "lab"]]),
        ("label-values", [[1, 5]]),
        ("label-values", [["x" * 70_000, "lab"]]),
    ],
)
def test_what_is_no_half_of_a_label_is_refused(kind: str, rows: list[list[object]]) -> None:
    with pytest.raises(FormatError):
        parse_part(encode_part_header(kind, []) + b"".join(map(pack, rows)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("withdrawn", "values"),
    [([False], []), ([False], [1, 2]), ([True], [1]), ([False], [None]), ([True, False], [1, None])],
)
def test_halves_that_do_not_belong_together_are_refused(withdrawn: list[bool], values: list[int | None]) -> None:
    keys = LabelNumbers(numbers=[1] * len(withdrawn), labelled_at_ns=[1] * len(withdrawn), withdrawn=withdrawn)
    sources = [None if value is None else "lab" for value in values]
    with pytest.raises(SubjectMismatch):
        join_labels(keys, LabelValues(values=values, sources=sources))


def test_the_order_of_labels_is_kit_number_then_place() -> None:
    places = [0, 1, LIMITS.kit_records - 1]
    ranks = [label_rank(seq, place) for seq in (0, 1, 2, 10**10 - 1) for place in places]
    assert ranks == sorted(set(ranks))
    assert max(ranks) < 2**63
