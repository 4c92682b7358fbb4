# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What can still be read of a damaged segment or label log: every frame that verifies, before the damage and behind it.

Loaded only when damage was met. A frame is taken when its checksum fits; where the next frame begins
is told by the length of the damaged one, or by that length with one bit corrected (the checksum then
proves it). Only when both fail are the bytes searched for a frame, and never in a segment that may
hold captured inputs: an input could contain bytes that look like a record.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Iterator
from typing import Final

from edgeprov.errors import FormatError
from edgeprov.formats.block import encode_block
from edgeprov.formats.record import parse_input, parse_record
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.limits import KIB
from edgeprov.store.atomic import open_regular, translate, translated
from edgeprov.store.frames import (
    CHECKSUM_OF_KIND,
    END,
    FRAME,
    FRAME_BYTES,
    INPUT,
    MAX_BYTES,
    RANGE,
    RECORD,
    Range,
    Segment,
)

_PAGE_BYTES: Final = 4 * KIB
_SECTOR_BYTES: Final = 512
_WINDOW_BYTES: Final = 256 * KIB
_KIND: Final = re.compile(rb"[\x01-\x07]")  # HEADER to RANGE
_KIND_OFFSET: Final = FRAME_BYTES - 1


def salvaged_rows(segment: Segment) -> Iterator[tuple[int, bytes]]:
    """The RECORD frames of a closed segment whose numbers rise and lie within its ranges, each with its INPUT.

    Raises:
        FormatError: The header is not one.
        StoreError: The file cannot be opened.
    """
    header = parse_segment_header(segment.header)
    captures = header.input_key is not None
    last, kept = -1, -1
    for kind, payload in salvaged_frames(segment, search=not captures):
        number = _number(kind, payload)
        if kind == RECORD:
            kept = -1
            inside = last < number and any(low <= number <= high for low, high in segment.ranges)
            if inside and is_record_of(payload, header):
                kept = last = number
                yield kind, payload
        elif kind == INPUT and number == kept >= 0:
            yield kind, payload


def has_only_records(segment: Segment) -> bool:
    """Whether each RECORD frame of a closed segment is a record of it, with the number that follows.

    An application in another process writes these frames, and their copy is blind.

    Raises:
        StoreCorrupt: Damage before the END frame.
        StoreError: The file cannot be read.
    """
    header = parse_segment_header(segment.header)
    expected = (n for first, last in segment.ranges for n in range(first, last + 1))
    before = -1
    for kind, payload in segment.rows():
        number = _number(kind, payload)
        if kind == RECORD:
            if number != next(expected, -1) or not is_record_of(payload, header):
                return False
            before = number
        elif number != before or header.input_key is None:
            return False
    return True


def is_record_of(row: bytes, header: SegmentHeader) -> bool:
    """Whether a canonical row fits the tensors of its segment."""
    try:
        encode_block([row], 0, header)
    except FormatError:
        return False
    return True


def salvaged_end(segment: Segment, *, end: int) -> int:
    """The number after the highest below ``end`` that any frame names: a damaged record's input tells of it, too.

    Errors as in salvaged_rows.
    """
    captures = parse_segment_header(segment.header).input_key is not None
    numbers = (_number(kind, payload) for kind, payload in salvaged_frames(segment, search=not captures))
    return max((n for n in numbers if n < end), default=-1) + 1


def salvaged_numbers(segment: Segment) -> list[Range]:
    """Ranges (first and last) of the record numbers that salvaged_rows gives. Errors as there."""
    found: list[Range] = []
    for kind, payload in salvaged_rows(segment):
        if kind == RECORD:
            n = parse_record(payload).n
            if found and n == found[-1][1] + 1:
                found[-1] = (found[-1][0], n)
            else:
                found.append((n, n))
    return found


def damage_within(segment: Segment) -> bool | None:
    """What an open segment's end means, after frames() met something that is no frame.

    Returns:
        None: a write was cut short, nothing whole lies behind it. False: writes behind the last sync reached
        the disk in another order, as a power cut leaves them; what lies behind was never acknowledged.
        True: bytes that had been written changed; what lies behind may have been synced.

    Raises:
        StoreError: The file cannot be opened.
    """
    fd, size = open_regular(segment.path, "segment")
    try:
        start = segment.valid_bytes
        if _corrected(fd, start, size) is not None:
            return True
        end = _next_frame(fd, start, size, search=True)
        if end is None:
            return None
        # Space that was set aside and never written reads as zeros, a sector at least.
        sectors = range(start - start % _SECTOR_BYTES, end, _SECTOR_BYTES)
        return all(any(_read(fd, min(_SECTOR_BYTES, end - at), at)) for at in sectors)
    finally:
        os.close(fd)


def salvaged_frames(segment: Segment, *, search: bool) -> Iterator[tuple[int, bytes]]:
    """Every frame that verifies, in order, up to the END frame.

    Args:
        segment: Damaged segment or label log.
        search: Look for frames where no length tells the way.

    Raises:
        StoreError: The file cannot be opened.
    """
    fd, size = open_regular(segment.path, "segment")
    try:
        position: int | None = 0
        while position is not None:
            segment.valid_bytes = position
            for kind, payload in segment.scan(fd, position):
                yield kind, payload
                if kind == END:
                    return
            position = segment.valid_bytes
            corrected = _corrected(fd, position, size)
            if corrected is not None:
                yield corrected
                position += FRAME_BYTES + len(corrected[1])
            else:
                position = _next_frame(fd, position, size, search=search)
    finally:
        os.close(fd)


def _corrected(fd: int, position: int, size: int) -> tuple[int, bytes] | None:
    """The frame at ``position``, if one flipped bit of its length is all that is wrong with it."""
    head = _read(fd, FRAME_BYTES, position)
    if len(head) < FRAME_BYTES:
        return None
    length, _, kind = FRAME.unpack(head)
    for bit in range(32):
        payload = _payload(fd, position, length ^ 1 << bit, kind, size)
        if payload is not None:
            return kind, payload
    return None


def _next_frame(fd: int, position: int, size: int, *, search: bool) -> int | None:
    head = _read(fd, FRAME_BYTES, position)
    if len(head) < FRAME_BYTES:
        return None
    after: int = position + FRAME_BYTES + FRAME.unpack(head)[0]
    if after < size and _verifies(fd, after, size):
        return after
    return _search(fd, position + 1, size) if search else None


def _search(fd: int, position: int, size: int) -> int | None:
    while True:
        window = _read(fd, _WINDOW_BYTES, position)
        if len(window) < FRAME_BYTES:
            return None
        for match in _KIND.finditer(window, _KIND_OFFSET):
            start = position + match.start() - _KIND_OFFSET
            if _verifies(fd, start, size):
                return start
        position += len(window) - _KIND_OFFSET


def _verifies(fd: int, position: int, size: int) -> bool:
    head = _read(fd, FRAME_BYTES, position)
    if len(head) < FRAME_BYTES:
        return False
    length, _, kind = FRAME.unpack(head)
    return _payload(fd, position, length, kind, size) is not None


def _payload(fd: int, position: int, length: int, kind: int, size: int) -> bytes | None:
    """The payload of a frame of this length, if its checksum fits."""
    if not 0 < kind <= RANGE or length > MAX_BYTES[kind] or position + FRAME_BYTES + length > size:
        return None
    frame = _read(fd, FRAME_BYTES + length, position)
    payload = frame[FRAME_BYTES:]
    return payload if zlib.crc32(payload, CHECKSUM_OF_KIND[kind]) == FRAME.unpack_from(frame)[1] else None


def _read(fd: int, count: int, position: int) -> bytes:
    """As pread, up to ``count`` bytes or the end of the file; a page that the medium has lost reads as zeros.

    Raises:
        StoreError: Any other failure.
    """
    pieces = []
    with translated("segment"):
        end = min(position + count, os.fstat(fd).st_size)
    while position < end:
        try:
            piece = os.pread(fd, end - position, position)
        except OSError as error:
            if error.errno != errno.EIO:
                raise translate(error, "segment") from error
            piece = bytes(min(end - position, _PAGE_BYTES - position % _PAGE_BYTES))
        if not piece:
            break
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


def _number(kind: int, payload: bytes) -> int:
    try:
        if kind == RECORD:
            return parse_record(payload).n
        if kind == INPUT:
            return parse_input(payload).n
    except FormatError:
        pass
    return -1
