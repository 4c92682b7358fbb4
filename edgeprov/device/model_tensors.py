# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The tensors of a verified model, read from its file, and those that an application says it has.

What an application names goes into the segment's header, where a verifier and a data set take it for the model's.

Spec: TensorFlow Lite schema v3; FORMAT.md section "Recording protocol".
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edgeprov._dataclass import replace
from edgeprov.device.flatbuffer import FileTensor, read_tensors
from edgeprov.errors import TensorMismatch

if TYPE_CHECKING:
    from edgeprov.device.model_store import StoredModel
    from edgeprov.formats.digest import Digest
    from edgeprov.formats.segment import Tensor

_KNOWN: Final = 8  # models of which the tensors are kept
_lock: Final = threading.Lock()  # each connection of the service has a thread
_known: dict[Digest, tuple[tuple[FileTensor, ...], tuple[FileTensor, ...]]] = {}


def model_tensors(stored: StoredModel) -> tuple[tuple[FileTensor, ...], tuple[FileTensor, ...]]:
    """Input and output tensors of a stored model. What a digest names never changes, so it is read once.

    Raises:
        DigestMismatch: The file is not the one that was installed.
        FormatError: It is no tflite model.
        StoreError: It cannot be read.
    """
    from edgeprov.device.model_store import load_weights

    digest = stored.manifest.digest
    with _lock:
        found = _known.get(digest)
    if found is None:
        found = read_tensors(load_weights(stored))
        with _lock:
            while len(_known) >= _KNOWN:
                del _known[next(iter(_known))]
            _known[digest] = found
    return found


def verified_tensors(named: Sequence[Tensor], known: Sequence[FileTensor], kind: str) -> tuple[Tensor, ...]:
    """Tensors of an application, with the model's quantization where it names none.

    Args:
        named: By the application.
        known: Of the model's file.
        kind: ``input`` or ``output``.

    Raises:
        TensorMismatch: Another number of tensors, or one with another name, dtype, shape or quantization.
    """
    if len(named) != len(known):
        raise TensorMismatch(f"the model has {len(known)} {kind} tensors, hello names {len(named)}", advice=_ADVICE)
    return tuple(_verified(tensor, of, kind) for tensor, of in zip(named, known, strict=True))


_ADVICE: Final = "Name what the model's interpreter tells of its tensors, in its order."


def _verified(tensor: Tensor, of: FileTensor, kind: str) -> Tensor:
    def refused(what: str, is_: object, said: object) -> TensorMismatch:
        return TensorMismatch(f"{kind} {of.name!r} of the model has {what} {is_}, hello says {said}", advice=_ADVICE)

    if tensor.name != of.name:
        raise refused("name", repr(of.name), repr(tensor.name))
    if tensor.dtype != of.dtype:
        raise refused("dtype", of.dtype, tensor.dtype)
    if not _is_shape_of(tensor.shape, of):
        raise refused("shape", list(of.varying or of.shape), list(tensor.shape))
    if not tensor.scale:
        return replace(tensor, scale=of.scale, zero_point=of.zero_point, axis=of.axis)
    same = (tensor.scale, tensor.zero_point) == (of.scale, of.zero_point)
    if not same or (len(of.scale) > 1 and tensor.axis != of.axis):
        raise refused(
            "quantization", (of.scale, of.zero_point, of.axis), (tensor.scale, tensor.zero_point, tensor.axis)
        )
    return tensor


def _is_shape_of(shape: Sequence[int], of: FileTensor) -> bool:
    if not of.shape:
        return True  # the file does not tell: the interpreter finds it out
    open_ = of.varying or of.shape
    return len(shape) == len(of.shape) and all(
        size == fixed or may == -1 for size, fixed, may in zip(shape, of.shape, open_, strict=True)
    )
