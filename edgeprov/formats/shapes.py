# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Actual shapes of outputs whose shape varies (-1 in the segment header): number of boxes, length of a text.

Spec: FORMAT.md section "Record".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeprov.errors import FormatError
from edgeprov.formats.segment import DTYPE_BYTES, Tensor

SIZE_MAX = 2**31 - 1
"""Largest size of one dimension."""

Shape = tuple[int, ...]


def has_varying(tensors: Sequence[Tensor]) -> bool:
    """Whether a record of these outputs holds actual shapes."""
    return any(-1 in tensor.shape for tensor in tensors)


def nbytes_of(shape: Sequence[int], dtype: str) -> int:
    """Bytes of a tensor with this actual shape."""
    return math.prod(shape) * DTYPE_BYTES[dtype]


def verify_shapes(
    lengths: Sequence[int], shapes: Sequence[Sequence[int] | None] | None, tensors: Sequence[Tensor]
) -> None:
    """Check the outputs of one record against the tensors of its segment header.

    Args:
        lengths: Bytes of each output.
        shapes: As in the record: None where no output varies, else one item per output.
        tensors: Outputs of the segment header.

    Raises:
        FormatError: Another number of outputs; a shape that is missing, superfluous, or contradicts the
            header; or an output of another length than its shape says.
    """
    if len(lengths) != len(tensors):
        raise FormatError(f"record has {len(lengths)} outputs, its segment has {len(tensors)}")
    if (shapes is not None) != has_varying(tensors) or not _is_row(shapes, len(tensors)):
        raise FormatError("record: shapes must be there exactly where an output of the segment varies, one per output")
    for number, tensor in enumerate(tensors):
        verify_shape(number, tensor, lengths[number], shapes[number] if shapes is not None else None)


def _is_row(shapes: object, count: int) -> bool:
    if shapes is None:
        return True
    if not isinstance(shapes, list | tuple) or len(shapes) != count:
        return False
    return all(shape is None or isinstance(shape, list | tuple) for shape in shapes)


def verify_shape(number: int, tensor: Tensor, length: int, shape: Sequence[int] | None) -> None:
    """Check output ``number`` of one record. Errors as in verify_shapes."""
    known = tensor.shape
    if (shape is not None) != (-1 in known):
        raise FormatError(f"record: output {number} must have an actual shape exactly where the segment's varies")
    if shape is None:
        shape = known
    elif len(shape) != len(known) or any(
        type(size) is not int or not 0 <= size <= SIZE_MAX or fixed not in (-1, size)
        for size, fixed in zip(shape, known, strict=True)
    ):
        raise FormatError(f"record: the shape of output {number} is not one of {list(known)}")
    if length != nbytes_of(shape, tensor.dtype):
        raise FormatError(f"record: output {number} has {length} bytes, its shape {list(shape)} says another length")


def shape_of_length(tensor: Tensor, length: int) -> Shape | None:
    """The actual shape of an output of ``length`` bytes, where that leaves one choice; else None."""
    if tensor.shape.count(-1) != 1:
        return None
    unit = nbytes_of([size for size in tensor.shape if size != -1], tensor.dtype)
    if not unit or length % unit:
        return None
    return tuple(length // unit if size == -1 else size for size in tensor.shape)
