# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Column blocks to Parquet. With tables_summary.py the only importer of pyarrow.

Output tensors become fixed-size lists straight from the kit's bytes, without a copy; names, shapes
and quantisation stand in the metadata of each field, as JSON. A table's bytes depend on its rows and
on the version of pyarrow only: no time, no host.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import base64
import json
import math
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edgeprov.errors import FormatError
from edgeprov.fleet.label_types import LabelType
from edgeprov.formats.columns import Block
from edgeprov.formats.packing import Buffer
from edgeprov.formats.record import INT_MAX, LabelColumns
from edgeprov.formats.segment import Tensor
from edgeprov.store.atomic import translate

# Arrow's own pools keep what they once had: half as much memory again, and no faster for columns of this size.
pa.set_memory_pool(pa.system_memory_pool())

ROW_GROUP_ROWS: Final = 128 * 1024
ROW_GROUP_BYTES: Final = 16 * 1024 * 1024
"""A row group is written when either is reached: this bounds memory."""

INPUTS_KEY: Final = b"edgeprov.inputs"
_ARROW: Final[Mapping[str, Any]] = {
    "bool": pa.uint8(),
    "int8": pa.int8(),
    "uint8": pa.uint8(),
    "int16": pa.int16(),
    "uint16": pa.uint16(),
    "float16": pa.float16(),
    "int32": pa.int32(),
    "uint32": pa.uint32(),
    "float32": pa.float32(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float64": pa.float64(),
    "complex64": pa.float32(),
}
_LABELS: Final[Mapping[LabelType, Any]] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "json": pa.string(),
}
# pc.cumulative_sum looks these up and makes options for each call, which costs more than a thousand sums.
_CUMULATIVE_SUM: Final = pc.get_function("cumulative_sum")
_FROM_ZERO: Final = pc.CumulativeOptions()
_INT64: Final = struct.Struct("<q")
_TIME: Final = pa.timestamp("ns", tz="UTC")
_NAME: Final = pa.dictionary(pa.int32(), pa.string())
"""Values that repeat: written and read many times faster than plain strings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """What the columns of one partition are."""

    outputs: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...] = ()
    """Empty when captured inputs are not wanted or there are none."""
    label_type: LabelType
    dequantise: bool = False

    def schema(self, metadata: Mapping[str, str]) -> Any:
        """The Arrow schema; ``metadata`` goes into the file."""
        fields = [
            pa.field("slot", _NAME, nullable=False),
            pa.field("n", pa.int64(), nullable=False, metadata={"doc": "record number, per device and slot"}),
            pa.field("recorded_at", _TIME, nullable=False, metadata={"doc": "device clock, not proved"}),
            pa.field("boot_id", _NAME, nullable=False),
            pa.field("mono_ns", pa.int64(), nullable=False, metadata={"unit": "ns since boot"}),
            pa.field("duration_ns", pa.int64(), nullable=False, metadata={"unit": "ns"}),
        ]
        for kind, tensors in (("output", self.outputs), ("input", self.inputs)):
            for number, tensor in enumerate(tensors):
                fields.append(_tensor_field(f"{kind}_{number}", tensor, nullable=kind == "input"))
                if self.dequantise and tensor.scale:
                    fields.append(_tensor_field(f"{kind}_{number}_real", tensor, nullable=kind == "input", real=True))
        fields += [
            pa.field("input_digest", pa.binary(32)),
            pa.field("params", pa.string(), metadata={"encoding": "JSON; null: those of the segment"}),
            pa.field(
                "label",
                _LABELS[self.label_type],
                metadata={"encoding": "json" if self.label_type == "json" else "plain"},
            ),
            pa.field("label_source", _NAME),
            pa.field("labelled_at", _TIME),
            pa.field("kit", _NAME, nullable=False, metadata={"doc": "manifest digest"}),
            pa.field("seq", pa.int64(), nullable=False, metadata={"doc": "number of the kit in the device's series"}),
        ]
        return pa.schema(fields, metadata=dict(metadata))


@dataclass(slots=True)
class LabelSet:
    """Labels of one slot, by record number; the newest of several wins. 40 bytes a label, not objects."""

    label_type: LabelType
    _parts: list[Any] = field(default_factory=list)
    _sources: dict[str, int] = field(default_factory=dict)
    _table: Any = None
    _numbers: Any = None

    def add(self, labels: LabelColumns, seq: int) -> None:
        """Take the labels of a part of kit number ``seq``."""
        count = len(labels)
        places = {name: self._sources.setdefault(name, len(self._sources)) for name in dict.fromkeys(labels.sources)}
        if len(places) == 1:
            source = pa.repeat(pa.scalar(next(iter(places.values())), pa.int32()), count)
        else:
            source = pa.array([places[name] for name in labels.sources], pa.int32())
        part = pa.table(
            {
                "n": _numbers(labels.numbers),
                "at": _numbers(labels.labelled_at_ns),
                "order": pa.repeat(pa.scalar(seq, pa.int64()), count),
                "source": source,
                "value": _label_values(labels.values, self.label_type),
            }
        )
        if self.label_type in ("int", "float") and part["value"].null_count:
            part = part.filter(part["value"].is_valid())  # withdrawn or unknown: the row stays unlabelled
        self._parts.append(part)

    def finish(self) -> None:
        """Sort, and keep the newest label of each record."""
        if not any(len(part) for part in self._parts):
            return
        table = pa.concat_tables(self._parts).combine_chunks()
        self._parts = []
        n = table["n"].combine_chunks()
        if not pc.all(pc.greater(n[1:], n[:-1])).as_py() and len(n) > 1:
            table = table.sort_by([("n", "ascending"), ("at", "ascending"), ("order", "ascending")])
            n = table["n"].combine_chunks()
            newest = pa.concat_arrays([pc.not_equal(n[1:], n[:-1]), pa.array([True])])
            table = table.filter(newest).combine_chunks()
        self._table = table
        self._numbers = memoryview(table["n"].chunk(0).buffers()[1]).cast("q")[: len(table)]

    def join(self, numbers: Any, first: int, last: int) -> tuple[Any, Any, Any]:
        """Label, source and time of each record number (int64, rising from first to last), null where there is none."""
        count = len(numbers)
        empty = (
            pa.nulls(count, _LABELS[self.label_type]),
            pa.DictionaryArray.from_arrays(pa.nulls(count, pa.int32()), pa.array([], pa.string())),
            pa.nulls(count, _TIME),
        )
        if self._table is None or not count:
            return empty
        start, end = bisect_left(self._numbers, first), bisect_right(self._numbers, last)
        if start == end:
            return empty
        part = self._table.slice(start, end - start)
        where = pc.index_in(numbers, value_set=part["n"].combine_chunks())
        names = pa.array(list(self._sources), pa.string())
        return (
            part["value"].combine_chunks().take(where),
            pa.DictionaryArray.from_arrays(part["source"].combine_chunks().take(where), names),
            part["at"].combine_chunks().take(where).cast(_TIME),
        )


@dataclass(slots=True, kw_only=True)
class _Rows:
    block: Block
    kit: str
    seq: int
    labels: LabelSet | None
    skip: int
    inputs: Mapping[int, Sequence[bytes]] | None


class PartitionWriter:
    """Writes the rows of one partition to a Parquet file, one row group in memory at a time."""

    def __init__(self, path: Path, spec: TableSpec, metadata: Mapping[str, str]) -> None:
        """Open the file; an old one is replaced.

        Raises:
            StoreError: It cannot be written.
        """
        self.spec = spec
        self.schema = spec.schema(metadata)
        self.rows = 0
        self.labelled = 0
        self._pending: list[_Rows] = []
        self._pending_rows = self._pending_bytes = 0
        self._path = path
        try:
            # zstd 1 as in the kits; statistics on, so that readers can skip row groups by n and time.
            self._writer = pq.ParquetWriter(
                path,
                self.schema,
                compression="zstd",
                compression_level=1,
                version="2.6",
                write_statistics=True,
                use_dictionary=["slot", "boot_id", "kit", "label_source", "params"],
                column_encoding={
                    "n": "DELTA_BINARY_PACKED",
                    "recorded_at": "DELTA_BINARY_PACKED",
                    "mono_ns": "DELTA_BINARY_PACKED",
                    "seq": "DELTA_BINARY_PACKED",
                },
            )
        except OSError as error:
            raise translate(error, str(path)) from error

    def add(
        self,
        block: Block,
        *,
        kit: str,
        seq: int,
        labels: LabelSet | None,
        skip: int = 0,
        inputs: Mapping[int, Sequence[bytes]] | None = None,
    ) -> None:
        """Append the rows of a block.

        Args:
            block: From a verified kit; its views are kept until the row group is written.
            kit: Manifest digest.
            seq: Number of the kit.
            labels: Of the block's slot.
            skip: Rows at the start to leave out (duplicates).
            inputs: Captured inputs by record number.
        """
        self._pending.append(_Rows(block=block, kit=kit, seq=seq, labels=labels, skip=skip, inputs=inputs))
        self._pending_rows += block.count - skip
        self._pending_bytes += sum(map(len, block.columns.values())) + 64 * block.count
        if inputs:
            self._pending_bytes += sum(sum(map(len, tensors)) for tensors in inputs.values())
        if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one row group."""
        if not self._pending:
            return
        table = self._table(self._pending)
        self._pending = []
        self._pending_rows = self._pending_bytes = 0
        self.rows += table.num_rows
        self.labelled += table.num_rows - table["labelled_at"].null_count
        try:
            self._writer.write_table(table, row_group_size=len(table))
        except OSError as error:
            raise translate(error, str(self._path)) from error

    def _table(self, pending: list[_Rows]) -> Any:
        """Columns of many blocks at once: a call into Arrow costs more than a thousand of its values."""
        blocks = [rows.block for rows in pending]
        numbers = numbers_of(blocks)
        columns: list[Any] = [
            _names([(block.header.slot, block.count) for block in blocks]),
            numbers,
            sums(blocks, "recorded_at").cast(_TIME),
            _names([(block.header.boot_id, block.count) for block in blocks]),
            sums(blocks, "mono"),
            int64s(b"".join([block.columns["duration"] for block in blocks]), len(numbers)),
        ]
        for kind, tensors in (("output", self.spec.outputs), ("input", self.spec.inputs)):
            for number, tensor in enumerate(tensors):
                if kind == "output":
                    values = _outputs(blocks, number, tensor)
                else:
                    values = [_captured(rows.block, number, tensor, rows.inputs or {}) for rows in pending]
                columns.append(pa.chunked_array(values))
                if self.spec.dequantise and tensor.scale:
                    columns.append(pa.chunked_array([_dequantise(chunk, tensor) for chunk in values]))
        columns += [
            pa.chunked_array([_digests(block) for block in blocks], pa.binary(32)),
            pa.chunked_array(_params(blocks), pa.string()),
            *self._labels(pending, numbers),
            _names([(rows.kit, rows.block.count) for rows in pending]),
            _repeated([(rows.seq, rows.block.count) for rows in pending], pa.int64()),
        ]
        table = pa.table(columns, schema=self.schema)
        if any(rows.skip for rows in pending):
            kept, position = [], 0
            for rows in pending:
                kept.append(table.slice(position + rows.skip, rows.block.count - rows.skip))
                position += rows.block.count
            table = pa.concat_tables(kept)
        return table

    def _labels(self, pending: list[_Rows], numbers: Any) -> list[Any]:
        """Label, source and time, joined kit by kit: numbers rise within a kit."""
        chunks: list[list[Any]] = [[], [], []]
        start = row = 0
        while start < len(pending):
            end = start + 1
            while end < len(pending) and pending[end].kit == pending[start].kit:
                end += 1
            some = numbers.slice(row, sum(rows.block.count for rows in pending[start:end]))
            labels = pending[start].labels or LabelSet(self.spec.label_type)
            joined = labels.join(some, pending[start].block.first, pending[end - 1].block.last)
            for column, chunk in zip(chunks, joined, strict=True):
                column.append(chunk)
            row += len(some)
            start = end
        return [pa.chunked_array(column) for column in chunks]

    def close(self) -> None:
        """Write the rest and the footer."""
        self.flush()
        try:
            self._writer.close()
        except OSError as error:
            raise translate(error, str(self._path)) from error


def read_inputs_key(file: BinaryIO) -> str | None:
    """What a finished file was made of, None when it is not readable as one of ours."""
    try:
        metadata = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    value = metadata.get(INPUTS_KEY)
    return value.decode() if value else None


def count_rows(file: BinaryIO) -> tuple[int, int]:
    """Rows and labelled rows of a finished file, from its footer."""
    footer = pq.read_metadata(file)
    column = footer.schema.to_arrow_schema().names.index("labelled_at")
    flat = (
        [footer.row_group(0).column(i).path_in_schema for i in range(footer.num_columns)]
        if footer.num_row_groups
        else []
    )
    column = flat.index("labelled_at") if flat else 0
    nulls = sum(footer.row_group(i).column(column).statistics.null_count for i in range(footer.num_row_groups))
    return footer.num_rows, footer.num_rows - nulls


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """A tensor for metadata and statements."""
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "scale": list(tensor.scale),
        "zero_point": list(tensor.zero_point),
        "axis": tensor.axis,
    }


def version() -> str:
    """Of pyarrow; the bytes of a file depend on it."""
    return str(pa.__version__)


def _tensor_field(name: str, tensor: Tensor, *, nullable: bool, real: bool = False) -> Any:
    item = pa.field("item", pa.float32() if real else _ARROW[tensor.dtype], nullable=False)
    elements = _elements(tensor)
    kind = pa.list_(item) if elements is None else pa.list_(item, elements)
    return pa.field(name, kind, nullable=nullable, metadata={"tensor": json.dumps(tensor_json(tensor), sort_keys=True)})


def _elements(tensor: Tensor) -> int | None:
    return None if -1 in tensor.shape else math.prod(tensor.shape) * (2 if tensor.dtype == "complex64" else 1)


def _outputs(blocks: Sequence[Block], number: int, tensor: Tensor) -> list[Any]:
    kind, elements = _ARROW[tensor.dtype], _elements(tensor)
    item = pa.field("item", kind, nullable=False)
    width = kind.bit_width // 8
    views = [block.output(number) for block in blocks]
    if elements is not None:
        if any(block.output_offsets(number) is not None for block in blocks):
            raise FormatError(f"output {number} has rows of another size than its tensor")
        whole = views[0] if len(views) == 1 else b"".join(views)
        values = pa.Array.from_buffers(kind, len(whole) // width, [None, pa.py_buffer(whole)])
        return [pa.FixedSizeListArray.from_arrays(values, type=pa.list_(item, elements))]
    result = []
    for block, view in zip(blocks, views, strict=True):
        offsets = block.output_offsets(number)
        if offsets is None or any(offset % width for offset in offsets):
            raise FormatError(f"output {number} is not cut at whole {tensor.dtype} values")
        values = pa.Array.from_buffers(kind, len(view) // width, [None, pa.py_buffer(view)])
        cuts = pa.array([offset // width for offset in offsets], pa.int32())
        result.append(pa.ListArray.from_arrays(cuts, values, type=pa.list_(item)))
    return result


def _captured(block: Block, number: int, tensor: Tensor, inputs: Mapping[int, Sequence[bytes]]) -> Any:
    kind, elements = _ARROW[tensor.dtype], _elements(tensor)
    rows = [inputs[n][number] if n in inputs else None for n in block.numbers()] if inputs else [None] * block.count
    width = kind.bit_width // 8
    blank = bytes((elements or 0) * width)
    data = b"".join(row if row is not None else blank for row in rows)
    values = pa.Array.from_buffers(kind, len(data) // width, [None, pa.py_buffer(data)])
    mask = pa.array([row is None for row in rows], pa.bool_())
    item = pa.field("item", kind, nullable=False)
    if elements is not None:
        if any(row is not None and len(row) != len(blank) for row in rows):
            raise FormatError(f"captured input {number} has rows of another size than its tensor")
        return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(item, elements), mask=mask)
    cuts, position = [0], 0
    for row in rows:
        position += len(row or b"") // width
        cuts.append(position)
    return pa.ListArray.from_arrays(pa.array(cuts, pa.int32()), values, type=pa.list_(item), mask=mask)


def _dequantise(values: Any, tensor: Tensor) -> Any:
    """``scale * (value - zero_point)`` as float32."""
    flat = values.values.cast(pa.float64())
    if len(tensor.scale) == 1:
        scale: Any = pa.scalar(tensor.scale[0])
        zero: Any = pa.scalar(float(tensor.zero_point[0] if tensor.zero_point else 0))
    else:  # one scale for each index of one dimension
        inner = math.prod(tensor.shape[tensor.axis + 1 :])
        row = [index // inner % tensor.shape[tensor.axis] for index in range(math.prod(tensor.shape))]
        scale = pa.array([tensor.scale[i] for i in row] * len(values))
        zero = pa.array([float(tensor.zero_point[i]) if tensor.zero_point else 0.0 for i in row] * len(values))
    real = pc.multiply(pc.subtract(flat, zero), scale).cast(pa.float32())
    item, mask = pa.field("item", pa.float32(), nullable=False), values.is_null() if values.null_count else None
    elements = _elements(tensor)
    if elements is None:
        return pa.ListArray.from_arrays(values.offsets, real, type=pa.list_(item), mask=mask)
    return pa.FixedSizeListArray.from_arrays(real, type=pa.list_(item, elements), mask=mask)


def _params(blocks: Sequence[Block]) -> list[Any]:
    if not any(block.params for block in blocks):
        return [pa.nulls(sum(block.count for block in blocks), pa.string())]
    result = []
    for block in blocks:
        own = {row: json.dumps(params, sort_keys=True, default=_jsonable) for row, params in block.params}
        result.append(pa.array([own.get(row) for row in range(block.count)], pa.string()))
    return result


def _label_value(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_jsonable)


def _jsonable(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _repeated(pairs: Sequence[tuple[Any, int]], kind: Any) -> Any:
    """A column of values that repeat; each value with its number of rows."""
    runs = [(value, sum(count for _, count in run)) for value, run in groupby(pairs, itemgetter(0))]
    return pa.concat_arrays([pa.repeat(pa.scalar(value, kind), count) for value, count in runs])


def _names(pairs: Sequence[tuple[str, int]]) -> Any:
    """As _repeated, as a dictionary column."""
    places: dict[str, int] = {}
    rows = [(places.setdefault(value, len(places)), count) for value, count in pairs]
    return pa.DictionaryArray.from_arrays(_repeated(rows, pa.int32()), pa.array(list(places), pa.string()))


def int64s(view: Buffer, count: int) -> Any:
    """Raw bytes as an int64 column, not copied."""
    return pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(view)])


def numbers_of(blocks: Sequence[Block]) -> Any:
    """Record numbers of some blocks, int64: counted where none is left out, which a block tells by its ends."""
    if any(block.last - block.first + 1 != block.count or block.last == INT_MAX for block in blocks):
        return sums(blocks, "n")
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block.first == runs[-1][1]:
            runs[-1][1] = block.last + 1
        else:
            runs.append([block.first, block.last + 1])
    return pa.concat_arrays([pa.arange(first, end) for first, end in runs])


def sums(blocks: Sequence[Block], name: str) -> Any:
    """A column of deltas (int64), each block's first value absolute, as one column of values.

    Two sums over all blocks cost less than a call for each: the first tells where each block ends, so that
    its neighbour's first value can be made a delta too. Sums wrap around, and so do their differences.
    """
    raw = bytearray().join([block.columns[name] for block in blocks])
    starts = list(accumulate(block.count for block in blocks))
    deltas = int64s(raw, starts.pop())
    if starts:
        reached = _CUMULATIVE_SUM.call([deltas], _FROM_ZERO).take(pa.array([start - 1 for start in starts]))
        before = 0
        for start, total in zip(starts, reached.to_pylist(), strict=True):
            last, before = (total - before) % 2**64, total
            (first,) = _INT64.unpack_from(raw, 8 * start)
            _INT64.pack_into(raw, 8 * start, first - last)
    return _CUMULATIVE_SUM.call([deltas], _FROM_ZERO)


def _digests(block: Block) -> Any:
    view = block.columns.get("in")
    if view is None:
        return pa.nulls(block.count, pa.binary(32))
    if "in.set" in block.columns:
        return pa.array(block.input_digests(), pa.binary(32))
    return pa.Array.from_buffers(pa.binary(32), block.count, [None, pa.py_buffer(view)])


def _numbers(values: Sequence[int]) -> Any:
    return _borrow(values, pa.int64()) if isinstance(values, array) else pa.array(values, pa.int64())


def _label_values(values: Sequence[Any], label_type: LabelType) -> Any:
    kind = _LABELS[label_type]
    if label_type == "json":
        return pa.array(map(_label_value, values), kind)
    if isinstance(values, array):
        return _borrow(values, pa.float64() if values.typecode == "d" else pa.int64()).cast(kind, safe=False)
    return pa.array(values, kind)


def _borrow(values: array[Any], kind: Any) -> Any:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
