# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The numbers that one kit or tombstone names: its own, those of its segments, records and standing.

The kits of a device are joined by verify.series.

Spec: FORMAT.md "Verification", step 9.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from edgeprov.errors import EvidenceInvalid, SubjectMismatch
from edgeprov.formats.evidence_part import SegmentEvidence
from edgeprov.formats.segment import SegmentHeader
from edgeprov.formats.standing import Standing

STEP: Final = 9


def verify_own_number(seq: int, base: int, *, has_prev: bool) -> None:
    """The number of the item itself.

    Raises:
        EvidenceInvalid: Not above the counter base, or the first number of the enrollment with an item before it.
    """
    if seq <= base:
        raise EvidenceInvalid(f"number {seq} was used before the enrollment, which began at {base}", step=STEP)
    if seq == base + 1 and has_prev:
        raise EvidenceInvalid("the first number of the enrollment names an item before it", step=STEP)


def verify_segment_numbers(headers: Sequence[SegmentHeader], base: int, seq: int) -> None:
    """The segments of one kit took numbers of the same counter, in the order in which they stand.

    Raises:
        EvidenceInvalid: A number outside of base and kit, out of order or taken twice; or headers that are no chain.
    """
    named: set[bytes | None] = set()
    last = base
    for place, header in enumerate(headers, 1):
        if not base < header.number < seq:
            raise EvidenceInvalid(
                f"segment {place} has number {header.number}, which is not above {base} and below {seq}", step=STEP
            )
        if header.number < last or (header.number == last and not header.shared):
            raise EvidenceInvalid(f"segment {place}: number {header.number} is out of order or taken twice", step=STEP)
        if header.prev in named or header.sha256 in named or (header.prev is None and place > 1):
            raise EvidenceInvalid(f"segment {place}: the kit's segments were not opened in this order", step=STEP)
        last = header.number
        named.add(header.prev)


def verify_record_numbers(
    segments: Iterable[SegmentEvidence], records: int, first: int | None, last: int | None
) -> None:
    """The record numbers of the segments are those that the manifest counts.

    Raises:
        EvidenceInvalid: Another count, or another least or greatest number.
    """
    ranges = [bounds for segment in segments for bounds in segment.ranges]
    count = sum(end - start + 1 for start, end in ranges)
    if count != records:
        raise EvidenceInvalid(f"the segments name {count} records, the manifest {records}", step=STEP)
    least, greatest = min((start for start, _ in ranges), default=None), max((end for _, end in ranges), default=None)
    if (least, greatest) != (first, last):
        raise EvidenceInvalid(
            f"the segments name records {least} to {greatest}, the manifest {first} to {last}", step=STEP
        )


def verify_standing(standing: Standing, base: int, below: int, ended: Iterable[bytes] = ()) -> None:
    """The open segments of a kit, tombstone or head have numbers of this enrollment, and none was ended by the item.

    Args:
        standing: Of the item.
        base: Counter base of the enrollment.
        below: Their numbers are below this one.
        ended: Hashes of the headers that the item itself seals or names as lost.

    Raises:
        EvidenceInvalid: One of these does not hold.
    """
    gone = set(ended)
    for item in standing.open:
        if not base < item.number < below:
            raise EvidenceInvalid(
                f"open segment {item.number} has a number that is not above {base} and below {below}", step=STEP
            )
        if item.header in gone:
            raise EvidenceInvalid(f"segment {item.number} is listed as open by the item that ends it", step=STEP)


def nth_record(segments: Iterable[SegmentEvidence], index: int) -> tuple[SegmentEvidence, int] | None:
    """Segment and number of the record with this place in the kit (from 0); None where there is none."""
    for segment in segments:
        for first, last in segment.ranges:
            if index <= last - first:
                return segment, first + index
            index -= last - first + 1
    return None


class RecordPlaces:
    """Takes the records of a kit block by block; each must be the next one that the evidence names."""

    def __init__(self, segments: Sequence[SegmentEvidence]) -> None:
        """Begin a kit whose evidence part has these segments."""
        self._ranges = [deque(segment.ranges) for segment in segments]
        self._place = {segment.header: place for place, segment in enumerate(segments)}
        self._at = 0

    def verify_header(self, header: bytes) -> None:
        """A part may name segments of the evidence only.

        Raises:
            SubjectMismatch: The evidence does not hold this one.
        """
        if header not in self._place:
            raise SubjectMismatch("a part names a segment for which the kit holds no evidence")

    def take(self, header: bytes, numbers: Sequence[int]) -> None:
        """The next records.

        Args:
            header: Of their segment.
            numbers: Ascending.

        Raises:
            SubjectMismatch: Another segment is next, or the evidence names other numbers.
        """
        self.verify_header(header)
        place = self._place[header]
        while self._at < place and not self._ranges[self._at]:
            self._at += 1
        ranges = self._ranges[place]
        for first, last in _runs(numbers):
            if self._at != place or not ranges or first != ranges[0][0] or last > ranges[0][1]:
                raise SubjectMismatch(f"records {first} to {last} are not the next ones that the evidence names")
            end = ranges.popleft()[1]
            if last < end:
                ranges.appendleft((last + 1, end))

    def finish(self) -> None:
        """After the last block.

        Raises:
            SubjectMismatch: A record that the evidence names is missing.
        """
        if any(self._ranges):
            raise SubjectMismatch("the kit does not hold all records that its evidence names")


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for end in range(1, len(numbers) + 1):
        if numbers[-1] - numbers[start] == len(numbers) - 1 - start:  # the rest is one run, as nearly always
            yield numbers[start], numbers[-1]
            return
        if numbers[end] != numbers[end - 1] + 1:
            yield numbers[start], numbers[end - 1]
            start = end
