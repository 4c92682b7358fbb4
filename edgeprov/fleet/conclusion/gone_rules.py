# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Gone: an artifact of the period that every source which once listed it no longer lists.

Spec: FORMAT.md part "Conclusion", R-con-72 to R-con-74.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.time_rules import made_before
from edgeprov.fleet.conclusion.types import KitFacts, RecordFacts, Sighting, SignatureFacts, TombstoneFacts
from edgeprov.fleet.conclusion.view import HOUR_NS, Case, View, rule

Presence = Literal["there", "missing", "gone"]
_RANK: dict[Presence, int] = {"there": 0, "missing": 1, "gone": 2}


def presence(sightings: Iterable[Sighting]) -> tuple[Presence, int]:
    """R-con-72: is an artifact there, missing, or gone; and since when it is missing (0 where it is there).

    Sightings of one source by several collectors are joined. A source lacks it when a whole listing after the last
    one with it had it not; it is gone there when two such listings lie an hour apart.
    """
    sources: dict[str, tuple[int, set[int]]] = {}
    for item in sightings:
        last, missing = sources.get(item.source, (item.last, set()))
        sources[item.source] = (max(last, item.last), missing | set(item.missing))
    worst: Presence = "gone"
    since = 0
    for last, times in sources.values():
        later = sorted(time for time in times if time > last)
        if not later:
            return "there", 0
        since = max(since, later[0])
        if later[-1] - later[0] < HOUR_NS:
            worst = "missing"
    return (worst, since) if sources else ("there", 0)


def _held(digest: bytes, signatures: Iterable[SignatureFacts], view: View) -> tuple[Presence, int]:
    """R-con-73: an artifact is held as long as itself and one of its signatures are."""
    absent = view.absent
    own: tuple[Presence, int] = presence(absent[digest]) if digest in absent else ("there", 0)
    found = [presence(absent[item.digest]) if item.digest in absent else ("there", 0) for item in signatures]
    signed: tuple[Presence, int] = min(found, key=lambda pair: (_RANK[pair[0]], pair[1]), default=("there", 0))
    return max(own, signed, key=lambda pair: (_RANK[pair[0]], pair[1]))


@rule("R-con-74")
def gone(case: Case, view: View) -> Iterator[Reason]:
    """Kits of the period, tombstones that are not past, and the device records of both are still held."""
    if not view.absent:
        return
    asked = view.question.model
    records: set[bytes | None] = set()
    for kit in case.kits:
        if kit.digest in case.inside and asked in (None, kit.model):
            records.add(kit.record)
            yield from _told(case, kit, f"kit {kit.number}", view)
    for tombstone in case.tombstones:
        if not made_before(tombstone, view):
            records.add(tombstone.record)
            yield from _told(case, tombstone, f"tombstone {tombstone.number}", view)
    for record in case.records:
        if record.digest in records:
            yield from _told(case, record, f"the device record of {record.device}", view)


def _told(case: Case, artifact: KitFacts | TombstoneFacts | RecordFacts, what: str, view: View) -> Iterator[Reason]:
    state, since = _held(artifact.digest, artifact.signatures, view)
    if state == "there":
        return
    number = None if isinstance(artifact, RecordFacts) else artifact.number
    is_gone = state == "gone"
    yield case.reason(
        "gone" if is_gone else "missing-since",
        "gap" if is_gone else "not-judged",
        f"{what} was verified, and {'its content is no longer held' if is_gone else 'is missing since a listing'}",
        numbers=() if number is None else ((number, number),),
        digests=(artifact.digest,),
        since=since,
    )
