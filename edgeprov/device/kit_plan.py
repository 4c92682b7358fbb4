# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a seal has to do: which segments become one kit, and whether that is due.

A kit holds records of one model and one slot. Besides, it takes in segments of any slot that have a quote and no
record, and whose boot has ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from edgeprov._dataclass import dataclass, field
from edgeprov.formats.digest import Digest
from edgeprov.formats.segment import SegmentHeader
from edgeprov.limits import LIMITS
from edgeprov.store.frames import Range
from edgeprov.store.spool import SegmentInfo

if TYPE_CHECKING:
    from pathlib import Path

    from edgeprov.config import SealConfig

Found = Sequence[tuple[SegmentInfo, SegmentHeader]]


@dataclass(frozen=True, slots=True, kw_only=True)
class KitPlan:
    """What goes into one kit: closed segments of one model and slot, and labels of that model.

    Attributes:
        slot: The slot.
        model: The model.
        segments: Closed segments, in the order of the kit's records.
        labels: The labels that wait go along.
        empty: Segments without records, with their slots.
        damaged: For segments that did not give back all their rows, the numbers that they did.
    """

    slot: str
    model: Digest
    segments: tuple[SegmentInfo, ...] = ()
    labels: bool = False
    empty: tuple[tuple[str, SegmentInfo], ...] = ()
    damaged: Mapping[str, list[Range]] = field(default_factory=dict)

    def ranges(self, info: SegmentInfo) -> list[Range]:
        """Numbers of the records of one of its segments that the kit holds."""
        return list(self.damaged.get(info.path.name, info.ranges))

    def numbers(self) -> list[Range]:
        """Ranges of the records that the kit holds."""
        return [item for info in self.segments for item in self.ranges(info)]

    def lost(self, info: SegmentInfo) -> list[Range]:
        """Ranges of one of its segments that are gone."""
        kept = self.ranges(info)
        return [item for first, last in info.ranges for item in _missing(_within(kept, first, last), first, last + 1)]

    def paths(self) -> set[Path]:
        """Files of all its segments."""
        return {info.path for info in self.segments} | {info.path for _, info in self.empty}


def group(slot: str, closed: Found, settings: SealConfig) -> Iterator[KitPlan]:
    """Cut a slot's closed segments, in order of their numbers, into kits."""
    found: list[SegmentInfo] = []
    model: Digest | None = None
    records = size = 0
    for info, header in sorted(closed, key=lambda item: (item[1].number, item[0].order)):
        count = info.records or 0
        full = records + count > settings.max_records or size + info.size_bytes > settings.max_bytes
        if found and model is not None and (header.model != model or full or len(found) >= LIMITS.kit_segments):
            yield KitPlan(slot=slot, model=model, segments=tuple(found))
            found, records, size = [], 0, 0
        model = header.model
        found.append(info)
        records += count
        size += info.size_bytes
    if found and model is not None:
        yield KitPlan(slot=slot, model=model, segments=tuple(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingSegment:
    """A segment with records that no kit holds yet: when it was opened, its records and its size."""

    opened_at_ns: int
    records: int
    size_bytes: int


def is_due(waiting: Sequence[WaitingSegment], labelled: bool, settings: SealConfig) -> bool:  # noqa: FBT001
    """Whether age, count or bytes of the segments that wait ask for a kit; labels alone always do."""
    if not waiting:
        return labelled
    return (
        is_old(min(item.opened_at_ns for item in waiting), settings)
        or sum(item.records for item in waiting) >= settings.max_records
        or sum(item.size_bytes for item in waiting) >= settings.max_bytes
    )


def is_old(at_ns: int, settings: SealConfig) -> bool:
    """Whether what was made at ``at_ns`` has waited for ``seal.max_age_s``; a clock that went back tells no age."""
    return not 0 <= time.time_ns() - at_ns < settings.max_age_s * 1_000_000_000


def _within(ranges: Sequence[Range], first: int, last: int) -> list[Range]:
    return [(max(low, first), min(high, last)) for low, high in ranges if low <= last and high >= first]


def _missing(found: Sequence[Range], first: int, end: int) -> list[Range]:
    """What lies between ``first`` and ``end`` (not included) and in none of the rising ranges."""
    missing = []
    for start, last in found:
        if first < start:
            missing.append((first, start - 1))
        first = last + 1
    if first < end:
        missing.append((first, end - 1))
    return missing
