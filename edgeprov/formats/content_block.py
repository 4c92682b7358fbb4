# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Content block: outputs, actual shapes, input digests and parameters of the records of one evidence block.

It stands in a part of its own, so that what records say can be kept, lost or erased apart from the evidence.

Spec: FORMAT.md section "Column blocks".
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from operator import itemgetter
from typing import Any

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.columns import Frame, frame_of, little_endian, read_columns, uint32_array
from edgeprov.formats.packing import Cursor, pack, pack_plain
from edgeprov.formats.segment import SegmentHeader, Tensor
from edgeprov.formats.shapes import SIZE_MAX, Shape, has_varying, nbytes_of, verify_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentBlock:
    """Content of records of one segment, by column; the views live as long as the part's bytes.

    Attributes:
        segment: Index of the header in the part.
        header: That header.
        count: Number of rows.
        first: Number of the first record; the others stand in the evidence block.
        columns: Raw bytes by name: ``out.K``, ``out.K.shape`` (uint32), ``in``, ``in.set``.
        params: Row and parameters, where a record has its own.
    """

    segment: int
    header: SegmentHeader
    count: int
    first: int
    columns: Mapping[str, memoryview]
    params: tuple[tuple[int, Mapping[str, Any]], ...] = ()

    def output(self, tensor: int) -> memoryview:
        """All values of output ``tensor``, row after row, raw little-endian."""
        return self.columns[f"out.{tensor}"]

    def output_shapes(self, tensor: int) -> list[Shape] | None:
        """The actual shape of output ``tensor`` in each row; None where the header fixes it."""
        view = self.columns.get(f"out.{tensor}.shape")
        return None if view is None else _shapes(view, self.header.outputs[tensor])

    def output_sizes(self, tensor: int) -> list[int] | None:
        """Bytes of output ``tensor`` in each row; None where the header fixes its shape."""
        shapes, dtype = self.output_shapes(tensor), self.header.outputs[tensor].dtype
        return None if shapes is None else [nbytes_of(shape, dtype) for shape in shapes]

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

    def outputs(self) -> list[tuple[bytes, ...]]:
        """The outputs of each row."""
        tensors = []
        for number, tensor in enumerate(self.header.outputs):
            data, sizes = bytes(self.output(number)), self.output_sizes(number)
            if sizes is not None:
                tensors.append([data[start:end] for start, end in pairwise(accumulate(sizes, initial=0))])
            else:
                tensors.append(_cut(data, tensor.nbytes) if tensor.nbytes else [b""] * self.count)
        return list(zip(*tensors, strict=True)) if tensors else [()] * self.count

    def shapes(self) -> list[tuple[Shape | None, ...]] | None:
        """The shapes of each row, as its record has them; None where no output varies."""
        if not has_varying(self.header.outputs):
            return None
        tensors = range(len(self.header.outputs))
        return list(zip(*(self.output_shapes(k) or repeat(None, self.count) for k in tensors), strict=True))


def encode_content_block(
    header_index: int,
    header: SegmentHeader,
    first: int,
    outputs: Sequence[Sequence[bytes]],
    shapes: Sequence[Sequence[Sequence[int] | None] | None],
    digests: Sequence[bytes | None],
    params: Sequence[Mapping[str, Any] | None],
) -> bytes:
    """The content block of some rows; the last four arguments have an item per row.

    Args:
        header_index: Index of the segment's header in the part.
        header: That header.
        first: Number of the first record.
        outputs: Tensor bytes.
        shapes: Actual shapes; None in each row where no output varies.
        digests: Keyed input digests.
        params: Parameters of the record.

    Raises:
        FormatError: A row does not fit the segment.
    """
    block: dict[str, Any] = {"seg": header_index, "rows": len(outputs), "n": first}
    tensors = header.outputs
    if set(map(len, outputs)) != {len(tensors)}:
        raise FormatError("record row has another number of outputs than its segment")
    varying = has_varying(tensors)
    if any((shape is None) is varying or (varying and len(shape or ()) != len(tensors)) for shape in set(shapes)):
        raise FormatError("record row has shapes where its segment fixes them, or lacks them where it does not")
    for number, tensor in enumerate(tensors):
        column = list(map(itemgetter(number), outputs))
        block[f"out.{number}"] = b"".join(column)
        sizes = list(map(len, column))
        if tensor.nbytes is None:
            actual = [row[number] for row in shapes if row is not None]
            block[f"out.{number}.shape"] = _encode_shapes(number, tensor, sizes, actual)
        elif set(sizes) != {tensor.nbytes}:
            raise FormatError(f"record row: output {number} has not the {tensor.nbytes} bytes that its segment says")
        elif varying and any(row is not None and row[number] is not None for row in set(shapes)):
            raise FormatError(f"record row: output {number} has an actual shape, and its segment fixes it")
    present = [digest for digest in digests if digest is not None]
    if set(map(len, present)) - {32}:
        raise FormatError("record row has an input that is not a digest of 32 bytes")
    if present:
        block["in"] = b"".join(present)
        if len(present) < len(digests):
            block["in.set"] = bytes(digest is not None for digest in digests)
    if any(own is not None for own in params):
        block["params"] = [[row, own] for row, own in enumerate(params) if own is not None]
        _parse_params(block["params"], len(params))
        return pack(block)
    encoded: bytes = pack_plain(dict(sorted(block.items())))
    return encoded


def read_content_blocks(cursor: Cursor, headers: Sequence[SegmentHeader]) -> Iterator[ContentBlock]:
    """Read all content blocks that follow. Errors as in read_evidence_blocks."""
    like: ContentBlock | None = None
    frame: Frame | None = None
    while not cursor.at_end:
        columns = frame.read(cursor) if frame is not None else None
        first = None if columns is None else _number(columns.pop("n"))
        if like is not None and frame is not None and columns is not None and first is not None:
            cursor.window(frame.length, take=True)
            yield ContentBlock(segment=like.segment, header=like.header, count=like.count, first=first, columns=columns)
            continue
        found = read_columns(cursor, {"seg", "rows", "n"}, params=True)
        if "n" not in found.ints:
            raise FormatError("column block has no number of its first record")
        like = ContentBlock(
            segment=found.ints.get("seg", -1),
            header=found.header(headers),
            count=found.rows,
            first=found.ints["n"],
            columns=found.columns,
            params=() if found.params is None else _parse_params(found.params, found.rows),
        )
        _verify_columns(like)
        # Parameters, shapes and masks need a look at each block.
        odd = like.params or any(name == "in.set" or name.endswith(".shape") for name in like.columns)
        frame = None if odd else frame_of(found)
        yield like


def _number(raw: memoryview) -> int | None:
    """An integer that fills ``raw``, None where another form stands there."""
    cursor = Cursor(raw, "column block")
    try:
        value = cursor.uint()
    except FormatError:
        return None
    return value if cursor.at_end else None


def _verify_columns(block: ContentBlock) -> None:
    columns, count = block.columns, block.count
    expected = {"in", "in.set"}
    for number, tensor in enumerate(block.header.outputs):
        name = f"out.{number}"
        expected.add(name)
        if name not in columns:
            raise FormatError(f"column block has no column {name!r}")
        if tensor.nbytes is not None:
            if len(columns[name]) != tensor.nbytes * count:
                raise FormatError(f"column block: {name!r} does not have the tensor's size in each row")
            continue
        expected.add(f"{name}.shape")
        _verify_output_shapes(block, number, tensor)
    digests, mask = columns.get("in"), columns.get("in.set")
    if mask is not None and (len(mask) != count or set(mask) != {0, 1} or digests is None):
        raise FormatError("column block: 'in.set' does not say for some rows yes and for some no")
    if digests is not None and len(digests) != 32 * (count if mask is None else sum(mask)):
        raise FormatError("column block: 'in' does not hold one digest for each row that has one")
    if odd := columns.keys() - expected:
        raise FormatError(f"column block has the unknown column {min(odd)!r}")


def _verify_output_shapes(block: ContentBlock, number: int, tensor: Tensor) -> None:
    view = block.columns.get(f"out.{number}.shape")
    if view is None or len(view) != 4 * block.count * tensor.shape.count(-1):
        raise FormatError(f"column block: 'out.{number}.shape' is missing or has another length")
    if max(uint32_array(view)) > SIZE_MAX:
        raise FormatError(f"column block: 'out.{number}.shape' holds a size above 2**31-1")
    if sum(block.output_sizes(number) or ()) != len(block.output(number)):
        raise FormatError(f"column block: 'out.{number}' does not have the size that its shapes say")


def _encode_shapes(number: int, tensor: Tensor, sizes: Sequence[int], shapes: Sequence[Sequence[int] | None]) -> bytes:
    varying = [place for place, size in enumerate(tensor.shape) if size == -1]
    column: array[int] = array("I")
    for size, shape in zip(sizes, shapes, strict=True):
        verify_shape(number, tensor, size, shape)
        column.extend(shape[place] for place in varying if shape is not None)
    return little_endian(column)


def _shapes(view: memoryview, tensor: Tensor) -> list[Shape]:
    sizes = iter(uint32_array(view))
    rows = len(view) // (4 * tensor.shape.count(-1))
    return [tuple(next(sizes) if size == -1 else size for size in tensor.shape) for _ in range(rows)]


def _parse_params(value: Any, count: int) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    if not isinstance(value, list) or not value:
        raise FormatError("column block: 'params' is not an array of rows")
    result: list[tuple[int, Mapping[str, Any]]] = []
    for item in value:
        if not isinstance(item, list) or len(item) != 2 or type(item[0]) is not int or not isinstance(item[1], dict):
            raise FormatError("column block: 'params' holds something else than a row and its map")
        row, own = item
        if row <= (result[-1][0] if result else -1) or not own:
            raise FormatError("column block: 'params' has rows out of order or without an entry")
        if row >= count:
            raise FormatError("column block has parameters for a row that it does not have")
        result.append((row, own))
    return tuple(result)


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
