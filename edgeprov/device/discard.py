# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Room in a full spool: ``record.full = "discard-oldest"`` gives up the oldest records and owes a tombstone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov import journal
from edgeprov.device.lost import LOST_LOCK, Loss, Why, note_loss
from edgeprov.device.segment_summary import summarize
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.formats.tombstone import LostRange, NumberEntry
from edgeprov.store.spool import SegmentInfo, read_segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprov.store.frames import Range
    from edgeprov.store.state import State


def discard_oldest(state: State, slot: str, needed_bytes: int) -> int:
    """Remove the oldest closed segments of the slot until ``needed_bytes`` are free.

    Returns:
        Bytes freed; 0 when there is nothing closed to discard.

    Raises:
        StoreError: The state cannot be changed.
    """
    freed = 0
    spool = state.spool(slot)
    with state.lock(LOST_LOCK, wait=True):
        for info in spool.segments():
            if freed >= needed_bytes:
                break
            header = read_segment(info.path).header
            if not info.closed or not header:
                continue  # open, or damaged: the seal accounts for it
            note_loss(state, slot, loss_of(parse_segment_header(header), info, info.ranges, "discarded"))
            spool.free(info)
            freed += info.size_bytes
            journal.event(
                "records-discarded",
                f"slot {slot}: {info.records} records discarded, the spool is full",
                priority=journal.WARNING,
                slot=slot,
                records=info.records,
            )
    return freed


def loss_of(header: SegmentHeader, info: SegmentInfo, ranges: Sequence[Range], why: Why) -> Loss:
    """The loss of a whole segment with these records."""
    return Loss(
        model=header.model,
        number=NumberEntry(number=header.number, reason=why, header=header.sha256),
        ranges=lost_ranges(info, ranges, why),
    )


def lost_ranges(info: SegmentInfo, ranges: Sequence[Range], why: Why) -> tuple[LostRange, ...]:
    """Ranges of lost records of a segment, with the times between which they were made as far as the file tells."""
    summary = summarize(read_segment(info.path))
    least, greatest = (summary.least_ns, summary.greatest_ns) if summary and summary.whole else (None, None)
    return tuple(
        LostRange(
            first=first,
            last=last,
            count=last - first + 1,
            least=least,
            greatest=greatest,
            doubt=summary is None or not summary.whole or bool(summary.flags),
            reason=why,
        )
        for first, last in ranges
    )
