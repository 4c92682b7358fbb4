# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A summary of a segment's records, as kits, heads and tombstones list it: numbers, times, last leaf."""

from __future__ import annotations

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.merkle import root
from edgeprov.formats.record import parse_record
from edgeprov.store.frames import RECORD, Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSummary:
    """Of the records that the file gives back.

    Attributes:
        first: Number of the first one.
        last: Number of the last one.
        leaf: Leaf hash of the last one.
        least_ns: Least time.
        greatest_ns: Greatest time.
        flags: Bit 0: the clock was in doubt for one of them.
        whole: No damage was met.
    """

    first: int
    last: int
    leaf: bytes
    least_ns: int
    greatest_ns: int
    flags: int
    whole: bool


def summarize(segment: Segment, *, size_bytes: int | None = None) -> SegmentSummary | None:
    """Read a segment up to its end or its first damage; None without a record.

    Args:
        segment: It may be open and grow.
        size_bytes: Read no further than this, or else a fast application is never caught up with.

    Raises:
        StoreError: The file cannot be read.
    """
    first = last = least = greatest = None
    raw, flags, readable = b"", 0, True
    for kind, payload in segment.frames():
        if size_bytes is not None and segment.valid_bytes > size_bytes:
            break
        if kind != RECORD:
            continue
        try:
            record = parse_record(payload)
        except FormatError:
            readable = False
            break
        raw, last = payload, record.n
        first = record.n if first is None else first
        at = record.recorded_at_ns
        least = at if least is None or at < least else least
        greatest = at if greatest is None or at > greatest else greatest
        flags |= record.flags
    if first is None or last is None or least is None or greatest is None:
        return None
    return SegmentSummary(
        first=first,
        last=last,
        leaf=root([raw]),
        least_ns=least,
        greatest_ns=greatest,
        flags=flags & 1,
        whole=readable and not segment.torn,
    )
