# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Questions to the index: rows of artifacts, and the clause that selects them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

VERDICTS: Final = ("ok", "refused", "unchecked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A kit or tombstone as the index knows it; see schema.sql. The last members are the verdict, None if unchecked."""

    digest: str
    kind: str
    source: int
    repo: str
    tag: str | None
    model: str
    device: str
    enrollment: str
    slot: str
    seq: int
    prev: str | None
    records: int
    labels: int
    first: int | None
    last: int | None
    recorded_first: str | None
    recorded_last: str | None
    created: str
    bytes: int
    found_at: str
    verified: bool | None = None
    depth: int | None = None
    step: int | None = None
    error: str | None = None
    detail: str | None = None
    record: str | None = None
    assurance: str | None = None
    reset_count: int | None = None
    clock_ms: int | None = None
    safe: bool | None = None
    signed_before: str | None = None
    opened_clock_ms: int | None = None
    boot_sets: str | None = None

    @property
    def verdict(self) -> str:
        """``ok``, ``refused`` or ``unchecked``."""
        return "unchecked" if self.verified is None else ("ok" if self.verified else "refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which artifacts; None means any. Times are RFC 3339 in UTC, ``to`` is not included."""

    model: tuple[str, ...] | None = None
    device: tuple[str, ...] | None = None
    slot: str | None = None
    since: str | None = None
    to: str | None = None
    verdict: str | None = None
    labelled: bool | None = None
    kind: str | None = None
    digest: tuple[str, ...] | None = None
    collection: tuple[str, ...] | None = None
    """Only what went into these training sets (digests of their statements)."""
    unjudged: int | None = None
    """Only what has no verdict of at least this depth."""
    policy: str = ""


JOIN: Final = "LEFT JOIN verdicts v ON v.digest = a.digest AND v.policy = ?"
COLUMNS: Final = tuple(item.name for item in fields(Artifact))
OWN: Final = COLUMNS[: COLUMNS.index("verified")]
VERDICT_COLUMNS: Final = COLUMNS[len(OWN) :]


def where_clause(query: Query) -> tuple[str, list[Any]]:
    """The WHERE clause of a query with its parameters; empty when everything fits."""
    parts: list[str] = []
    parameters: list[Any] = []

    def one(sql: str, *values: Any) -> None:
        parts.append(sql)
        parameters.extend(values)

    for column, names in (("model", query.model), ("device", query.device), ("digest", query.digest)):
        if names is not None:
            one(f"a.{column} IN ({', '.join('?' * len(names))})", *names)
    if query.collection is not None:
        marks = ", ".join("?" * len(query.collection))
        one(f"a.digest IN (SELECT kit FROM collection_kits WHERE statement IN ({marks}))", *query.collection)  # noqa: S608 - marks only
    if query.slot is not None:
        one("a.slot = ?", query.slot)
    # An interval touches when it begins before the end and ends after the start. What has no time
    # of its own (labels only, tombstones) is placed by its creation.
    if query.since is not None:
        one("coalesce(a.recorded_last, a.created) >= ?", query.since)
    if query.to is not None:
        one("coalesce(a.recorded_first, a.created) < ?", query.to)
    if query.labelled is not None:
        one("a.labels > 0" if query.labelled else "a.labels = 0")
    if query.kind is not None:
        one("a.kind = ?", query.kind)
    if query.verdict is not None:
        one({"ok": "v.verified = 1", "refused": "v.verified = 0", "unchecked": "v.verified IS NULL"}[query.verdict])
    if query.unjudged is not None:
        one("(v.depth IS NULL OR v.depth < ?)", query.unjudged)
    return ("WHERE " + " AND ".join(parts) if parts else ""), parameters
