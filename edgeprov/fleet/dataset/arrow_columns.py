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
from itertools import accumulate, chain, groupby
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from edgeprov.errors import FormatError
from edgeprov.fleet.dataset.label_types import LabelType
from edgeprov.formats.block import Block
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


def output_column(blocks: Sequence[Block], number: int) -> Any:
    """Output ``number`` of some blocks as a column of lists; the bytes of a block are borrowed where it is alone.

    Args:
        blocks: The output is the same tensor in each of them.
        number: Place of the output.
    """
    tensor = blocks[0].header.outputs[number]
    views = [block.content.output(number) for block in blocks]
    whole = views[0] if len(views) == 1 else b"".join(views)
    width = ARROW_TYPES[tensor.dtype].bit_width // 8
    if tensor.nbytes:
        step = tensor.nbytes // width
        ends = pa.arange(0, (len(whole) // tensor.nbytes + 1) * step, step).cast(pa.int32())
    else:
        sizes = chain.from_iterable(block.content.output_sizes(number) or [0] * block.count for block in blocks)
        ends = pa.array([end // width for end in accumulate(sizes, initial=0)], pa.int32())
    return lists_of(whole, tensor.dtype, ends)


def shape_column(blocks: Sequence[Block], number: int) -> Any:
    """The actual shape of output ``number`` in each row, as lists of int32; of one tensor, as in output_column."""
    shape, rows = blocks[0].header.outputs[number].shape, sum(block.count for block in blocks)
    if -1 in shape:
        shapes = chain.from_iterable(block.content.output_shapes(number) or () for block in blocks)
        flat = array("i", chain.from_iterable(shapes))
    else:
        flat = array("i", shape) * rows
    step = len(shape)
    ends = (
        pa.arange(0, (rows + 1) * step, step).cast(pa.int32())
        if step
        else pa.repeat(pa.scalar(0, pa.int32()), rows + 1)
    )
    return pa.ListArray.from_arrays(ends, _borrow(flat, pa.int32()), type=SHAPE_TYPE)


def captured_inputs(block: Block, number: int, tensor: Tensor, inputs: Mapping[int, Sequence[bytes]]) -> Any:
    """Captured input ``number`` of a block, null where a record has none.

    Raises:
        FormatError: Rows have another size than the tensor.
    """
    rows = [inputs[n][number] if n in inputs else None for n in block.numbers()] if inputs else [None] * block.count
    if tensor.nbytes is not None and any(row is not None and len(row) != tensor.nbytes for row in rows):
        raise FormatError(f"captured input {number} has rows of another size than its tensor")
    width = ARROW_TYPES[tensor.dtype].bit_width // 8
    ends = pa.array([end // width for end in accumulate((len(row or b"") for row in rows), initial=0)], pa.int32())
    mask = pa.array([row is None for row in rows], pa.bool_())
    return lists_of(b"".join(filter(None, rows)), tensor.dtype, ends, mask)


def lists_of(data: Buffer, dtype: str, ends: Any, mask: Any = None) -> Any:
    """Raw little-endian values, borrowed, as a column of lists that end at ``ends``."""
    kind = ARROW_TYPES[dtype]
    values = pa.Array.from_buffers(kind, len(data) // (kind.bit_width // 8), [None, pa.py_buffer(data)])
    return pa.ListArray.from_arrays(ends, values, type=list_type(kind), mask=mask)


def list_type(kind: Any) -> Any:
    """The type of a tensor's column.

    Without a fixed length, so that files of several model versions, whose shapes differ, are read as one table.
    """
    return pa.list_(pa.field("item", kind, nullable=False))


SHAPE_TYPE: Final = list_type(pa.int32())


def can_dequantise(tensor: Tensor) -> bool:
    """Whether a tensor is quantised, and the place of each value in it is known without the row's shape."""
    return bool(tensor.scale) and (len(tensor.scale) == 1 or -1 not in tensor.shape[tensor.axis + 1 :])


def dequantise(values: Any, tensor: Tensor) -> Any:
    """``scale * (value - zero_point)`` as float32.

    Args:
        values: Lists of one tensor's values.
        tensor: As can_dequantise() accepts it.
    """
    flat = values.values.cast(pa.float64())
    if len(tensor.scale) == 1:
        scale: Any = pa.scalar(tensor.scale[0])
        zero: Any = pa.scalar(float(tensor.zero_point[0] if tensor.zero_point else 0))
    else:  # one scale for each index of one dimension; the dimensions before it only repeat
        inner = math.prod(tensor.shape[tensor.axis + 1 :])
        row = [index // inner for index in range(inner * len(tensor.scale))]
        times = len(flat) // max(len(row), 1)
        scale = pa.array([tensor.scale[i] for i in row] * times, pa.float64())
        zero = pa.array([float(tensor.zero_point[i]) if tensor.zero_point else 0.0 for i in row] * times, pa.float64())
    real = pc.multiply(pc.subtract(flat, zero), scale).cast(pa.float32())
    mask = values.is_null() if values.null_count else None
    return pa.ListArray.from_arrays(values.offsets, real, type=list_type(pa.float32()), mask=mask)


def params_column(blocks: Sequence[Block]) -> Any:
    """The parameters in force for each record as JSON text: the segment's, overlaid with the record's own.

    Null where there are none.
    """
    pairs: list[tuple[str | None, int]] = []
    for block in blocks:
        common, row = _params_text(block.header.params), 0
        for place, own in block.content.params:
            pairs += [(common, place - row), (_params_text({**block.header.params, **own}), 1)]
            row = place + 1
        pairs.append((common, block.count - row))
    return repeated_names([pair for pair in pairs if pair[1]])


def _params_text(params: Mapping[str, Any]) -> str | None:
    return json.dumps(params, sort_keys=True, default=_jsonable) if params else None


def flags_column(blocks: Sequence[Block], bit: int) -> Any:
    """Whether a bit of the flags is set in each record."""
    if not any("flags" in block.evidence.columns for block in blocks):
        return pa.repeat(pa.scalar(value=False), sum(block.count for block in blocks))
    flags = b"".join(block.evidence.flags() for block in blocks)
    return pa.array([bool(value & bit) for value in flags], pa.bool_())


def _label_value(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_jsonable)


def _jsonable(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def repeated(pairs: Sequence[tuple[Any, int]], kind: Any) -> Any:
    """A column of values that repeat; each value with its number of rows."""
    runs = [(value, sum(count for _, count in run)) for value, run in groupby(pairs, itemgetter(0))]
    return pa.concat_arrays([pa.repeat(pa.scalar(value, kind), count) for value, count in runs])


def repeated_names(pairs: Sequence[tuple[str | None, int]]) -> Any:
    """As repeated, as a dictionary column."""
    places: dict[str, int] = {}
    rows = [(None if value is None else places.setdefault(value, len(places)), count) for value, count in pairs]
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
    raw = bytearray().join([block.evidence.columns[name] for block in blocks])
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
    view = block.content.columns.get("in")
    if view is None:
        return pa.nulls(block.count, pa.binary(32))
    if "in.set" in block.content.columns:
        return pa.array(block.content.input_digests(), pa.binary(32))
    return pa.Array.from_buffers(pa.binary(32), block.count, [None, pa.py_buffer(view)])


def int_column(values: Sequence[int]) -> Any:
    """Whole numbers as an int64 column; an array is borrowed."""
    return _borrow(values, pa.int64()) if isinstance(values, array) else pa.array(values, pa.int64())


def label_column(values: Sequence[Any], label_type: LabelType) -> Any:
    """Labels as a column of the partition's type; JSON text where the types differ; null where withdrawn."""
    kind = LABEL_TYPES[label_type]
    if label_type == "json":
        return pa.array([None if value is None else _label_value(value) for value in values], kind)
    if isinstance(values, array):
        return _borrow(values, pa.float64() if values.typecode == "d" else pa.int64()).cast(kind, safe=False)
    return pa.array(values, kind)


def _borrow(values: array[Any], kind: Any) -> Any:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
