# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Standings: open segments and unclean stops, in one order and one spelling."""

from __future__ import annotations

from typing import Any

import pytest

from edgeprov._dataclass import replace
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.packing import pack, unpack
from edgeprov.formats.standing import (
    OpenSegment,
    Standing,
    Stop,
    encode_standing,
    parse_standing,
    standing_map,
)
from edgeprov.limits import LIMITS

A, B, C = bytes(32), b"\1" * 32, b"\2" * 32
EMPTY = OpenSegment(number=7, header=A, slot="left")
FULL = OpenSegment(
    number=7, header=B, slot="default", first=3, last=9, leaf=C, least_ns=10, greatest_ns=20, flags=1
)  # fmt: skip
STOP = Stop(slot="default", header=B, after=9, resumed=41, bound_ms=1000, at_ns=30)
STANDING = Standing(at_ns=50, floor_ns=5, doubt=True, newest=B, open=(EMPTY, FULL), stops=(STOP,))


def test_a_standing_comes_back() -> None:
    raw = encode_standing(STANDING)
    assert parse_standing(raw) == STANDING
    assert pack(standing_map(parse_standing(raw))) == raw
    last = Standing(at_ns=1, final=True, newest=A)
    assert parse_standing(encode_standing(last)) == last


@pytest.mark.parametrize(
    "bad",
    [
        replace(STANDING, open=(FULL, EMPTY)), replace(STANDING, open=(FULL, FULL)), replace(STANDING, open=(replace(EMPTY, number=8), FULL)),
        replace(STANDING, final=True), replace(STANDING, newest=None), replace(STANDING, at_ns=-1), replace(STANDING, floor_ns=2**63), replace(STANDING, doubt=1), replace(STANDING, final=None),
        *(replace(STANDING, open=(replace(FULL, **{name: None}),)) for name in ("first", "last", "leaf", "least_ns", "greatest_ns")),
        *(replace(STANDING, open=(replace(EMPTY, **change),)) for change in (
            {"first": 1}, {"leaf": A}, {"least_ns": 1}, {"flags": 1}, {"slot": "Left"}, {"number": -1}, {"header": b"short"}, {"header": None},
        )),
        *(replace(STANDING, open=(replace(FULL, **change),)) for change in ({"first": 10}, {"least_ns": 21}, {"flags": 2}, {"leaf": b"x"}, {"last": True})),
        *(replace(STANDING, stops=(replace(STOP, **change),)) for change in ({"resumed": 9}, {"slot": ""}, {"header": None}, {"bound_ms": -1}, {"after": -1}, {"at_ns": None})),
    ],
)  # fmt: skip
def test_a_standing_that_contradicts_itself_is_not_written(bad: Standing) -> None:
    with pytest.raises(FormatError):
        encode_standing(bad)


def changed(change: dict[str, Any]) -> bytes:
    return pack(standing_map(STANDING) | change)


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"open": {}}, {"open": [5]}, {"open": [{}]}, {"stops": None}, {"stops": [{}]}]
)
def test_what_is_no_standing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_standing(changed(change))


def test_a_standing_has_bounds() -> None:
    with pytest.raises(LimitError):
        parse_standing(bytes(LIMITS.standing_bytes + 1))
    many = [OpenSegment(number=number, header=A, slot="d") for number in range(LIMITS.standing_open + 1)]
    with pytest.raises(LimitError):
        encode_standing(replace(STANDING, open=tuple(many)))
    item = replace(FULL, slot="d" * 32, first=2**62, last=2**62, least_ns=2**62, greatest_ns=2**62)
    full = [replace(item, number=2**62 + number) for number in range(LIMITS.standing_open)]
    raw = encode_standing(replace(STANDING, open=tuple(full), stops=()))
    assert len(raw) <= LIMITS.standing_bytes, "a list of full length fits its bytes"
    assert unpack(raw, max_bytes=LIMITS.standing_bytes, what="standing")
