# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verdicts in the index: kept by digest and trust policy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from edgeprov.fleet.index.database import Index
from edgeprov.fleet.trust.folder import Trust
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.formats.signature_manifest import signature_tags

_SAVED: Final = (
    "digest", "verified", "step", "error", "detail", "code", "record", "assurance", "reset_count", "restart_count",
    "clock_ms", "safe", "signed_before", "opened_clock_ms", "boot_sets",
)  # fmt: skip
_saved: Final = attrgetter(*_SAVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict; ``verified`` None means that it could not be judged now."""

    digest: str
    verified: bool | None
    step: int | None = None
    error: str | None = None
    detail: str | None = None
    code: int | None = None
    record: str | None = None
    assurance: str | None = None
    reset_count: int | None = None
    restart_count: int | None = None
    clock_ms: int | None = None
    safe: bool | None = None
    signed_before: str | None = None
    opened_clock_ms: int | None = None
    """TPM clock when the kit's first segment was opened: its records are younger."""
    boot_sets: str | None = None
    """Names of the policy's boot sets that its quotes match; None where the policy has none."""
    facts: str | None = None
    """Of a verified kit or tombstone, for its device's series: JSON of fleet.verification.series_facts."""
    missing: tuple[str, ...] | None = None
    """Names of the parts whose content is not available."""


def save_verdicts(index: Index, judged: Sequence[Judged], trust: Trust, depth: int, at: dt.datetime) -> None:
    """Remember verdicts; the caller holds the transaction.

    A kit without all of its content was judged by its evidence only: a deeper run looks again.
    """
    moment = rfc3339(at)
    names = ("policy", "depth", "judged_at", *_SAVED)
    index.put_all(
        "verdicts",
        names,
        [(trust.digest, min(depth, 1) if item.missing else depth, moment, *_saved(item)) for item in judged],
    )
    facts = [(item.digest, item.facts) for item in judged if item.facts is not None]
    index.put_all("series_facts", ("digest", "facts"), facts)


def known_signatures(index: Index, digests: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Signature manifests of some artifacts of a folder, as sync found them in its index."""
    marks = ", ".join("?" * len(digests))
    found: dict[str, list[str]] = {digest: [] for digest in digests}
    for row in index.rows(
        f"SELECT subject, digest FROM signatures WHERE subject IN ({marks}) ORDER BY digest",  # noqa: S608
        digests,
    ):
        found[row["subject"]].append(row["digest"])
    return {subject: tuple(digests) for subject, digests in found.items()}


def known_tags(index: Index, digests: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Signature tags of some kits and tombstones, as their repository listed them."""
    marks = ", ".join("?" * len(digests))
    rows = index.rows(
        "SELECT a.digest, s.tag, s.numbers FROM artifacts a JOIN signature_tags s "  # noqa: S608 - marks only
        f"ON (s.source, s.repo, s.tag) = (a.source, a.repo, a.tag) WHERE a.digest IN ({marks})",
        digests,
    )
    return {row["digest"]: signature_tags(row["tag"], row["numbers"]) for row in rows}


def record_signature_tags(index: Index, source: int, repo: str, tag: str) -> tuple[str, ...]:
    """Signature tags of a device record that has this tag."""
    rows = index.rows("SELECT numbers FROM signature_tags WHERE (source, repo, tag) = (?, ?, ?)", (source, repo, tag))
    return signature_tags(tag, rows[0]["numbers"]) if rows else ()


def model_signature_tags(index: Index, digest: str) -> tuple[str, ...]:
    """Signature tags of a model in the repository that the index reads it from."""
    rows = index.rows(
        "SELECT s.tag, s.numbers FROM models m JOIN model_tags t "
        "ON (t.source, t.repo, t.digest) = (m.source, m.repo, m.digest) "
        "JOIN signature_tags s ON (s.source, s.repo, s.tag) = (t.source, t.repo, t.tag) WHERE m.digest = ?",
        (digest,),
    )
    return tuple(name for row in rows for name in signature_tags(row["tag"], row["numbers"]))


def verdict_json(judged: Judged) -> dict[str, Any]:
    """Make the members of a verdict that are set, for output."""
    shown = [name for name in Judged.__slots__ if name != "facts"]
    return {name: getattr(judged, name) for name in shown if getattr(judged, name) is not None}
