# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Labels have one order; the last label of a record counts, and a withdrawn one is none. Counts of results.

Spec: FORMAT.md part "Conclusion", R-con-80 to R-con-82.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeprov.fleet.conclusion.spans import count_common, gaps_between, joined_ranges
from edgeprov.fleet.conclusion.types import KitFacts, LabelRun, Range
from edgeprov.fleet.conclusion.view import Case, View


def label_key(number: int, kit: bytes, place: int) -> tuple[int, bytes, int]:
    """R-con-80: the one order of labels: number of the kit, its digest (for forks only), place in the kit."""
    return number, kit, place


def last_labels(runs: Iterable[tuple[tuple[int, bytes, int], LabelRun]]) -> list[Range]:
    """R-con-81: the records whose last label, in the order of ``label_key``, is not withdrawn, as joined ranges."""
    ordered = sorted(runs, key=lambda pair: pair[0])
    if not any(run.withdrawn for _, run in ordered):
        return joined_ranges((run.first, run.last) for _, run in ordered)
    settled: list[Range] = []  # from the last label to the first: what is settled stays
    labelled: list[Range] = []
    for _, run in reversed(ordered):
        fresh = gaps_between(settled, run.first, run.last)
        if not run.withdrawn:
            labelled += fresh
        if fresh:
            settled = joined_ranges([*settled, *fresh])
    return joined_ranges(labelled)


@dataclass(slots=True)
class ResultTally:
    """Kits, results and labelled results of one model in the period, at least and at most."""

    kits: int = 0
    least: int = 0
    most: int = 0
    labelled_least: int = 0
    labelled_most: int = 0


def count_results(case: Case, view: View) -> dict[bytes, ResultTally]:
    """R-con-82: results of each model that is asked for; a record in two kits with one content counts once."""
    labels = _labels_by_slot(case)
    seen: dict[str, list[Range]] = {}
    tallies: dict[bytes, ResultTally] = {}
    for kit in case.kits:
        if kit.digest not in case.inside or view.question.model not in (None, kit.model):
            continue
        tally = tallies.setdefault(kit.model, ResultTally())
        tally.kits += 1
        for ranges, sure in _parts(kit, view):
            counted = seen.get(kit.slot)
            fresh = joined_ranges(ranges) if len(ranges) > 1 else list(ranges)
            if counted is not None and counted[-1][1] >= fresh[0][0]:
                fresh = [rest for part in fresh for rest in gaps_between(counted, *part)]
            records = sum(last - first + 1 for first, last in fresh)
            seen[kit.slot] = joined_ranges([*counted, *fresh]) if counted else fresh
            labelled = count_common(fresh, labels[kit.slot]) if kit.slot in labels else 0
            tally.most += records
            tally.labelled_most += labelled
            if sure:
                tally.least += records
                tally.labelled_least += labelled
    return tallies


def _labels_by_slot(case: Case) -> dict[str, list[Range]]:
    runs: dict[str, list[tuple[tuple[int, bytes, int], LabelRun]]] = {}
    for kit in case.kits:
        if kit.labels:
            runs.setdefault(kit.slot, []).extend(
                (label_key(kit.number, kit.digest, place), run) for place, run in enumerate(kit.labels)
            )
    return {slot: last_labels(found) for slot, found in runs.items()}


def _parts(kit: KitFacts, view: View) -> Iterable[tuple[Sequence[Range], bool]]:
    """Record numbers of a kit that may lie in the period, and if they surely do."""
    question = view.question
    late = kit.doubtful != 0 and view.seen(kit.digest) >= question.since  # a doubtful time is a lower bound
    for segment in kit.segments:
        if not segment.ranges:
            continue
        least = kit.least if segment.least is None else segment.least
        greatest = kit.greatest if segment.greatest is None else segment.greatest
        if least is None or greatest is None:
            yield segment.ranges, False
        elif question.since <= least and greatest < question.until:
            yield segment.ranges, not kit.doubtful
        elif least < question.until and (greatest >= question.since or late):
            yield segment.ranges, False
