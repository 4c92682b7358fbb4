# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Segment header: the facts that all records of one segment share, and the bytes that the TPM quotes at its opening.

A segment holds records of one model, one slot, one device and one boot. It takes a number of the same
TPM counter as kits and tombstones, so a segment that is lost leaves a missing integer. ``prev`` chains
all headers of a device in the order of their opening.

Spec: FORMAT.md section "Segment header".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.fields import bool_member, check_keys, hash_member, optional_hash_member, text_member, uint_member
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX
from edgeprov.formats.names import SERIAL_RULE, is_serial, is_slot
from edgeprov.formats.packing import Buffer, pack, pack_plain, unpack
from edgeprov.limits import LIMITS

VERSION: Final = 1
DTYPE_BYTES: Final[Mapping[str, int]] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4,
    "float32": 4, "int64": 8, "uint64": 8, "float64": 8, "complex64": 8,
}  # fmt: skip
"""Tensor element types and their size in bytes; all little-endian."""

_KEYS: Final = frozenset((
    "v", "model", "slot", "device", "enrollment", "number", "shared", "prev", "boot_id", "opened_at_ns",
    "opened_mono_ns", "reset_count", "restart_count", "tpm_clock_ms", "inputs", "outputs", "runtime", "params",
    "input_key",
))  # fmt: skip
_TENSOR_KEYS: Final = frozenset(("name", "shape", "dtype", "scale", "zero_point", "axis"))
_RUNTIME_KEYS: Final = frozenset(("name", "version", "threads", "delegate"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A model's input or output. ``shape`` may hold -1 where the length varies.

    Quantised values mean ``scale * (value - zero_point)``; one scale for the whole tensor, or one
    for each index of dimension ``axis``; none when the tensor is not quantised.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int = 0

    @property
    def nbytes(self) -> int | None:
        """Bytes of the tensor, None where the shape varies."""
        return None if -1 in self.shape else math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeInfo:
    """What ran the model."""

    name: str
    version: str
    threads: int
    delegate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """A parsed header beside the exact bytes that the TPM's quote names.

    ``number`` is the counter value that this opening took. A ``shared`` header took none: its number is
    the one of the last segment that did. Record numbers are not in it, since other segments of the slot
    may still grow when it is written.
    """

    raw: bytes = field(repr=False)
    model: Digest
    slot: str
    device: str
    enrollment: bytes
    number: int
    shared: bool
    prev: bytes | None
    boot_id: str
    opened_at_ns: int
    opened_mono_ns: int
    reset_count: int
    restart_count: int
    tpm_clock_ms: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    runtime: RuntimeInfo
    params: Mapping[str, Any]
    input_key: bytes | None = field(repr=False)

    @property
    def sha256(self) -> bytes:
        """SHA-256 (32 bytes) of the header: qualifying data of its quote, ``prev`` of the next one."""
        return sha256(self.raw).digest()


def build_segment_header(
    *,
    model: Digest,
    slot: str,
    device: str,
    enrollment: bytes,
    number: int,
    prev: bytes | None,
    boot_id: str,
    opened_at_ns: int,
    opened_mono_ns: int,
    reset_count: int,
    restart_count: int,
    tpm_clock_ms: int,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    runtime: RuntimeInfo,
    params: Mapping[str, Any] | None = None,
    input_key: bytes | None = None,
    shared: bool = False,
) -> SegmentHeader:
    """Write a header in canonical form and return it parsed.

    ``enrollment`` is the device's enrollment id (32 bytes), ``number`` the counter value that the opening
    takes (of the last segment that took one, with ``shared``), ``prev`` the SHA-256 of the header that
    was opened before on the device, whatever its slot (None for the first of the enrollment),
    ``input_key`` has 32 random bytes (None when no input digests are recorded).

    Raises:
        FormatError: A value that the format does not allow.
        LimitError: The header is too long.
    """
    return parse_segment_header(
        pack(
            {
                "v": VERSION,
                "model": str(model),
                "slot": slot,
                "device": device,
                "enrollment": enrollment,
                "number": number,
                "shared": shared,
                "prev": prev,
                "boot_id": boot_id,
                "opened_at_ns": opened_at_ns,
                "opened_mono_ns": opened_mono_ns,
                "reset_count": reset_count,
                "restart_count": restart_count,
                "tpm_clock_ms": tpm_clock_ms,
                "inputs": [encode_tensor(tensor) for tensor in inputs],
                "outputs": [encode_tensor(tensor) for tensor in outputs],
                "runtime": encode_runtime(runtime),
                "params": dict(params or {}),
                "input_key": input_key,
            }
        )
    )


def parse_segment_header(raw: Buffer) -> SegmentHeader:
    """Read a header.

    Raises:
        LimitError: Too long, or too many tensors.
        FormatError: Not canonical, another version, an unknown or missing key, or a wrong value.
    """
    return _parse(bytes(raw))


# The caches of this module, of event logs and of keys together save 16 % of verify (`./tests/run bench tricks`).
@lru_cache(maxsize=64)  # a kit names its segments twice, in its evidence and in each part
def _parse(raw: bytes) -> SegmentHeader:
    what = "segment header"
    obj = check_keys(unpack(raw, max_bytes=LIMITS.segment_header_bytes, what=what), _KEYS, what)
    if obj["v"] != VERSION:
        raise FormatError(f"{what} has version {obj['v']!r}, this reader knows {VERSION}")
    runtime = check_keys(obj["runtime"], _RUNTIME_KEYS, "runtime")
    params = obj["params"]
    if not isinstance(params, dict) or len(pack(params)) > LIMITS.params_bytes:
        raise FormatError(f"{what}: parameters are not a map of at most {LIMITS.params_bytes} bytes")
    device = text_member(obj, "device", what)
    device_serial(device)
    return SegmentHeader(
        raw=raw,
        model=parse_digest(text_member(obj, "model", what)),
        slot=check_slot(text_member(obj, "slot", what)),
        device=device,
        enrollment=hash_member(obj, "enrollment", what),
        number=uint_member(obj, "number", what),
        shared=bool_member(obj, "shared", what),
        prev=optional_hash_member(obj, "prev", what),
        boot_id=text_member(obj, "boot_id", what, maximum=64),
        opened_at_ns=uint_member(obj, "opened_at_ns", what),
        opened_mono_ns=uint_member(obj, "opened_mono_ns", what),
        reset_count=uint_member(obj, "reset_count", what),
        restart_count=uint_member(obj, "restart_count", what),
        tpm_clock_ms=uint_member(obj, "tpm_clock_ms", what),
        inputs=_known_tensors(pack_plain(obj["inputs"]), "inputs"),
        outputs=_known_tensors(pack_plain(obj["outputs"]), "outputs"),
        runtime=RuntimeInfo(
            name=text_member(runtime, "name", "runtime"),
            version=text_member(runtime, "version", "runtime"),
            threads=uint_member(runtime, "threads", "runtime"),
            delegate=text_member(runtime, "delegate", "runtime"),
        ),
        params=params,
        input_key=optional_hash_member(obj, "input_key", what),
    )


def device_urn(serial: str) -> str:
    """``urn:edgeprov:device:<serial>``.

    Raises:
        FormatError: Not a serial number.
    """
    if not is_serial(serial):
        raise FormatError(f"{serial[:60]!r} is not a device's serial number: {SERIAL_RULE}")
    return DEVICE_URN_PREFIX + serial


def device_serial(urn: str) -> str:
    """The serial in a device URN.

    Raises:
        FormatError: Not a device URN.
    """
    serial = urn.removeprefix(DEVICE_URN_PREFIX)
    if serial == urn or not is_serial(serial):
        raise FormatError(f"{urn[:80]!r} is not a device URN")
    return serial


def check_slot(slot: str) -> str:
    """Return the slot name if it is one.

    Raises:
        FormatError: Not 1 to 32 of ``a-z0-9-``.
    """
    if not is_slot(slot):
        raise FormatError(f"{slot[:60]!r} is not a slot: 1 to 32 lower-case letters, digits or '-'")
    return slot


def encode_runtime(runtime: RuntimeInfo) -> dict[str, Any]:
    """A runtime as it stands in a header and in ``hello``."""
    return {
        "name": runtime.name,
        "version": runtime.version,
        "threads": runtime.threads,
        "delegate": runtime.delegate,
    }


def encode_tensor(tensor: Tensor) -> dict[str, Any]:
    """A tensor as it stands in a header and in ``hello``."""
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "scale": [float(value) for value in tensor.scale],
        "zero_point": list(tensor.zero_point),
        "axis": tensor.axis,
    }


@lru_cache(maxsize=64)  # all segments of a model have the same
def _known_tensors(packed: bytes, what: str) -> tuple[Tensor, ...]:
    return _tensors(unpack(packed, max_bytes=LIMITS.segment_header_bytes, what="segment header"), what)


def _tensors(value: object, what: str) -> tuple[Tensor, ...]:
    if not isinstance(value, list):
        raise FormatError(f"segment header: {what} are not an array")
    if len(value) > LIMITS.tensors:
        raise LimitError(f"segment header has {len(value)} {what}, more than {LIMITS.tensors}")
    return tuple(parse_tensor(item, f"{what}[{number}]") for number, item in enumerate(value))


def parse_tensor(value: object, what: str) -> Tensor:
    """Read what encode_tensor() wrote.

    Raises:
        FormatError: An unknown or missing key, or a wrong value.
        LimitError: Too large.
    """
    obj = check_keys(value, _TENSOR_KEYS, what)
    shape, scale, zero_point = obj["shape"], obj["scale"], obj["zero_point"]
    if not _list_of(shape, int) or len(shape) > LIMITS.tensor_rank or any(not -1 <= size < 2**31 for size in shape):
        raise FormatError(f"{what}: shape is not an array of at most {LIMITS.tensor_rank} sizes")
    if not _list_of(scale, float) or not all(math.isfinite(item) for item in scale):
        raise FormatError(f"{what}: scale is not an array of finite floats")
    if not _list_of(zero_point, int) or len(zero_point) != len(scale):
        raise FormatError(f"{what}: scale and zero_point do not have one value each")
    if obj["dtype"] not in DTYPE_BYTES:
        raise FormatError(f"{what}: unknown dtype {str(obj['dtype'])[:40]!r}")
    tensor = Tensor(
        name=text_member(obj, "name", what),
        shape=tuple(shape),
        dtype=obj["dtype"],
        scale=tuple(scale),
        zero_point=tuple(zero_point),
        axis=uint_member(obj, "axis", what),
    )
    if len(scale) > 1 and (tensor.axis >= len(shape) or shape[tensor.axis] != len(scale)):
        raise FormatError(f"{what}: {len(scale)} scales do not fit dimension {tensor.axis} of the shape")
    if (size := tensor.nbytes) is not None and size > LIMITS.input_bytes:
        raise LimitError(f"{what} has {size} bytes, more than {LIMITS.input_bytes}")
    return tensor


def _list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)
