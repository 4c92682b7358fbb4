# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Roster: which enrollments must report, and what no version may take back.

Spec: FORMAT.md part "Conclusion", R-con-10 to R-con-15.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.types import RosterEntryFacts, RosterFacts
from edgeprov.fleet.conclusion.view import Case, View, rule


def choose_roster(rosters: Iterable[RosterFacts], at: int) -> RosterFacts | None:
    """R-con-10: the highest version that was issued; of two documents of one version that with the lower digest."""
    issued = [roster for roster in rosters if roster.issued <= at]
    return min(issued, key=lambda roster: (-roster.version, roster.digest), default=None)


@rule("R-con-10")
def roster_not_good(roster: RosterFacts) -> Iterator[Reason]:
    """A version that the role signed and that is refused or could not be judged may hold what nobody knows."""
    yield Reason(
        code="roster-not-judged",
        rule="",
        effect="not-judged",
        digests=(roster.digest,),
        text=f"roster version {roster.version} could not be judged: {roster.checks.detail or roster.checks.rule}",
    )


@rule("R-con-11")
def roster_missing(view: View) -> Iterator[Reason]:
    """Without a roster, devices that never reported are unknown."""
    if view.roster is None:
        yield Reason(
            code="no-roster", rule="", effect="open", text="there is no roster: devices that never reported are unknown"
        )


@rule("R-con-12")
def roster_old(view: View) -> Iterator[Reason]:
    """A roster speaks for the time up to its issue, and not after its expiry."""
    roster, question = view.roster, view.question
    if roster is None:
        return
    if roster.issued < question.until:
        yield Reason(
            code="roster-old",
            rule="",
            effect="open",
            digests=(roster.digest,),
            since=roster.issued,
            text="the roster was issued before the period ended: devices that never reported since are unknown",
        )
    if roster.expires < question.at:
        yield Reason(
            code="roster-expired",
            rule="",
            effect="open",
            digests=(roster.digest,),
            until=roster.expires,
            text="the roster has expired",
        )


@rule("R-con-13")
def roster_contradiction(view: View) -> Iterator[Reason]:
    """No version lacks or changes what an earlier one said, and no version has two documents."""
    ordered = sorted(view.rosters, key=lambda roster: (roster.version, roster.digest))
    for earlier, later in pairwise(ordered):
        fault = _fault(earlier, later)
        if fault:
            yield Reason(
                code="roster-contradiction",
                rule="",
                effect="not-judged",
                digests=(earlier.digest, later.digest),
                text=f"roster version {later.version} {fault} version {earlier.version}",
            )


def _fault(earlier: RosterFacts, later: RosterFacts) -> str:
    if later.version == earlier.version:
        return "is another document than"
    if later.version == earlier.version + 1 and later.previous != earlier.digest:
        return "does not name as its predecessor"
    if later.issued < earlier.issued:
        return "was issued before"
    entries = {entry.enrollment: entry for entry in later.entries}
    for entry in earlier.entries:
        found = entries.get(entry.enrollment)
        if found is None:
            return f"lacks the enrollment {entry.enrollment.hex()} of"
        if not _keeps(entry, found):
            return f"changes what the entry {entry.enrollment.hex()} said in"
    return ""


def _keeps(entry: RosterEntryFacts, found: RosterEntryFacts) -> bool:
    if (found.base, found.since) != (entry.base, entry.since):
        return False
    if not {entry.device, *entry.names} <= {found.device, *found.names}:
        return False
    return entry.ended is None or (found.ended, found.until, found.end) == (entry.ended, entry.until, entry.end)


def is_asked_about(case: Case, view: View) -> bool:
    """R-con-14: an enrollment is left out by its dates only if no verified record of it may lie in the period."""
    question = view.question
    if question.devices and not {case.device, *case.names} & set(question.devices):
        return False
    outside = case.since >= question.until or (case.until is not None and case.until < question.since)
    return not outside or bool(case.inside)


@rule("R-con-15")
def device_unknown(view: View, names: set[str]) -> Iterator[Reason]:
    """A device that is asked for by name and that nobody enrolled is not judged."""
    for device in sorted(set(view.question.devices) - names):
        yield Reason(
            code="device-unknown", rule="", effect="not-judged", device=device, text=f"nobody enrolled {device}"
        )
