# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Facts of a verified kit or tombstone about its device's series, as the index keeps them.

Numbers and header hashes of its segments, the numbers that it names, the segments that it lists as open, and
the records that it names as lost: all that verify.series needs besides the artifact's own row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edgeprov.fleet.index.database import digest_of_text, json_of_text
from edgeprov.fleet.index.query import Artifact
from edgeprov.formats.tombstone import Tombstone
from edgeprov.verify.evidence import Verdict
from edgeprov.verify.series import NamedNumber, SegmentLink, SeriesItem


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """The facts of one item. Headers are SHA-256 as bytes.

    Attributes:
        segments: Segments that a kit seals.
        named: Number, reason and header of each entry of a tombstone.
        lost: First, last, count and reason of each range of lost records.
        open: Number and header of each open segment.
        newest: The newest header that was opened.
    """

    segments: tuple[SegmentLink, ...] = ()
    named: tuple[tuple[int, str, bytes | None], ...] = ()
    lost: tuple[tuple[int, int, int, str], ...] = ()
    open: tuple[tuple[int, bytes], ...] = ()
    newest: bytes | None = None


def encode_facts(verdict: Verdict, tombstone: Tombstone | None) -> str:
    """JSON for the index."""
    return json.dumps(
        {
            "segments": [
                [header.number, header.sha256.hex(), header.prev and header.prev.hex(), header.shared]
                for header in verdict.headers
            ],
            "named": [[item.number, item.reason, item.header and item.header.hex()] for item in verdict.numbers],
            "lost": [[item.first, item.last, item.count, item.reason] for item in tombstone.lost] if tombstone else [],
            "open": [[item.number, item.header.hex()] for item in verdict.standing.open],
            "newest": verdict.standing.newest and verdict.standing.newest.hex(),
        },
        separators=(",", ":"),
    )


def parse_facts(text: str) -> SeriesFacts:
    """Read what encode_facts wrote."""
    value: dict[str, Any] = json_of_text(text)
    return SeriesFacts(
        segments=tuple(
            SegmentLink(number=number, header=bytes.fromhex(header), prev=_bytes(prev), shared=shared)
            for number, header, prev, shared in value["segments"]
        ),
        named=tuple((number, reason, _bytes(header)) for number, reason, header in value["named"]),
        lost=tuple((first, last, count, reason) for first, last, count, reason in value["lost"]),
        open=tuple((number, bytes.fromhex(header)) for number, header in value["open"]),
        newest=_bytes(value["newest"]),
    )


def stored_item(item: Artifact, facts: SeriesFacts) -> SeriesItem:
    """A verified artifact as verify.series takes it."""
    return SeriesItem(
        seq=item.seq,
        digest=digest_of_text(item.digest),
        prev=digest_of_text(item.prev) if item.prev else None,
        reset_count=item.reset_count or 0,
        clock_ms=item.clock_ms or 0,
        kind="kit" if item.kind == "kit" else "tombstone",
        segments=facts.segments,
        named=tuple(NamedNumber(number=number, header=header) for number, _, header in facts.named),
        open=tuple(NamedNumber(number=number, header=header) for number, header in facts.open),
        newest=facts.newest,
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
