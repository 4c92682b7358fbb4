# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What an audit reads in the kits themselves: results of kits over an end of the period, and what has a label.

The index knows how many labels a kit brings, not for which results: most labels come weeks later, in kits of
another month. So the share without a label is counted by record number, and never guessed.
"""

from __future__ import annotations

import datetime as dt
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from edgeprov.errors import EdgeprovError
from edgeprov.fleet.check import load_part, open_kit
from edgeprov.fleet.index import Artifact
from edgeprov.fleet.remotes import Reader, Source
from edgeprov.formats.datakit import Part, format_time, parse_part
from edgeprov.formats.digest import parse_digest

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """A kit's results in the period: their numbers as inclusive spans, the first and last time."""

    results: int
    spans: tuple[Span, ...]
    first: str
    last: str
    exact: bool


class KitReader:
    """Opens kits with one reader for each registry; with ``exact`` off nothing is opened and answers are bounds."""

    def __init__(self, sources: Mapping[int, Source], period: tuple[str, str], *, exact: bool) -> None:
        self.exact = exact
        self._sources = sources
        self._since, self._to = period
        self._readers: dict[int, Reader] = {}

    def inside(self, item: Artifact) -> Inside:
        """The results of a verified kit in the period; the kit is opened only where it reaches over an end."""
        first, last = item.recorded_first or item.created, item.recorded_last or item.created
        whole = () if item.first is None or item.last is None else ((item.first, item.last),)
        if not item.records or (first >= self._since and last < self._to):
            return Inside(results=item.records, spans=whole, first=first, last=last, exact=True)
        if self.exact:
            try:
                return self._opened(item)
            except EdgeprovError:
                pass  # the registry does not answer now: shown as a bound
        first, last = max(first, self._since), min(last, self._to)
        return Inside(results=item.records, spans=whole, first=first, last=last, exact=False)

    def labelled(self, kits: Iterable[Artifact], spans: Iterable[Span]) -> tuple[int, bool]:
        """How many results have a label, and whether that is exact: else it is the most that it can be.

        Args:
            kits: Verified kits with labels, of the results' model and slot.
            spans: Numbers of the results, inclusive.
        """
        wanted = sorted(spans)
        results = sum(last - first + 1 for first, last in wanted)
        kits = [item for item in kits if item.labels]
        if not kits or not wanted:
            return 0, True
        bound = min(results, sum(item.labels for item in kits))
        if not self.exact:
            return bound, False
        numbers: set[int] = set()
        try:
            for item in kits:
                numbers.update(self._label_numbers(item))
        except EdgeprovError:
            return bound, False
        ordered = array("q", sorted(numbers))
        return sum(bisect_right(ordered, last) - bisect_left(ordered, first) for first, last in wanted), True

    def _opened(self, item: Artifact) -> Inside:
        since, to = _ns(self._since), _ns(self._to)
        found: list[tuple[int, int]] = []
        for reader, repo, part in self._parts(item, "records"):
            for block in parse_part(load_part(reader, repo, part)).blocks:
                found += [
                    (moment, number)
                    for moment, number in zip(block.recorded_at_ns(), block.numbers(), strict=True)
                    if since <= moment < to
                ]
        times = [moment for moment, _ in found] or [since]
        return Inside(
            results=len(found),
            spans=tuple(_spans(sorted(number for _, number in found))),
            first=format_time(min(times)),
            last=format_time(max(times)),
            exact=True,
        )

    def _label_numbers(self, item: Artifact) -> Iterator[int]:
        for reader, repo, part in self._parts(item, "labels"):
            labels = parse_part(load_part(reader, repo, part)).labels
            # No value is a label withdrawn: the result stays without one.
            yield from (n for n, value in zip(labels.numbers, labels.values, strict=True) if value is not None)

    def _parts(self, item: Artifact, kind: str) -> Iterator[tuple[Reader, str, Part]]:
        reader = self._readers.get(item.source)
        if reader is None:
            reader = self._readers[item.source] = Reader(self._sources[item.source])
        kit = open_kit(reader, item.repo, reader.manifest(item.repo, parse_digest(item.digest)))
        for part in kit.parts:
            if part.kind == kind:
                yield reader, item.repo, part


def _spans(numbers: list[int]) -> Iterator[Span]:
    if not numbers:
        return
    start = numbers[0]
    for before, number in pairwise(numbers):
        if number != before + 1:
            yield start, before
            start = number
    yield start, numbers[-1]


def _ns(text: str) -> int:
    moment = dt.datetime.fromisoformat(text) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (moment.days * 86_400 + moment.seconds) * 10**9 + moment.microseconds * 1_000
