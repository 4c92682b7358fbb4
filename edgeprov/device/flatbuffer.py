# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Structural check of a tflite flatbuffer before an interpreter sees it.

tflite-runtime 2.14 dies by SIGSEGV on some garbage that carries the right identifier: it follows
offsets without checking them. So every table, vector and string that the interpreter will follow is
walked here first, with bounds and a budget of steps. This is no full verifier of the schema: what
passes still runs in a child process first (selftest.py).

Spec: FlatBuffers "Internals" (offsets, vtables); TensorFlow Lite schema v3, schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError

_IDENTIFIER: Final = b"TFL3"
_MAX_ITEMS: Final = 1_000_000
_DTYPES: Final = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4",
)  # fmt: skip
"""TensorType of schema v3, in its order."""
_BUILTIN_TYPES: Final = len(_DTYPES)

# Field numbers of schema.fbs, in the order of declaration.
_MODEL_VERSION, _MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 0, 1, 2, 4
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTIZATION = 0, 1, 2, 3, 4
_TENSOR_SIGNATURE: Final = 7
_QUANTIZATION_SCALE, _QUANTIZATION_ZERO, _QUANTIZATION_AXIS = 2, 3, 6
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS = 0, 1, 2
_BUFFER_DATA = 0


def verify_flatbuffer(data: bytes | memoryview) -> None:
    """Refuse bytes that no well-formed tflite model can have.

    Args:
        data: The whole model file.

    Raises:
        FormatError: Wrong identifier, an offset or length beyond the file, or an index of a tensor,
            buffer or operator code that does not exist.

    Spec: TensorFlow Lite schema v3.
    """
    _Walker(memoryview(data).cast("B")).model()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTensor:
    """A tensor as the model's file describes it.

    Attributes:
        shape: Empty where the file does not tell.
        varying: The same with -1 for each dimension that may vary; empty where none may.
        scale: Empty without quantization; one for each index of ``axis``, or one for all.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    varying: tuple[int, ...]
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int


def read_tensors(data: bytes | memoryview) -> tuple[tuple[FileTensor, ...], tuple[FileTensor, ...]]:
    """Input and output tensors of a model's first graph, in its order. Arguments and errors as verify_flatbuffer."""
    walker = _Walker(memoryview(data).cast("B"))
    walker.model()
    return walker.ports()


class _Walker:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._size = len(data)
        self._steps = 0

    def model(self) -> None:
        if self._size < 16 or bytes(self._data[4:8]) != _IDENTIFIER:
            raise FormatError("not a tflite model: the identifier TFL3 is missing")
        root = self._indirect(0)
        if self._scalar(root, _MODEL_VERSION, "<I", 0) != 3:
            raise FormatError("tflite model: schema version is not 3")
        buffers = self._buffers(root)
        codes = sum(1 for _ in self._tables(root, _MODEL_CODES))
        graphs = 0
        for graph in self._tables(root, _MODEL_SUBGRAPHS):
            graphs += 1
            self._graph(graph, buffers, codes)
        if not graphs:
            raise FormatError("tflite model: no graph inside")

    def ports(self) -> tuple[tuple[FileTensor, ...], tuple[FileTensor, ...]]:
        graph = next(self._tables(self._indirect(0), _MODEL_SUBGRAPHS))
        tensors = list(self._tables(graph, _GRAPH_TENSORS))
        inputs, outputs = (
            tuple(self._port(tensors[index]) for index in self._numbers(graph, field, "<i") if index >= 0)
            for field in (_GRAPH_INPUTS, _GRAPH_OUTPUTS)
        )
        return inputs, outputs

    def _port(self, tensor: int) -> FileTensor:
        start, count = self._vector(tensor, _TENSOR_NAME, 1)
        position = self._field(tensor, _TENSOR_QUANTIZATION)
        table = self._indirect(position) if position else 0
        return FileTensor(
            name=str(self._data[start : start + count], "utf-8"),
            dtype=_DTYPES[self._scalar(tensor, _TENSOR_TYPE, "<b", 0)],
            shape=self._numbers(tensor, _TENSOR_SHAPE, "<i"),
            varying=self._numbers(tensor, _TENSOR_SIGNATURE, "<i"),
            scale=self._floats(table) if table else (),
            zero_point=self._numbers(table, _QUANTIZATION_ZERO, "<q") if table else (),
            axis=self._scalar(table, _QUANTIZATION_AXIS, "<i", 0) if table else 0,
        )

    def _numbers(self, table: int, field: int, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        start, count = self._vector(table, field, size)
        return tuple(self._unpack(form, position) for position in range(start, start + size * count, size))

    def _floats(self, table: int) -> tuple[float, ...]:
        start, count = self._vector(table, _QUANTIZATION_SCALE, 4)
        return struct.unpack_from(f"<{count}f", self._data, start)

    def _buffers(self, root: int) -> int:
        count = 0
        for buffer in self._tables(root, _MODEL_BUFFERS):
            count += 1
            self._vector(buffer, _BUFFER_DATA, 1)
        if not count:
            raise FormatError("tflite model: no buffers inside")
        return count

    def _graph(self, graph: int, buffers: int, codes: int) -> None:
        tensors = 0
        for tensor in self._tables(graph, _GRAPH_TENSORS):
            tensors += 1
            self._vector(tensor, _TENSOR_SHAPE, 4)
            self._text(tensor, _TENSOR_NAME)
            self._quantization(tensor)
            if self._scalar(tensor, _TENSOR_BUFFER, "<I", 0) >= buffers:
                raise FormatError("tflite model: a tensor names a buffer that does not exist")
            if not 0 <= self._scalar(tensor, _TENSOR_TYPE, "<b", 0) < _BUILTIN_TYPES:
                raise FormatError("tflite model: a tensor of unknown type")
        self._indexes(graph, _GRAPH_INPUTS, tensors, required=True)
        self._indexes(graph, _GRAPH_OUTPUTS, tensors, required=True)
        for operator in self._tables(graph, _GRAPH_OPERATORS):
            if self._scalar(operator, _OPERATOR_CODE, "<I", 0) >= codes:
                raise FormatError("tflite model: an operator names a code that does not exist")
            self._indexes(operator, _OPERATOR_INPUTS, tensors)
            self._indexes(operator, _OPERATOR_OUTPUTS, tensors)

    def _quantization(self, tensor: int) -> None:
        position = self._field(tensor, _TENSOR_QUANTIZATION)
        if position:
            table = self._indirect(position)
            for field, item_bytes in ((0, 4), (1, 4), (2, 4), (3, 8)):  # min, max, scale, zero_point
                self._vector(table, field, item_bytes)

    def _indexes(self, table: int, field: int, tensors: int, *, required: bool = False) -> None:
        start, count = self._vector(table, field, 4)
        if required and not count:
            raise FormatError("tflite model: a graph without inputs or outputs")
        for position in range(start, start + 4 * count, 4):
            # -1 marks an optional input that is absent.
            if not -1 <= self._unpack("<i", position) < tensors:
                raise FormatError("tflite model: an index names a tensor that does not exist")

    # -- flatbuffer primitives ------------------------------------------------------------------

    def _unpack(self, form: str, position: int) -> int:
        self._steps += 1
        if self._steps > _MAX_ITEMS:
            raise FormatError("tflite model: more tables and indexes than any real model has")
        if position < 0 or position + struct.calcsize(form) > self._size:
            raise FormatError("tflite model: an offset points outside the file")
        return int(struct.unpack_from(form, self._data, position)[0])

    def _indirect(self, position: int) -> int:
        offset = self._unpack("<I", position)
        target = position + offset
        if offset == 0 or target + 4 > self._size:
            raise FormatError("tflite model: an offset points outside the file")
        return target

    def _field(self, table: int, number: int) -> int:
        vtable = table - self._unpack("<i", table)
        length = self._unpack("<H", vtable)
        extent = self._unpack("<H", vtable + 2)
        if length < 4 or length % 2 or vtable + length > self._size or table + extent > self._size:
            raise FormatError("tflite model: a damaged table")
        slot = 4 + 2 * number
        if slot + 2 > length:
            return 0
        offset = self._unpack("<H", vtable + slot)
        if offset and not 4 <= offset < extent:
            raise FormatError("tflite model: a damaged table")
        return table + offset if offset else 0

    def _scalar(self, table: int, number: int, form: str, default: int) -> int:
        position = self._field(table, number)
        return self._unpack(form, position) if position else default

    def _vector(self, table: int, number: int, item_bytes: int) -> tuple[int, int]:
        position = self._field(table, number)
        if not position:
            return 0, 0
        start = self._indirect(position)
        count = self._unpack("<I", start)
        if start + 4 + count * item_bytes > self._size:
            raise FormatError("tflite model: a vector reaches beyond the file")
        return start + 4, count

    def _text(self, table: int, number: int) -> None:
        start, count = self._vector(table, number, 1)
        try:
            str(self._data[start : start + count], "utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("tflite model: a tensor's name is not UTF-8") from error

    def _tables(self, table: int, number: int) -> Iterator[int]:
        start, count = self._vector(table, number, 4)
        for position in range(start, start + 4 * count, 4):
            target = self._indirect(position)
            self._field(target, 0)  # reads and checks the vtable
            yield target
