# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Maps of columns, and the evidence block: numbers, times and flags of up to 1,024 records of one segment.

A block is a canonical msgpack map from column name to raw little-endian bytes. Readers get views of
the input, so that a table library can take them without a copy. What the records say (outputs, inputs,
parameters) stands in the content block beside it (content_block.py); block.py joins the two.

No Python code runs per value where ``zip``, ``map`` and ``bytes.join`` can do it: sealing is paid
on the device, per record.

Spec: FORMAT.md section "Column blocks".
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from operator import sub
from typing import Any, Final, NamedTuple

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.packing import Cursor, pack_plain
from edgeprov.formats.record import CLOCK_DOUBTFUL, INT_MAX
from edgeprov.formats.segment import SegmentHeader
from edgeprov.limits import LIMITS

_DELTAS: Final = ("n", "recorded_at", "mono")
_REQUIRED: Final = frozenset((*_DELTAS, "duration"))
_SWAP: Final = sys.byteorder == "big"
_ONES: Final = (1).to_bytes(8, "little") * (LIMITS.block_rows - 1)
_ZEROS: Final = bytes(LIMITS.block_rows - 1)
_SAFE_START: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceBlock:
    """Numbers, times and flags of records of one segment; the views live as long as the part's bytes.

    Attributes:
        segment: Index of the header in the part.
        header: That header.
        count: Number of rows.
        columns: Raw bytes by name: ``n``, ``recorded_at``, ``mono`` (int64 deltas, the first one
            absolute), ``duration`` (int64), ``flags`` (a byte per row; absent when all are 0).
        first: Number of the first record.
        last: Number of the last record.
    """

    segment: int
    header: SegmentHeader
    count: int
    first: int
    last: int
    columns: Mapping[str, memoryview]

    def numbers(self) -> array[int]:
        """Record numbers, int64[count]."""
        return array("q", accumulate(int64_array(self.columns["n"])))

    def recorded_at_ns(self) -> array[int]:
        """Wall clock of each record in nanoseconds, int64[count]."""
        return array("q", accumulate(int64_array(self.columns["recorded_at"])))

    def mono_ns(self) -> array[int]:
        """Nanoseconds since boot of each record, int64[count]."""
        return array("q", accumulate(int64_array(self.columns["mono"])))

    def durations_ns(self) -> array[int]:
        """Nanoseconds that each inference took, int64[count]."""
        return int64_array(self.columns["duration"])

    def flags(self) -> bytes:
        """The flags of each record, one byte per row."""
        view = self.columns.get("flags")
        return bytes(self.count) if view is None else bytes(view)


def encode_evidence_block(header_index: int, times: Sequence[Sequence[int]], flags: Sequence[int]) -> bytes:
    """The evidence block of some rows.

    Args:
        header_index: Index of the segment's header in the part.
        times: Numbers, wall clock, boot clock and durations of the rows.
        flags: Flags of the rows.

    Raises:
        FormatError: A value that a record cannot have.
    """
    block: dict[str, Any] = {"seg": header_index, "rows": len(flags)}
    for name, values in zip((*_DELTAS, "duration"), times, strict=True):
        if set(map(type, values)) != {int} or min(values) < 0:
            raise FormatError(f"record row: {name!r} is not an integer from 0 to 2**63-1")
        column = array("q", values if name == "duration" else values[:1])
        if name != "duration":
            column.extend(map(sub, values[1:], values))
        block[name] = little_endian(column)
    if set(map(type, flags)) != {int} or set(flags) - {0, CLOCK_DOUBTFUL}:
        raise FormatError("record row: flags have a bit that this version does not know")
    if any(flags):
        block["flags"] = bytes(flags)
    encoded: bytes = pack_plain(dict(sorted(block.items())))
    return encoded


def read_evidence_blocks(cursor: Cursor, headers: Sequence[SegmentHeader]) -> Iterator[EvidenceBlock]:
    """Read all evidence blocks that follow.

    Raises:
        FormatError: Malformed, or names no segment of the part.
        LimitError: More rows than a block may have.
    """
    like: EvidenceBlock | None = None
    frame: Frame | None = None
    while not cursor.at_end:
        columns = frame.read(cursor) if frame is not None else None
        if like is not None and frame is not None and columns is not None:
            first, last = _verify_times(columns, like.count)
            cursor.window(frame.length, take=True)
            yield EvidenceBlock(
                segment=like.segment, header=like.header, count=like.count, first=first, last=last, columns=columns
            )
            continue
        found = read_columns(cursor, {"seg", "rows"})
        header = found.header(headers)
        first, last = _verify_times(found.columns, found.rows)
        _verify_flags(found.columns, found.rows)
        like = EvidenceBlock(
            segment=found.ints["seg"], header=header, count=found.rows, first=first, last=last, columns=found.columns
        )
        frame = frame_of(found) if "flags" not in found.columns else None
        yield like


class Columns(NamedTuple):
    """A map of columns as it stands in a part. ``places`` are name, start and size, from the map's first byte."""

    raw: memoryview
    ints: dict[str, int]
    columns: dict[str, memoryview]
    params: Any
    places: list[tuple[str, int, int]]

    @property
    def rows(self) -> int:
        """Number of rows, 1 to 1,024."""
        count = self.ints.get("rows", 0)
        if not 0 < count <= LIMITS.block_rows:
            raise LimitError(f"column block has {count} rows, not 1 to {LIMITS.block_rows}")
        return count

    def header(self, headers: Sequence[SegmentHeader]) -> SegmentHeader:
        """The segment header that the block names."""
        segment = self.ints.get("seg", len(headers))
        if segment >= len(headers):
            raise FormatError("column block names no segment of its part")
        return headers[segment]


def read_columns(cursor: Cursor, ints: set[str], *, params: bool = False) -> Columns:
    """Read the next map of columns.

    Args:
        cursor: At the map.
        ints: Keys that hold an integer; all others hold a column.
        params: The key ``params`` may be there.
    """
    start = cursor.position
    fields: dict[str, int] = {}
    columns: dict[str, memoryview] = {}
    places: list[tuple[str, int, int]] = []
    own: Any = None
    before = ""
    for _ in range(cursor.map(2 * LIMITS.tensors + 16)):
        name = cursor.text(32)
        if name <= before:
            raise FormatError(f"column block: {name!r} is out of order or twice there")
        before = name
        at = cursor.position
        if name in ints:
            fields[name] = cursor.uint()
            if name == "n":  # differs from block to block, as columns do
                places.append((name, at - start, cursor.position - at))
        elif params and name == "params":
            own = cursor.value(LIMITS.block_rows * LIMITS.params_bytes)
        else:
            columns[name] = view = cursor.binary(LIMITS.part_plain_bytes)
            places.append((name, cursor.position - len(view) - start, len(view)))
    return Columns(cursor.since(start), fields, columns, own, places)


class Frame(NamedTuple):
    """A block without the contents of its columns: the bytes between them, and where they stand.

    Full blocks of one segment differ in nothing but the contents of their columns: what stands between
    those is parsed and judged once, and compared from then on.
    """

    length: int
    between: list[tuple[int, bytes]]
    places: list[tuple[str, int, int]]

    def read(self, cursor: Cursor) -> dict[str, memoryview] | None:
        """The columns of the next block, still unread, if it has this frame; what they hold is left to check."""
        window = cursor.window(self.length)
        if len(window) < self.length or any(window[at : at + len(raw)] != raw for at, raw in self.between):
            return None
        return {name: window[place : place + size] for name, place, size in self.places}


def frame_of(found: Columns) -> Frame:
    """The frame of a block that was read."""
    cuts = [0, *(cut for _, place, size in found.places for cut in (place, place + size)), len(found.raw)]
    between = [(start, bytes(found.raw[start:end])) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
    return Frame(len(found.raw), between, found.places)


def _verify_times(columns: Mapping[str, memoryview], count: int) -> tuple[int, int]:
    """Check the four integer columns; returns the first and the last record number."""
    for name in (*_DELTAS, "duration"):
        if len(columns.get(name, b"")) != 8 * count:
            raise FormatError(f"column block: column {name!r} is missing or has another length")
    first, last = _verify_numbers(bytes(columns["n"]), count)
    for name in ("recorded_at", "mono"):
        _verify_sums(bytes(columns[name]), name)
    # The top bytes of non-negative integers are all ASCII: no Python code per value.
    if not bytes(columns["duration"])[7::8].isascii():
        raise FormatError("column block: a duration is negative")
    return first, last


def _verify_flags(columns: Mapping[str, memoryview], count: int) -> None:
    flags = columns.get("flags")
    if flags is not None and (len(flags) != count or not set(flags) <= {0, CLOCK_DOUBTFUL} or not any(flags)):
        raise FormatError("column block: 'flags' is not one byte of known flags per row, or all are 0")
    if odd := columns.keys() - _REQUIRED - {"flags"}:
        raise FormatError(f"column block has the unknown column {min(odd)!r}")


def _verify_numbers(raw: bytes, count: int) -> tuple[int, int]:
    first = int.from_bytes(raw[:8], "little", signed=True)
    if raw[8:] == _ONES[: 8 * (count - 1)]:  # nearly always: one record after the other
        last = first + count - 1
    else:
        deltas = int64_array(memoryview(raw))
        last = sum(deltas)
        if min(deltas[1:]) <= 0:
            raise FormatError("column block: record numbers do not rise")
    if first < 0 or last > INT_MAX:
        raise FormatError("column block: a record number is not from 0 to 2**63-1")
    return first, last


def _verify_sums(raw: bytes, name: str) -> None:
    first = int.from_bytes(raw[:8], "little", signed=True)
    # Differences from 0 to 2**48 - 1 (three days) cannot add up to anything out of range.
    zeros = _ZEROS[: len(raw) // 8 - 1]
    if 0 <= first < _SAFE_START and raw[14::8] == zeros and raw[15::8] == zeros:
        return
    sums = list(accumulate(int64_array(memoryview(raw))))
    if min(sums) < 0 or max(sums) > INT_MAX:
        raise FormatError(f"column block: {name!r} adds up to something that is not from 0 to 2**63-1")


def int64_array(view: memoryview) -> array[int]:
    """Little-endian int64 values."""
    return _array("q", view)


def uint32_array(view: memoryview) -> array[int]:
    """Little-endian uint32 values."""
    return _array("I", view)


def little_endian(values: array[int]) -> bytes:
    """The bytes of values, which may be swapped in place."""
    if _SWAP:
        values.byteswap()
    return values.tobytes()


def _array(kind: str, view: memoryview) -> array[int]:
    values: array[int] = array(kind)
    if len(view) % values.itemsize:
        raise FormatError(f"column block: a column's length is not a multiple of {values.itemsize}")
    values.frombytes(view)
    if _SWAP:
        values.byteswap()
    return values
