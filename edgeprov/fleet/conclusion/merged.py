# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Merged knowledge: several entries of one artifact become one; verified beats refused beats not judged.

Nothing here depends on the order of the entries.

Spec: FORMAT.md part "Conclusion", R-con-1 to R-con-3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

from edgeprov.fleet.conclusion.json_form import to_json
from edgeprov.fleet.conclusion.types import Checks, HeadFacts, KitFacts, SignatureFacts
from edgeprov.formats.jsonx import encode_json

T = TypeVar("T", bound=Any)

_RANK: Final = {"verified": 0, "refused": 1, "not-judged": 2}
_NO_CHECKS: Final = Checks()


@dataclass(slots=True)
class Merged(Generic[T]):
    """The entries of one kind, one for each digest.

    Attributes:
        by_digest: The best entry of each artifact.
        bad_copies: Verified artifacts of which a refused copy was seen as well.
        contradicted: Artifacts whose verified entries say different things.
    """

    by_digest: dict[bytes, T] = field(default_factory=dict)
    bad_copies: set[bytes] = field(default_factory=set)
    contradicted: set[bytes] = field(default_factory=set)


def merge_entries(entries: Iterable[T], collectors: Collection[str]) -> Merged[T]:
    """R-con-2: the best entry of each artifact, of those that who asks or a trusted collector tells."""
    merged: Merged[T] = Merged()
    by_digest = merged.by_digest
    several: dict[bytes, list[T]] = {}
    for entry in entries:
        by = entry.checks.by
        if by is not None and by not in collectors:
            continue
        digest = entry.digest
        if digest in by_digest:
            several.setdefault(digest, [by_digest[digest]]).append(entry)
        else:
            by_digest[digest] = entry
    for digest, found in several.items():
        by_digest[digest] = _best(merged, digest, found)
    return merged


def _best(merged: Merged[T], digest: bytes, found: list[T]) -> T:
    rank = min(_RANK[entry.checks.state] for entry in found)
    if rank == 0 and any(entry.checks.state == "refused" for entry in found):
        merged.bad_copies.add(digest)
    best = [entry for entry in found if _RANK[entry.checks.state] == rank]
    if rank == 0:
        best = [_joined(entry, best) for entry in best]
        if any(_content(entry) != _content(best[0]) for entry in best[1:]):
            merged.contradicted.add(digest)
    # Checked here before told; one that vouches for its claims before one that does not; then a fixed order.
    return min(best, key=lambda entry: (entry.checks.by is not None, not entry.checks.signed, _text(entry)))


def _text(entry: Any) -> bytes:
    return encode_json(to_json(entry))


def _content(entry: T) -> T:
    changed: T = replace(entry, checks=_NO_CHECKS)
    return changed


def _joined(entry: T, others: Iterable[T]) -> T:
    """The entry with what others know in addition: signatures, leaves, depth of reading."""
    changes: dict[str, Any] = {}
    if hasattr(entry, "signatures"):
        changes["signatures"] = join_signatures(item for other in others for item in other.signatures)
    if isinstance(entry, KitFacts):
        changes |= _joined_kit(entry, others)
    if isinstance(entry, HeadFacts):
        asked = [other.asked for other in others if other.asked is not None]
        changes["asked"] = min(asked, default=None)
    joined: T = replace(entry, **changes)
    return joined


def join_signatures(signatures: Iterable[SignatureFacts]) -> tuple[SignatureFacts, ...]:
    """Each signature once, with all its stamps, in a fixed order."""
    found: dict[SignatureFacts, set[Any]] = {}
    for item in signatures:
        found.setdefault(replace(item, stamps=()), set()).update(item.stamps)
    joined = [
        replace(item, stamps=tuple(sorted(stamps, key=lambda stamp: (stamp.at, stamp.anchor))))
        for item, stamps in found.items()
    ]
    return tuple(sorted(joined, key=_text))


def _joined_kit(kit: KitFacts, others: Iterable[KitFacts]) -> dict[str, Any]:
    read = [other for other in others if other.times_read]
    doubtful = [other.doubtful for other in others if other.doubtful is not None]
    unavailable = set(kit.unavailable)
    for other in others:
        unavailable &= set(other.unavailable)
    changes: dict[str, Any] = {
        "leaves": tuple(sorted({leaf for other in others for leaf in other.leaves})),
        "unavailable": tuple(sorted(unavailable)),
        "doubtful": max(doubtful, default=None),
    }
    if read and not kit.times_read:  # what was only stated is replaced by what was read
        best = min(read, key=_text)
        changes |= {
            "times_read": True, "least": best.least, "greatest": best.greatest, "segments": best.segments,
        }  # fmt: skip
    return changes
