# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The conclusion: knowledge, trust and a question in; one word, its reasons and counts out. A pure function.

Equal knowledge, trust and question give the same report, whatever the order of the knowledge.

Spec: FORMAT.md part "Conclusion".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from edgeprov.errors import FormatError
from edgeprov.fleet.conclusion.cases import Cases
from edgeprov.fleet.conclusion.closing_rules import (
    find_closer,
    not_closed,
    period_not_ended,
    record_withheld,
)
from edgeprov.fleet.conclusion.fleet_report import (
    EXIT_CODES,
    Basis,
    Closing,
    DeviceRow,
    FleetReport,
    KnowledgeSpan,
    ModelCount,
    Reason,
)
from edgeprov.fleet.conclusion.gate import Gate
from edgeprov.fleet.conclusion.gone_rules import gone
from edgeprov.fleet.conclusion.label_rules import ResultTally, count_results
from edgeprov.fleet.conclusion.listing_rules import listed_record, listing_shrinks, stop_covers_shown, unclean_stop
from edgeprov.fleet.conclusion.merged import merge_entries
from edgeprov.fleet.conclusion.model_rules import choose_models, model_not_vouched
from edgeprov.fleet.conclusion.noise_rules import (
    chain_broken,
    facts_contradict,
    join_noise,
    limit_reached,
    sights_of,
    trusted_collectors,
)
from edgeprov.fleet.conclusion.number_rules import NUMBER_RULES, collect_numbers
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.record_rules import collect_records, facts_incomplete, record_missing, record_twice
from edgeprov.fleet.conclusion.roster_rules import (
    choose_roster,
    device_unknown,
    is_asked_about,
    roster_contradiction,
    roster_missing,
    roster_not_good,
    roster_old,
)
from edgeprov.fleet.conclusion.segment_rules import SEGMENT_RULES
from edgeprov.fleet.conclusion.time_rules import behind_the_closer, doubtful_clock, stamped_ahead
from edgeprov.fleet.conclusion.trust import TrustRules
from edgeprov.fleet.conclusion.types import Knowledge
from edgeprov.fleet.conclusion.view import Case, View
from edgeprov.fleet.conclusion.words import (
    content_unavailable,
    ordered_reasons,
    records_lost,
    sentence_of,
    word_of,
)

_ASSURANCE: Final = ("dev", "firmware", "hardware")
"""Weakest first."""

RECORD_RULES: Final = (
    record_missing,
    facts_incomplete,
    record_twice,
    listed_record,
    listing_shrinks,
    stop_covers_shown,
    unclean_stop,
)
CASE_RULES: Final = (
    not_closed,
    record_withheld,
    behind_the_closer,
    stamped_ahead,
    doubtful_clock,
    model_not_vouched,
    gone,
    records_lost,
    content_unavailable,
)


def judge(knowledge: Knowledge, trust: TrustRules, question: Question) -> FleetReport:
    """Draw the conclusion.

    Raises:
        FormatError: The period is empty.
    """
    if question.since >= question.until:
        raise FormatError("the period ends before it begins")
    gate = Gate(trust, question.at)
    collectors = trusted_collectors(knowledge.chains, gate)
    sights, absent = sights_of(knowledge.sightings, collectors)
    gate.sights = sights
    view = View(question=question, gate=gate, sights=sights, absent=absent)
    kinds = {
        name: merge_entries(getattr(knowledge, name), collectors)
        for name in ("records", "kits", "tombstones", "heads", "models", "rosters")
    }  # fmt: skip
    reasons = [*limit_reached(knowledge.cuts), *chain_broken(knowledge.chains, collectors)]
    cases = Cases(view)
    for roster in kinds["rosters"].by_digest.values():
        if not roster.checks.signed or not gate.accepts(roster.signatures, "roster"):
            cases.noise["roster: nobody with the role signed it", None] += 1
        elif roster.checks.state == "verified":
            view.rosters.append(roster)
        else:
            reasons += roster_not_good(roster)
    view.roster = choose_roster(view.rosters, question.at)
    choose_models(view, kinds["models"])
    cases.add_records(kinds["records"])
    cases.add_items(kinds["kits"].by_digest.values(), "kit")
    cases.add_items(kinds["tombstones"].by_digest.values(), "tombstone")
    cases.add_items(kinds["heads"].by_digest.values(), "head")
    cases.finish()
    reasons += facts_contradict(kinds.values(), cases.counted())
    reasons += [*roster_missing(view), *roster_old(view), *roster_contradiction(view), *period_not_ended(view)]
    names = {name for case in cases.by_id.values() for name in (case.device, *case.names)}
    reasons += device_unknown(view, names)
    asked = [case for _, case in sorted(cases.by_id.items()) if is_asked_about(case, view)]
    return _report(knowledge, view, asked, [_judge_case(case, view) for case in asked], reasons, cases.noise)


def _judge_case(case: Case, view: View) -> tuple[Closing, dict[bytes, ResultTally]]:
    """Find the closer, then run every rule on one enrollment."""
    numbers, slots = collect_numbers(case), collect_records(case)
    case.closer, closing = find_closer(case, view, slots)
    case.last = case.closer or (case.items[-1] if case.items else None)
    for check in NUMBER_RULES + SEGMENT_RULES:
        case.reasons += check(case, view, numbers)
    for check in RECORD_RULES:
        case.reasons += check(case, view, slots)
    for check in CASE_RULES:
        case.reasons += check(case, view)
    return closing, count_results(case, view)


def _report(
    knowledge: Knowledge,
    view: View,
    asked: list[Case],
    judged: list[tuple[Closing, dict[bytes, ResultTally]]],
    reasons: list[Reason],
    noise: Counter[tuple[str, str | None]],
) -> FleetReport:
    question = view.question
    rows = [_row(case, *outcome) for case, outcome in zip(asked, judged, strict=True)]
    ordered = ordered_reasons([*reasons, *(reason for case in asked for reason in case.reasons)])
    totals: dict[bytes, ResultTally] = {}
    for _, tallies in judged:
        for model, tally in tallies.items():
            _add(totals.setdefault(model, ResultTally()), tally)
    whole = ResultTally()
    for tally in totals.values():
        _add(whole, tally)
    lost = sum(row.lost for row in rows)
    word = word_of({reason.effect for reason in ordered}, whole.kits)
    results = (whole.least, whole.most)
    open_devices = sorted({row.device for row in rows if row.closing == "open"})
    return FleetReport(
        question=question,
        word=word,
        exit_code=EXIT_CODES[word],
        so_far=question.at < question.until,
        sentence=sentence_of(question, word, ordered, results, lost, open_devices),
        reasons=ordered,
        devices=tuple(sorted(rows, key=lambda row: (row.device, row.enrollment))),
        models=tuple(_model_count(model, tally, view) for model, tally in sorted(totals.items())),
        results=results,
        labelled=(whole.labelled_least, whole.labelled_most),
        lost=lost,
        noise=join_noise(knowledge.noise, noise),
        basis=_basis(view, asked, rows),
        knowledge=_span(knowledge, view),
    )


def _add(total: ResultTally, tally: ResultTally) -> None:
    total.kits += tally.kits
    total.least += tally.least
    total.most += tally.most
    total.labelled_least += tally.labelled_least
    total.labelled_most += tally.labelled_most


def _row(case: Case, closing: Closing, tallies: dict[bytes, ResultTally]) -> DeviceRow:
    whole = ResultTally()
    for tally in tallies.values():
        _add(whole, tally)
    return DeviceRow(
        enrollment=case.enrollment,
        device=case.device,
        names=case.names,
        assurance=_weakest(record.assurance for record in case.records),
        word=word_of({reason.effect for reason in case.reasons}, whole.kits),
        closing=closing,
        closed_by=None if case.closer is None else case.closer.digest,
        base=case.base,
        newest=case.items[-1].number if case.items else None,
        kits=whole.kits,
        results=(whole.least, whole.most),
        labelled=(whole.labelled_least, whole.labelled_most),
        doubtful=sum(kit.doubtful or 0 for kit in case.kits if kit.digest in case.inside),
        lost=sum(reason.count or 0 for reason in set(case.reasons) if reason.code == "records-lost"),
        boot_sets=tuple(sorted(case.boot_sets)),
    )


def _weakest(levels: Iterable[str]) -> str:
    return min(levels, key=lambda level: (_ASSURANCE.index(level) if level in _ASSURANCE else -1, level), default="")


def _model_count(model: bytes, tally: ResultTally, view: View) -> ModelCount:
    known = view.models.get(model)
    return ModelCount(
        model=model,
        name=known.name if known is not None else "",
        version=known.version if known is not None else "",
        kits=tally.kits,
        results=(tally.least, tally.most),
        labelled=(tally.labelled_least, tally.labelled_most),
    )


def _basis(view: View, asked: list[Case], rows: list[DeviceRow]) -> Basis:
    closings = Counter(row.closing for row in rows)
    told = Counter(item.checks.by for item in _items(asked))
    inside = [kit for case in asked for kit in case.kits if kit.digest in case.inside]
    stampers = view.gate.proved
    roster = view.roster
    return Basis(
        roster=None if roster is None else roster.digest,
        roster_version=None if roster is None else roster.version,
        trust=view.gate.trust.digest,
        closed_by_nonce=closings["nonce"],
        closed_by_clock=closings["clock"],
        closed_by_final=closings["final"],
        not_closed=closings["open"],
        checked_here=told.pop(None, 0),
        told=sum(told.values()),
        tellers=tuple(sorted(name for name in told if name is not None)),
        times_stated=sum(not kit.times_read for kit in inside),
        unsighted=sum(item.digest not in view.sights for item in _items(asked)),
        unstamped=sum(all(stampers(item) is None for item in kit.signatures) for kit in inside),
        assurance=tuple(sorted(Counter(row.assurance for row in rows).items())),
    )


def _items(asked: list[Case]) -> Iterator[Any]:
    return (item for case in asked for item in case.items)


def _span(knowledge: Knowledge, view: View) -> KnowledgeSpan:
    times = [sight[0] for sight in view.sights.values()]
    return KnowledgeSpan(
        kits=len(knowledge.kits),
        tombstones=len(knowledge.tombstones),
        heads=len(knowledge.heads),
        records=len(knowledge.records),
        models=len(knowledge.models),
        rosters=len(knowledge.rosters),
        sightings=len(knowledge.sightings),
        collectors=tuple(sorted({chain.collector for chain in knowledge.chains})),
        first_seen=min(times, default=None),
        last_seen=max(times, default=None),
    )
