# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Label rows read by column where they look alike, as they nearly always do: no Python code per label.

Labels of one source, with numbers of one width and values of one kind, stand in rows of one length: what
is the same in each row is compared down a whole column of bytes by slicing, and what differs is cut out the
same way. This way can accept, and never refuse: what does not look alike, or is not canonical, is left to
the reader of single rows. Without it collect of labelled kits takes 96 % more (`./tests/run bench tricks`).

Spec: FORMAT.md section "Label".
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_WINDOW_ROWS: Final = 8_192  # looked at in one go
_SHORT: Final = 32  # rows to a run: below that, single rows are read as fast
_RUNS: Final = 16  # are tried before an average is judged

_NUMBER_ROW: Final = 0x93  # an array of three
_VALUE_ROW: Final = 0x92  # an array of two
_NIL: Final = 0xC0
_FALSE: Final = 0xC2
_TRUE: Final = 0xC3
_UINT: Final = {0xCC: (1, 0x80), 0xCD: (2, 0x100), 0xCE: (4, 0x1_0000), 0xCF: (8, 0x1_0000_0000)}
_FLOAT: Final = 0xCB
_ONE: Final[dict[int, Any]] = {_FALSE: False, _TRUE: True} | {b: b - 256 for b in range(0xE0, 0x100)}
_MEANING: Final = [_ONE.get(byte, byte) for byte in range(256)]
# 0 for the bytes that are a whole value: small integers, false, true. Nil stands in withdrawn labels only.
_NO_VALUE: Final = bytes(byte >= 0x80 and byte not in _ONE for byte in range(256))
_NO_SMALL: Final = bytes(byte >= 0x80 for byte in range(256))


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
    fields: list[_LabelField]
    real: bool = False
    source: str | None = None
    withdrawn: bool = False


class _Run(NamedTuple):
    """Rows of one shape, from ``start`` to ``end``."""

    shape: _Shape
    start: int
    end: int
    rows: int


def read_number_runs(data: bytes) -> tuple[array[int], array[int], list[bool]] | None:
    """The columns of all rows ``[n, labelled_at_ns, withdrawn]``, or None where they are to be read one by one."""
    runs = _runs(data, _number_shape)
    if runs is None:
        return None
    numbers, times, withdrawn = array("q"), array("q"), list[bool]()
    for run in runs:
        for whole, field in zip((numbers, times), run.shape.fields, strict=True):
            column = _column(data, run, field)
            if min(column) < field.minimum:
                return None
            whole.extend(column)
        withdrawn.extend([run.shape.withdrawn] * run.rows)
    return numbers, times, withdrawn


def read_value_runs(data: bytes) -> tuple[Any, list[str | None]] | None:
    """Values and sources of all rows ``[value, source]``, or None where they are to be read one by one.

    Values are an ``array`` where all are of one number type.
    """
    runs = _runs(data, _value_shape)
    if runs is None:
        return None
    kinds: list[Any] = []
    sources: list[str | None] = []
    for run in runs:
        values = _values(data, run)
        if values is None:
            return None
        kinds.append(values)
        sources.extend([run.shape.source] * run.rows)
    return _joined(kinds), sources


def _runs(data: bytes, shape_at: Callable[[bytes, int], _Shape | None]) -> list[_Run] | None:
    found: list[_Run] = []
    position = rows = 0
    while position < len(data):
        shape = shape_at(data, position)
        count = _count(data, position, shape) if shape else 0
        rows += count
        if shape is None or not count or (len(found) >= _RUNS and rows < _SHORT * len(found)):
            return None
        end = position + count * shape.length
        found.append(_Run(shape, position, end, count))
        position = end
    return found


def _number_shape(data: bytes, start: int) -> _Shape | None:
    """The shape of the row of two numbers and a truth value that begins here; None where it is none."""
    same, free, fields, place = [(0, _NUMBER_ROW)], list[tuple[int, bytes]](), list[_LabelField](), 1
    for _ in range(2):
        field = _uint(data, start, place, same, free, _NO_SMALL)
        if field is None:
            return None
        fields.append(field)
        place = field.place + field.width
    last = _byte(data, start + place)
    if data[start] != _NUMBER_ROW or last not in (_FALSE, _TRUE):
        return None
    return _Shape(place + 1, [*same, (place, last)], free, fields, withdrawn=last == _TRUE)


def _value_shape(data: bytes, start: int) -> _Shape | None:
    """The shape of the row of value and source that begins here; None where it is none of the plain ones."""
    if data[start : start + 3] == bytes((_VALUE_ROW, _NIL, _NIL)):
        return _Shape(3, [(0, _VALUE_ROW), (1, _NIL), (2, _NIL)], [], [])
    same, free = [(0, _VALUE_ROW)], list[tuple[int, bytes]]()
    real = _byte(data, start + 1) == _FLOAT
    if real:
        same.append((1, _FLOAT))
    field = _LabelField(2, 8, 0) if real else _uint(data, start, 1, same, free, _NO_VALUE)
    if field is None or data[start] != _VALUE_ROW:
        return None
    place = field.place + field.width
    head = _byte(data, start + place)
    text = place + (1 if 0xA0 <= head <= 0xBF else 2)
    size = head & 0x1F if text == place + 1 else _byte(data, start + place + 1)
    if text == place + 2 and (head != 0xD9 or size < 0x20):
        return None
    try:
        source = data[start + text : start + text + size].decode()
    except UnicodeDecodeError:
        return None
    length = text + size
    if start + length > len(data):
        return None
    same += [(at, data[start + at]) for at in range(place, length)]
    return _Shape(length, same, free, [field], real, source)


def _uint(
    data: bytes, start: int, place: int, same: list[tuple[int, int]], free: list[tuple[int, bytes]], odd: bytes
) -> _LabelField | None:
    """The number at ``place`` of the row: of one byte, where ``odd`` is 0 for its first byte, or of a fixed width."""
    head = _byte(data, start + place)
    if not odd[head]:
        free.append((place, odd))
        return _LabelField(place, 1, 0)
    width, minimum = _UINT.get(head, (0, 0))
    same.append((place, head))
    return _LabelField(place + 1, width, minimum) if width else None


def _byte(data: bytes, place: int) -> int:
    return data[place] if place < len(data) else 0xC1  # a byte that msgpack never uses


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


def _column(data: bytes, run: _Run, field: _LabelField, kind: str = "q") -> array[Any]:
    """A number of each row, turned from big-endian bytes of any width into native ones of eight."""
    raw = bytearray(8 * run.rows)
    for byte in range(field.width):
        raw[field.width - 1 - byte :: 8] = data[run.start + field.place + byte : run.end : run.shape.length]
    column = array(kind, bytes(raw))
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _values(data: bytes, run: _Run) -> Any:
    """The values of a run, None where one is not canonical or not finite."""
    if not run.shape.fields:
        return [None] * run.rows
    (field,) = run.shape.fields
    column = data[run.start + field.place : run.end : run.shape.length]
    if field.width == 1 and not field.minimum and not column.isascii():
        return list(map(_MEANING.__getitem__, column))  # false or true, perhaps among small integers
    values = _column(data, run, field, "d" if run.shape.real else "q")
    good = all(map(math.isfinite, values)) if run.shape.real else min(values) >= field.minimum
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
