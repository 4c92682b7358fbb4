# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Column blocks to Parquet. With arrow_columns.py and tables_summary.py the only importer of pyarrow.

Output tensors become fixed-size lists straight from the kit's bytes, without a copy; names, shapes
and quantisation stand in the metadata of each field, as JSON. A table's bytes depend on its rows and
on the version of pyarrow only: no time, no host.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edgeprov.fleet.dataset.arrow_columns import (
    ARROW_TYPES,
    LABEL_TYPES,
    captured_inputs,
    dequantise,
    element_count,
    input_digests,
    int64s,
    int_column,
    label_column,
    numbers_of,
    output_columns,
    params_columns,
    repeated,
    repeated_names,
    sums,
)
from edgeprov.fleet.dataset.destination import DigestFile
from edgeprov.fleet.dataset.label_types import LabelType
from edgeprov.formats.columns import Block
from edgeprov.formats.record import LabelColumns
from edgeprov.formats.segment import Tensor
from edgeprov.store.atomic import translate

# Arrow's own pools keep what they once had: half as much memory again, and no faster for columns of this size.
pa.set_memory_pool(pa.system_memory_pool())

ROW_GROUP_ROWS: Final = 128 * 1024
ROW_GROUP_BYTES: Final = 16 * 1024 * 1024
"""A row group is written when either is reached: this bounds memory."""

_TIME: Final = pa.timestamp("ns", tz="UTC")
_LABEL: Final = ("value", "source", "at")
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
                LABEL_TYPES[self.label_type],
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
                "n": int_column(labels.numbers),
                "at": int_column(labels.labelled_at_ns),
                "order": pa.repeat(pa.scalar(seq, pa.int64()), count),
                "source": source,
                "value": label_column(labels.values, self.label_type),
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
            pa.nulls(count, LABEL_TYPES[self.label_type]),
            pa.DictionaryArray.from_arrays(pa.nulls(count, pa.int32()), pa.array([], pa.string())),
            pa.nulls(count, _TIME),
        )
        if self._table is None or not count:
            return empty
        start, end = bisect_left(self._numbers, first), bisect_right(self._numbers, last)
        if start == end:
            return empty
        part = self._table.slice(start, end - start)
        labelled = part["n"].combine_chunks()
        if last - first + 1 == count:  # nearly always: no number is left out, so a label's place is known
            places = pc.subtract(labelled, pa.scalar(first, pa.int64()))
            columns = [pc.scatter(part[name].combine_chunks(), places, max_index=count - 1) for name in _LABEL]
        else:
            where = pc.index_in(numbers, value_set=labelled)
            columns = [part[name].combine_chunks().take(where) for name in _LABEL]
        value, source, at = columns
        names = pa.array(list(self._sources), pa.string())
        return value, pa.DictionaryArray.from_arrays(source, names), at.cast(_TIME)


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
        self._file = DigestFile(path)
        try:
            file = pa.PythonFile(self._file, mode="w")
            self._writer = pq.ParquetWriter(file, self.schema, **writer_options(self.schema))
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
            repeated_names([(block.header.slot, block.count) for block in blocks]),
            numbers,
            sums(blocks, "recorded_at").cast(_TIME),
            repeated_names([(block.header.boot_id, block.count) for block in blocks]),
            sums(blocks, "mono"),
            int64s(b"".join([block.columns["duration"] for block in blocks]), len(numbers)),
        ]
        for kind, tensors in (("output", self.spec.outputs), ("input", self.spec.inputs)):
            for number, tensor in enumerate(tensors):
                if kind == "output":
                    values = output_columns(blocks, number, tensor)
                else:
                    values = [captured_inputs(rows.block, number, tensor, rows.inputs or {}) for rows in pending]
                columns.append(pa.chunked_array(values))
                if self.spec.dequantise and tensor.scale:
                    columns.append(pa.chunked_array([dequantise(chunk, tensor) for chunk in values]))
        columns += [
            pa.chunked_array([input_digests(block) for block in blocks], pa.binary(32)),
            pa.chunked_array(params_columns(blocks), pa.string()),
            *self._labels(pending, numbers),
            repeated_names([(rows.kit, rows.block.count) for rows in pending]),
            repeated([(rows.seq, rows.block.count) for rows in pending], pa.int64()),
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
        self._file.flush()
        self._file.close()

    @property
    def digest(self) -> str:
        """SHA-256 of the closed file, as it was written."""
        return self._file.digest

    @property
    def bytes(self) -> int:
        """Size of the closed file."""
        return self._file.size


def writer_options(schema: Any) -> dict[str, Any]:
    """How files are written; their bytes depend on it.

    Compressed as the kits are, but for digests, which are noise; with statistics where readers skip row groups by them.
    """
    tensors = [field.name for field in schema if pa.types.is_nested(field.type)]
    leaves = [f"{name}.list.element" if name in tensors else name for name in schema.names if name != "input_digest"]
    return {
        "version": "2.6",
        "use_dictionary": ["slot", "boot_id", "kit", "label_source", "params"],
        "column_encoding": dict.fromkeys(("n", "recorded_at", "mono_ns", "seq"), "DELTA_BINARY_PACKED"),
        "compression": dict.fromkeys(leaves, "zstd") | {"input_digest": "none"},
        "compression_level": dict.fromkeys(leaves, 1),
        "write_statistics": [name for name in schema.names if name not in ("input_digest", *tensors)],
    }


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
    item = pa.field("item", pa.float32() if real else ARROW_TYPES[tensor.dtype], nullable=False)
    elements = element_count(tensor)
    kind = pa.list_(item) if elements is None else pa.list_(item, elements)
    return pa.field(name, kind, nullable=nullable, metadata={"tensor": json.dumps(tensor_json(tensor), sort_keys=True)})
