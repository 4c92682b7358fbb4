# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Noise and limits: a stranger changes only the noise; a limit of cost or a broken table chain gives NOT JUDGED.

Spec: FORMAT.md part "Conclusion", R-con-83 to R-con-85, R-con-1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.gate import Gate, Sight
from edgeprov.fleet.conclusion.merged import Merged
from edgeprov.fleet.conclusion.types import Chain, Cut, Noise, Sighting
from edgeprov.fleet.conclusion.view import rule


def trusted_collectors(chains: Iterable[Chain], gate: Gate) -> frozenset[str]:
    """R-con-1: collectors whose newest table somebody with the role collector signed, under that very identity."""
    return frozenset(
        chain.collector
        for chain in chains
        if gate.accepts((item for item in chain.signatures if item.identity == chain.collector), "collector")
    )


def join_noise(given: Iterable[Noise], found: Counter[tuple[str, str | None]]) -> tuple[Noise, ...]:
    """R-con-83: what nobody trusted signed, counted, and apart from everything else."""
    counts: Counter[tuple[str, str, str | None]] = Counter()
    for item in given:
        counts[item.source, item.kind, item.device] += item.count
    for (kind, device), count in found.items():
        counts["", kind, device] += count
    return tuple(
        Noise(source=source, kind=kind, device=device, count=count)
        for (source, kind, device), count in sorted(
            counts.items(), key=lambda pair: (pair[0][0], pair[0][1], pair[0][2] or "")
        )
    )


@rule("R-con-84")
def limit_reached(cuts: Iterable[Cut]) -> Iterator[Reason]:
    """Beyond a limit of cost the answer is NOT JUDGED, never another one."""
    for cut in sorted(set(cuts), key=lambda cut: (cut.source, cut.limit)):
        yield Reason(
            code="limit-reached",
            rule="",
            effect="not-judged",
            text=f"reading {cut.source} ended at the limit {cut.limit}: artifacts may be unknown",
        )


@rule("R-con-85")
def chain_broken(chains: Iterable[Chain], collectors: frozenset[str]) -> Iterator[Reason]:
    """A trusted collector's chain that lacks a table may hide what it saw."""
    broken = {chain.collector for chain in chains if not chain.whole and chain.collector in collectors}
    for collector in sorted(broken):
        yield Reason(
            code="ledger-not-whole",
            rule="",
            effect="not-judged",
            text=f"a table of the chain of {collector} is missing or does not verify",
        )


@rule("R-con-3")
def facts_contradict(merged: Iterable[Merged[object]], counted: Collection[bytes]) -> Iterator[Reason]:
    """Two verified readings of an artifact that counts say the same; a refused copy beside a good one is told."""
    for found in merged:
        for digest in sorted(found.contradicted.intersection(counted)):
            yield Reason(
                code="facts-contradict",
                rule="",
                effect="gap",
                digests=(digest,),
                text=f"two readings of sha256:{digest.hex()} say different things",
            )
        for digest in sorted(found.bad_copies.intersection(counted)):
            yield Reason(
                code="bad-copy",
                rule="",
                effect="note",
                digests=(digest,),
                text=f"a copy of sha256:{digest.hex()} was refused, and another one is good",
            )


def sights_of(
    sightings: Iterable[Sighting], collectors: frozenset[str]
) -> tuple[dict[bytes, Sight], dict[bytes, list[Sighting]]]:
    """R-con-2: first sightings by minimum over trusted collectors, and sightings of what a listing lacked."""
    sights: dict[bytes, Sight] = {}
    lacking: set[bytes] = set()
    trusted = []
    for item in sightings:
        if item.collector is not None and item.collector not in collectors:
            continue
        trusted.append(item)
        known = sights.get(item.digest)
        if known is None:
            sights[item.digest] = (item.first, item.stamps)
        else:
            sights[item.digest] = (min(known[0], item.first), known[1] + item.stamps)
        if item.missing:
            lacking.add(item.digest)
    absent: dict[bytes, list[Sighting]] = {digest: [] for digest in lacking}
    if lacking:
        for item in trusted:
            if item.digest in lacking:
                absent[item.digest].append(item)
    return sights, absent
