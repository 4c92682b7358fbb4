# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of a spool segment: how rows lie on the disk so that a torn tail is seen for what it is.

A frame is ``uint32le length, uint32le crc32, uint8 kind`` and then ``length`` bytes; the checksum
covers kind and payload. A segment starts with one HEADER frame (label logs have none), then one EVIDENCE
frame (without it the header was never quoted and no row may follow), then rows. A RANGE frame, ``uint64le n,
uint64le unused``, says that the next record has the number n and the ones behind it n + 1, n + 2, ..., and that
``unused`` numbers behind those of the record before are given to no record; one stands before the first record and
wherever numbers were left out. An END frame closes a segment: the ranges of its record numbers
(``uint64le first, uint64le last`` each), then ``uint64le records, uint64le next, uint32le ranges``, where next is
the number that the slot may give out after it. Zeros after the last frame are space set aside for more. What the
payloads of rows mean is not known here.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, LimitError, StoreCorrupt
from edgeprov.limits import KIB, LIMITS
from edgeprov.store.atomic import open_regular, translate, translated

HEADER: Final = 1
EVIDENCE: Final = 2
RECORD: Final = 3
INPUT: Final = 4
LABEL: Final = 5
END: Final = 6
RANGE: Final = 7

FRAME: Final = struct.Struct("<IIB")
FRAME_BYTES: Final = FRAME.size
CHECKSUM_OF_KIND: Final = tuple(zlib.crc32(bytes([kind])) for kind in range(RANGE + 1))
Range = tuple[int, int]
"""First and last number, both included."""
MAX_RANGES: Final = 1_024  # of one segment; a writer begins another segment before
_END: Final = struct.Struct("<QQI")
_END_BYTES: Final = FRAME_BYTES + _END.size
_RANGE: Final = struct.Struct("<QQ")
_READ_BYTES: Final = 256 * KIB

# A length past its bound is damage, not a reason to take memory. Rows carry some bytes besides.
MAX_BYTES: Final = (
    0,
    LIMITS.segment_header_bytes,
    LIMITS.event_log_bytes + 64 * KIB,
    LIMITS.record_bytes + LIMITS.params_bytes + 4 * KIB,
    LIMITS.input_bytes + 4 * KIB,
    LIMITS.label_bytes + 4 * KIB,
    _END.size + MAX_RANGES * _RANGE.size,
    _RANGE.size,
)


def encode_frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    return FRAME.pack(len(payload), zlib.crc32(payload, CHECKSUM_OF_KIND[kind]), kind) + payload


def count_records(frames: bytes) -> int:
    """Count the records in bytes that must be whole frames of records and captured inputs.

    Checksums are not looked at: whoever reads the segment does that.

    Raises:
        FormatError: Something else.
    """
    unpack, bounds = FRAME.unpack_from, MAX_BYTES
    place, end, records = 0, len(frames), 0
    while place < end:
        if place + FRAME_BYTES > end:
            raise FormatError("a frame is cut off")
        length, _, kind = unpack(frames, place)
        if kind == RECORD:
            records += 1
        elif kind != INPUT:
            raise FormatError("a frame is neither a record nor an input")
        if length > bounds[kind]:
            raise FormatError("a frame is longer than its kind may be")
        place += FRAME_BYTES + length
    if place != end:
        raise FormatError("a frame is cut off")
    return records


def encode_end(records: int, next_n: int, ranges: Sequence[Range] = ()) -> bytes:
    """The frame that closes a segment."""
    packed = b"".join(_RANGE.pack(first, last) for first, last in ranges)
    return encode_frame(END, packed + _END.pack(records, next_n, len(ranges)))


def encode_range(n: int, unused: int = 0) -> bytes:
    """The frame that gives the next record its number; so many numbers behind the record before are given to none."""
    return encode_frame(RANGE, _RANGE.pack(n, unused))


def verify_length(payload: bytes, kind: int) -> None:
    """Raise LimitError where a payload is longer than a frame of its kind may be."""
    if len(payload) > MAX_BYTES[kind]:
        raise LimitError(f"a frame of {len(payload)} bytes; the bound of its kind is {MAX_BYTES[kind]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """What a look at the end of a segment file tells.

    Attributes:
        path: The file.
        order: Number in its name: place in the order of opening.
        size_bytes: Size of the file.
        closed: It has an END frame; nothing will be added.
        records: Rows counted in END, None while it is open.
        ranges: Numbers of its records as END names them; empty while it is open.
        next_n: Number after it, None while it is open.
    """

    path: Path
    order: int
    size_bytes: int
    closed: bool
    records: int | None
    ranges: tuple[Range, ...]
    next_n: int | None


def order_of(path: Path) -> int:
    """The number in a segment's name, which rises in order of opening. Raises ValueError for another name."""
    return int(path.stem[:20])


def load_segment_info(path: Path) -> SegmentInfo:
    """Read the end of a segment file.

    Raises:
        NotStored: No such file.
        StoreError: It cannot be read.
    """
    fd, size = open_regular(path, "segment")
    try:
        with translated(path):
            end = _read_end(fd, size)
    finally:
        os.close(fd)
    records, next_n, ranges = end or (None, None, ())
    return SegmentInfo(
        path=path,
        order=order_of(path),
        size_bytes=size,
        closed=end is not None,
        records=records,
        ranges=ranges,
        next_n=next_n,
    )


def _read_end(fd: int, size: int) -> tuple[int, int, tuple[Range, ...]] | None:
    """Records, next number and ranges of the END frame at the end of a file; None without one."""
    if size < _END_BYTES:
        return None
    tail = os.pread(fd, _END.size, size - _END.size)
    if len(tail) < _END.size:
        return None  # its writer cuts the space behind the last row this very moment
    records, next_n, count = _END.unpack(tail)
    length = _END.size + count * _RANGE.size
    if count > MAX_RANGES or size < FRAME_BYTES + length:
        return None
    frame = os.pread(fd, FRAME_BYTES + length, size - FRAME_BYTES - length)
    if len(frame) < FRAME_BYTES + length:
        return None
    said, checksum, kind = FRAME.unpack_from(frame)
    payload = frame[FRAME_BYTES:]
    if kind != END or said != length or checksum != zlib.crc32(payload, CHECKSUM_OF_KIND[END]):
        return None
    return records, next_n, tuple(_RANGE.iter_unpack(payload[: -_END.size]))


def numbering(frames: Iterable[tuple[int, bytes]]) -> tuple[tuple[Range, ...], int | None]:
    """Count the numbers of the records among frames, by the RANGE frames between them.

    Returns:
        The ranges of the records, and the number that a further record would have; None before a RANGE frame.
    """
    ranges: list[Range] = []
    first: int | None = None
    count = 0
    for kind, payload in frames:
        if kind == RECORD:
            count += 1
        elif kind == RANGE:
            if count and first is not None:
                ranges.append((first, first + count - 1))
            first, _ = _RANGE.unpack(payload)
            count = 0
    if first is None:
        return (), None
    if count:
        ranges.append((first, first + count - 1))
    return tuple(ranges), first + count


def unused_of(frames: Iterable[tuple[int, bytes]]) -> tuple[Range, ...]:
    """Ranges of the numbers that the RANGE frames among frames give to no record."""
    found: list[Range] = []
    following: int | None = None
    for kind, payload in frames:
        if kind == RECORD and following is not None:
            following += 1
        elif kind == RANGE:
            first, unused = _RANGE.unpack(payload)
            if unused and following is not None:
                found.append((following, following + unused - 1))
            following = first
    return tuple(found)


def ranges_of(frames: Iterable[tuple[int, bytes]]) -> tuple[Range, ...]:
    """Ranges of the numbers of the records among frames."""
    return numbering(frames)[0]


def count_of(ranges: Iterable[Range]) -> int:
    """How many numbers lie in ranges."""
    return sum(last - first + 1 for first, last in ranges)


class Segment:
    """A segment file that is read from the start, in constant memory.

    Attributes:
        path: The file.
        order: Number in its name.
        header: Payload of its HEADER frame, empty for a label log.
        evidence: Payload of the EVIDENCE frame right after the header, empty without one.
        closed: It has an END frame.
        records: Rows counted in END, None while it is open.
        ranges: Numbers of its records as END names them; empty while it is open.
        torn: frames() met something that is neither a frame nor space set aside; None before that is known.
        valid_bytes: Where the frames read so far end.
    """

    __slots__ = ("closed", "evidence", "header", "order", "path", "ranges", "records", "torn", "valid_bytes")

    def __init__(self, path: Path) -> None:
        """Open and read up to the first row.

        Raises:
            NotStored: No such file.
            StoreError: It cannot be read.
        """
        info = load_segment_info(path)
        self.path = path
        self.order = info.order
        self.closed = info.closed
        self.records = info.records
        self.ranges = info.ranges
        self.torn: bool | None = None
        self.valid_bytes = 0
        self.header = self.evidence = b""
        for kind, payload in self.frames():
            if kind == HEADER:
                self.header = payload
            elif kind == EVIDENCE:
                self.evidence = payload
            else:
                break

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
                if kind == 0 or kind > RANGE or length > bounds[kind]:
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
