# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Column blocks to Parquet. With arrow_columns.py, label_set.py and tables_summary.py the only importer of pyarrow.

Output tensors become lists straight from the kit's bytes, without a copy; the actual shape stands beside
them in each row; names, shapes and quantisation stand in the metadata of each field, as JSON. A table's
bytes depend on its rows and on the version of pyarrow only: no time, no host.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from edgeprov.fleet.dataset.arrow_columns import (
    ARROW_TYPES,
    LABEL_TYPES,
    SHAPE_TYPE,
    can_dequantise,
    captured_inputs,
    dequantise,
    flags_column,
    input_digests,
    int64s,
    list_type,
    numbers_of,
    output_column,
    params_column,
    repeated,
    repeated_names,
    shape_column,
    sums,
)
from edgeprov.fleet.dataset.destination import DigestFile
from edgeprov.fleet.dataset.label_set import TIME, LabelSet
from edgeprov.fleet.dataset.label_types import LabelType
from edgeprov.formats.block import Block
from edgeprov.formats.record import CLOCK_DOUBTFUL
from edgeprov.formats.segment import Tensor
from edgeprov.store.atomic import translate

# Arrow's own pools keep what they once had: half as much memory again, and no faster for columns of this size.
pa.set_memory_pool(pa.system_memory_pool())

ROW_GROUP_ROWS: Final = 128 * 1024
ROW_GROUP_BYTES: Final = 16 * 1024 * 1024
"""A row group is written when either is reached: this bounds memory."""

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
            pa.field("recorded_at", TIME, nullable=False, metadata={"doc": "device clock, not proved"}),
            pa.field("clock_doubtful", pa.bool_(), nullable=False, metadata={"doc": "the device doubted its clock"}),
            pa.field("boot_id", _NAME, nullable=False),
            pa.field("mono_ns", pa.int64(), nullable=False, metadata={"unit": "ns since boot"}),
            pa.field("duration_ns", pa.int64(), nullable=False, metadata={"unit": "ns"}),
        ]
        for kind, tensors in (("output", self.outputs), ("input", self.inputs)):
            for number, tensor in enumerate(tensors):
                fields.append(_tensor_field(f"{kind}_{number}", tensor, nullable=kind == "input"))
                if kind == "output":
                    fields.append(pa.field(f"output_{number}_shape", SHAPE_TYPE, nullable=False))
                if self.dequantise and can_dequantise(tensor):
                    fields.append(_tensor_field(f"{kind}_{number}_real", tensor, nullable=kind == "input", real=True))
        fields += [
            pa.field("input_digest", pa.binary(32)),
            pa.field("params", _NAME, metadata={"encoding": "JSON: the segment's, overlaid with the record's own"}),
            pa.field("runtime", _NAME, nullable=False),
            pa.field("runtime_version", _NAME, nullable=False),
            pa.field("delegate", _NAME, nullable=False),
            pa.field("threads", pa.int64(), nullable=False),
            pa.field(
                "label",
                LABEL_TYPES[self.label_type],
                metadata={"encoding": "json" if self.label_type == "json" else "plain"},
            ),
            pa.field("label_source", _NAME),
            pa.field("labelled_at", TIME),
            pa.field("kit", _NAME, nullable=False, metadata={"doc": "manifest digest"}),
            pa.field("seq", pa.int64(), nullable=False, metadata={"doc": "number of the kit in the device's series"}),
        ]
        return pa.schema(fields, metadata=dict(metadata))


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
        self._pending_bytes += block.nbytes + 64 * block.count
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
            sums(blocks, "recorded_at").cast(TIME),
            flags_column(blocks, CLOCK_DOUBTFUL),
            repeated_names([(block.header.boot_id, block.count) for block in blocks]),
            sums(blocks, "mono"),
            int64s(b"".join([block.evidence.columns["duration"] for block in blocks]), len(numbers)),
        ]
        for number, tensor in enumerate(self.spec.outputs):
            runs = _runs(blocks, number)
            values = [output_column(run, number) for run in runs]
            columns += [pa.chunked_array(values), pa.chunked_array([shape_column(run, number) for run in runs])]
            if self.spec.dequantise and can_dequantise(tensor):
                real = [dequantise(some, run[0].header.outputs[number]) for some, run in zip(values, runs, strict=True)]
                columns.append(pa.chunked_array(real))
        for number, tensor in enumerate(self.spec.inputs):
            values = [
                captured_inputs(rows.block, number, rows.block.header.inputs[number], rows.inputs or {})
                for rows in pending
            ]
            columns.append(pa.chunked_array(values))
            if self.spec.dequantise and can_dequantise(tensor):
                real = [
                    dequantise(some, rows.block.header.inputs[number])
                    for some, rows in zip(values, pending, strict=True)
                ]
                columns.append(pa.chunked_array(real))
        runtimes = [(block.header.runtime, block.count) for block in blocks]
        columns += [
            pa.chunked_array([input_digests(block) for block in blocks], pa.binary(32)),
            params_column(blocks),
            repeated_names([(runtime.name, count) for runtime, count in runtimes]),
            repeated_names([(runtime.version, count) for runtime, count in runtimes]),
            repeated_names([(runtime.delegate, count) for runtime, count in runtimes]),
            repeated([(runtime.threads, count) for runtime, count in runtimes], pa.int64()),
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


def _runs(blocks: Sequence[Block], number: int) -> list[list[Block]]:
    """Blocks for which output ``number`` is the same tensor.

    Segments of one model may describe an output otherwise: another shape, or only another name.
    """
    runs: list[list[Block]] = []
    for block in blocks:
        if runs and runs[-1][0].header.outputs[number] == block.header.outputs[number]:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def writer_options(schema: Any) -> dict[str, Any]:
    """How files are written; their bytes depend on it.

    Compressed as the kits are, but for digests, which are noise; with statistics where readers skip row groups by them.
    """
    lists = {field.name: f"{field.name}.list.element" for field in schema if pa.types.is_nested(field.type)}
    leaves = [lists.get(name, name) for name in schema.names if name != "input_digest"]
    repeating = [field.name for field in schema if pa.types.is_dictionary(field.type) or field.type == SHAPE_TYPE]
    return {
        "version": "2.6",
        "use_dictionary": [lists.get(name, name) for name in repeating],
        "column_encoding": dict.fromkeys(("n", "recorded_at", "mono_ns", "seq"), "DELTA_BINARY_PACKED"),
        "compression": dict.fromkeys(leaves, "zstd") | {"input_digest": "none"},
        "compression_level": dict.fromkeys(leaves, 1),
        "write_statistics": [name for name in schema.names if name not in ("input_digest", *lists)],
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
    kind = list_type(pa.float32() if real else ARROW_TYPES[tensor.dtype])
    return pa.field(name, kind, nullable=nullable, metadata={"tensor": json.dumps(tensor_json(tensor), sort_keys=True)})


def kinds_of(tensors: Sequence[Tensor]) -> list[tuple[str, bool]]:
    """What must be the same in all segments of a file: the types of the columns that tensors become."""
    return [(tensor.dtype, can_dequantise(tensor)) for tensor in tensors]
