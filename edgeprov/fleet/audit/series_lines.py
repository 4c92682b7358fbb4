# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device's series as the audit tells it: stretches of one model, what is missing, and on which day that shows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from sqlite3 import Row
from typing import Any

from edgeprov.fleet.index.database import digest_of_text, json_of_text
from edgeprov.fleet.index.query import Artifact
from edgeprov.verify.head_check import VerifiedHead
from edgeprov.verify.series import SeriesItem, SeriesReport


def series_item(item: Artifact) -> SeriesItem:
    """A verified artifact as verify.series wants it."""
    return SeriesItem(
        seq=item.seq,
        digest=digest_of_text(item.digest),
        prev=digest_of_text(item.prev) if item.prev else None,
        reset_count=item.reset_count or 0,
        clock_ms=item.clock_ms or 0,
        kind="kit" if item.kind == "kit" else "tombstone",
    )


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
    series: SeriesReport, base: int, items: list[Artifact], head: VerifiedHead | None, tombstones: Mapping[str, Row]
) -> dict[str, Any]:
    """For the report; a number that is there but refused is not called missing.

    ``tombstones`` are rows of that table, by digest.
    """
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
    return {
        "base": base,
        "last": max((item.seq for item in items if item.verified), default=None),
        "missing": missing,
        "missing_count": count,
        "refused_numbers": refused_there,
        "voided": list(series.voided),
        "tombstones": list(_tombstones(series, items, tombstones)),
        "forks": list(series.forks),
        "broken_links": list(series.broken_links),
        "reordered": list(series.reordered),
        "closed_until": series.closed_until,
        "head": head.seq if head else None,
        "whole": series.whole,
    }


def _tombstones(
    series: SeriesReport, items: Iterable[Artifact], tombstones: Mapping[str, Row]
) -> Iterator[dict[str, Any]]:
    """Why each voided number has no kit, and which records are lost by it."""
    voided = set(series.voided)
    for item in items:
        if item.verified and item.kind == "tombstone" and item.seq in voided and item.digest in tombstones:
            lost = json_of_text(tombstones[item.digest]["lost"])
            yield {
                "seq": item.seq,
                "reason": tombstones[item.digest]["reason"],
                "slot": item.slot,
                "model": item.model,
                "lost": lost,
                "lost_records": sum(last - first + 1 for first, last in lost),
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
