# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The audit's answer as plain values, and what its verdict is worth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from edgeprov import __version__
from edgeprov.fleet.audit.clock import TPM_CLOCK_ERROR

_DOUBTS: Final = (
    "refused",
    "missing",
    "unknown_numbers",
    "forks",
    "broken",
    "reordered",
    "clock_doubts",
    "unchecked",
    "identity_doubts",
    "unknown_devices",
    "refused_models",
)
_COUNTED: Final = (
    "devices", "kits", "label_kits", "results", "labels", "voided", "headless", "closed_by_clock", "silent_devices",
    *_DOUBTS,
)  # fmt: skip


@dataclass(slots=True)
class Audit:
    """The whole answer, in plain values: see as_json."""

    since: str
    to: str
    generated_at: str
    policy: str
    sources: list[dict[str, Any]]
    query: dict[str, Any]
    totals: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(_COUNTED, 0)))
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """What the report is worth: see audit_text.verdict_text.

        ``complete``: every number is there and verified, up to an attested head of each device. ``headless``: the
        same, but some devices were not asked for their head, so kits withheld at the end would not show. ``gaps``:
        what counts is proved, something is missing or in doubt. ``unproved``: nothing in the period verifies.
        """
        if not self.totals["kits"]:
            return "unproved"
        if any(self.totals[name] for name in _DOUBTS):
            return "gaps"
        return "headless" if self.totals["headless"] else "complete"

    def as_json(self) -> dict[str, Any]:
        """One JSON object; fields are only ever added."""
        return {
            "type": "audit",
            "v": 1,
            "verdict": self.verdict,
            "from": self.since,
            "to": self.to,
            "generated_at": self.generated_at,
            "policy": f"sha256:{self.policy}",
            "edgeprov": __version__,
            "tpm_clock_error": TPM_CLOCK_ERROR,
            "query": self.query,
            "sources": self.sources,
            "totals": dict(self.totals),
            "models": sorted(self.models.values(), key=lambda m: (-m["results"], m["digest"])),
            "devices": self.devices,
            "drift": self.drift,
        }
