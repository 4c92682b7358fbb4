# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What can be said of time when a device's wall clock proves nothing.

Three clocks meet: the device's (may be dead, wrong, or set back), the TPM's (counts milliseconds of
powered time, never back, signed), and ours (when we first saw a kit, or a timestamp authority did).
A kit was sealed before we saw it, and before every later one of its series minus the TPM time between
them; its first segment was opened after the enrollment plus the TPM time since. Where the device's own
time lies outside of that, it is in doubt.

Spec: FLEET.md section "Time".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from edgeprov.errors import EdgeprovError
from edgeprov.fleet.index.query import Artifact
from edgeprov.formats.devicerecord import DeviceRecord
from edgeprov.formats.rfc3339 import parse_rfc3339, rfc3339_of_s
from edgeprov.formats.tpmt import parse_attest

TPM_CLOCK_ERROR: Final = 0.15
"""A TPM's clock may run this much slow or fast (TPM 2.0 Library Part 1, section 36.2, allows up to 15 %)."""

TOLERANCE_S: Final = 300.0
"""A clock that is wrong by less than this is not in doubt."""


@dataclass(slots=True)
class ClockReport:
    """Bounds (seconds since 1970) of each kit by digest, and the doubts."""

    after: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a kit's own time is in doubt, by digest."""

    def bounds(self, item: Artifact) -> tuple[str | None, str | None] | None:
        """The provable interval of a kit's records, None when it was not verified."""
        if item.digest not in self.before:
            return None
        after = self.after.get(item.digest)
        return None if after is None else rfc3339_of_s(after), rfc3339_of_s(self.before[item.digest])

    def why(self, item: Artifact) -> str:
        """Why a kit's own time is in doubt; empty when it is not."""
        return self.reasons.get(item.digest, "")

    def place(self, item: Artifact, period: tuple[str, str]) -> str:
        """``in``, ``out``, or ``doubt``: the kit says one thing, and proof allows another."""
        since, to = period
        first, last = item.recorded_first or item.created, item.recorded_last or item.created
        claimed = first < to and last >= since
        if item.digest not in self.reasons:
            return "in" if claimed else "out"
        bounds = self.bounds(item)
        possible = bounds is None or ((bounds[0] or "") < to and (bounds[1] or "9") >= since)
        return "doubt" if possible or claimed else "out"

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {"doubts": self.doubts, "doubtful_kits": len(self.reasons)}


def judge_clock(kits: Iterable[Artifact], record: DeviceRecord | None) -> ClockReport:
    """Judge the times of one device.

    Args:
        kits: Its verified kits and tombstones.
        record: Its verified record, if any.
    """
    report = ClockReport()
    ordered = sorted(kits, key=lambda item: (item.seq, item.digest))
    anchor, anchor_clock = _anchor(record)
    rate = 1 - TPM_CLOCK_ERROR
    for item in ordered:
        opened = item.opened_clock_ms if item.opened_clock_ms is not None else item.clock_ms
        if anchor is not None and opened is not None:
            report.after[item.digest] = anchor + rate * max(0, opened - anchor_clock) / 1000
    seen: float | None = None
    later: int | None = None
    for item in reversed(ordered):
        own = min(_seconds(item.found_at), _seconds(item.signed_before) if item.signed_before else float("inf"))
        if seen is not None and later is not None and item.clock_ms is not None:
            own = min(own, seen - rate * max(0, later - item.clock_ms) / 1000)
        seen, later = own, item.clock_ms
        report.before[item.digest] = own
    _find_doubts(ordered, report)
    return report


def _find_doubts(ordered: list[Artifact], report: ClockReport) -> None:
    counts = {"early": 0, "future": 0, "back": 0, "unsafe": 0}
    previous: Artifact | None = None
    for item in ordered:
        first = _seconds(item.recorded_first or item.created)
        last = max(_seconds(item.recorded_last or item.created), _seconds(item.created))
        after, before = report.after.get(item.digest), report.before[item.digest]
        if after is not None and first < after - TOLERANCE_S:
            counts["early"] += 1
            report.reasons[item.digest] = (
                f"its clock says {rfc3339_of_s(first)}, the TPM proves a time after {rfc3339_of_s(after)}"
            )
        elif last > before + TOLERANCE_S:
            counts["future"] += 1
            report.reasons[item.digest] = (
                f"its clock says {rfc3339_of_s(last)}, it was there before {rfc3339_of_s(before)}"
            )
        if previous is not None and _seconds(item.created) < _seconds(previous.created) - TOLERANCE_S:
            counts["back"] += 1
            report.reasons.setdefault(item.digest, "its clock ran back since the kit before")
        counts["unsafe"] += item.safe is False
        previous = item
    texts = {
        "early": "kits claim a time before the TPM allows (dead clock)",
        "future": "kits claim a time after we saw them (clock in the future)",
        "back": "kits before which the clock ran back",
        "unsafe": "kits sealed after the TPM lost its saved clock",
    }
    report.doubts = [f"{count} {texts[name]}" for name, count in counts.items() if count > 1]
    report.doubts += [
        f"1 {texts[name].replace('kits claim', 'kit claims').replace('kits', 'kit')}"
        for name, count in counts.items()
        if count == 1
    ]


def _anchor(record: DeviceRecord | None) -> tuple[float | None, int]:
    """Enrollment: our time of it, and the TPM's clock when it certified its key just before."""
    if record is None:
        return None, 0
    try:
        return _seconds(record.enrolled_at), parse_attest(record.certify.attest).clock_ms
    except (EdgeprovError, ValueError):
        return None, 0


def _seconds(text: str) -> float:
    return parse_rfc3339(text).timestamp()
