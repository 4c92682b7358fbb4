# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of a day as they are closed: an artifact stands once in a chain.

A second row of an artifact becomes a sighting, if it was found at another place, and a verdict, if it says more
than what the chain knows. Noise and listings are one row a repository.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from edgeprov.fleet.ledger.rows import (
    ARTIFACT_KINDS,
    NOISE_SAMPLE,
    ArtifactRow,
    Judgement,
    ListingRow,
    NoiseRow,
    Row,
    SightingRow,
    SignerRow,
    VerdictRow,
)
from edgeprov.fleet.ledger.tables import load_table, make_table, sort_rows
from edgeprov.fleet.ledger.views import LedgerView

_KINDS: Final = ", ".join(f"'{kind}'" for kind in ARTIFACT_KINDS)
_ALWAYS: Final = ("sighting", "listing", "noise")
_VERDICT_FIELDS: Final = frozenset(item.name for item in fields(VerdictRow))

Place = tuple[str, str, str | None]


@dataclass(slots=True)
class Known:
    """What a chain knows of one artifact."""

    places: set[Place] = field(default_factory=set)
    verdicts: list[Judgement] = field(default_factory=list)

    def note(self, row: Row) -> None:
        """Add a row."""
        if isinstance(row, ArtifactRow | SightingRow):
            self.places.add((row.source, row.repo, row.tag))
        if isinstance(row, Judgement) and row.verdict is not None:
            self.verdicts.append(row)


def closed_rows(parts: Sequence[Path], days: Sequence[Path]) -> Any:
    """The table of a day.

    Args:
        parts: Of the day.
        days: Tables of the chain's earlier days.

    Raises:
        StoreError: A file cannot be read.
        FormatError: A part is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    view = LedgerView({"day": parts, "known": days})
    try:
        special = _special_digests(view)
        listed = pa.array(special, pa.binary(32))
        known = _known(view, special)
        where = f"chain = 'day' AND (\"row\" IN {_ALWAYS} OR digest IN (SELECT unnest(?::BLOB[])))"
        rows = list(view.rows((*ARTIFACT_KINDS, *_ALWAYS), where, [special]))
    finally:
        view.close()
    table = load_table(parts)
    is_special = pc.and_(
        pc.is_in(table["row"], pa.array(ARTIFACT_KINDS)),
        pc.fill_null(pc.is_in(table["digest"], listed), False),  # noqa: FBT003
    )
    plain = table.filter(pc.invert(pc.or_(is_special, pc.is_in(table["row"], pa.array(_ALWAYS)))))
    return sort_rows(pa.concat_tables([plain, make_table(merge_rows(rows, known))]))


def merge_rows(rows: Iterable[Row], known: Mapping[bytes, Known]) -> list[Row]:
    """Rows in which each artifact stands once.

    Args:
        rows: Of the day: artifacts, sightings, listings and noise.
        known: Of earlier days, by digest.
    """
    artifacts: dict[bytes, list[ArtifactRow]] = {}
    signers: dict[bytes, SignerRow] = {}
    sightings: list[SightingRow] = []
    listings: dict[tuple[str, str], ListingRow] = {}
    noise: dict[tuple[str, str], list[NoiseRow]] = {}
    for row in sorted(rows, key=lambda row: row.seen_ns):
        if isinstance(row, ArtifactRow):
            artifacts.setdefault(row.digest, []).append(row)
        elif isinstance(row, SightingRow):
            sightings.append(row)
        elif isinstance(row, SignerRow):
            signers.setdefault(row.digest, row)
        elif isinstance(row, ListingRow):
            listings[row.source, row.repo] = row
        elif isinstance(row, NoiseRow):
            noise.setdefault((row.source, row.repo), []).append(row)
    result: list[Row] = [*listings.values(), *map(_merge_noise, noise.values())]
    result += [row for digest, row in signers.items() if digest not in known]
    noted = {digest: Known(set(item.places), list(item.verdicts)) for digest, item in known.items()}
    for digest, found in artifacts.items():
        if digest not in noted:
            noted[digest] = Known()
            first = _merge_new(found)
            noted[digest].note(first)
            result.append(first)
        result += _later(found, noted[digest])
    for row in sightings:
        item = noted.setdefault(row.digest, Known())
        if (row.source, row.repo, row.tag) not in item.places:
            item.note(row)
            result.append(row)
    return result


def verdict_row(row: ArtifactRow) -> VerdictRow:
    """The verdict of an artifact's row as a row of its own, with the facts of the check."""
    return VerdictRow(**{item.name: getattr(row, item.name) for item in fields(row) if item.name in _VERDICT_FIELDS})


def _merge_new(found: Sequence[ArtifactRow]) -> ArtifactRow:
    # The best verdict with the first sighting; the others become sightings where their place differs.
    first = found[0]
    best = max(found, key=_rank)
    return replace(
        best,
        seen_ns=first.seen_ns,
        source=first.source,
        repo=first.repo,
        tag=first.tag,
        bytes=first.bytes or best.bytes,
    )


def _later(found: Sequence[ArtifactRow], known: Known) -> Iterable[Row]:
    for row in found:
        if (row.source, row.repo, row.tag) not in known.places:
            known.places.add((row.source, row.repo, row.tag))
            yield SightingRow(seen_ns=row.seen_ns, digest=row.digest, source=row.source, repo=row.repo, tag=row.tag)
        if isinstance(row, Judgement) and row.verdict is not None and _says_more(row, known.verdicts):
            known.verdicts.append(row)
            yield verdict_row(row)


def _says_more(row: Judgement, verdicts: Sequence[Judgement]) -> bool:
    return not any(
        other.basis == row.basis
        and _rank(other) >= _rank(row)
        and (getattr(other, "depth", None) or 0) >= (getattr(row, "depth", None) or 0)
        and all(_holds(other, row, name) for name in ("signatures", "leaves"))
        and getattr(other, "missing", None) == getattr(row, "missing", None)
        for other in verdicts
    )


def _holds(one: Judgement, other: Judgement, name: str) -> bool:
    return set(getattr(one, name, None) or ()) >= set(getattr(other, name, None) or ())


def _rank(row: Any) -> int:
    return {"verified": 2, "refused": 1}.get(getattr(row, "verdict", None) or "", 0)


def _merge_noise(rows: Sequence[NoiseRow]) -> NoiseRow:
    sample = sorted({digest for row in rows for digest in row.sample})
    count = max(len(sample), *(row.count for row in rows))
    return replace(rows[0], count=count, sample=tuple(sample[:NOISE_SAMPLE]))


def _special_digests(view: LedgerView) -> list[bytes]:
    question = f"""
        SELECT digest FROM ledger WHERE chain = 'day' AND "row" IN ({_KINDS}) GROUP BY digest HAVING count(*) > 1
        UNION SELECT digest FROM ledger WHERE chain = 'day' AND "row" IN ({_KINDS})
          AND digest IN (SELECT digest FROM ledger WHERE chain = 'known' AND "row" IN ({_KINDS}))"""  # noqa: S608
    return [digest for (digest,) in view.query(question)]


def _known(view: LedgerView, special: Sequence[bytes]) -> dict[bytes, Known]:
    known: dict[bytes, Known] = {}
    kinds = (*ARTIFACT_KINDS, "sighting", "verdict")
    sighted = "SELECT digest FROM ledger WHERE chain = 'day' AND \"row\" = 'sighting'"
    where = f"chain = 'known' AND (digest IN (SELECT unnest(?::BLOB[])) OR digest IN ({sighted}))"
    for row in view.rows(kinds, where, [list(special)]):
        known.setdefault(getattr(row, "digest"), Known()).note(row)  # noqa: B009 - a kind with a digest
    return known
