# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One inference record, one label, one captured input: the rows of spool and kit.

A record row is a positional array, 71 bytes against 192 for a map. The canonical bytes of a record
row are the leaf of the kit's Merkle tree. ``encode_record`` stands on the path of every inference.

Spec: FORMAT.md sections "Record", "Label" and "Captured input".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.label_runs import read_runs
from edgeprov.formats.packing import Buffer, Cursor, pack, pack_plain, unpack
from edgeprov.limits import LIMITS

INT_MAX: Final = 2**63 - 1
"""Largest number and time in a row: what a signed 64-bit column can hold."""

Scalar = None | bool | int | float | str | bytes

_PLAIN_TYPES: Final = frozenset((type(None), bool, int, str, bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One inference. Times in nanoseconds; ``outputs`` are raw little-endian tensor bytes.

    ``recorded_at_ns`` is the device's wall clock since 1970 and proves nothing; ``mono_ns`` counts
    since boot. ``params`` are those that differ from the segment's.
    """

    n: int
    recorded_at_ns: int
    mono_ns: int
    duration_ns: int
    outputs: tuple[bytes, ...]
    input_digest: bytes | None = None
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Ground truth for record ``n`` of the same device and slot."""

    n: int
    value: Scalar | tuple[Scalar, ...]
    source: str
    labelled_at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """Many labels by column, one after the other as in their part: no object per label."""

    numbers: Sequence[int] = ()
    values: Sequence[Scalar | tuple[Scalar, ...]] = ()
    sources: Sequence[str] = ()
    labelled_at_ns: Sequence[int] = ()

    def __len__(self) -> int:
        """Number of labels."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[Label]:
        """The labels one by one."""
        for n, value, source, at in zip(self.numbers, self.values, self.sources, self.labelled_at_ns, strict=True):
            yield Label(n=n, value=value, source=source, labelled_at_ns=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedInput:
    """The input tensors of record ``n``, raw little-endian bytes; the record's digest binds them."""

    n: int
    inputs: tuple[Buffer, ...]


pack_record: Final = pack_plain
"""What encode_record() gives, of a whole row ``(n, recorded_at_ns, mono_ns, duration_ns, outputs, digest, None)``.

For the recorder, which makes such a row per inference: one call less.
"""


def encode_record(
    n: int,
    recorded_at_ns: int,
    mono_ns: int,
    duration_ns: int,
    outputs: Sequence[Buffer],
    input_digest: bytes | None = None,
    params: Mapping[str, Any] | None = None,
) -> bytes:
    """The canonical bytes of a record row. Numbers and times are from 0 to 2**63 - 1.

    The caller (the recorder) checks tensors before; what is wrong with the rest shows in
    ``parse_record``. Nothing is checked here: this runs once per inference.

    Raises:
        FormatError: ``params`` hold a value that has no msgpack form.
    """
    if params:
        return pack([n, recorded_at_ns, mono_ns, duration_ns, outputs, input_digest, params])
    row: bytes = pack_plain((n, recorded_at_ns, mono_ns, duration_ns, outputs, input_digest, None))
    return row


def parse_record(raw: Buffer) -> Record:
    """Read a record row.

    Raises:
        LimitError: Too long.
        FormatError: Not a canonical record row.
    """
    return record_of(unpack(raw, max_bytes=LIMITS.record_bytes, what="record"))


def record_of(row: Any) -> Record:
    """Check a decoded record row."""
    if not isinstance(row, list) or len(row) != 7:
        raise FormatError("record is not an array of 7")
    n, recorded_at, mono, duration, outputs, input_digest, params = row
    if not all(_is_uint(value) for value in (n, recorded_at, mono, duration)):
        raise FormatError("record: number, times and duration must be integers from 0 to 2**63-1")
    if not isinstance(outputs, list) or len(outputs) > LIMITS.tensors:
        raise FormatError("record: outputs are not an array of tensors")
    if not all(isinstance(value, bytes) for value in outputs):
        raise FormatError("record: an output is not binary")
    if input_digest is not None and not (isinstance(input_digest, bytes) and len(input_digest) == 32):
        raise FormatError("record: the input is not a digest of 32 bytes")
    if params is not None and not (isinstance(params, dict) and params):
        raise FormatError("record: parameters are not a map with entries")
    return Record(
        n=n,
        recorded_at_ns=recorded_at,
        mono_ns=mono,
        duration_ns=duration,
        outputs=tuple(outputs),
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


def encode_label(label: Label) -> bytes:
    """The canonical bytes of a label row.

    Raises:
        FormatError: The value is none of those that a label can have.
    """
    value = list(label.value) if isinstance(label.value, tuple | list) else label.value
    row = [label.n, value, label.source, label.labelled_at_ns]
    label_of(row)
    raw = pack(row)
    if len(raw) > LIMITS.label_bytes:
        raise LimitError(f"label has {len(raw)} bytes, more than {LIMITS.label_bytes}")
    return raw


def parse_label(raw: Buffer) -> Label:
    """Read a label row.

    Raises:
        LimitError: Too long.
        FormatError: Not a canonical label row.
    """
    return label_of(unpack(raw, max_bytes=LIMITS.label_bytes, what="label"))


def label_of(row: Any) -> Label:
    """Check a decoded label row."""
    if not isinstance(row, list) or len(row) != 4:
        raise FormatError("label is not an array of 4")
    n, value, source, labelled_at = row
    if not _is_uint(n) or not _is_uint(labelled_at):
        raise FormatError("label: number and time must be integers from 0 to 2**63-1")
    if not isinstance(source, str):
        raise FormatError("label: the source is not a string")
    if not _is_value(value):
        raise FormatError("label: the value is neither a scalar nor an array of scalars, or not finite")
    return Label(
        n=n, value=tuple(value) if isinstance(value, list) else value, source=source, labelled_at_ns=labelled_at
    )


def read_labels(cursor: Cursor) -> LabelColumns:
    """Read all label rows that follow in a part."""
    runs = read_runs(bytes(cursor.rest()))
    if runs is not None:
        cursor.skip_rest()
        return LabelColumns(numbers=runs.numbers, values=runs.values, sources=runs.sources, labelled_at_ns=runs.times)
    rows = cursor.rows(4, LIMITS.label_bytes)
    numbers, values, sources, times = zip(*rows, strict=True)
    for column in (numbers, times):
        if set(map(type, column)) != {int} or min(column) < 0 or max(column) > INT_MAX:
            raise FormatError("label: number and time must be integers from 0 to 2**63-1")
    if set(map(type, sources)) != {str}:
        raise FormatError("label: the source is not a string")
    # Only floats and arrays need a look at each value.
    if set(map(type, values)) - _PLAIN_TYPES and not all(map(_is_value, values)):
        raise FormatError("label: the value is neither a scalar nor an array of scalars, or not finite")
    return LabelColumns(numbers=numbers, values=values, sources=sources, labelled_at_ns=times)


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


def _is_value(value: object) -> bool:
    return all(map(_is_scalar, value)) if isinstance(value, tuple | list) else _is_scalar(value)


def _is_scalar(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str | bytes)
