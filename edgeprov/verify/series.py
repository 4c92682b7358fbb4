# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device's series: every counter value is accounted for by one kit or tombstone, linked to the one before.

Kits may arrive in any order. Missing numbers show as gaps, two artifacts with one number as a fork,
a link to another artifact than the one that is there as a broken link. Only verified items
(verify.evidence) may be put in: an attacker can push anything under any number.

Spec: FORMAT.md "Verification", step 9.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from edgeprov._dataclass import dataclass
from edgeprov.formats.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesItem:
    """One verified kit or tombstone. Times are the TPM's: resetCount, and milliseconds within one boot."""

    seq: int
    digest: Digest
    prev: Digest | None
    reset_count: int
    clock_ms: int
    kind: Literal["kit", "tombstone"] = "kit"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesReport:
    """What a series shows.

    Attributes:
        items: Distinct items, by number.
        gaps: Missing numbers, as inclusive ranges.
        forks: Numbers that more than one artifact claims.
        broken_links: Numbers whose artifact names another predecessor than the one that is there.
        reordered: Numbers whose TPM clock or resetCount lies before that of a lower number.
        voided: Numbers that a tombstone accounts for.
        closed_until: The highest number up to which nothing is missing or in doubt; the counter base when nothing is.
        head: The counter's value that the device attested to an auditor, or None.
    """

    items: int
    gaps: tuple[tuple[int, int], ...]
    forks: tuple[int, ...]
    broken_links: tuple[int, ...]
    reordered: tuple[int, ...]
    voided: tuple[int, ...]
    closed_until: int
    head: int | None = None

    @property
    def whole(self) -> bool:
        """True when nothing is missing or in doubt (up to the head, where there is one)."""
        return not (self.gaps or self.forks or self.broken_links or self.reordered)


def check_series(
    items: Iterable[SeriesItem], counter_base: int, *, head: int | None = None, newest: Digest | None = None
) -> SeriesReport:
    """Judge the series of one device.

    Args:
        items: Verified kits and tombstones, in any order; the same one twice counts once.
        counter_base: From the device record: the first number is the next one.
        head: Counter value of a verified head: later numbers than the newest item's show as a gap.
        newest: The artifact which that head names as the newest.
    """
    by_seq: dict[int, dict[Digest, SeriesItem]] = {}
    for item in items:
        by_seq.setdefault(item.seq, {})[item.digest] = item
    gaps: list[tuple[int, int]] = []
    forks: list[int] = []
    broken: list[int] = []
    reordered: list[int] = []
    before: SeriesItem | None = None
    expected = counter_base + 1
    for seq in sorted(by_seq):
        if seq > expected:
            gaps.append((expected, seq - 1))
        claims = list(by_seq[seq].values())
        if len(claims) > 1:
            forks.append(seq)
        item = claims[0]
        adjacent = before is not None and before.seq == seq - 1 and len(by_seq[before.seq]) == 1
        link = before if adjacent else None
        if seq <= counter_base or any(_link_broken(claim, counter_base, link) for claim in claims):
            broken.append(seq)
        if before is not None and (item.reset_count, item.clock_ms) < (before.reset_count, before.clock_ms):
            reordered.append(seq)
        before = item
        expected = max(expected, seq + 1)
    if head is not None and head >= expected:
        gaps.append((expected, head))
    if head is not None and before is not None:
        if head < before.seq:
            reordered.append(before.seq)
        elif newest is not None and head == before.seq and newest not in by_seq[before.seq]:
            broken.append(before.seq)
    doubts = [first for first, _ in gaps] + forks + broken + reordered
    return SeriesReport(
        items=sum(len(claims) for claims in by_seq.values()),
        gaps=tuple(gaps),
        forks=tuple(forks),
        broken_links=tuple(broken),
        reordered=tuple(reordered),
        voided=tuple(seq for seq in sorted(by_seq) if all(x.kind == "tombstone" for x in by_seq[seq].values())),
        closed_until=max(min(doubts, default=expected) - 1, counter_base),
        head=head,
    )


def _link_broken(item: SeriesItem, counter_base: int, before: SeriesItem | None) -> bool:
    if item.seq == counter_base + 1:
        return item.prev is not None
    if item.prev is None:
        return True
    return before is not None and item.prev != before.digest
