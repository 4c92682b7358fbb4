# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Canonical msgpack: one encoding per value, and nothing else is read."""

from __future__ import annotations

import msgpack
import pytest

from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.packing import Cursor, pack, unpack, unpack_rows


def read(data: bytes) -> object:
    return unpack(data, max_bytes=1000, what="value")


@pytest.mark.parametrize(
    "value",
    [None, True, 0, 127, 128, 255, 256, 65535, 65536, 2**32, 2**63, 2**64 - 1, -1, -32, -33, -(2**63), 1.5, "", "ä", b"", b"x" * 300, [], [1, [2]], {}, {"a": 1, "ä": {"b": b""}}],
)  # fmt: skip
def test_a_value_comes_back(value: object) -> None:
    assert read(pack(value)) == value


def test_keys_are_sorted_at_every_level() -> None:
    assert pack({"b": 1, "a": {"d": 1, "c": 2}}) == pack({"a": {"c": 2, "d": 1}, "b": 1})
    assert pack({"b": 1, "a": 2}).hex() == "82a16102a16201"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x92\x01",  # cut short
        b"\x01\x02",  # something follows
        b"\xcc\x01",  # 1 in two bytes
        b"\xd9\x01a",  # short string in the long form
        b"\xc5\x00\x01x",  # short binary in the long form
        b"\xca\x3f\x80\x00\x00",  # float32
        b"\x82\xa1b\x01\xa1a\x02",  # keys out of order
        b"\x82\xa1a\x01\xa1a\x02",  # key twice
        b"\x81\x01\x02",  # key that is no string
        b"\x81\xc4\x01a\x02",  # key that is binary
        b"\xd4\x05\x00",  # extension
        b"\xd6\xff\x00\x00\x00\x00",  # timestamp extension
        b"\xc7\x00\x05",  # empty extension
        b"\xc1",  # never used
        b"\xa1\xff",  # not UTF-8
        b"\xdd\xff\xff\xff\xff",  # array of 4 G items
        b"\xc6\xff\xff\xff\xff",  # 4 GiB that are not there
    ],
)
def test_what_is_not_canonical_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        read(data)


def test_depth_and_size_are_bounded() -> None:
    with pytest.raises(FormatError):
        read(b"\x91" * 40 + b"\x01")
    with pytest.raises(FormatError):
        unpack(b"\x91" * 5000 + b"\x01", max_bytes=10_000, what="value")
    with pytest.raises(LimitError):
        unpack(b"\xc0" * 2, max_bytes=1, what="value")


@pytest.mark.parametrize("value", [object(), {1: 2}, 2**64, "\ud800", msgpack.ExtType(1, b""), {"a": {2: 3}}, {1, 2}])
def test_what_has_no_form_is_not_packed(value: object) -> None:
    with pytest.raises(FormatError):
        pack(value)


def test_rows_must_be_whole_canonical_and_of_one_width() -> None:
    good = [pack([1, 2]), pack([3, {"a": 1}])]
    assert unpack_rows(good, width=2, what="row") == [(1, 2), (3, {"a": 1})]
    for bad in (
        [pack([1])],
        [pack([1, 2]) + pack([3, 4])],
        [pack([1, 2])[:1], pack([1, 2])[1:]],
        [b"\x92\xcc\x01\x02"],
        [pack(5)],
        [b"\x92\x01\x82\xa1b\x01\xa1a\x02"],
        [b""],
        [b"\x92\x01"],
        [b"\x92\x01\xd4\x05\x00"],
    ):
        with pytest.raises(FormatError):
            unpack_rows(bad, width=2, what="row")


def test_a_cursor_reads_without_copying() -> None:
    data = pack(["name", 7, b"z" * 300, {"k": 1.5}])
    cursor = Cursor(data, "thing")
    assert (cursor.array(4), cursor.text(), cursor.uint()) == (4, "name", 7)
    view = cursor.binary(300)
    assert view.obj is data
    assert view == b"z" * 300
    assert cursor.value(100) == {"k": 1.5}
    cursor.end()


@pytest.mark.parametrize(
    ("call", "data"),
    [
        (lambda c: c.array(9), b"\xdc\x00\x05"),
        (lambda c: c.array(9), b"\x80"),
        (lambda c: c.array(2), b"\x93"),
        (lambda c: c.map(9), b"\x90"),
        (lambda c: c.map(9), b"\xdf\x00\x00\x00\x01"),
        (lambda c: c.text(), b"\x01"),
        (lambda c: c.text(), b"\xa2a"),
        (lambda c: c.text(), b"\xa1\xff"),
        (lambda c: c.text(2), b"\xa3abc"),
        (lambda c: c.text(), b"\xd9\x05abcde"),
        (lambda c: c.binary(9), b"\xa1a"),
        (lambda c: c.binary(9), b"\xc5\x00\x01a"),
        (lambda c: c.binary(1), b"\xc4\x02ab"),
        (lambda c: c.uint(), b"\xff"),
        (lambda c: c.uint(), b"\xcd\x00\x05"),
        (lambda c: c.uint(), b"\xcf" + b"\xff" * 8),
        (lambda c: c.uint(), b""),
        (lambda c: c.value(10), b"\x92\x01"),
        (lambda c: c.value(10), b"\xc1"),
        (lambda c: c.value(2), b"\x93\x01\x02\x03"),
        (lambda c: c.end(), b"\x00"),
    ],
)
def test_a_cursor_refuses_what_is_not_there(call: object, data: bytes) -> None:
    with pytest.raises(FormatError):
        call(Cursor(data, "thing"))  # type: ignore[operator]
