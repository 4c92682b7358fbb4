# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""When and where a collector saw each artifact and each signature, and which listings lacked it.

Spec: FORMAT.md section "Ledger"; CONCLUSION.md, sightings.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from edgeprov.fleet.conclusion.types import Sighting, StampFacts
from edgeprov.fleet.ledger.rows import ARTIFACT_KINDS
from edgeprov.fleet.ledger.views import LedgerView


@dataclass(slots=True)
class _Times:
    seen: list[int] = field(default_factory=list)
    lacked: list[int] = field(default_factory=list)


def place_name(source: str, repo: str) -> str:
    """Registry and repository as one text."""
    return f"{source}/{repo}" if repo else source


def read_sightings(
    view: LedgerView,
    chain: str,
    collector: str | None,
    stamps_at: Callable[[int], tuple[StampFacts, ...]],
    kept: Collection[bytes] | None = None,
) -> list[Sighting]:
    """The sightings of one chain, one for each digest and place.

    Args:
        view: Holds the chain.
        chain: Its name.
        collector: Who tells it; None for the reader himself.
        stamps_at: Timestamps over the table that holds a row of a time.
        kept: Digests of artifacts that matter; None: all.

    Raises:
        StoreError: A file cannot be read.
    """
    listings: dict[str, list[int]] = {}
    for source, repo, seen in view.query(
        "SELECT source, repo, epoch_ns(seen) FROM ledger WHERE row = 'listing' AND chain = ? ORDER BY 3", [chain]
    ):
        listings.setdefault(place_name(source, repo), []).append(seen)
    found: dict[tuple[bytes, str], _Times] = {}
    places: dict[bytes, tuple[int, str]] = {}
    kinds = ", ".join(f"'{kind}'" for kind in (*ARTIFACT_KINDS, "sighting", "gone", "back") if kind != "signer")
    for kind, digest, source, repo, seen in view.query(
        f"SELECT row, digest, source, repo, epoch_ns(seen) FROM ledger WHERE row IN ({kinds}) AND chain = ?",  # noqa: S608
        [chain],
    ):
        if kept is not None and digest not in kept:
            continue
        place = place_name(source, repo)
        times = found.setdefault((digest, place), _Times())
        (times.lacked if kind == "gone" else times.seen).append(seen)
        if kind != "gone":
            places[digest] = min(places.get(digest, (seen, place)), (seen, place))
    for digest, seen, signature in view.query(
        "SELECT digest, epoch_ns(seen), unnest(signatures).digest FROM ledger WHERE chain = ?", [chain]
    ):
        if digest in places:  # a signature is found beside its artifact
            found.setdefault((signature, places[digest][1]), _Times()).seen.append(seen)
    result = []
    for (digest, place), times in sorted(found.items()):
        if times.seen:
            first = min(times.seen)
            last, missing = _last(times, listings.get(place, []))
            result.append(
                Sighting(
                    digest=digest, source=place, collector=collector, first=first, last=last, missing=missing,
                    stamps=stamps_at(first),
                )
            )  # fmt: skip
    return result


def _last(times: _Times, listings: list[int]) -> tuple[int, tuple[int, ...]]:
    # Nothing is written while listings show it: the newest listing before the first that lacks it shows it.
    newest = max(times.seen)
    missing = tuple(sorted({moment for moment in times.lacked if moment > newest}))
    end = bisect_left(listings, missing[0]) if missing else len(listings)
    return max(newest, listings[end - 1] if end else newest), missing
