# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From reasons to one word, and the sentence that people read.

Spec: FORMAT.md part "Conclusion", R-con-86 to R-con-88.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from edgeprov.fleet.conclusion.fleet_report import Effect, Reason, Word
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.time_rules import made_before
from edgeprov.fleet.conclusion.types import Range
from edgeprov.fleet.conclusion.view import Case, View, rule
from edgeprov.formats.rfc3339 import rfc3339_of_ns

EFFECTS: Final[tuple[Effect, ...]] = ("gap", "not-judged", "open", "except", "note")
"""Worst first."""
_RANK: Final = {effect: rank for rank, effect in enumerate(EFFECTS)}
_NAMED: Final = 5


@rule("R-con-86")
def records_lost(case: Case, view: View) -> Iterator[Reason]:
    """Records that a device signed as lost count where their times touch the period."""
    since, until = view.question.since, view.question.until
    for tombstone in case.tombstones:
        before = made_before(tombstone, view)
        for lost in tombstone.lost:
            if lost.least is None or lost.greatest is None:
                inside = not before
            else:
                inside = lost.least < until and (lost.greatest >= since or (lost.doubt and not before))
            if inside:
                yield case.reason(
                    "records-lost",
                    "except",
                    f"{case.device} signed {lost.count} records of slot {tombstone.slot} as lost ({lost.reason})",
                    slot=tombstone.slot,
                    numbers=((lost.first, lost.last),),
                    digests=(tombstone.digest,),
                    count=lost.count,
                    since=lost.least,
                    until=lost.greatest,
                )


@rule("R-con-89")
def content_unavailable(case: Case, view: View) -> Iterator[Reason]:
    """A lost or unreadable part is told with its kit; everything else of the kit still counts."""
    asked = view.question.model
    for kit in case.kits:
        if kit.unavailable and kit.digest in case.inside and asked in (None, kit.model):
            yield case.reason(
                "content-unavailable",
                "note",
                f"content of kit {kit.number} is not available: {', '.join(kit.unavailable)}",
                numbers=((kit.number, kit.number),),
                digests=(kit.digest,),
                count=len(kit.unavailable),
            )


def word_of(effects: Collection[Effect], kits: int) -> Word:
    """R-con-87: the word for reasons with these effects, and for so many verified kits with results in the period."""
    if "gap" in effects:
        return "WITH GAPS" if kits else "UNPROVED"
    if "not-judged" in effects:
        return "NOT JUDGED"
    if not kits and "except" not in effects:
        return "NO DATA"
    if "open" in effects:
        return "COMPLETE UP TO THE NEWEST KIT"
    return "COMPLETE EXCEPT" if "except" in effects else "COMPLETE"


def ordered_reasons(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """R-con-88: each reason once, worst effect first, in a fixed order."""
    return tuple(sorted(set(reasons), key=_reason_key))


def _reason_key(reason: Reason) -> tuple[Any, ...]:
    return (
        _RANK[reason.effect],
        reason.rule,
        reason.code,
        reason.device or "",
        reason.enrollment or b"",
        reason.slot or "",
        reason.numbers,
        reason.digests,
        -1 if reason.count is None else reason.count,
        -1 if reason.since is None else reason.since,
        -1 if reason.until is None else reason.until,
        -1 if reason.bound_ms is None else reason.bound_ms,
        reason.text,
    )


def sentence_of(
    question: Question, word: Word, reasons: Iterable[Reason], results: Range, lost: int, open_devices: list[str]
) -> str:
    """The answer in one sentence; a model is named by its whole digest."""
    model = "" if question.model is None else f" of model sha256:{question.model.hex()}"
    period = f"from {_time(question.since)} to {_time(question.until)}"
    said = "So far: " if question.at < question.until else ""
    counted = f"{_count(results)} results{model} {period}"
    first = next((reason.text for reason in reasons if reason.effect != "note"), "")
    if word == "COMPLETE":
        return f"{said}COMPLETE: {counted}; every number of every device is there, verified and undoubted."
    if word == "COMPLETE EXCEPT":
        return f"{said}COMPLETE EXCEPT {lost} records that devices signed as lost: {counted}."
    if word == "COMPLETE UP TO THE NEWEST KIT":
        names = ", ".join(open_devices[:_NAMED]) + (
            f" and {len(open_devices) - _NAMED} more" if len(open_devices) > _NAMED else ""
        )
        tail = f"not closed: {names}" if names else first
        return f"{said}COMPLETE UP TO THE NEWEST KIT: {counted}; {tail}."
    if word == "NO DATA":
        return f"{said}NO DATA: no verified result{model} {period}" + (f"; {first}." if first else ".")
    if word == "UNPROVED":
        return f"{said}UNPROVED: nothing{model} {period} verifies; {first}."
    return f"{said}{word}: {counted}; {first}."


def _count(results: Range) -> str:
    return str(results[0]) if results[0] == results[1] else f"{results[0]} to {results[1]}"


def _time(moment: int) -> str:
    text, rest = rfc3339_of_ns(moment), moment % 10**9
    return f"{text[:-1]}.{rest:09d}Z" if rest else text
