# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What an audit reads in the kits themselves: results of kits over an end of the period, and what has a label.

The index knows how many labels a kit brings, not for which results: most labels come weeks later, in kits of
another month. So the share without a label is counted by record number, and never guessed. What was read
is kept in the index by the kit's digest: the next audit opens nothing that this one opened.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Final

from edgeprov.errors import EdgeprovError
from edgeprov.fleet.index.database import Index, json_of_text
from edgeprov.fleet.index.query import Artifact
from edgeprov.fleet.registries.kits import load_contents, open_kit, open_reader
from edgeprov.formats.datakit import PartContents, PartKind
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.label import label_rank
from edgeprov.formats.rfc3339 import ns_of_rfc3339, rfc3339_ms_of_ns

Span = tuple[int, int]
_KEPT_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """A kit's results in the period: their numbers as inclusive spans, the first and last time."""

    results: int
    spans: tuple[Span, ...]
    first: str
    last: str
    exact: bool


class KitReader:
    """Answers that only a kit itself can give; with ``exact`` off no kit is opened and answers are bounds."""

    def __init__(self, index: Index, period: tuple[str, str], *, exact: bool) -> None:
        self.exact = exact
        self._index = index
        self._sources = index.sources()
        self._since, self._to = period
        self._fresh: dict[tuple[str, str], Any] = {}

    def flush(self) -> None:
        """Keep what was read since the last time; an index that is open for reading only learns nothing."""
        fresh, self._fresh = self._fresh, {}
        if fresh and self._index.writable:
            with self._index.transaction():
                for (digest, question), answer in fresh.items():
                    self._index.put(
                        "opened", digest=digest, question=question, answer=json.dumps(answer, separators=(",", ":"))
                    )

    def _ask(self, item: Artifact, question: str, read: Callable[[Artifact], Any]) -> Any:
        """An answer that only the kit itself can give; it never changes, for its digest does not."""
        key = (item.digest, question)
        if key in self._fresh:
            return self._fresh[key]
        known = self._index.rows("SELECT answer FROM opened WHERE digest = ? AND question = ?", key)
        if known:
            return json_of_text(known[0]["answer"])
        self._fresh[key] = answer = read(item)
        if len(self._fresh) >= _KEPT_AT_ONCE:
            self.flush()
        return answer

    def inside(self, item: Artifact) -> Inside:
        """The results of a verified kit in the period; the kit is opened only where it reaches over an end."""
        first, last = item.recorded_first or item.created, item.recorded_last or item.created
        whole = () if item.first is None or item.last is None else ((item.first, item.last),)
        if not item.records or (first >= self._since and last < self._to):
            return Inside(results=item.records, spans=whole, first=first, last=last, exact=True)
        if self.exact:
            try:
                found = self._ask(item, f"inside {self._since} {self._to}", self._opened)
                return Inside(**found | {"spans": tuple(map(tuple, found["spans"]))}, exact=True)
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
        labelled: list[Span] = []
        try:
            for item in sorted(kits, key=lambda item: label_rank(item.seq, 0)):
                told = self._ask(item, "labels", self._label_spans)
                labelled = _without(labelled, told["withdrawn"]) + [tuple(span) for span in told["set"]]
        except EdgeprovError:
            return bound, False
        return _overlap(_merged(labelled), wanted), True

    def _opened(self, item: Artifact) -> dict[str, Any]:
        since, to = ns_of_rfc3339(self._since), ns_of_rfc3339(self._to)
        found: list[tuple[int, int]] = []
        for contents in self._contents(item, "records"):
            for block in contents.blocks:
                found += [
                    (moment, number)
                    for moment, number in zip(block.recorded_at_ns(), block.numbers(), strict=True)
                    if since <= moment < to
                ]
        times = [moment for moment, _ in found] or [since]
        return {
            "results": len(found),
            "spans": list(_spans(sorted(number for _, number in found))),
            "first": rfc3339_ms_of_ns(min(times)),
            "last": rfc3339_ms_of_ns(max(times)),
        }

    def _label_spans(self, item: Artifact) -> dict[str, list[Span]]:
        """Numbers that have a label after this kit, and those whose labels it withdrew."""
        newest: dict[int, tuple[int, bool]] = {}
        place = 0
        for contents in self._contents(item, "labels"):
            for n, withdrawn in zip(contents.labels.numbers, contents.labels.withdrawn, strict=True):
                newest[n] = max(newest.get(n, (-1, False)), (label_rank(item.seq, place), withdrawn))
                place += 1
        return {
            kind: list(_spans(sorted(n for n, (_, withdrawn) in newest.items() if withdrawn is wanted)))
            for kind, wanted in (("set", False), ("withdrawn", True))
        }

    def _contents(self, item: Artifact, kind: PartKind) -> Iterator[PartContents]:
        reader = open_reader(self._sources[item.source])
        kit = open_kit(reader, item.repo, reader.manifest(item.repo, parse_digest(item.digest)))
        for part in kit.of_kind(kind):
            yield load_contents(reader, item.repo, part)


def _spans(numbers: list[int]) -> Iterator[Span]:
    if not numbers:
        return
    start = numbers[0]
    for before, number in pairwise(numbers):
        if number != before + 1:
            yield start, before
            start = number
    yield start, numbers[-1]


def _merged(spans: list[Span]) -> list[Span]:
    """The same numbers in ascending ranges that do not overlap."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _without(spans: list[Span], taken: list[Span]) -> list[Span]:
    """The numbers of ``spans`` that are not in ``taken``."""
    for start, end in taken:
        pieces = []
        for first, last in spans:
            if end < first or last < start:
                pieces.append((first, last))
                continue
            pieces += [(low, high) for low, high in ((first, start - 1), (end + 1, last)) if low <= high]
        spans = pieces
    return spans


def _overlap(spans: list[Span], wanted: list[Span]) -> int:
    """How many numbers of ``wanted`` lie in ``spans``; both ascending, and the second may overlap itself."""
    count = 0
    ends = [last for _, last in spans]
    for first, last in wanted:
        for start, end in islice(spans, bisect_left(ends, first), None):
            if start > last:
                break
            count += min(end, last) - max(start, first) + 1
    return count
