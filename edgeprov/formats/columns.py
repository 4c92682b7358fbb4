# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Column blocks: up to 1,024 record rows turned on their side.

A block is a canonical msgpack map from column name to raw little-endian bytes. Readers get views of
the input, so that a table library can take them without a copy; ``rows`` gives back the exact bytes
that were recorded, which are the leaves of the kit's Merkle tree.

No Python code runs per value where ``zip``, ``map`` and ``bytes.join`` can do it: sealing is paid
on the device, per record.

Spec: FORMAT.md section "Column block".
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from operator import itemgetter, sub
from typing import Any, Final, NamedTuple

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.packing import Cursor, pack, pack_plain, unpack_rows
from edgeprov.formats.record import INT_MAX, Record
from edgeprov.formats.segment import SegmentHeader
from edgeprov.limits import LIMITS

_DELTAS: Final = ("n", "recorded_at", "mono")
_SWAP: Final = sys.byteorder == "big"
_ONES: Final = (1).to_bytes(8, "little") * (LIMITS.block_rows - 1)
_ZEROS: Final = bytes(LIMITS.block_rows - 1)
_SAFE_START: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Records of one segment, by column; the views live as long as the part's bytes.

    Attributes:
        segment: Index of the header in the part.
        header: That header.
        count: Number of rows.
        columns: Raw bytes by name: ``n``, ``recorded_at``, ``mono`` (int64 deltas, the first one
            absolute), ``duration`` (int64), ``out.K``, ``out.K.off`` (uint32), ``in``, ``in.set``.
        first: Number of the first record.
        last: Number of the last record.
        params: Row and parameters, where a record has its own.
    """

    segment: int
    header: SegmentHeader
    count: int
    first: int
    last: int
    columns: Mapping[str, memoryview]
    params: tuple[tuple[int, Mapping[str, Any]], ...] = ()

    def numbers(self) -> array[int]:
        """Record numbers, int64[count]."""
        return array("q", accumulate(_int64(self.columns["n"])))

    def recorded_at_ns(self) -> array[int]:
        """Wall clock of each record in nanoseconds, int64[count]."""
        return array("q", accumulate(_int64(self.columns["recorded_at"])))

    def mono_ns(self) -> array[int]:
        """Nanoseconds since boot of each record, int64[count]."""
        return array("q", accumulate(_int64(self.columns["mono"])))

    def durations_ns(self) -> array[int]:
        """Nanoseconds that each inference took, int64[count]."""
        return _int64(self.columns["duration"])

    def output(self, tensor: int) -> memoryview:
        """All values of output ``tensor``, row after row, raw little-endian."""
        return self.columns[f"out.{tensor}"]

    def output_offsets(self, tensor: int) -> array[int] | None:
        """Where each row starts in ``output``, uint32[count + 1] in bytes; None when all have the header's size."""
        view = self.columns.get(f"out.{tensor}.off")
        return None if view is None else _uint32(view)

    def input_digests(self) -> list[bytes | None]:
        """The keyed input digest (32 bytes) of each row, None where there is none."""
        view, mask = self.columns.get("in"), self.columns.get("in.set")
        if view is None:
            return [None] * self.count
        digests = _cut(bytes(view), 32)
        if mask is None:
            return list(digests)
        pieces = iter(digests)
        return [next(pieces) if there else None for there in mask]

    def rows(self) -> list[bytes]:
        """The canonical bytes of each record, as they were recorded."""
        rows = zip(
            self.numbers(),
            self.recorded_at_ns(),
            self.mono_ns(),
            self.durations_ns(),
            self._outputs(),
            self.input_digests(),
            repeat(None),
            strict=False,
        )
        result = list(map(pack_plain, rows))
        for row, params in self.params:
            record = self.record(row)
            result[row] = pack([
                record.n, record.recorded_at_ns, record.mono_ns, record.duration_ns,
                record.outputs, record.input_digest, params,
            ])  # fmt: skip
        return result

    def record(self, row: int) -> Record:
        """One record by its row in the block."""
        if not 0 <= row < self.count:
            raise FormatError(f"block has {self.count} rows, none with number {row}")
        return Record(
            n=self.numbers()[row],
            recorded_at_ns=self.recorded_at_ns()[row],
            mono_ns=self.mono_ns()[row],
            duration_ns=self.durations_ns()[row],
            outputs=self._outputs()[row],
            input_digest=self.input_digests()[row],
            params=dict(self.params).get(row),
        )

    def _outputs(self) -> list[tuple[bytes, ...]]:
        tensors = []
        for number, tensor in enumerate(self.header.outputs):
            data, offsets = bytes(self.output(number)), self.output_offsets(number)
            if offsets is not None:
                tensors.append([data[start:end] for start, end in pairwise(offsets)])
            else:
                tensors.append(_cut(data, tensor.nbytes or 0) if tensor.nbytes else [b""] * self.count)
        return list(zip(*tensors, strict=True)) if tensors else [()] * self.count


def encode_block(rows: Sequence[bytes], header_index: int, header: SegmentHeader) -> bytes:
    """The block of some consecutive records of one segment.

    Args:
        rows: Canonical record rows (encode_record), at most 1,024.
        header_index: Index of the segment's header in the part.
        header: That header: its outputs say which tensors have a fixed size.

    Raises:
        LimitError: More rows than a block may have.
        FormatError: A row is not a record row of this segment.
    """
    if not 0 < len(rows) <= LIMITS.block_rows:
        raise LimitError(f"a block holds 1 to {LIMITS.block_rows} rows, not {len(rows)}")
    decoded = unpack_rows(rows, width=7, what="record row")
    try:
        return _encode(decoded, header_index, header)
    except (TypeError, OverflowError, IndexError, AttributeError) as error:
        raise FormatError(f"record row does not fit the segment: {error}") from error


def _encode(decoded: Sequence[tuple[Any, ...]], header_index: int, header: SegmentHeader) -> bytes:
    *times, outputs, inputs, params = zip(*decoded, strict=True)
    block: dict[str, Any] = {"seg": header_index, "rows": len(decoded)}
    for name, values in zip((*_DELTAS, "duration"), times, strict=True):
        if set(map(type, values)) != {int} or min(values) < 0:
            raise FormatError(f"record row: {name!r} is not an integer from 0 to 2**63-1")
        column = array("q", values if name == "duration" else values[:1])
        if name != "duration":
            column.extend(map(sub, values[1:], values))
        block[name] = _little(column)
    if set(map(len, outputs)) != {len(header.outputs)}:
        raise FormatError("record row has another number of outputs than its segment")
    for number, tensor in enumerate(header.outputs):
        tensors = list(map(itemgetter(number), outputs))
        sizes = list(map(len, tensors))
        block[f"out.{number}"] = b"".join(tensors)
        if set(sizes) != {tensor.nbytes}:
            block[f"out.{number}.off"] = _little(array("I", accumulate(sizes, initial=0)))
    present = [digest for digest in inputs if digest is not None]
    if set(map(len, present)) - {32}:
        raise FormatError("record row has an input that is not a digest of 32 bytes")
    if present:
        block["in"] = b"".join(present)
        if len(present) < len(decoded):
            block["in.set"] = bytes(digest is not None for digest in inputs)
    if any(own is not None for own in params):
        block["params"] = [[row, own] for row, own in enumerate(params) if own is not None]
        _parse_params(block["params"])
        return pack(block)
    encoded: bytes = pack_plain(dict(sorted(block.items())))
    return encoded


def read_blocks(cursor: Cursor, headers: Sequence[SegmentHeader]) -> Iterator[Block]:
    """Read all blocks that follow.

    Full blocks of one segment differ in nothing but the contents of their columns: what stands between
    those is parsed and judged once, and compared from then on.
    """
    like: _Frame | None = None
    while not cursor.at_end:
        block = like.read(cursor) if like is not None else None
        if block is None:
            start = cursor.position
            block, places = _read(cursor, headers)
            like = _frame(block, cursor.since(start), [(name, place - start, size) for name, place, size in places])
        yield block


class _Frame(NamedTuple):
    """A block without the contents of its columns: the bytes between them, and where they stand."""

    like: Block
    length: int
    between: list[tuple[int, bytes]]
    places: list[tuple[str, int, int]]

    def read(self, cursor: Cursor) -> Block | None:
        """The next block, if it has this frame; only what columns hold is left to check."""
        window = cursor.window(self.length)
        if len(window) < self.length or any(window[at : at + len(raw)] != raw for at, raw in self.between):
            return None
        columns = {name: window[place : place + size] for name, place, size in self.places}
        like = self.like
        first, last = _verify_times(columns, like.count)
        cursor.window(self.length, take=True)
        return Block(
            segment=like.segment, header=like.header, count=like.count, first=first, last=last, columns=columns
        )


def _frame(block: Block, raw: memoryview, places: list[tuple[str, int, int]]) -> _Frame | None:
    # Parameters, offsets and masks need a look at each block.
    if block.params or any(name == "in.set" or name.endswith(".off") for name in block.columns):
        return None
    cuts = [0, *(cut for _, place, size in places for cut in (place, place + size)), len(raw)]
    between = [(start, bytes(raw[start:end])) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
    return _Frame(block, len(raw), between, places)


def _read(cursor: Cursor, headers: Sequence[SegmentHeader]) -> tuple[Block, list[tuple[str, int, int]]]:
    """The next block; and name, place in the part and size of each column."""
    fields: dict[str, int] = {}
    columns: dict[str, memoryview] = {}
    places: list[tuple[str, int, int]] = []
    params: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    before = ""
    for _ in range(cursor.map(2 * LIMITS.tensors + 16)):
        name = cursor.text(32)
        if name <= before:
            raise FormatError(f"column block: {name!r} is out of order or twice there")
        before = name
        if name in {"seg", "rows"}:
            fields[name] = cursor.uint()
        elif name == "params":
            params = _parse_params(cursor.value(LIMITS.block_rows * LIMITS.params_bytes))
        else:
            columns[name] = view = cursor.binary(LIMITS.part_plain_bytes)
            places.append((name, cursor.position - len(view), len(view)))
    count, segment = fields.get("rows", 0), fields.get("seg", len(headers))
    if not 0 < count <= LIMITS.block_rows:
        raise LimitError(f"column block has {count} rows, not 1 to {LIMITS.block_rows}")
    if segment >= len(headers):
        raise FormatError("column block names no segment of its part")
    if any(row >= count for row, _ in params):
        raise FormatError("column block has parameters for a row that it does not have")
    first, last = _verify_times(columns, count)
    block = Block(
        segment=segment, header=headers[segment], count=count, first=first, last=last, columns=columns, params=params
    )
    _verify_columns(block)
    return block, places


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


def _verify_numbers(raw: bytes, count: int) -> tuple[int, int]:
    first = int.from_bytes(raw[:8], "little", signed=True)
    if raw[8:] == _ONES[: 8 * (count - 1)]:  # nearly always: one record after the other
        last = first + count - 1
    else:
        deltas = _int64(memoryview(raw))
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
    sums = list(accumulate(_int64(memoryview(raw))))
    if min(sums) < 0 or max(sums) > INT_MAX:
        raise FormatError(f"column block: {name!r} adds up to something that is not from 0 to 2**63-1")


def _verify_columns(block: Block) -> None:
    columns, count = block.columns, block.count
    expected = {"n", "recorded_at", "mono", "duration"}
    for number, tensor in enumerate(block.header.outputs):
        name = f"out.{number}"
        expected |= {name, f"{name}.off"}
        if name not in columns:
            raise FormatError(f"column block has no column {name!r}")
        _verify_output(block, number, tensor.nbytes)
    digests, mask = columns.get("in"), columns.get("in.set")
    expected |= {"in", "in.set"}
    if mask is not None and (len(mask) != count or set(mask) != {0, 1} or digests is None):
        raise FormatError("column block: 'in.set' does not say for some rows yes and for some no")
    if digests is not None and len(digests) != 32 * (count if mask is None else sum(mask)):
        raise FormatError("column block: 'in' does not hold one digest for each row that has one")
    if odd := columns.keys() - expected:
        raise FormatError(f"column block has the unknown column {min(odd)!r}")


def _verify_output(block: Block, number: int, size: int | None) -> None:
    length = len(block.output(number))
    offsets = block.output_offsets(number)
    if offsets is None:
        if size is None or length != size * block.count:
            raise FormatError(f"column block: 'out.{number}' does not have the tensor's size in each row")
        return
    sizes = set(map(sub, offsets[1:], offsets))
    if len(offsets) != block.count + 1 or offsets[0] or offsets[-1] != length or min(sizes) < 0:
        raise FormatError(f"column block: 'out.{number}.off' does not cut the column into rows")
    if sizes == {size}:
        raise FormatError(f"column block: 'out.{number}.off' is there though each row has the tensor's size")


def _parse_params(value: Any) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    if not isinstance(value, list) or not value:
        raise FormatError("column block: 'params' is not an array of rows")
    result: list[tuple[int, Mapping[str, Any]]] = []
    for item in value:
        if not isinstance(item, list) or len(item) != 2 or type(item[0]) is not int or not isinstance(item[1], dict):
            raise FormatError("column block: 'params' holds something else than a row and its map")
        row, own = item
        if row <= (result[-1][0] if result else -1) or not own:
            raise FormatError("column block: 'params' has rows out of order or without an entry")
        result.append((row, own))
    return tuple(result)


def _int64(view: memoryview) -> array[int]:
    return _array("q", view)


def _uint32(view: memoryview) -> array[int]:
    return _array("I", view)


def _array(kind: str, view: memoryview) -> array[int]:
    values: array[int] = array(kind)
    if len(view) % values.itemsize:
        raise FormatError(f"column block: a column's length is not a multiple of {values.itemsize}")
    values.frombytes(view)
    if _SWAP:
        values.byteswap()
    return values


def _little(values: array[int]) -> bytes:
    if _SWAP:
        values.byteswap()
    return values.tobytes()


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
