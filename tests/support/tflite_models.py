# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Small tflite models made byte by byte: no converter is at hand, and no kept model has an output that varies."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

FLOAT32, INT32, UINT8, INT64, BOOL = 0, 2, 3, 4, 6
CAST, GREATER, SUM, GATHER_ND, WHERE = 53, 61, 74, 107, 109


@dataclass
class _Table:
    fields: dict[int, Any]


class _Writer:
    """Writes a flatbuffer forwards: a table, then what its offsets lead to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def put(self, value: Any, patch: int) -> None:
        """Append a value and let the offset at ``patch`` lead to it."""
        if isinstance(value, _Table):
            slots = max(value.fields) + 1
            self.align(4)
            vtable = len(self.data)
            self.data += struct.pack("<HH", 4 + 2 * slots, 4 + 4 * len(value.fields)) + bytes(2 * slots)
            self.align(4)
            table = len(self.data)
            struct.pack_into("<I", self.data, patch, table - patch)
            self.data += struct.pack("<i", table - vtable) + bytes(4 * len(value.fields))
            for place, (number, item) in enumerate(value.fields.items()):
                at = table + 4 + 4 * place
                struct.pack_into("<H", self.data, vtable + 4 + 2 * number, at - table)
                if isinstance(item, int):
                    struct.pack_into("<i", self.data, at, item)
                else:
                    self.put(item, at)
            return
        self.align(4)
        if isinstance(value, bytes):
            self.data += bytes(-(len(self.data) + 4) % 16)
        start = len(self.data)
        struct.pack_into("<I", self.data, patch, start - patch)
        if isinstance(value, bytes | str):
            raw = value if isinstance(value, bytes) else value.encode()
            self.data += struct.pack("<I", len(raw)) + raw + (b"\0" if isinstance(value, str) else b"")
            return
        self.data += struct.pack(f"<I{len(value)}i", len(value), *(0 if isinstance(v, _Table) else v for v in value))
        for place, item in enumerate(value):
            if isinstance(item, _Table):
                self.put(item, start + 4 + 4 * place)


@dataclass
class _Model:
    """Tensors and operators of one graph, in the order in which they are added."""

    tensors: list[_Table] = field(default_factory=list)
    buffers: list[_Table] = field(default_factory=lambda: [_Table({0: b""})])
    codes: list[int] = field(default_factory=list)
    operators: list[_Table] = field(default_factory=list)

    def tensor(self, name: str, shape: list[int], kind: int, data: bytes | None = None) -> int:
        """A tensor; -1 in its shape varies (1 stands in the fixed shape, as the converter writes it)."""
        fields: dict[int, Any] = {0: [abs(size) for size in shape], 1: kind, 2: 0, 3: name}
        if -1 in shape:
            fields[7] = shape
        if data is not None:
            fields[2] = len(self.buffers)
            self.buffers.append(_Table({0: data}))
        self.tensors.append(_Table(fields))
        return len(self.tensors) - 1

    def add(self, code: int, inputs: list[int], output: int) -> int:
        if code not in self.codes:
            self.codes.append(code)
        self.operators.append(_Table({0: self.codes.index(code), 1: inputs, 2: [output]}))
        return output

    def encode(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = _Table({0: self.tensors, 1: inputs, 2: outputs, 3: self.operators, 4: "main"})
        codes = [_Table({0: code, 2: 1, 3: code}) for code in self.codes]
        model = _Table({0: 3, 1: codes, 2: [graph], 3: "made for tests", 4: self.buffers})
        writer = _Writer()
        writer.data += bytes(4) + b"TFL3"
        writer.put(model, 0)
        return bytes(writer.data)


def detector(boxes: int = 8) -> bytes:
    """A detector's last stage: the boxes whose score is above 0.5.

    Inputs: scores float32[boxes], boxes float32[boxes, 4]. Outputs, as an exporter orders them: found boxes
    float32[-1, 4], their scores float32[-1], their places int64[-1, 1], the sum of all scores float32[].
    """
    model = _Model()
    scores, places = model.tensor("scores", [boxes], FLOAT32), model.tensor("boxes", [boxes, 4], FLOAT32)
    half = model.tensor("half", [], FLOAT32, struct.pack("<f", 0.5))
    axis = model.tensor("axis", [1], INT32, struct.pack("<i", 0))
    above = model.add(GREATER, [scores, half], model.tensor("above", [boxes], BOOL))
    where = model.add(WHERE, [above], model.tensor("places", [-1, 1], INT64))
    found = model.add(GATHER_ND, [places, where], model.tensor("found", [-1, 4], FLOAT32))
    kept = model.add(GATHER_ND, [scores, where], model.tensor("kept", [-1], FLOAT32))
    total = model.add(SUM, [scores, axis], model.tensor("total", [], FLOAT32))
    return model.encode([scores, places], [found, kept, where, total])


def positions(rows: int = 3, columns: int = 4) -> bytes:
    """An output of two varying sizes is not to be told from its bytes: a model whose output varies in one."""
    model = _Model()
    x = model.tensor("x", [rows, columns], FLOAT32)
    half = model.tensor("half", [], FLOAT32, struct.pack("<f", 0.5))
    above = model.add(GREATER, [x, half], model.tensor("above", [rows, columns], BOOL))
    where = model.add(WHERE, [above], model.tensor("where", [-1, -1], INT64))
    return model.encode([x], [where])


def boxes_and_grid(*, grid: bool = True) -> bytes:
    """Outputs ``boxes`` float32[-1, 4] and ``grid`` uint8[-1, -1], whose sizes do not follow from its length."""
    model = _Model()
    scores, places = model.tensor("scores", [8], FLOAT32), model.tensor("places", [8, 4], FLOAT32)
    half = model.tensor("half", [], FLOAT32, struct.pack("<f", 0.5))
    above = model.add(GREATER, [scores, half], model.tensor("above", [8], BOOL))
    where = model.add(WHERE, [above], model.tensor("where", [-1, 1], INT64))
    outputs = [model.add(GATHER_ND, [places, where], model.tensor("boxes", [-1, 4], FLOAT32))]
    if grid:
        outputs.append(model.add(CAST, [where], model.tensor("grid", [-1, -1], UINT8)))
    return model.encode([scores, places], outputs)
