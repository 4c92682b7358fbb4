# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device's series: every counter value is explained once, and items and segment headers are linked to those before.

A number is explained by a kit or tombstone that has it, by the segment that took it, or by a tombstone that
names it. Items may arrive in any order. Missing numbers show as gaps, a number with two explanations as a
fork, a link to another artifact than the one that is there as a broken link. Only verified items
(verify.evidence) may be put in: an attacker can push anything under any number.

Spec: FORMAT.md "Series".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Literal

from edgeprov._dataclass import dataclass
from edgeprov.formats.digest import Digest
from edgeprov.formats.standing import Standing
from edgeprov.verify.evidence import Verdict
from edgeprov.verify.head_check import VerifiedHead


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentLink:
    """A segment that a kit seals: its number, the SHA-256 of its header, and that of the header opened before it."""

    number: int
    header: bytes
    prev: bytes | None
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNumber:
    """A number that an item names without sealing its segment: an open one, or an entry of a tombstone."""

    number: int
    header: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesItem:
    """One verified kit or tombstone. Times are the TPM's: resetCount, and milliseconds within one boot.

    Attributes:
        segments: Segments that a kit seals.
        named: Earlier numbers that a tombstone names.
        open: Segments that the item lists as open.
        newest: SHA-256 of the newest header that was opened when the item was made, or None.
    """

    seq: int
    digest: Digest
    prev: Digest | None
    reset_count: int
    clock_ms: int
    kind: Literal["kit", "tombstone"] = "kit"
    segments: tuple[SegmentLink, ...] = ()
    named: tuple[NamedNumber, ...] = ()
    open: tuple[NamedNumber, ...] = ()
    newest: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEnd:
    """The end of a series as a verified head tells it: counter value, newest item, open segments, newest header."""

    seq: int
    newest: Digest | None
    open: tuple[NamedNumber, ...] = ()
    newest_header: bytes | None = None


def series_item(verdict: Verdict) -> SeriesItem:
    """A verified kit or tombstone as check_series takes it."""
    return SeriesItem(
        seq=verdict.seq,
        digest=verdict.digest,
        prev=verdict.prev,
        reset_count=verdict.reset_count,
        clock_ms=verdict.clock_ms,
        kind=verdict.kind,
        segments=tuple(
            SegmentLink(number=header.number, header=header.sha256, prev=header.prev, shared=header.shared)
            for header in verdict.headers
        ),
        named=tuple(NamedNumber(number=item.number, header=item.header) for item in verdict.numbers),
        open=_open(verdict.standing),
        newest=verdict.standing.newest,
    )


def series_end(head: VerifiedHead) -> SeriesEnd:
    """A verified head as check_series takes it."""
    return SeriesEnd(seq=head.seq, newest=head.newest, open=_open(head.standing), newest_header=head.standing.newest)


def _open(standing: Standing) -> tuple[NamedNumber, ...]:
    return tuple(NamedNumber(number=item.number, header=item.header) for item in standing.open)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesReport:
    """The faults of a series.

    Attributes:
        items: Number of distinct items.
        gaps: Missing numbers, as inclusive ranges.
        forks: Numbers with more than one explanation.
        broken_links: Numbers of items that name another predecessor than the one that is there, and of segments
            whose header names another header before it than the one that is there.
        reordered: Numbers whose TPM clock or resetCount lies before that of a lower number.
        voided: Numbers of tombstones, and those that they name.
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


def check_series(items: Iterable[SeriesItem], counter_base: int, *, head: SeriesEnd | None = None) -> SeriesReport:
    """Judge the series of one device.

    Args:
        items: Verified kits and tombstones, in any order; the same one twice counts once.
        counter_base: From the device record: the first number is the next one.
        head: A verified head: later numbers than the newest item's show as a gap.
    """
    by_seq: dict[int, dict[Digest, SeriesItem]] = {}
    for item in items:
        by_seq.setdefault(item.seq, {})[item.digest] = item
    ordered = [item for seq in sorted(by_seq) for item in by_seq[seq].values()]
    numbers = _Numbers(ordered, head)
    top = max((ordered[-1].seq if ordered else counter_base, head.seq if head else counter_base))
    gaps = _Gaps(numbers.gaps(counter_base, top))
    forks = numbers.forks()
    broken = _broken_items(by_seq, counter_base, gaps)
    if not gaps.ranges and not forks:  # a number that is missing or doubtful may explain an unknown header
        broken |= numbers.broken_headers(top)
    reordered = {
        item.seq
        for before, item in pairwise(ordered)
        if before.seq < item.seq and (item.reset_count, item.clock_ms) < (before.reset_count, before.clock_ms)
    }
    if head is not None:
        newest = ordered[-1].seq if ordered else counter_base
        if head.seq < newest:
            reordered.add(newest)
        elif not gaps.between(newest, head.seq + 1) and _other_newest(head, by_seq.get(newest, {})):
            broken.add(newest)
    doubts = [first for first, _ in gaps.ranges] + [*forks, *broken, *reordered]
    return SeriesReport(
        items=len(ordered),
        gaps=gaps.ranges,
        forks=tuple(sorted(forks)),
        broken_links=tuple(sorted(broken)),
        reordered=tuple(sorted(reordered)),
        voided=tuple(sorted(numbers.voided)),
        closed_until=max(min(doubts, default=top + 1) - 1, counter_base),
        head=head.seq if head else None,
    )


class _Numbers:
    """The explanations of each number, and the headers that are known."""

    def __init__(self, ordered: list[SeriesItem], head: SeriesEnd | None) -> None:
        self.owners: dict[int, set[Digest | bytes]] = {}  # items, segments that took it, entries of tombstones
        self.lost: dict[int, set[bytes]] = {}  # headers that tombstones name, and open ones
        self.ends: dict[bytes, set[Digest]] = {}  # header -> items that seal it or name it as lost
        self.links: dict[bytes, SegmentLink] = {}
        self.voided: set[int] = set()
        for item in ordered:
            self._own(item.seq, item.digest)
            for link in item.segments:
                self.links[link.header] = link
                self.ends.setdefault(link.header, set()).add(item.digest)
                if link.shared:
                    self.lost.setdefault(link.number, set())
                else:
                    self._own(link.number, link.header)
            for entry in item.named:
                self.voided.add(entry.number)
                if entry.header is None:
                    self._own(entry.number, item.digest)
                else:
                    self.lost.setdefault(entry.number, set()).add(entry.header)
                    self.ends.setdefault(entry.header, set()).add(item.digest)
            if item.kind == "tombstone":
                self.voided.add(item.seq)
        # Only the newest word counts: a segment that an earlier item listed as open was ended since, or is lost.
        last = ordered[-1].seq if ordered else -1
        self.newest: set[bytes] = set()
        for end in (head,) if head is not None and head.seq >= last else [x for x in ordered if x.seq == last]:
            for entry in end.open:
                if entry.header is not None:
                    self.lost.setdefault(entry.number, set()).add(entry.header)
            header = end.newest_header if isinstance(end, SeriesEnd) else end.newest
            if header is not None:
                self.newest.add(header)

    def _own(self, number: int, owner: Digest | bytes) -> None:
        self.owners.setdefault(number, set()).add(owner)

    def gaps(self, base: int, top: int) -> tuple[tuple[int, int], ...]:
        result = []
        expected = base + 1
        explained = {number for number, headers in self.lost.items() if headers} | self.owners.keys()
        for number in sorted(explained):
            if expected < number <= top:
                result.append((expected, number - 1))
            expected = max(expected, number + 1)
        if expected <= top:
            result.append((expected, top))
        return tuple(result)

    def forks(self) -> set[int]:
        forks = {number for number, owners in self.owners.items() if len(owners) > 1}
        for number, headers in self.lost.items():
            # A lost or open header may share the number of a segment, not that of an item or of a tombstone's entry.
            if headers and any(isinstance(owner, Digest) for owner in self.owners.get(number, ())):
                forks.add(number)
        twice = {header for header, digests in self.ends.items() if len(digests) > 1}
        forks |= {self.links[header].number for header in twice & self.links.keys()}
        return forks | {number for number, headers in self.lost.items() if headers & twice}

    def broken_headers(self, top: int) -> set[int]:
        known = self.links.keys() | {header for headers in self.lost.values() for header in headers}
        broken = set()
        followed: set[bytes | None] = set()
        for link in sorted(self.links.values(), key=lambda link: (link.number, link.shared)):
            if link.prev in followed or (link.prev is not None and link.prev not in known):
                broken.add(link.number)
            followed.add(link.prev)
        if self.newest - known:
            broken.add(top)
        return broken


class _Gaps:
    """Missing numbers, and a quick answer if one lies between two others."""

    def __init__(self, ranges: tuple[tuple[int, int], ...]) -> None:
        self.ranges = ranges
        self._ends = [last for _, last in ranges]

    def between(self, low: int, high: int) -> bool:
        place = bisect_right(self._ends, low)
        return place < len(self.ranges) and self.ranges[place][0] < high


def _broken_items(by_seq: Mapping[int, Mapping[Digest, SeriesItem]], base: int, gaps: _Gaps) -> set[int]:
    broken = set()
    before: int | None = None
    for seq in sorted(by_seq):
        for item in by_seq[seq].values():
            if seq <= base:
                broken.add(seq)
            elif before is None:  # the first of all, unless one before it is missing
                if item.prev is not None and not gaps.between(base, seq):
                    broken.add(seq)
            elif len(by_seq[before]) == 1 and item.prev not in by_seq[before] and not gaps.between(before, seq):
                broken.add(seq)
        before = seq
    return broken


def _other_newest(head: SeriesEnd, there: Mapping[Digest, SeriesItem]) -> bool:
    return head.newest not in there if there else head.newest is not None
