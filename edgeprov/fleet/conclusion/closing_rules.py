# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Closing: the item after which nothing of the period can be unknown.

Spec: FORMAT.md part "Conclusion", R-con-60 to R-con-64.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from edgeprov.fleet.conclusion.fleet_report import Closing, Reason
from edgeprov.fleet.conclusion.listing_rules import listing_inside
from edgeprov.fleet.conclusion.record_rules import SlotRecords, open_floors, record_gaps, split_gap
from edgeprov.fleet.conclusion.time_rules import lower_bound
from edgeprov.fleet.conclusion.types import HeadFacts, ItemFacts
from edgeprov.fleet.conclusion.view import Case, View, rule

_OPEN_ENDS = {
    "lost": "its end is lost: nobody can know what it made last",
    "retired": "it was retired, and no final item of it is at hand",
}


def closing_kind(case: Case, item: ItemFacts, view: View) -> Closing:
    """R-con-61: how an item may close its enrollment for the period, by itself; ``open`` where it does not."""
    until = view.question.until
    if item.standing.final and case.ended == "retired" and case.end in (None, item.number):
        return "final"
    if isinstance(item, HeadFacts) and item.nonce is not None and item.asked is not None:
        return "nonce" if item.asked >= until else "open"
    if lower_bound(item) >= until and view.seen(item.digest) >= until:
        return "clock"
    return "open"


def find_closer(case: Case, view: View, slots: dict[str, SlotRecords]) -> tuple[ItemFacts | None, Closing]:
    """R-con-62: the first item in order that closes, and whose open records of the period are all held."""
    for item in case.items:
        kind = closing_kind(case, item, view)
        if kind != "open" and _open_records_held(case, item, view, slots):
            return item, kind
    return None, "open"


def _open_records_held(case: Case, item: ItemFacts, view: View, slots: dict[str, SlotRecords]) -> bool:
    if not item.standing.open:
        return True
    gaps = record_gaps(case, slots, item)
    for name, missing in gaps.items():
        listed = [entry for entry in item.standing.open if entry.slot == name]
        floors = open_floors(slots[name], listed)
        for _, inside, later in chain.from_iterable(split_gap(gap, listed, floors) for gap in missing):
            if any(listing_inside(entry, view) for entry in inside) or (later and not inside):
                return False
    return True


@rule("R-con-63")
def not_closed(case: Case, view: View) -> Iterator[Reason]:
    """An enrollment that nothing closes is complete up to its newest kit at best."""
    if case.closer is not None or not case.records:
        return
    if case.ended is not None:
        text = _OPEN_ENDS[case.ended]
    elif case.replaced:
        text = "it was replaced on the same TPM, and no final item of it is at hand"
    elif case.last is None:
        text = "nothing of it is at hand"
    else:
        text = f"nothing from after the period shows what it made after number {case.last.number}"
    yield case.reason(
        "end-lost" if case.ended == "lost" else "not-closed",
        "open",
        f"{case.device}: {text}",
        digests=() if case.last is None else (case.last.digest,),
        until=None if case.last is None else min(case.last.standing.at_ns, view.question.until),
    )


@rule("R-con-64")
def period_not_ended(view: View) -> Iterator[Reason]:
    """A period that has not ended gets UP TO THE NEWEST KIT at best."""
    if view.question.at < view.question.until:
        yield Reason(
            code="period-not-ended",
            rule="",
            effect="open",
            text="the period has not ended",
            until=view.question.until,
        )


@rule("R-con-65")
def record_withheld(case: Case, view: View) -> Iterator[Reason]:
    """An enrollment of the roster without a device record that counts is not closed."""
    del view
    if not case.records:
        yield case.reason("no-record", "open", f"{case.device}: no device record of it is at hand that counts")
