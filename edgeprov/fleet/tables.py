# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Column blocks to Parquet. The only importer of pyarrow.

Output tensors become fixed-size lists straight from the kit's bytes, without a copy; names, shapes
and quantisation stand in the metadata of each field, as JSON. A table's bytes depend on its rows and
on the version of pyarrow only: no time, no host.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import base64
import json
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edgeprov.errors import FormatError, StoreError
from edgeprov.formats.columns import Block
from edgeprov.formats.record import Label
from edgeprov.formats.segment import Tensor

LabelType = Literal["null", "bool", "int", "float", "str", "json"]

ROW_GROUP_ROWS: Final = 128 * 1024
ROW_GROUP_BYTES: Final = 16 * 1024 * 1024
"""A row group is written when either is reached: this bounds memory."""

INPUTS_KEY: Final = b"edgeprov.inputs"
_ARROW: Final[Mapping[str, Any]] = {
    "bool": pa.uint8(), "int8": pa.int8(), "uint8": pa.uint8(), "int16": pa.int16(), "uint16": pa.uint16(),
    "float16": pa.float16(), "int32": pa.int32(), "uint32": pa.uint32(), "float32": pa.float32(), "int64": pa.int64(),
    "uint64": pa.uint64(), "float64": pa.float64(), "complex64": pa.float32(),
}  # fmt: skip
_LABELS: Final[Mapping[LabelType, Any]] = {
    "null": pa.null(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string(),
    "json": pa.string(),
}  # fmt: skip
_TIME: Final = pa.timestamp("ns", tz="UTC")


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
            pa.field("slot", pa.string(), nullable=False),
            pa.field("n", pa.int64(), nullable=False, metadata={"doc": "record number, per device and slot"}),
            pa.field("recorded_at", _TIME, nullable=False, metadata={"doc": "device clock, not proved"}),
            pa.field("boot_id", pa.string(), nullable=False),
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
            pa.field("label_source", pa.string()),
            pa.field("labelled_at", _TIME),
            pa.field("kit", pa.string(), nullable=False, metadata={"doc": "manifest digest"}),
            pa.field("seq", pa.int64(), nullable=False, metadata={"doc": "number of the kit in the device's series"}),
        ]
        return pa.schema(fields, metadata=dict(metadata))


@dataclass(slots=True)
class LabelSet:
    """Labels of one slot, by record number; the newest of several wins. 40 bytes a label, not objects."""

    label_type: LabelType
    _n: array[int] = field(default_factory=lambda: array("q"))
    _at: array[int] = field(default_factory=lambda: array("q"))
    _order: array[int] = field(default_factory=lambda: array("q"))
    _source: array[int] = field(default_factory=lambda: array("l"))
    _values: Any = None
    _sources: dict[str, int] = field(default_factory=dict)
    _table: Any = None
    _numbers: Any = None

    def add(self, labels: Iterable[Label], seq: int) -> None:
        """Take the labels of a part of kit number ``seq``."""
        if self._values is None:
            self._values = (
                {"int": array("q"), "float": array("d")}.get(self.label_type)
                if self.label_type in ("int", "float")
                else []
            )
        nulls = self.label_type in ("int", "float")
        for label in labels:
            if nulls and label.value is None:
                continue  # withdrawn or unknown: the row stays unlabelled
            self._n.append(label.n)
            self._at.append(label.labelled_at_ns)
            self._order.append(seq)
            self._source.append(self._sources.setdefault(label.source, len(self._sources)))
            self._values.append(_label_value(label.value, self.label_type))

    def finish(self) -> None:
        """Sort, and keep the newest label of each record."""
        if not len(self._n):
            return
        table = pa.table({
            "n": _borrow(self._n, pa.int64()),
            "at": _borrow(self._at, pa.int64()),
            "order": _borrow(self._order, pa.int64()),
            "source": pa.array(self._source, pa.int64()),
            "value": pa.array(self._values, _LABELS[self.label_type]),
        })  # fmt: skip
        table = table.sort_by([("n", "ascending"), ("at", "ascending"), ("order", "ascending")])
        n = table["n"].combine_chunks()
        newest = pa.concat_arrays([pc.not_equal(n[1:], n[:-1]), pa.array([True])])
        self._table = table.filter(newest).combine_chunks()
        self._numbers = memoryview(self._table["n"].chunk(0).buffers()[1]).cast("q")[: len(self._table)]
        self._n = self._at = self._order = array("q")

    def join(self, numbers: array[int]) -> tuple[Any, Any, Any]:
        """Label, source and time of each record number (rising), null where there is none."""
        count = len(numbers)
        empty = (pa.nulls(count, _LABELS[self.label_type]), pa.nulls(count, pa.string()), pa.nulls(count, _TIME))
        if self._table is None or not count:
            return empty
        start, end = bisect_left(self._numbers, numbers[0]), bisect_right(self._numbers, numbers[-1])
        if start == end:
            return empty
        part = self._table.slice(start, end - start)
        where = pc.index_in(_borrow(numbers, pa.int64()), value_set=part["n"].combine_chunks())
        names = pa.array(list(self._sources), pa.string())
        return (
            part["value"].combine_chunks().take(where),
            names.take(part["source"].combine_chunks().take(where)),
            part["at"].combine_chunks().take(where).cast(_TIME),
        )


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
        self._pending: list[Any] = []
        self._pending_rows = self._pending_bytes = 0
        self._path = path
        try:
            # zstd 1 as in the kits; statistics on, so that readers can skip row groups by n and time.
            self._writer = pq.ParquetWriter(
                path, self.schema, compression="zstd", compression_level=1, version="2.6", write_statistics=True,
                use_dictionary=["slot", "boot_id", "kit", "label_source", "params"],
                column_encoding={"n": "DELTA_BINARY_PACKED", "recorded_at": "DELTA_BINARY_PACKED", "mono_ns": "DELTA_BINARY_PACKED", "seq": "DELTA_BINARY_PACKED"},
            )  # fmt: skip
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{path}: {error}") from error

    def add(
        self, block: Block, *, kit: str, seq: int, labels: LabelSet | None, skip: int = 0,
        inputs: Mapping[int, Sequence[bytes]] | None = None,
    ) -> None:  # fmt: skip
        """Append the rows of a block.

        Args:
            block: From a verified kit.
            kit: Manifest digest.
            seq: Number of the kit.
            labels: Of the block's slot.
            skip: Rows at the start to leave out (duplicates).
            inputs: Captured inputs by record number.
        """
        numbers, count = block.numbers(), block.count
        columns: list[Any] = [
            pa.repeat(block.header.slot, count),
            _borrow(numbers, pa.int64()),
            _borrow(block.recorded_at_ns(), pa.int64()).cast(_TIME),
            pa.repeat(block.header.boot_id, count),
            _borrow(block.mono_ns(), pa.int64()),
            _borrow(block.durations_ns(), pa.int64()),
        ]
        for number, tensor in enumerate(self.spec.outputs):
            columns.append(values := _output(block, number, tensor))
            if self.spec.dequantise and tensor.scale:
                columns.append(_dequantise(values, tensor))
        for number, tensor in enumerate(self.spec.inputs):
            columns.append(values := _captured(numbers, number, tensor, inputs or {}))
            if self.spec.dequantise and tensor.scale:
                columns.append(_dequantise(values, tensor))
        label, source, at = (labels or LabelSet(self.spec.label_type)).join(numbers)
        columns += [
            pa.array(block.input_digests(), pa.binary(32)),
            _params(block),
            label, source, at,
            pa.repeat(kit, count),
            pa.array([seq], pa.int64()).take(pa.repeat(pa.scalar(0, pa.int32()), count)),
        ]  # fmt: skip
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        if skip:
            batch = batch.slice(skip)
        self.rows += batch.num_rows
        self.labelled += batch.num_rows - batch["labelled_at"].null_count
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += sum(len(view) for view in block.columns.values()) + 160 * count
        if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one row group."""
        if not self._pending:
            return
        try:
            table = pa.Table.from_batches(self._pending, self.schema)
            self._writer.write_table(table, row_group_size=len(table))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{self._path}: {error}") from error
        self._pending = []
        self._pending_rows = self._pending_bytes = 0

    def close(self) -> None:
        """Write the rest and the footer."""
        self.flush()
        try:
            self._writer.close()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{self._path}: {error}") from error


def label_kind(value: object) -> LabelType:
    """The narrowest type of one label value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "float"
    return "str" if isinstance(value, str) else "json"


def join_kinds(kinds: Iterable[LabelType]) -> LabelType:
    """The type that holds all of these: JSON text where nothing simpler does."""
    found = set(kinds) - {"null"}
    if not found:
        return "null"
    if len(found) == 1:
        return found.pop()
    return "float" if found == {"int", "float"} else "json"


def read_inputs_key(path: Path) -> str | None:
    """What a finished file was made of, None when it is not readable as one of ours."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    value = metadata.get(INPUTS_KEY)
    return value.decode() if value else None


def count_rows(path: Path) -> tuple[int, int]:
    """Rows and labelled rows of a finished file, from its footer."""
    footer = pq.read_metadata(path)
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
        "name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "scale": list(tensor.scale),
        "zero_point": list(tensor.zero_point), "axis": tensor.axis,
    }  # fmt: skip


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


def _output(block: Block, number: int, tensor: Tensor) -> Any:
    kind, elements = _ARROW[tensor.dtype], _elements(tensor)
    view, offsets = block.output(number), block.output_offsets(number)
    width = kind.bit_width // 8
    if len(view) % width:
        raise FormatError(f"output {number} is not a whole number of {tensor.dtype} values")
    values = pa.Array.from_buffers(kind, len(view) // width, [None, pa.py_buffer(view)])
    if elements is not None:
        if offsets is not None:
            raise FormatError(f"output {number} has rows of another size than its tensor")
        return pa.FixedSizeListArray.from_arrays(
            values, type=pa.list_(pa.field("item", kind, nullable=False), elements)
        )
    if offsets is None or any(offset % width for offset in offsets):
        raise FormatError(f"output {number} is not cut at whole {tensor.dtype} values")
    cuts = pa.array([offset // width for offset in offsets], pa.int32())
    return pa.ListArray.from_arrays(cuts, values, type=pa.list_(pa.field("item", kind, nullable=False)))


def _captured(numbers: array[int], number: int, tensor: Tensor, inputs: Mapping[int, Sequence[bytes]]) -> Any:
    kind, elements = _ARROW[tensor.dtype], _elements(tensor)
    rows = [inputs[n][number] if n in inputs else None for n in numbers]
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


def _params(block: Block) -> Any:
    if not block.params:
        return pa.nulls(block.count, pa.string())
    own = dict(block.params)
    return pa.array(
        [json.dumps(own[row], sort_keys=True, default=_jsonable) if row in own else None for row in range(block.count)],
        pa.string(),
    )


def _label_value(value: Any, kind: LabelType) -> Any:
    return json.dumps(value, sort_keys=True, default=_jsonable) if kind == "json" else value


def _jsonable(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _borrow(values: array[int], kind: Any) -> Any:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
