# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Record numbers: continuous for each slot from 1 to the highest that a kit or a listing shows, each in one kit.

Spec: FORMAT.md part "Conclusion", R-con-50 to R-con-56.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.spans import common_part, gaps_between, joined_ranges, without
from edgeprov.fleet.conclusion.time_rules import made_before
from edgeprov.fleet.conclusion.types import ItemFacts, KitFacts, Range, SegmentFacts
from edgeprov.fleet.conclusion.view import Case, View, order_key, rule
from edgeprov.formats.standing import OpenSegment, Stop

_FIRST = 1
"""The number of a slot's first record."""
Held = tuple[int, int, KitFacts, SegmentFacts]


@dataclass(slots=True)
class SlotRecords:
    """Record numbers of one slot.

    Attributes:
        held: First and last number, kit and segment, by first number.
        lost: Numbers that tombstones name as lost.
        unused: Numbers of blocks that were never given.
        stops: Unclean stops, with the item that tells them.
        shown: First and last numbers that listings of open segments show.
        opened: Header of a segment -> number of its opening.
        starts: First numbers of ``held``.
        covered: Numbers that a kit holds, a tombstone names, a block never gave, or an unclean stop explains.
    """

    held: list[Held] = field(default_factory=list)
    lost: list[Range] = field(default_factory=list)
    unused: list[Range] = field(default_factory=list)
    stops: list[tuple[ItemFacts, Stop]] = field(default_factory=list)
    shown: set[int] = field(default_factory=set)
    opened: dict[bytes, int] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    covered: list[Range] = field(default_factory=list)

    def holder(self, number: int) -> tuple[KitFacts, SegmentFacts] | None:
        """A kit and segment that hold a number."""
        place = bisect_right(self.starts, number) - 1
        if place >= 0 and self.held[place][0] <= number <= self.held[place][1]:
            return self.held[place][2], self.held[place][3]
        return None


def collect_records(case: Case) -> dict[str, SlotRecords]:
    """R-con-50: the explanations of record numbers that all items at hand give, by slot."""
    slots: dict[str, SlotRecords] = {}
    for kit in case.kits:
        for segment in kit.segments:
            slot = slots.get(segment.slot)
            if slot is None:
                slot = slots[segment.slot] = SlotRecords()
            slot.opened[segment.header] = segment.number
            for first, last in segment.ranges:
                slot.held.append((first, last, kit, segment))
            if segment.unused:
                slot.unused += segment.unused
    for tombstone in case.tombstones:
        if tombstone.lost:
            slot = slots.setdefault(tombstone.slot, SlotRecords())
            slot.lost += [(lost.first, lost.last) for lost in tombstone.lost]
    for item in case.items:
        for entry in item.standing.open:
            slot = slots.setdefault(entry.slot, SlotRecords())
            slot.opened.setdefault(entry.header, entry.number)
            if entry.first is not None and entry.last is not None:
                slot.shown |= {entry.first, entry.last}
        for stop in item.standing.stops:
            slots.setdefault(stop.slot, SlotRecords()).stops.append((item, stop))
    for slot in slots.values():
        slot.held.sort(key=lambda part: (part[0], part[1], part[2].digest, part[3].header))
        slot.starts = [part[0] for part in slot.held]
        slot.covered = _covered(slot)
    return slots


def _covered(slot: SlotRecords) -> list[Range]:
    """R-con-51: neither a stop nor an unused block explains a number that a listing shows as first or last."""
    sure = [(first, last) for first, last, _, _ in slot.held]
    sure += slot.lost
    weak = list(slot.unused)
    weak += [(stop_floor(slot, item, stop) + 1, stop.resumed - 1) for item, stop in slot.stops]
    if not weak:
        return joined_ranges(sure)
    return joined_ranges([*sure, *without(joined_ranges(weak), sorted(slot.shown))])


def stop_floor(slot: SlotRecords, item: ItemFacts, stop: Stop) -> int:
    """The number behind which a stop may have lost records: the last that is known, else what was sealed before."""
    if stop.after is not None:
        return stop.after
    number = slot.opened.get(stop.header, item.number)
    return max((last for _, last, kit, _ in slot.held if kit.number < number), default=-1)


def record_gaps(case: Case, slots: dict[str, SlotRecords], end: ItemFacts) -> dict[str, list[Range]]:
    """R-con-52: numbers up to the highest that items up to ``end`` show, and that nothing explains."""
    tops: dict[str, int] = {}
    key = order_key(end)
    for item in case.items:
        if order_key(item) > key:
            break
        if isinstance(item, KitFacts):
            for segment in item.segments:
                if segment.ranges and segment.ranges[-1][1] > tops.get(segment.slot, -1):
                    tops[segment.slot] = segment.ranges[-1][1]
        for entry in item.standing.open:
            if entry.last is not None and entry.last > tops.get(entry.slot, -1):
                tops[entry.slot] = entry.last
        for stop in item.standing.stops:
            if stop.after is not None and stop.after > tops.get(stop.slot, -1):
                tops[stop.slot] = stop.after
    found = {}
    for name, top in tops.items():
        covered = slots[name].covered
        start = 0 if 0 in slots[name].shown else _FIRST
        if len(covered) == 1 and covered[0][0] <= start and covered[0][1] >= top:
            continue
        found[name] = gaps_between(covered, start, top)
    return found


def split_gap(
    gap: Range, listed: Iterable[OpenSegment], floor: dict[int, int]
) -> Iterator[tuple[Range, tuple[OpenSegment, ...], bool]]:
    """R-con-53: parts of a gap, with the open segments that list them, and if an open one may still give them.

    Args:
        gap: First and last number.
        listed: Open segments of this slot in the item that is looked at.
        floor: Number of an open segment -> highest record number in kits with a lower number.
    """
    first, last = gap
    edges = {first, last + 1}
    for entry in listed:
        for edge in (entry.first, None if entry.last is None else entry.last + 1, floor[entry.number] + 1):
            if edge is not None and first < edge <= last:
                edges.add(edge)
    ordered = sorted(edges)
    for low, after in pairwise(ordered):
        inside = tuple(
            entry
            for entry in listed
            if entry.first is not None and entry.last is not None and entry.first <= low <= entry.last
        )
        later = any(low > max(-1 if entry.last is None else entry.last, floor[entry.number]) for entry in listed)
        yield (low, after - 1), inside, later


def open_floors(slot: SlotRecords, listed: Iterable[OpenSegment]) -> dict[int, int]:
    """Highest record number of the slot in kits with a lower number than each open segment."""
    return {
        entry.number: max((last for _, last, kit, _ in slot.held if kit.number < entry.number), default=-1)
        for entry in listed
    }


@rule("R-con-54")
def record_missing(case: Case, view: View, slots: dict[str, SlotRecords]) -> Iterator[Reason]:
    """Each record number up to the highest shown is held, lost, never given, or listed by the last item."""
    del view
    end = case.last
    if end is None:
        return
    for name, gaps in sorted(record_gaps(case, slots, end).items()):
        slot = slots[name]
        listed = [entry for entry in end.standing.open if entry.slot == name]
        floors = open_floors(slot, listed)
        past = _past_record(case, name)
        missing = [
            (max(part[0], past), part[1])
            for gap in gaps
            for part, inside, later in split_gap(gap, listed, floors)
            if not inside and not later and part[1] >= past
        ]
        if missing:
            count = sum(last - first + 1 for first, last in missing)
            yield case.doubt(
                "record-missing",
                f"{count} record numbers of slot {name} are in no kit",
                waits=any(isinstance(item, KitFacts) and item.slot == name for item in case.pending),
                slot=name,
                numbers=tuple(joined_ranges(missing)),
                count=count,
            )


def _past_record(case: Case, slot: str) -> int:
    """R-con-55: numbers below this one were given and ended before the period."""
    top = 0
    for item in case.past:
        if isinstance(item, KitFacts) and all(entry.slot != slot for entry in item.standing.open):
            for segment in item.segments:
                if segment.slot == slot and segment.ranges:
                    top = max(top, segment.ranges[-1][1])
    return top


@rule("R-con-90")
def facts_incomplete(case: Case, view: View, slots: dict[str, SlotRecords]) -> Iterator[Reason]:
    """The ranges of a kit's segments have as many numbers as the kit has records; else not all of it was read."""
    del slots
    for kit in case.kits:
        known = 0
        for segment in kit.segments:
            for first, last in segment.ranges:
                known += last - first + 1
        if known != kit.records and not made_before(kit, view):
            yield case.reason(
                "facts-incomplete",
                "not-judged",
                f"kit {kit.number} has {kit.records} records, and its segments show {known}",
                numbers=((kit.number, kit.number),),
                digests=(kit.digest,),
            )


@rule("R-con-56")
def record_twice(case: Case, view: View, slots: dict[str, SlotRecords]) -> Iterator[Reason]:
    """A record number is in one kit: equal leaves count once with a doubt, other leaves are contested."""
    del view
    for name, slot in sorted(slots.items()):
        reach: Held | None = None
        for part in slot.held:
            if reach is not None and part[0] <= reach[1]:
                kits = (reach[2], part[2])
                if any(kit.digest in case.inside for kit in kits) or not _all_past(case, kits):
                    yield _twice(case, name, reach, part)
            if reach is None or part[1] > reach[1]:
                reach = part


def _all_past(case: Case, kits: Iterable[KitFacts]) -> bool:
    past = {item.digest for item in case.past}
    return all(kit.digest in past for kit in kits)


def _twice(case: Case, slot: str, one: Held, other: Held) -> Reason:
    first, last = common_part((one[0], one[1]), (other[0], other[1]))
    mine, theirs = ({n: leaf for n, leaf in part[2].leaves if first <= n <= last} for part in (one, other))
    differ = any(theirs.get(n, leaf) != leaf for n, leaf in mine.items())
    equal = not differ and len(mine.keys() & theirs.keys()) == last - first + 1
    if differ:
        code, text = "record-contested", "have different contents in two kits"
    elif equal:
        code, text = "record-twice", "are in two kits with the same content; they count once"
    else:
        code, text = "record-twice-unread", "are in two kits, and their contents were not compared"
    return case.reason(
        code,
        "gap",
        f"records {first} to {last} of slot {slot} {text}",
        slot=slot,
        numbers=((first, last),),
        digests=tuple(sorted({one[2].digest, other[2].digest})),
    )
