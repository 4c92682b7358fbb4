# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a seal has to do: which closed segments become one kit, and whether that is due.

A kit holds records of one model and one slot, and its segments are an unbroken chain.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from edgeprov._dataclass import dataclass, field
from edgeprov.device.discard import Range
from edgeprov.formats.digest import Digest
from edgeprov.formats.segment import SegmentHeader
from edgeprov.limits import LIMITS
from edgeprov.store.spool import SegmentInfo

if TYPE_CHECKING:
    from edgeprov.config import SealConfig

Closed = Sequence[tuple[SegmentInfo, SegmentHeader]]


@dataclass(frozen=True, slots=True, kw_only=True)
class KitPlan:
    """What goes into one kit: closed segments of one model and slot, and labels of that model.

    ``damaged`` names, for segments that did not give back all their rows, the numbers that they did.
    """

    slot: str
    model: Digest
    segments: tuple[SegmentInfo, ...] = ()
    labels: bool = False
    damaged: Mapping[str, list[Range]] = field(default_factory=dict)

    def numbers(self) -> list[Range]:
        """Ranges of the records that the kit holds."""
        return [item for info in self.segments for item in self.damaged.get(info.path.name, numbers_of(info))]

    def lost(self) -> list[Range]:
        """Ranges that are gone."""
        broken = [info for info in self.segments if info.path.name in self.damaged]
        return [
            item
            for info in broken
            for item in _missing(self.damaged[info.path.name], info.first, info.first + (info.records or 0))
        ]


def group(slot: str, closed: Closed, settings: SealConfig) -> Iterator[KitPlan]:
    """Cut a slot's closed segments, oldest first, into kits."""
    found: list[SegmentInfo] = []
    model: Digest | None = None
    prev: bytes | None = None
    records = size = 0
    for info, header in closed:
        count = info.records or 0
        full = records + count > settings.max_records or size + info.size_bytes > settings.max_bytes
        full = full or len(found) >= LIMITS.kit_segments or header.prev != prev  # a segment in between is gone
        if found and model is not None and (header.model != model or full):
            yield KitPlan(slot=slot, model=model, segments=tuple(found))
            found, records, size = [], 0, 0
        model, prev = header.model, header.sha256
        found.append(info)
        records += count
        size += info.size_bytes
    if found and model is not None:
        yield KitPlan(slot=slot, model=model, segments=tuple(found))


def is_due(closed: Closed, labelled: bool, settings: SealConfig) -> bool:  # noqa: FBT001
    """Whether age, count or bytes of what waits ask for a kit; labels alone always do."""
    if not closed:
        return labelled
    age_ns = time.time_ns() - closed[0][1].opened_at_ns
    return (
        not 0 <= age_ns < settings.max_age_s * 1_000_000_000  # a clock that went back tells no age
        or sum(info.records or 0 for info, _ in closed) >= settings.max_records
        or sum(info.size_bytes for info, _ in closed) >= settings.max_bytes
    )


def numbers_of(info: SegmentInfo) -> list[Range]:
    """The range of a closed segment's records, as a list; empty when it has none."""
    return [(info.first, info.first + info.records - 1)] if info.records else []


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
