# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of a spool segment: how rows lie on the disk so that a torn tail is seen for what it is.

A frame is ``uint32le length, uint32le crc32, uint8 kind`` and then ``length`` bytes; the checksum
covers kind and payload. A segment starts with one HEADER frame (label logs have none), then EVIDENCE
frames if any, then rows. An END frame closes it: ``uint64le records, uint64le next`` (the number
that the next segment may start with). Zeros after the last frame are space set aside for more. What
the payloads mean is not known here.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import LimitError, StoreCorrupt
from edgeprov.limits import KIB, LIMITS
from edgeprov.store.atomic import open_regular, translate, translated

HEADER: Final = 1
EVIDENCE: Final = 2
RECORD: Final = 3
INPUT: Final = 4
LABEL: Final = 5
END: Final = 6

FRAME: Final = struct.Struct("<IIB")
FRAME_BYTES: Final = FRAME.size
CHECKSUM_OF_KIND: Final = tuple(zlib.crc32(bytes([kind])) for kind in range(END + 1))
_END: Final = struct.Struct("<QQ")
_END_BYTES: Final = FRAME_BYTES + _END.size
_READ_BYTES: Final = 256 * KIB

# A length past its bound is damage, not a reason to take memory. Rows carry some bytes besides.
MAX_BYTES: Final = (
    0,
    LIMITS.segment_header_bytes,
    LIMITS.event_log_bytes + 64 * KIB,
    LIMITS.record_bytes + LIMITS.params_bytes + 4 * KIB,
    LIMITS.input_bytes + 4 * KIB,
    LIMITS.label_bytes + 4 * KIB,
    _END.size,
)


def encode_frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    return FRAME.pack(len(payload), zlib.crc32(payload, CHECKSUM_OF_KIND[kind]), kind) + payload


def frame_records(rows: deque[bytes], buffer: bytearray) -> None:
    """Move the records that are in a queue now to a buffer, each in its frame; another thread may append meanwhile."""
    take, head, seed = rows.popleft, FRAME.pack, CHECKSUM_OF_KIND[RECORD]
    for _ in range(len(rows)):
        row = take()
        buffer += head(len(row), zlib.crc32(row, seed), RECORD)
        buffer += row


def encode_end(records: int, next_n: int) -> bytes:
    """The frame that closes a segment."""
    return encode_frame(END, _END.pack(records, next_n))


def verify_length(payload: bytes, kind: int) -> None:
    """Raise LimitError where a payload is longer than a frame of its kind may be."""
    if len(payload) > MAX_BYTES[kind]:
        raise LimitError(f"a frame of {len(payload)} bytes; the bound of its kind is {MAX_BYTES[kind]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """What a look at the end of a segment file tells.

    Attributes:
        path: The file.
        first: Number in its name: of its first record, or of the label log.
        size_bytes: Size of the file.
        closed: It has an END frame; nothing will be added.
        records: Rows counted in END, None while it is open.
        next_n: Number after it, None while it is open.
    """

    path: Path
    first: int
    size_bytes: int
    closed: bool
    records: int | None
    next_n: int | None


def load_segment_info(path: Path) -> SegmentInfo:
    """Read the end of a segment file.

    Raises:
        NotStored: No such file.
        StoreError: It cannot be read.
    """
    fd, size = open_regular(path, "segment")
    try:
        with translated(path):
            tail = os.pread(fd, _END_BYTES, max(0, size - _END_BYTES))
    finally:
        os.close(fd)
    records = next_n = None
    if len(tail) == _END_BYTES:
        length, checksum, kind = FRAME.unpack_from(tail)
        payload = tail[FRAME_BYTES:]
        if kind == END and length == _END.size and checksum == zlib.crc32(payload, CHECKSUM_OF_KIND[END]):
            records, next_n = _END.unpack(payload)
    return SegmentInfo(
        path=path,
        first=int(path.stem),
        size_bytes=size,
        closed=next_n is not None,
        records=records,
        next_n=next_n,
    )


class Segment:
    """A segment file that is read from the start, in constant memory.

    Attributes:
        path: The file.
        first: Number in its name.
        header: Payload of its HEADER frame, empty for a label log.
        evidence: Payloads of the EVIDENCE frames right after the header.
        closed: It has an END frame.
        records: Rows counted in END, None while it is open.
        torn: frames() met something that is neither a frame nor space set aside; None before that is known.
        valid_bytes: Where the frames read so far end.
    """

    __slots__ = ("closed", "evidence", "first", "header", "path", "records", "torn", "valid_bytes")

    def __init__(self, path: Path) -> None:
        """Open and read up to the first row.

        Raises:
            NotStored: No such file.
            StoreError: It cannot be read.
        """
        info = load_segment_info(path)
        self.path = path
        self.first = info.first
        self.closed = info.closed
        self.records = info.records
        self.torn: bool | None = None
        self.valid_bytes = 0
        self.header = b""
        evidence = []
        for kind, payload in self.frames():
            if kind == HEADER:
                self.header = payload
            elif kind == EVIDENCE:
                evidence.append(payload)
            else:
                break
        self.evidence = tuple(evidence)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """All frames as ``(kind, payload)``, up to the END frame or the first damage.

        After the last one, ``torn`` and ``valid_bytes`` are known.

        Raises:
            StoreError: The file cannot be read.
        """
        fd, _ = open_regular(self.path, "segment")
        try:
            yield from self.scan(fd)
        finally:
            os.close(fd)

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """The frames of a closed segment that are rows (RECORD, INPUT, LABEL), none left out.

        Raises:
            StoreCorrupt: Damage before the END frame, or not as many records as it counts.
            StoreError: The file cannot be read.
        """
        records = 0
        ended = False
        for kind, payload in self.frames():
            if kind in (RECORD, INPUT, LABEL):
                records += kind != INPUT
                yield kind, payload
            ended = kind == END
        if not ended or records != self.records:
            raise StoreCorrupt(f"segment {self.path.name} is damaged after {self.valid_bytes} bytes")

    def scan(self, fd: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """As frames, from the open file and from byte ``start``, where a frame begins."""
        unpack, crc32, known, bounds = FRAME.unpack_from, zlib.crc32, CHECKSUM_OF_KIND, MAX_BYTES
        buffer = b""
        position = 0  # in the buffer, which begins at byte start of the file
        need = FRAME_BYTES
        self.torn = None
        while True:
            while len(buffer) - position >= need:
                length, checksum, kind = unpack(buffer, position)
                if kind == 0 or kind > END or length > bounds[kind]:
                    self.torn = any(buffer[position : position + FRAME_BYTES])
                    return
                end = position + FRAME_BYTES + length
                if end > len(buffer):
                    need = FRAME_BYTES + length
                    break
                payload = buffer[position + FRAME_BYTES : end]
                if crc32(payload, known[kind]) != checksum:
                    self.torn = True
                    return
                position = end
                need = FRAME_BYTES
                self.valid_bytes = start + position
                yield kind, payload
                if kind == END:
                    self.torn = False
                    return
            try:
                more = os.pread(fd, max(_READ_BYTES, need), start + len(buffer))
            except OSError as error:
                if error.errno != errno.EIO:
                    raise translate(error, str(self.path)) from error
                more = self._before_the_bad_block(fd, start + len(buffer))
                if not more:
                    self.torn = True  # the medium lost these bytes: damage like any other
                    return
            if not more:
                self.torn = any(buffer[position:])
                return
            start += position
            buffer = buffer[position:] + more
            position = 0

    def _before_the_bad_block(self, fd: int, position: int) -> bytes:
        try:
            return os.pread(fd, 4 * KIB - position % (4 * KIB), position)
        except OSError:
            return b""


def read_segment(path: Path) -> Segment:
    """Open a segment. Errors as in Segment."""
    return Segment(path)
