# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers of the counter: each from the certified base to the closing item has exactly one explanation.

Spec: FORMAT.md part "Conclusion", R-con-30 to R-con-36.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.spans import gaps_between
from edgeprov.fleet.conclusion.time_rules import is_past
from edgeprov.fleet.conclusion.types import KitFacts, Range, SegmentFacts, TombstoneFacts
from edgeprov.fleet.conclusion.view import Case, View, rule
from edgeprov.formats.tombstone import NumberEntry

_LOST = "its segment is lost, and its records are not named"
_WORDS = {"unknown": "the device cannot explain it"}


@dataclass(slots=True)
class Numbers:
    """Explanations of the numbers of one enrollment.

    Attributes:
        owners: Number -> artifacts that have it, segments that took it (by header), tombstones that name it bare.
        sealed: Header -> kits that seal its segment, with the segment.
        named: Header -> tombstones that name its segment as lost.
        lost: Number -> headers that tombstones name for it.
        shared: Number -> headers of segments that share it.
    """

    owners: dict[int, list[bytes]] = field(default_factory=dict)
    sealed: dict[bytes, list[tuple[KitFacts, SegmentFacts]]] = field(default_factory=dict)
    named: dict[bytes, list[TombstoneFacts]] = field(default_factory=dict)
    lost: dict[int, set[bytes]] = field(default_factory=dict)
    shared: dict[int, set[bytes]] = field(default_factory=dict)


def collect_numbers(case: Case) -> Numbers:
    """R-con-30: the explanations that kits, their segments and tombstones give."""
    numbers = Numbers()
    owners, sealed = numbers.owners, numbers.sealed
    for kit in case.kits:
        owners.setdefault(kit.number, []).append(kit.digest)
        for segment in kit.segments:
            header = segment.header
            if header in sealed:
                sealed[header].append((kit, segment))
                continue
            sealed[header] = [(kit, segment)]
            if segment.shared:
                numbers.shared.setdefault(segment.number, set()).add(header)
            else:
                owners.setdefault(segment.number, []).append(header)
    for tombstone in case.tombstones:
        owners.setdefault(tombstone.number, []).append(tombstone.digest)
        for entry in tombstone.numbers:
            if entry.header is None:
                owners.setdefault(entry.number, []).append(tombstone.digest)
            else:
                numbers.lost.setdefault(entry.number, set()).add(entry.header)
                numbers.named.setdefault(entry.header, []).append(tombstone)
    return numbers


@rule("R-con-31")
def number_missing(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """Each number up to the closing item (else the newest, and a certified end) has an explanation."""
    del view
    missing = [
        part
        for first, last in missing_numbers(case, numbers)
        for part in _not_past(case, first, last)
    ]  # fmt: skip
    if missing:
        shown = ", ".join(_text(part) for part in missing[:5]) + (" and more" if len(missing) > 5 else "")
        yield case.doubt(
            "number-missing",
            f"nothing explains number {shown}",
            waits=missing[-1][1] <= case.pending_top,
            numbers=tuple(missing),
        )


def missing_numbers(case: Case, numbers: Numbers) -> list[Range]:
    """Numbers without an explanation, also those outside of the question."""
    last = case.last
    top = last.number if last is not None else case.base
    if case.closer is None and case.end is not None:
        top = max(top, case.end)
    explained = {number for number in numbers.owners if case.base < number <= top}
    explained.update(number for number in numbers.lost if case.base < number <= top)
    if last is not None:
        explained.update(entry.number for entry in last.standing.open if case.base < entry.number <= top)
    if len(explained) == top - case.base:  # nothing is missing
        return []
    return gaps_between([(number, number) for number in sorted(explained)], case.base + 1, top)


def _not_past(case: Case, first: int, last: int) -> Iterator[Range]:
    """The part of a range of missing numbers that the question is about."""
    if not case.past or case.past[0].number <= first:
        yield first, last
        return
    listed = {entry.number for item in case.past for entry in item.standing.open}
    for number in sorted(number for number in listed if first <= number <= min(last, case.past[0].number - 1)):
        if not is_past(case, number):
            yield number, number
    if case.past[0].number <= last:
        yield max(first, case.past[0].number), last


@rule("R-con-32")
def number_contested(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """No number has two explanations, and no segment is sealed, or named as lost, twice."""
    del view
    found: dict[int, list[bytes]] = {}
    for number, owners in numbers.owners.items():
        if len(owners) > 1 or number in numbers.lost:
            lost = numbers.lost.get(number, set())
            headers = [owner for owner in owners if owner in numbers.sealed]
            # One segment that took the number may stand beside lost ones that share it.
            if len(owners) > 1 or (lost and not headers) or lost & set(headers):
                found[number] = [*owners, *lost]
        if number in numbers.shared and not any(owner in numbers.sealed for owner in owners):
            found[number] = [*owners, *numbers.shared[number]]
    for header, kits in numbers.sealed.items():
        if len(kits) > 1 or header in numbers.named:
            named = numbers.named.get(header, ())
            found.setdefault(kits[0][1].number, []).extend([kit.digest for kit, _ in kits] + [t.digest for t in named])
    for header, tombstones in numbers.named.items():
        if len(tombstones) > 1:
            number = next(entry.number for entry in tombstones[0].numbers if entry.header == header)
            found.setdefault(number, []).extend(tombstone.digest for tombstone in tombstones)
    for number, sides in sorted(found.items()):
        if not is_past(case, number):
            yield case.reason(
                "number-contested",
                "gap",
                f"number {number} has more than one explanation",
                numbers=((number, number),),
                digests=tuple(sorted(set(sides))),
            )


@rule("R-con-33")
def number_unknown(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """A number that the device cannot explain, or a lost segment whose records it does not name, is a doubt."""
    del view, numbers
    for tombstone in case.tombstones:
        if not tombstone.numbers:
            continue
        bare = _unnamed(tombstone)
        for entry in tombstone.numbers:
            if (entry.reason == "unknown" or entry.reason in bare) and not is_past(case, entry.number):
                yield _unknown(case, tombstone, entry)


def _unnamed(tombstone: TombstoneFacts) -> set[str]:
    """Reasons with more lost segments than lost record ranges: at least one segment names no records."""
    segments = Counter(entry.reason for entry in tombstone.numbers if entry.header is not None)
    ranges = Counter(lost.reason for lost in tombstone.lost)
    return {reason for reason, count in segments.items() if count > ranges[reason]}


def _unknown(case: Case, tombstone: TombstoneFacts, entry: NumberEntry) -> Reason:
    return case.reason(
        "number-unknown" if entry.reason == "unknown" else "segment-lost",
        "gap",
        f"tombstone {tombstone.number} says of number {entry.number}: {_WORDS.get(entry.reason, _LOST)}",
        numbers=((entry.number, entry.number),),
        digests=(tombstone.digest,),
    )


@rule("R-con-34")
def number_outside(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """No item has a number above the certified end of its enrollment, or below its certified base."""
    del view, numbers
    for item in case.items:
        if item.number < case.base:
            yield case.reason(
                "number-below-base",
                "gap",
                f"number {item.number} lies below the certified base {case.base} of the enrollment",
                numbers=((item.number, item.number),),
                digests=(item.digest,),
            )
        if case.end is not None and item.number > case.end:
            yield case.reason(
                "number-above-end",
                "gap",
                f"number {item.number} lies above the certified end {case.end} of the enrollment",
                numbers=((item.number, item.number),),
                digests=(item.digest,),
            )


@rule("R-con-35")
def item_order(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """A higher number comes with a later resetCount, or the same one and a later TPM clock."""
    del view, numbers
    before = None
    for item in case.items:
        now = (item.reset_count, item.clock_ms)
        if before is not None and now < (before.reset_count, before.clock_ms) and not is_past(case, item.number):
            yield case.reason(
                "order-contradicted",
                "gap",
                f"the TPM clock of number {item.number} lies before that of number {before.number}",
                numbers=((before.number, before.number), (item.number, item.number)),
                digests=(before.digest, item.digest),
            )
        before = item


@rule("R-con-36")
def item_chain(case: Case, view: View, numbers: Numbers) -> Iterator[Reason]:
    """``prev`` of a kit or tombstone, and ``newest`` of a head, name the kit or tombstone before it."""
    del view
    gaps = None
    before: KitFacts | TombstoneFacts | None = None
    for item in case.judged_items():
        link = item.prev if isinstance(item, KitFacts | TombstoneFacts) else getattr(item, "newest", None)
        expected = before.digest if before is not None else None
        if link != expected:
            if gaps is None:
                gaps = missing_numbers(case, numbers)
            low = before.number if before is not None else case.base
            hidden = any(first <= item.number and last > low for first, last in gaps)
            same = before is not None and before.number == item.number and not hasattr(item, "newest")
            if not hidden and not same and item.number > case.pending_top and not is_past(case, item.number):
                yield case.reason(
                    "link-broken",
                    "gap",
                    f"number {item.number} names another kit or tombstone before it than the one that is there",
                    numbers=((item.number, item.number),),
                    digests=(item.digest,),
                )
        if isinstance(item, KitFacts | TombstoneFacts):
            before = item


def _text(part: Range) -> str:
    return str(part[0]) if part[0] == part[1] else f"{part[0]} to {part[1]}"


NUMBER_RULES = (number_missing, number_contested, number_unknown, number_outside, item_order, item_chain)
