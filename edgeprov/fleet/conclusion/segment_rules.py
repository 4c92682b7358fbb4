# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Segments: headers form one chain on the device, and one that was listed ends in a kit or is named as lost.

Spec: FORMAT.md part "Conclusion", R-con-40 to R-con-43.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.number_rules import Numbers
from edgeprov.fleet.conclusion.time_rules import is_past
from edgeprov.fleet.conclusion.types import ItemFacts
from edgeprov.fleet.conclusion.view import Case, View, rule


def known_headers(case: Case, numbers: Numbers) -> set[bytes]:
    """Headers that a kit seals, a tombstone names, or an item lists as open."""
    known = set(numbers.sealed)
    known.update(numbers.named)
    for item in case.items:
        if item.standing.open:
            known.update(entry.header for entry in item.standing.open)
    return known


@rule("R-con-40")
def header_chain(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """The header before each sealed one is known, and only one header follows another."""
    del view
    known = known_headers(case, numbers)
    top = case.last.number if case.last is not None else case.base
    followed: dict[bytes | None, bytes] = {}
    for header, kits in numbers.sealed.items():
        kit, segment = kits[0]
        prev = segment.prev
        if prev in followed:
            pair = sorted((header, followed[prev]))
            if not is_past(case, segment.number, (header, followed[prev])):
                yield case.reason(
                    "header-forked",
                    "gap",
                    f"two segments follow the same one; one of them is number {segment.number}",
                    numbers=tuple(sorted({(numbers.sealed[one][0][1].number,) * 2 for one in pair})),
                    digests=tuple(sorted({numbers.sealed[one][0][0].digest for one in pair})),
                )
            continue
        followed[prev] = header
        if prev is not None and prev not in known and segment.number <= top and not is_past(
            case, segment.number, (prev,)
        ):  # fmt: skip
            yield case.doubt(
                "header-unknown",
                f"segment {segment.number} follows a segment that nothing at hand shows",
                waits=bool(case.pending),
                numbers=((segment.number, segment.number),),
                digests=(kit.digest,),
            )


@rule("R-con-41")
def open_segment_vanished(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """A segment that an item lists as open is sealed or named as lost, or the last item lists it still."""
    del view
    last = case.last
    if last is None:
        return
    open_now = {entry.header for entry in last.standing.open}
    found: dict[bytes, tuple[int, ItemFacts]] = {}
    for item in case.judged_items():
        for entry in item.standing.open:
            header = entry.header
            if header not in open_now and header not in numbers.sealed and header not in numbers.named:
                found[header] = (entry.number, item)
    for header, (number, item) in sorted(found.items(), key=lambda pair: (pair[1][0], pair[0])):
        if not is_past(case, number, (header,)):
            yield case.doubt(
                "segment-missing",
                f"segment {number} was listed as open, and no kit holds it",
                waits=number < case.pending_top,
                numbers=((number, number),),
                digests=(item.digest,),
            )


@rule("R-con-42")
def newest_header(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """The newest header that the last item names is known."""
    del view
    last = case.last
    if last is None or last.standing.newest is None:
        return
    newest = last.standing.newest
    if newest in numbers.sealed or newest in numbers.named:
        return
    if newest in known_headers(case, numbers):
        return
    for item in case.past:  # known to be ended before the period began
        if item.standing.newest == newest and all(entry.header != newest for entry in item.standing.open):
            return
    yield case.doubt(
        "newest-header-unknown",
        f"number {last.number} names a newest segment that nothing at hand shows",
        waits=bool(case.pending),
        numbers=((last.number, last.number),),
        digests=(last.digest,),
    )


@rule("R-con-43")
def listed_number(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """A number that is listed as an open segment belongs to no kit or tombstone."""
    del view
    owned = {item.number: item for item in case.items if not hasattr(item, "newest")}
    for item in case.judged_items():
        for entry in item.standing.open:
            other = owned.get(entry.number)
            owner = numbers.owners.get(entry.number, ())
            bare = any(one not in numbers.sealed for one in owner)
            if (other is not None or bare) and not is_past(case, entry.number, (entry.header,)):
                yield case.reason(
                    "number-contested",
                    "gap",
                    f"number {entry.number} is listed as an open segment and explained otherwise as well",
                    numbers=((entry.number, entry.number),),
                    digests=tuple(sorted({item.digest, *(one for one in owner if one not in numbers.sealed)})),
                )


SEGMENT_RULES = (header_chain, open_segment_vanished, newest_header, listed_number)
