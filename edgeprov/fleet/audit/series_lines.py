# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device's series as the audit tells it: stretches of one model, what is missing, and on which day that shows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from edgeprov.fleet.index.query import Artifact
from edgeprov.fleet.verification.attested_heads import ClosingHead
from edgeprov.fleet.verification.series_facts import SeriesFacts
from edgeprov.verify.series import SeriesReport


def model_runs(items: Iterable[Artifact]) -> Iterator[list[Artifact]]:
    """Stretches of one model, slot by slot."""
    ordered = sorted((item for item in items if item.records), key=lambda item: (item.slot, item.seq))
    for _, group in groupby(_numbered(ordered), key=lambda pair: pair[0]):
        yield [item for _, item in group]


def _numbered(items: list[Artifact]) -> Iterator[tuple[int, Artifact]]:
    run, before = 0, None
    for item in items:
        if before is not None and (before.slot, before.model) != (item.slot, item.model):
            run += 1
        before = item
        yield run, item


def series_json(
    series: SeriesReport,
    base: int,
    items: list[Artifact],
    closing: ClosingHead | None,
    facts: Mapping[str, SeriesFacts],
    *,
    to: str,
) -> dict[str, Any]:
    """For the report; a number that is there but refused is not called missing.

    ``facts`` are those of the device's verified items, by digest. ``head`` is the number of a head that closes the
    time before ``to``, ``head_at`` its time by the device's clock where no auditor asked for it.
    """
    head = closing.head if closing is not None and closing.closes(to) else None
    present = {item.seq for item in items if not item.verified}
    missing, refused_there = [], []
    count = 0
    for first, last in series.gaps:
        inside = sorted(seq for seq in present if first <= seq <= last)
        refused_there += inside
        start = first
        for seq in [*inside, last + 1]:
            if seq > start:
                missing.append([start, seq - 1])
                count += seq - start
            start = seq + 1
    tombstones = [
        _tombstone(item, facts[item.digest])
        for item in items
        if item.verified and item.kind == "tombstone" and item.digest in facts
    ]
    return {
        "base": base,
        "last": max((item.seq for item in items if item.verified), default=None),
        "missing": missing,
        "missing_count": count,
        "refused_numbers": refused_there,
        "voided": list(series.voided),
        "tombstones": tombstones,
        "unknown": sorted({number for item in tombstones for number, reason in item["numbers"] if reason == "unknown"}),
        "forks": list(series.forks),
        "broken_links": list(series.broken_links),
        "reordered": list(series.reordered),
        "closed_until": series.closed_until,
        "head": head.seq if head else None,
        "head_at": head.at if head and head.nonce is None else None,
        "whole": series.whole,
    }


def _tombstone(item: Artifact, facts: SeriesFacts) -> dict[str, Any]:
    """The numbers that a tombstone names with their reasons, and the records that are lost by it."""
    return {
        "seq": item.seq,
        "slot": item.slot,
        "model": item.model,
        "numbers": [[number, reason] for number, reason, _ in facts.named],
        "reasons": sorted({reason for _, reason, _ in facts.named} | {reason for *_, reason in facts.lost}),
        "lost": [[first, last] for first, last, _, _ in facts.lost],
        "lost_records": sum(count for _, _, count, _ in facts.lost),
    }


def missing_days(
    good: Iterable[Artifact], missing: Iterable[Sequence[int]], busy: Collection[str]
) -> Iterator[tuple[str, int]]:
    """Where a gap shows in a picture by day.

    Args:
        good: The device's verified artifacts.
        missing: Ranges of numbers, inclusive.
        busy: Days on which results are there.

    Yields:
        A day and how many numbers: the first day without results from the kit before the gap to the one after it,
        else the day of the kit before it.
    """
    ordered = sorted(good, key=lambda item: item.seq)
    for first, last in missing:
        before = [(item.recorded_last or item.created)[:10] for item in ordered if item.seq < first][-1:]
        after = [(item.recorded_first or item.created)[:10] for item in ordered if item.seq > last][:1]
        day = start = (before or after or [""])[0]
        end = (after or before or [""])[0]
        while day in busy and day < end:
            day = (dt.date.fromisoformat(day) + dt.timedelta(days=1)).isoformat()
        yield (start if day in busy else day), last - first + 1
