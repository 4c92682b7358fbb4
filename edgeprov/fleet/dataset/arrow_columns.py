# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Column blocks to Arrow arrays: tensors, numbers, labels and what repeats, a column at a time.

Nothing is done row by row where the kit's bytes are the column already: they are borrowed, not copied.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import base64
import json
import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from edgeprov.errors import FormatError
from edgeprov.fleet.dataset.label_types import LabelType
from edgeprov.formats.columns import Block
from edgeprov.formats.packing import Buffer
from edgeprov.formats.record import INT_MAX
from edgeprov.formats.segment import Tensor

ARROW_TYPES: Final[Mapping[str, Any]] = {
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
LABEL_TYPES: Final[Mapping[LabelType, Any]] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "json": pa.string(),
}
_INT64: Final = struct.Struct("<q")


def element_count(tensor: Tensor) -> int | None:
    """Values in one row of a tensor; None where its shape is not fixed."""
    return None if -1 in tensor.shape else math.prod(tensor.shape) * (2 if tensor.dtype == "complex64" else 1)


def output_columns(blocks: Sequence[Block], number: int, tensor: Tensor) -> list[Any]:
    """Output ``number`` of some blocks as lists of the tensor's type: one array, or one a block where sizes vary.

    Raises:
        FormatError: Rows have another size than the tensor, or are cut within a value.
    """
    kind, elements = ARROW_TYPES[tensor.dtype], element_count(tensor)
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


def captured_inputs(block: Block, number: int, tensor: Tensor, inputs: Mapping[int, Sequence[bytes]]) -> Any:
    """Captured input ``number`` of a block, null where a record has none.

    Raises:
        FormatError: Rows have another size than the tensor.
    """
    kind, elements = ARROW_TYPES[tensor.dtype], element_count(tensor)
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


def dequantise(values: Any, tensor: Tensor) -> Any:
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
    elements = element_count(tensor)
    if elements is None:
        return pa.ListArray.from_arrays(values.offsets, real, type=pa.list_(item), mask=mask)
    return pa.FixedSizeListArray.from_arrays(real, type=pa.list_(item, elements), mask=mask)


def params_columns(blocks: Sequence[Block]) -> list[Any]:
    """Inference parameters as JSON text, null where a record has none."""
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


def repeated(pairs: Sequence[tuple[Any, int]], kind: Any) -> Any:
    """A column of values that repeat; each value with its number of rows."""
    runs = [(value, sum(count for _, count in run)) for value, run in groupby(pairs, itemgetter(0))]
    return pa.concat_arrays([pa.repeat(pa.scalar(value, kind), count) for value, count in runs])


def repeated_names(pairs: Sequence[tuple[str, int]]) -> Any:
    """As repeated, as a dictionary column."""
    places: dict[str, int] = {}
    rows = [(places.setdefault(value, len(places)), count) for value, count in pairs]
    return pa.DictionaryArray.from_arrays(repeated(rows, pa.int32()), pa.array(list(places), pa.string()))


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
        reached = pc.cumulative_sum(deltas).take(pa.array([start - 1 for start in starts]))
        before = 0
        for start, total in zip(starts, reached.to_pylist(), strict=True):
            last, before = (total - before) % 2**64, total
            (first,) = _INT64.unpack_from(raw, 8 * start)
            _INT64.pack_into(raw, 8 * start, first - last)
    return pc.cumulative_sum(deltas)


def input_digests(block: Block) -> Any:
    """Keyed digests of the inputs, binary[32], null where a record has none."""
    view = block.columns.get("in")
    if view is None:
        return pa.nulls(block.count, pa.binary(32))
    if "in.set" in block.columns:
        return pa.array(block.input_digests(), pa.binary(32))
    return pa.Array.from_buffers(pa.binary(32), block.count, [None, pa.py_buffer(view)])


def int_column(values: Sequence[int]) -> Any:
    """Whole numbers as an int64 column; an array is borrowed."""
    return _borrow(values, pa.int64()) if isinstance(values, array) else pa.array(values, pa.int64())


def label_column(values: Sequence[Any], label_type: LabelType) -> Any:
    """Labels as a column of the partition's type; JSON text where the types differ."""
    kind = LABEL_TYPES[label_type]
    if label_type == "json":
        return pa.array(map(_label_value, values), kind)
    if isinstance(values, array):
        return _borrow(values, pa.float64() if values.typecode == "d" else pa.int64()).cast(kind, safe=False)
    return pa.array(values, kind)


def _borrow(values: array[Any], kind: Any) -> Any:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
