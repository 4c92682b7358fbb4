# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Times: which records may lie in the period, which items were made before it, and which stamps are told.

A device's own time is a claim; a doubtful one is a lower bound. A first sighting is an upper bound.

Spec: FORMAT.md part "Conclusion", R-con-20 to R-con-24.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.types import ItemFacts, KitFacts
from edgeprov.fleet.conclusion.view import Case, View, rule


def may_lie_inside(kit: KitFacts, view: View) -> bool:
    """R-con-20: a record of the kit may lie in the period, by its stated or by its possible time."""
    if not kit.records:
        return False
    question = view.question
    if kit.least is None or kit.greatest is None:
        return True
    if kit.least >= question.until:
        return False
    return kit.greatest >= question.since or (kit.doubtful != 0 and view.seen(kit.digest) >= question.since)


def lower_bound(item: ItemFacts) -> int:
    """R-con-21: the time that an item was not made before, by its device."""
    standing = item.standing
    return standing.floor_ns if standing.doubt else standing.at_ns


def made_before(item: ItemFacts, view: View) -> bool:
    """R-con-22: an item was made and seen before the period."""
    since, standing = view.question.since, item.standing
    return standing.at_ns < since and not standing.doubt and view.seen(item.digest) < since


def is_past(case: Case, number: int, headers: tuple[bytes, ...] = ()) -> bool:
    """R-con-23: a number was used up before the period, so it is outside of the question.

    An item made and seen before the period has a higher number, is no tombstone that names this one, and does
    not list it (or one of ``headers``) as open.
    """
    for item in case.past:
        if item.number <= number:
            return False
        if any(entry.number == number for entry in getattr(item, "numbers", ())):
            continue
        if not any(entry.number == number or entry.header in headers for entry in item.standing.open):
            return True
    return False


@rule("R-con-24")
def stamped_ahead(case: Case, view: View) -> Iterator[Reason]:
    """Tell kits of the period that are stamped later than they were first seen: a clock was ahead."""
    sights = view.sights
    for kit in case.kits:
        sight = sights.get(kit.digest)
        if sight is None or kit.standing.at_ns <= sight[0]:
            continue
        if kit.digest in case.inside or (kit.records and (kit.least or 0) >= view.question.until):
            yield case.reason(
                "stamped-ahead",
                "note",
                f"kit {kit.number} is stamped later than it was first seen: the clock was ahead",
                numbers=((kit.number, kit.number),),
                digests=(kit.digest,),
                since=sight[0],
                until=kit.standing.at_ns,
            )


@rule("R-con-25")
def doubtful_clock(case: Case, view: View) -> Iterator[Reason]:
    """Count records of a doubtful clock apart, with the interval in which they may have been made."""
    for kit in case.kits:
        if kit.digest in case.inside and kit.doubtful:
            yield case.reason(
                "clock-doubtful",
                "note",
                f"the clock was doubtful for {kit.doubtful} records of kit {kit.number}",
                slot=kit.slot,
                digests=(kit.digest,),
                count=kit.doubtful,
                since=kit.least,
                until=view.seen(kit.digest),
            )


@rule("R-con-26")
def behind_the_closer(case: Case, view: View) -> Iterator[Reason]:
    """No segment that was opened after an item which closes by its clock holds a record of the period."""
    closer, until = case.closer, view.question.until
    if closer is None or lower_bound(closer) < until:
        return
    for kit in case.kits:
        if kit.number > closer.number and kit.digest in case.inside:
            opened = [segment for segment in kit.segments if segment.ranges]
            alone = kit.least if len(opened) == 1 else None
            times = [
                alone if segment.least is None else segment.least
                for segment in opened
                if segment.number > closer.number and not segment.shared
            ]
            if any(least is not None and least < until for least in times):
                yield case.reason(
                    "time-below-bound",
                    "gap",
                    f"kit {kit.number} has records of the period in segments opened after the period was closed",
                    numbers=((kit.number, kit.number),),
                    digests=(kit.digest, closer.digest),
                )
