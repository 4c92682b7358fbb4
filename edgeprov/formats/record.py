# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One inference record and one captured input: rows of spool and kit.

A record row is a positional array, 73 bytes against 210 for a map. The canonical bytes of a record
row are the leaf of the kit's Merkle tree. ``encode_record`` stands on the path of every inference.

Spec: FORMAT.md sections "Record" and "Captured input".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.packing import Buffer, Cursor, pack, pack_plain, unpack
from edgeprov.limits import LIMITS

INT_MAX: Final = 2**63 - 1
"""Largest number and time in a row: what a signed 64-bit column can hold."""

RECORD_ITEMS: Final = 9
"""Items of a record row."""

CLOCK_DOUBTFUL: Final = 1
"""Bit 0 of a record's flags: its time may be wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One inference. Times in nanoseconds; ``outputs`` are raw little-endian tensor bytes.

    ``recorded_at_ns`` is the device's wall clock since 1970 and proves nothing; ``mono_ns`` counts
    since boot. ``shapes`` are there only where an output of the segment varies: None for an output
    whose shape the header fixes. ``params`` are those that differ from the segment's.
    """

    n: int
    recorded_at_ns: int
    mono_ns: int
    duration_ns: int
    flags: int = 0
    outputs: tuple[bytes, ...]
    shapes: tuple[tuple[int, ...] | None, ...] | None = None
    input_digest: bytes | None = None
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedInput:
    """The input tensors of record ``n``, raw little-endian bytes; the record's digest binds them."""

    n: int
    inputs: tuple[Buffer, ...]


pack_record: Final = pack_plain
"""What encode_record() gives, of a whole row ``(n, recorded_at_ns, mono_ns, duration_ns, flags, outputs, None,
digest, None)``: without shapes and parameters.

For the recorder, which makes such a row per inference: one call less.
"""

_INT_BYTES: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # msgpack: bytes behind the head of an unsigned integer


def encode_record(
    n: int,
    recorded_at_ns: int,
    mono_ns: int,
    duration_ns: int,
    outputs: Sequence[Buffer],
    input_digest: bytes | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    flags: int = 0,
    shapes: Sequence[Sequence[int] | None] | None = None,
) -> bytes:
    """The canonical bytes of a record row. Numbers and times are from 0 to 2**63 - 1.

    The caller (the recorder) checks tensors and shapes before; what is wrong with the rest shows in
    ``parse_record``. Nothing is checked here: this runs once per inference.

    Raises:
        FormatError: ``params`` hold a value that has no msgpack form.
    """
    if params:
        return pack([n, recorded_at_ns, mono_ns, duration_ns, flags, outputs, shapes, input_digest, params])
    row: bytes = pack_plain((n, recorded_at_ns, mono_ns, duration_ns, flags, outputs, shapes, input_digest, None))
    return row


def parse_record(raw: Buffer) -> Record:
    """Read a record row.

    Raises:
        LimitError: Too long.
        FormatError: Not a canonical record row.
    """
    return record_of(unpack(raw, max_bytes=LIMITS.record_bytes, what="record"))


def recorded_at_of(raw: bytes) -> int:
    """The time of an encoded record, without a look at the rest of it: nanoseconds since 1970."""
    at = 2 + _INT_BYTES.get(raw[1], 0)  # behind the array's head and the number
    size = _INT_BYTES.get(raw[at], 0)
    return int.from_bytes(raw[at + 1 : at + 1 + size], "big") if size else raw[at]


def record_of(row: Any) -> Record:
    """Check a decoded record row."""
    if not isinstance(row, list) or len(row) != RECORD_ITEMS:
        raise FormatError(f"record is not an array of {RECORD_ITEMS}")
    n, recorded_at, mono, duration, flags, outputs, shapes, input_digest, params = row
    if not all(_is_uint(value) for value in (n, recorded_at, mono, duration)):
        raise FormatError("record: number, times and duration must be integers from 0 to 2**63-1")
    if type(flags) is not int or flags not in (0, CLOCK_DOUBTFUL):
        raise FormatError("record: flags have a bit that this version does not know")
    if not isinstance(outputs, list) or len(outputs) > LIMITS.tensors:
        raise FormatError("record: outputs are not an array of tensors")
    if not all(isinstance(value, bytes) for value in outputs):
        raise FormatError("record: an output is not binary")
    if shapes is not None and not _is_shapes(shapes, len(outputs)):
        raise FormatError("record: shapes are not one shape or nil for each output")
    if input_digest is not None and not (isinstance(input_digest, bytes) and len(input_digest) == 32):
        raise FormatError("record: the input is not a digest of 32 bytes")
    if params is not None and not (isinstance(params, dict) and params):
        raise FormatError("record: parameters are not a map with entries")
    return Record(
        n=n,
        recorded_at_ns=recorded_at,
        mono_ns=mono,
        duration_ns=duration,
        flags=flags,
        outputs=tuple(outputs),
        shapes=shapes and tuple(shape if shape is None else tuple(shape) for shape in shapes),
        input_digest=input_digest,
        params=params,
    )


def keyed_input_digest(key: bytes, inputs: Iterable[Buffer]) -> bytes:
    """SHA-256 (32 bytes) over the segment's key, then length and bytes of each input tensor.

    The key stays on the device's disk and in the kit: without it, a digest of a small input (30
    features) could be found by trying inputs.

    Args:
        key: 32 random bytes of the segment header.
        inputs: Raw little-endian tensor bytes, in the order of the model's inputs.
    """
    hasher = sha256(key)
    for tensor in inputs:
        size = tensor.nbytes if isinstance(tensor, memoryview) else len(tensor)
        hasher.update(size.to_bytes(8, "little"))
        hasher.update(tensor)
    return hasher.digest()


def encode_input(n: int, inputs: Sequence[Buffer]) -> bytes:
    """The canonical bytes of a captured input row ``[n, [tensor bytes…]]``."""
    row: bytes = pack_plain((n, inputs))
    return row


def parse_input(raw: Buffer) -> CapturedInput:
    """Read a captured input row; the tensors are views of ``raw``.

    Raises:
        LimitError: Too long, or too many tensors.
        FormatError: Not a canonical input row.
    """
    cursor = Cursor(raw, "captured input")
    value = read_input(cursor)
    cursor.end()
    return value


def read_input(cursor: Cursor) -> CapturedInput:
    """Read the next captured input row of a part."""
    if cursor.array(2) != 2:
        raise FormatError("captured input is not an array of 2")
    n = cursor.uint()
    return CapturedInput(
        n=n, inputs=tuple(cursor.binary(LIMITS.input_bytes) for _ in range(cursor.array(LIMITS.tensors)))
    )


def _is_uint(value: object) -> bool:
    return type(value) is int and 0 <= value <= INT_MAX


def _is_shapes(shapes: object, count: int) -> bool:
    # All nil is no shape at all: such a record has nil in place of the array.
    if not isinstance(shapes, list) or len(shapes) != count or not any(shape is not None for shape in shapes):
        return False
    return all(
        shape is None or (isinstance(shape, list) and len(shape) <= LIMITS.tensor_rank and all(map(_is_uint, shape)))
        for shape in shapes
    )
