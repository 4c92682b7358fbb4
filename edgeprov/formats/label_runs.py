# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Label rows read by column where they look alike, as they nearly always do: no Python code per label.

Labels of one source, with numbers of one width and values of one kind, stand in rows of one length: what
is the same in each row is compared down a whole column of bytes by slicing, and what differs is cut out the
same way. This way can accept, and never refuse: what does not look alike, or is not canonical, is left to
the reader of single rows. Without it collect of labelled kits takes 71 % more (`./tests/run bench tricks`).

Spec: FORMAT.md section "Label".
"""

from __future__ import annotations

import math
import sys
from array import array
from typing import Any, Final, NamedTuple

_WINDOW_ROWS: Final = 8_192  # looked at in one go
_SHORT: Final = 32  # rows to a run: below that, single rows are read as fast
_RUNS: Final = 16  # are tried before an average is judged

_UINT: Final = {0xCC: (1, 0x80), 0xCD: (2, 0x100), 0xCE: (4, 0x1_0000), 0xCF: (8, 0x1_0000_0000)}
_FLOAT: Final = 0xCB
_ONE: Final[dict[int, Any]] = {0xC0: None, 0xC2: False, 0xC3: True} | {b: b - 256 for b in range(0xE0, 0x100)}
_MEANING: Final = [_ONE.get(byte, byte) for byte in range(256)]
# 0 for the bytes that are a whole value: small integers, nil, false, true.
_NO_VALUE: Final = bytes(byte >= 0x80 and byte not in _ONE for byte in range(256))
_NO_SMALL: Final = bytes(byte >= 0x80 for byte in range(256))


class Runs(NamedTuple):
    """Columns of all rows. ``values`` are an ``array`` where all are of one number type."""

    numbers: array[int]
    values: Any
    sources: list[str]
    times: array[int]


class _LabelField(NamedTuple):
    """Where a number stands in a row: ``width`` bytes at ``place``; below ``minimum`` a shorter form exists."""

    place: int
    width: int
    minimum: int


class _Shape(NamedTuple):
    """What the rows of a run share. ``same`` are places of constant bytes; ``free`` of one-byte numbers or values."""

    length: int
    same: list[tuple[int, int]]
    free: list[tuple[int, bytes]]
    number: _LabelField
    value: _LabelField
    real: bool
    source: str
    time: _LabelField


def read_runs(data: bytes) -> Runs | None:
    """All label rows in ``data``, or None where they are to be read one by one."""
    found = Runs(array("q"), None, [], array("q"))
    kinds: list[Any] = []
    position = runs = 0
    while position < len(data):
        shape = _shape(data, position)
        count = _count(data, position, shape) if shape else 0
        runs += 1
        if shape is None or not count or (runs > _RUNS and len(found.numbers) < _SHORT * runs):
            return None
        end = position + count * shape.length
        numbers, times = (_column(data, position, end, shape.length, item) for item in (shape.number, shape.time))
        values = _values(data, position, end, shape)
        if values is None or min(numbers) < shape.number.minimum or min(times) < shape.time.minimum:
            return None
        found.numbers.extend(numbers)
        found.times.extend(times)
        found.sources.extend([shape.source] * count)
        kinds.append(values)
        position = end
    return found._replace(values=_joined(kinds))


def _shape(data: bytes, start: int) -> _Shape | None:
    """The shape of the row that begins here; None where it is none of the plain ones."""
    same, free, place = [(0, 0x94)], [], 1

    def head() -> int:
        return data[start + place] if start + place < len(data) else 0xC1  # a byte that msgpack never uses

    def uint() -> _LabelField | None:
        nonlocal place
        if head() < 0x80:
            free.append((place, _NO_SMALL))
            place += 1
            return _LabelField(place - 1, 1, 0)
        width, minimum = _UINT.get(head(), (0, 0))
        same.append((place, head()))
        place += 1 + width
        return _LabelField(place - width, width, minimum) if width else None

    number = uint()
    value: _LabelField | None
    real = head() == _FLOAT
    if not _NO_VALUE[head()]:
        free.append((place, _NO_VALUE))
        value = _LabelField(place, 1, 0)
        place += 1
    elif real:
        same.append((place, _FLOAT))
        value = _LabelField(place + 1, 8, 0)
        place += 9
    else:
        value = uint()
    text = place + (1 if 0xA0 <= head() <= 0xBF else 2)
    size = head() & 0x1F if text == place + 1 else int.from_bytes(data[start + place + 1 : start + text])
    if text == place + 2 and (head() != 0xD9 or size < 0x20):
        return None
    try:
        source = data[start + text : start + text + size].decode()
    except UnicodeDecodeError:
        return None
    same += [(at, data[start + at]) for at in range(place, text + size) if start + at < len(data)]
    place = text + size
    time = uint()
    if number is None or value is None or time is None or data[start] != 0x94 or start + place > len(data):
        return None
    return _Shape(place, same, free, number, value, real, source, time)


def _count(data: bytes, start: int, shape: _Shape) -> int:
    """How many rows from here on have this shape."""
    length = shape.length
    count = min((len(data) - start) // length, _WINDOW_ROWS)
    for place, byte in shape.same:
        column = data[start + place : start + count * length : length]
        alike = bytes((byte,))
        if column != alike * count:  # comparing is many times faster than stripping
            count -= len(column.lstrip(alike))
    for place, odd in shape.free:
        column = data[start + place : start + count * length : length].translate(odd)
        first = column.find(1)
        count = count if first < 0 else first
    return count


def _column(data: bytes, start: int, end: int, length: int, field: _LabelField, kind: str = "q") -> array[Any]:
    """A number of each row, turned from big-endian bytes of any width into native ones of eight."""
    raw = bytearray(8 * ((end - start) // length))
    for byte in range(field.width):
        raw[field.width - 1 - byte :: 8] = data[start + field.place + byte : end : length]
    column = array(kind, bytes(raw))
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _values(data: bytes, start: int, end: int, shape: _Shape) -> Any:
    """The values of a run, None where one is not canonical or not finite."""
    column = data[start + shape.value.place : end : shape.length]
    if shape.value.width == 1 and not shape.value.minimum and not column.isascii():
        return list(map(_MEANING.__getitem__, column))  # nil, false or true, perhaps among small integers
    values = _column(data, start, end, shape.length, shape.value, "d" if shape.real else "q")
    good = all(map(math.isfinite, values)) if shape.real else min(values) >= shape.value.minimum
    return values if good else None


def _joined(columns: list[Any]) -> Any:
    if not columns:
        return array("q")
    if len({getattr(column, "typecode", "") for column in columns}) == 1:
        whole = columns[0]
        for column in columns[1:]:
            whole.extend(column)
        return whole
    return [value for column in columns for value in column]
