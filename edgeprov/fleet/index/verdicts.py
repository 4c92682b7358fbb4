# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verdicts in the index: kept by digest and trust policy."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from edgeprov.fleet.index.database import Index
from edgeprov.fleet.trust.folder import Trust
from edgeprov.formats.rfc3339 import rfc3339

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
    reason: str | None = None
    """Of a tombstone: why there is no kit."""
    lost: tuple[tuple[int, int], ...] | None = None
    """Of a tombstone: ranges of record numbers that are gone."""
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
    buried = [(item.digest, item.reason, json.dumps(item.lost or ())) for item in judged if item.reason is not None]
    index.put_all("tombstones", ("digest", "reason", "lost"), buried)


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


def verdict_json(judged: Judged) -> dict[str, Any]:
    """Make the members of a verdict that are set, for output."""
    return {name: getattr(judged, name) for name in Judged.__slots__ if getattr(judged, name) is not None}
