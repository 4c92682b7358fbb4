# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a verification found, step by step, for people and for JSON."""

from __future__ import annotations

from typing import Any, Final, Literal

from edgeprov._dataclass import dataclass

StepVerdict = Literal["ok", "failed", "skipped"]

STEP_NAMES: Final = (
    "device record",
    "statement signature",
    "attestations are for this kit",
    "attestation key",
    "same boot",
    "PCR and event log",
    "measured model",
    "counter",
    "place in the series",
    "TPM firmware",
)
"""Names of the ten steps of FORMAT.md, "Verification"; step n is STEP_NAMES[n - 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: its number (from 1), verdict, and why it failed."""

    number: int
    name: str
    verdict: StepVerdict
    detail: str = ""
    error: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict on one kit or tombstone."""

    kit: str
    device: str
    steps: tuple[Step, ...]

    @property
    def verified(self) -> bool:
        """True when every step holds."""
        return all(step.verdict == "ok" for step in self.steps)

    @property
    def failed(self) -> Step | None:
        """The step that refused, or None."""
        return next((step for step in self.steps if step.verdict == "failed"), None)

    def as_json(self) -> dict[str, Any]:
        """A JSON object; fields are only ever added."""
        return {
            "kit": self.kit,
            "device": self.device,
            "verified": self.verified,
            "steps": [
                {"step": step.number, "name": step.name, "verdict": step.verdict}
                | ({"detail": step.detail, "error": step.error, "code": step.exit_code} if step.detail else {})
                for step in self.steps
            ],
        }
