# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Listings of open segments against what kits hold later, and unclean stops against what was listed before.

Spec: FORMAT.md part "Conclusion", R-con-57 to R-con-59.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.record_rules import SlotRecords, stop_floor
from edgeprov.fleet.conclusion.spans import gaps_between, joined_ranges
from edgeprov.fleet.conclusion.time_rules import lower_bound, made_before
from edgeprov.fleet.conclusion.types import ItemFacts, KitFacts, Range
from edgeprov.fleet.conclusion.view import Case, View, rule
from edgeprov.formats.standing import OpenSegment, Stop


@rule("R-con-57")
def listed_record(case: Case, view: View, slots: dict[str, SlotRecords]) -> Iterator[Reason]:
    """Where a kit holds the last number of a listing, it is of the same segment and has the same leaf."""
    leaves: dict[bytes, dict[int, set[bytes]]] = {}
    told: set[tuple[str, int, bytes, str]] = set()
    for item in case.items:
        for entry in item.standing.open:
            if entry.last is None:
                continue
            holder = slots[entry.slot].holder(entry.last)
            if holder is None:
                continue
            kit, segment = holder
            if kit.digest not in case.inside and not listing_inside(entry, view):
                continue
            known = leaves.get(kit.digest)
            if known is None:
                known = leaves[kit.digest] = {}
                for number, leaf in kit.leaves:
                    known.setdefault(number, set()).add(leaf)
            code = _compared(entry, segment.header, known.get(entry.last))
            key = (entry.slot, entry.last, kit.digest, code)
            if code and key not in told:
                told.add(key)
                yield _listed(case, code, entry, item, kit)


def _compared(entry: OpenSegment, header: bytes, leaves: set[bytes] | None) -> str:
    if header != entry.header:
        return "record-contradicts-listing"
    if leaves is None:
        return "leaf-not-read"
    return "" if leaves == {entry.leaf} else "record-contradicts-listing"


def _listed(case: Case, code: str, entry: OpenSegment, item: ItemFacts, kit: KitFacts) -> Reason:
    number = entry.last or 0
    unread = code == "leaf-not-read"
    text = "was not compared with the one" if unread else "is another one than that"
    return case.reason(
        code,
        "not-judged" if unread else "gap",
        f"record {number} of slot {entry.slot} in kit {kit.number} {text} that number {item.number} lists",
        slot=entry.slot,
        numbers=((number, number),),
        digests=(kit.digest, item.digest),
    )


def listing_inside(entry: OpenSegment, view: View) -> bool:
    """R-con-60: records of an open segment may lie in the period."""
    if entry.least_ns is None or entry.greatest_ns is None or entry.least_ns >= view.question.until:
        return False
    return entry.greatest_ns >= view.question.since or bool(entry.flags)


@rule("R-con-44")
def listing_shrinks(case: Case, view: View, slots: dict[str, SlotRecords]) -> Iterator[Reason]:
    """A record that a listing shows stays in its segment: in each later listing, and in the kit that seals it."""
    shown: dict[bytes, OpenSegment] = {}
    told: set[bytes] = set()
    sealed = (
        {segment.header: (kit, segment) for kit in case.kits for segment in kit.segments} if _listed_any(case) else {}
    )
    for item in case.items:
        for entry in item.standing.open:
            before = shown.get(entry.header)
            if before is None or (entry.last is not None and entry.last >= (before.last or 0)):
                if entry.last is not None:
                    shown[entry.header] = entry
            elif listing_inside(before, view) and _not_lost(slots, before) and entry.header not in told:
                told.add(entry.header)
                yield _shrunk(case, before, item)
    for header, before in sorted(shown.items()):
        if header not in sealed or header in told or before.last is None:
            continue
        kit, segment = sealed[header]
        kept = any(first <= before.last <= last for first, last in segment.ranges)
        if not kept and listing_inside(before, view) and _not_lost(slots, before):
            yield _shrunk(case, before, kit)


def _listed_any(case: Case) -> bool:
    return any(item.standing.open for item in case.items)


def _not_lost(slots: dict[str, SlotRecords], entry: OpenSegment) -> bool:
    """No tombstone names the last record of a listing as lost."""
    last = entry.last or 0
    return not any(first <= last <= final for first, final in slots[entry.slot].lost)


def _shrunk(case: Case, entry: OpenSegment, item: ItemFacts) -> Reason:
    number = entry.last or 0
    return case.reason(
        "listing-shrinks",
        "gap",
        f"number {item.number} shows segment {entry.number} without record {number}, which an item had listed before",
        slot=entry.slot,
        numbers=((number, number),),
        digests=(item.digest,),
    )


@rule("R-con-58")
def stop_covers_shown(case: Case, view: View, slots: dict[str, SlotRecords]) -> Iterator[Reason]:
    """An unclean stop never lost a record of its segment that an earlier item had listed."""
    del slots
    shown: dict[bytes, int] = {}
    told: set[Stop] = set()
    for item in case.items:
        for stop in item.standing.stops:
            if stop in told:
                continue
            told.add(stop)
            last = shown.get(stop.header, -1)
            if last > (-1 if stop.after is None else stop.after) and not made_before(item, view):
                yield case.reason(
                    "stop-covers-shown",
                    "gap",
                    f"an unclean stop of slot {stop.slot} would explain record {last}, which an item had listed before",
                    slot=stop.slot,
                    numbers=((last, last),),
                    digests=(item.digest,),
                )
        for entry in item.standing.open:
            if entry.last is not None:
                shown[entry.header] = max(shown.get(entry.header, -1), entry.last)


@rule("R-con-59")
def unclean_stop(case: Case, view: View, slots: dict[str, SlotRecords]) -> Iterator[Reason]:
    """Tell each unclean stop that may have lost records of the period, with its bound and numbers."""
    told: set[Stop] = set()
    held: dict[str, list[Range]] = {}
    for item in case.items:
        for stop in item.standing.stops:
            if stop in told or made_before(item, view):
                continue
            told.add(stop)
            slot = slots[stop.slot]
            if stop.slot not in held:
                held[stop.slot] = joined_ranges((part[0], part[1]) for part in slot.held)
            yield case.reason(
                "unclean-stop",
                "note",
                f"a power cut may have taken records of slot {stop.slot} of the last {stop.bound_ms} ms before it",
                slot=stop.slot,
                numbers=tuple(gaps_between(held[stop.slot], stop_floor(slot, item, stop) + 1, stop.resumed - 1)),
                digests=(item.digest,),
                bound_ms=stop.bound_ms,
                until=stop.at_ns,
            )
        if lower_bound(item) >= view.question.until:  # what was made before was synced, what comes is stamped later
            return
