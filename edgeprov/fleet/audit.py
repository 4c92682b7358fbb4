# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Who produced what, when, with which model: the auditor's question, answered with its gaps.

Counts are of verified kits only; what was refused, is missing, forked or doubtful is listed beside
them and never added in. Each device's whole series is judged, not only the period: a gap outside of
it may hide results inside. The device's clock is taken at its word only where the TPM's clock and our
own do not contradict it; the provable interval is told apart from it.

Spec: FLEET.md section "Audit".
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from sqlite3 import Row
from typing import Any, Final

from edgeprov import __version__
from edgeprov.errors import EdgeprovError
from edgeprov.fleet.audit_kits import Inside, KitReader
from edgeprov.fleet.check import verified_devices
from edgeprov.fleet.clock import TPM_CLOCK_ERROR, ClockReport, judge_clock
from edgeprov.fleet.index import Artifact, Index, Query
from edgeprov.fleet.rollup_read import as_json as gone_json
from edgeprov.fleet.rollup_read import gone_kits
from edgeprov.fleet.series import missing_days, model_runs, series_item, series_json
from edgeprov.fleet.trust import Trust
from edgeprov.formats.segment import device_serial
from edgeprov.verify.chain import SeriesReport, check_series
from edgeprov.verify.enrolment import VerifiedDevice
from edgeprov.verify.head import VerifiedHead

REFUSED_SHOWN: Final = 10_000
_DOUBTS: Final = (
    "refused",
    "missing",
    "forks",
    "broken",
    "reordered",
    "clock_doubts",
    "unchecked",
    "identity_doubts",
    "unknown_devices",
    "refused_models",
    "gone",
)
_COUNTED: Final = (
    "devices", "kits", "label_kits", "results", "labels", "voided", "headless", "silent_devices", *_DOUBTS
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
    gone: list[dict[str, Any]] = field(default_factory=list)
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
            "gone": self.gone,
            "drift": self.drift,
        }


def audit(
    index: Index,
    query: Query,
    trust: Trust,
    *,
    now: dt.datetime,
    heads: Mapping[str, VerifiedHead] | None = None,
    exact: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Judge a period.

    Args:
        index: With verdicts under ``trust``; what has none is shown as unchecked.
        query: ``since`` and ``to`` are the period; model and device restrict.
        trust: Names the policy, and judges the device records.
        now: Time of the report, and at which certificates are judged.
        heads: Verified answers to `edgeprov attest`, by device URN: they close the end of a series.
        exact: Open kits that reach over an end of the period and count their records, and kits with labels; else such
            kits count whole, and labels as the most that they can be, both marked.
        progress: Called with done and total devices.
    """
    since, to = query.since or "0001-01-01T00:00:00.000Z", query.to or "9999-12-31T00:00:00.000Z"
    names, records = index.model_names(), verified_devices(index, trust, now)
    kits = KitReader(index, (since, to), exact=exact)
    tombstones = {row["digest"]: row for row in index.rows("SELECT digest, reason, lost FROM tombstones")}
    result = Audit(
        since=since,
        to=to,
        generated_at=now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        policy=trust.digest,
        sources=[
            {"name": row["name"], "synced_at": row["synced_at"], "unusable": row["faults"]}
            for row in index.rows(
                "SELECT name, synced_at, (SELECT count(*) FROM seen WHERE seen.source "
                "= sources.id AND fault IS NOT NULL) AS faults "
                "FROM sources ORDER BY name"
            )
        ],
        query={"model": query.model, "device": query.device, "slot": query.slot},
    )
    identity = _identity_doubts(index)
    series = Query(device=query.device, policy=query.policy)
    total = index.rows("SELECT count(DISTINCT device) FROM artifacts")[0][0]
    seen: set[str] = set()
    for done, (device, group) in enumerate(groupby(index.iterate(series), key=lambda item: item.device), 1):
        work = _Device(result, device, list(group), records.get(device), names, kits, tombstones, query, (since, to))
        entry = work.judge((heads or {}).get(device), identity.get(device, []))
        if entry is not None:
            result.devices.append(entry)
            seen.add(device)
        if progress:
            progress(done, total)
    kits.flush()
    for device, record in sorted(records.items()):
        if device in seen or query.model is not None or (query.device is not None and device not in query.device):
            continue
        late = isinstance(record, VerifiedDevice) and record.record.enrolled_at >= to
        if not late and not index.rows("SELECT 1 FROM artifacts WHERE device = ? LIMIT 1", (device,)):
            result.devices.append(_silent(device, record))
            result.totals["silent_devices"] += 1
    result.gone = [gone_json(kit) for kit in gone_kits(index, query)]
    result.totals["gone"] = len(result.gone)
    result.devices.sort(key=lambda entry: entry["serial"])
    result.totals["devices"] = len(result.devices)
    _name_models(result, index, names, trust.digest)
    return result


class _Device:
    """One device: its series, its clock, and what of it lies in the period."""

    def __init__(
        self,
        result: Audit,
        device: str,
        items: list[Artifact],
        record: VerifiedDevice | EdgeprovError | None,
        names: Mapping[str, str],
        kits: KitReader,
        tombstones: Mapping[str, Row],
        query: Query,
        period: tuple[str, str],
    ) -> None:
        self.result, self.device, self.items, self.record = result, device, items, record
        self.names, self.kits, self.query, self.period = names, kits, query, period
        self.tombstones = tombstones
        self.good = [item for item in items if item.verified]
        self.inside: dict[str, Inside] = {}

    def judge(self, head: VerifiedHead | None, identity: list[str]) -> dict[str, Any] | None:
        """The device's entry; None when it has nothing to do with the question."""
        verified = self.record if isinstance(self.record, VerifiedDevice) else None
        base = verified.record.counter_base if verified else min((item.seq for item in self.items), default=1) - 1
        series = check_series(
            map(series_item, self.good), base, head=head.seq if head else None, newest=head.newest if head else None
        )
        clock = judge_clock(self.good, verified.record if verified else None)
        forks = set(series.forks)
        inside, doubtful = [], []
        for item in self.items:
            if not self._asked(item):
                continue
            place = clock.place(item, self.period)
            if place == "in":
                inside.append(item)
            elif place == "doubt":
                doubtful.append(item)
        silent = verified is not None and verified.record.enrolled_at < self.period[1]
        if not inside and not doubtful and (self.query.model or not (silent or self._gap_in_period(series))):
            return None
        counted = []
        for item in inside:
            if item.verified and item.kind == "kit" and item.seq not in forks:
                self.inside[item.digest] = self.kits.inside(item)
                if self.inside[item.digest].results or not item.records:
                    counted.append(item)
        refused = [item for item in [*inside, *doubtful] if item.verified is False]
        unchecked = [item for item in [*inside, *doubtful] if item.verified is None]
        entry: dict[str, Any] = {
            "device": self.device,
            "serial": device_serial(self.device),
            "assurance": verified.record.assurance if verified else None,
            "enrolled_at": verified.record.enrolled_at if verified else None,
            "record_fault": None if verified else self._record_fault(),
            "intervals": [self._interval(list(group), clock, forks) for group in model_runs(counted)],
            "kits": len(counted),
            "label_kits": sum(not item.records for item in counted),
            "refused": [self._refusal(item) for item in refused[:REFUSED_SHOWN]],
            "refused_count": len(refused),
            "unchecked": len(unchecked),
            "series": (told := series_json(series, base, self.items, head, self.tombstones)),
            "identity_doubts": identity + [f"number {seq} claimed by two kits" for seq in sorted(forks)[:5]],
            "clock": clock.as_json(),
            "doubtful": [self._refusal(item) | {"why": clock.why(item)} for item in doubtful if item.verified],
            "days": self._days(counted, refused, doubtful, forks, told["missing"]),
        }
        entry["results"] = sum(interval["results"] for interval in entry["intervals"])
        entry["labels"] = sum(interval["labels"] for interval in entry["intervals"])
        entry["labels_exact"] = all(interval["labels_exact"] for interval in entry["intervals"])
        entry["unlabelled_share"] = _unlabelled(entry["results"], entry["labels"])
        self._count(entry, series, told)
        return entry

    def _asked(self, item: Artifact) -> bool:
        return (self.query.model is None or item.model in self.query.model) and (
            self.query.slot is None or item.slot == self.query.slot
        )

    def _gap_in_period(self, series: SeriesReport) -> bool:
        # A missing number between two kits around the period may be a kit of the period.
        since, to = self.period
        for first, last in series.gaps:
            before = [item.recorded_last or item.created for item in self.good if item.seq < first]
            after = [item.recorded_first or item.created for item in self.good if item.seq > last]
            if (not before or max(before) < to) and (not after or min(after) >= since):
                return True
        return False

    def _record_fault(self) -> str:
        return self.record.message if isinstance(self.record, EdgeprovError) else "no device record: an unknown device"

    def _interval(self, kits: list[Artifact], clock: ClockReport, forks: set[int]) -> dict[str, Any]:
        parts = [self.inside[item.digest] for item in kits]
        bounds = [bound for item in kits if (bound := clock.bounds(item)) is not None]
        results = sum(part.results for part in parts)
        # A label never comes before its result.
        later = [
            item
            for item in self.good
            if item.labels
            and item.seq >= kits[0].seq
            and item.seq not in forks
            and (item.model, item.slot) == (kits[0].model, kits[0].slot)
        ]
        spans = [span for part in parts for span in part.spans]
        labels, labels_exact = self.kits.labelled(later, spans)
        return {
            "model": kits[0].model,
            "name": self.names.get(kits[0].model),
            "slot": kits[0].slot,
            "from": min(part.first for part in parts),
            "to": max(part.last for part in parts),
            "seq": [kits[0].seq, kits[-1].seq],
            "records": [min(first for first, _ in spans), max(last for _, last in spans)],
            "kits": len(kits),
            "results": results,
            "approximate": not all(part.exact for part in parts),
            "labels": labels,
            "labels_exact": labels_exact,
            "unlabelled_share": _unlabelled(results, labels),
            "assurance": sorted({item.assurance or "" for item in kits}),
            "provable": {
                "after": min((bound[0] for bound in bounds if bound[0]), default=None),
                "before": max((bound[1] for bound in bounds if bound[1]), default=None),
            },
        }

    def _refusal(self, item: Artifact) -> dict[str, Any]:
        return {
            "kit": item.digest,
            "seq": item.seq,
            "kind": item.kind,
            "model": item.model,
            "records": item.records,
            "step": item.step,
            "error": item.error,
            "why": item.detail,
            "claimed": item.recorded_first or item.created,
        }

    def _days(
        self,
        counted: list[Artifact],
        refused: list[Artifact],
        doubtful: list[Artifact],
        forks: set[int],
        missing: list[list[int]],
    ) -> dict[str, dict[str, Any]]:
        """What the picture shows: results by day (of the kit's first record), and marks."""
        days: dict[str, dict[str, Any]] = {}

        def cell(item: Artifact) -> dict[str, Any]:
            day = max((item.recorded_first or item.created)[:10], self.period[0][:10])
            return days.setdefault(day, {"models": {}})

        for item in counted:
            if not item.records:
                continue  # labels only: no model ran
            models = cell(item)["models"]
            models[item.model] = models.get(item.model, 0) + self.inside[item.digest].results
        for mark, items in (("refused", refused), ("doubtful", [item for item in doubtful if item.verified])):
            for item in items:
                place = cell(item)
                place[mark] = place.get(mark, 0) + 1
        for item in self.good:
            if (
                item.seq in forks
                and self._asked(item)
                and self.period[0] <= (item.recorded_first or item.created) < self.period[1]
            ):
                place = cell(item)
                place["forks"] = place.get("forks", 0) + 1
        for day, count in missing_days(self.good, missing, {day for day, cell in days.items() if cell["models"]}):
            if self.period[0][:10] <= day < self.period[1][:10]:
                place = days.setdefault(day, {"models": {}})
                place["missing"] = place.get("missing", 0) + count
        return dict(sorted(days.items()))

    def _count(self, entry: dict[str, Any], series: SeriesReport, told: dict[str, Any]) -> None:
        totals = self.result.totals
        totals["kits"] += entry["kits"]
        totals["label_kits"] += entry["label_kits"]
        totals["results"] += entry["results"]
        totals["labels"] += entry["labels"]
        totals["refused"] += entry["refused_count"]
        totals["unchecked"] += entry["unchecked"]
        totals["missing"] += told["missing_count"]
        totals["voided"] += len(series.voided)
        for tombstone in told["tombstones"]:
            totals[f"voided_{tombstone['reason']}"] += 1
            totals["lost_records"] += tombstone["lost_records"]
        totals["forks"] += len(series.forks)
        totals["broken"] += len(series.broken_links)
        totals["reordered"] += len(series.reordered)
        totals["clock_doubts"] += bool(entry["clock"]["doubts"])
        totals["identity_doubts"] += bool(entry["identity_doubts"])
        totals["unknown_devices"] += self.record is None
        totals["headless"] += series.head is None
        totals["silent_devices"] += not (entry["kits"] or entry["refused"] or entry["unchecked"] or entry["doubtful"])
        for interval in entry["intervals"]:
            model = self.result.models.setdefault(
                interval["model"],
                {"digest": interval["model"], "results": 0, "kits": 0, "labels": 0, "labels_exact": True}
                | {"first": interval["from"], "last": interval["to"], "_devices": set()},
            )
            for name in ("results", "kits", "labels"):
                model[name] += interval[name]
            model["labels_exact"] &= interval["labels_exact"]
            model["first"], model["last"] = min(model["first"], interval["from"]), max(model["last"], interval["to"])
            model["_devices"].add(self.device)


def _unlabelled(results: int, labels: int) -> float | None:
    return round(1 - labels / results, 4) if results else None


def _silent(device: str, record: VerifiedDevice | EdgeprovError) -> dict[str, Any]:
    verified = record if isinstance(record, VerifiedDevice) else None
    return {
        "device": device,
        "serial": device_serial(device),
        "assurance": verified.record.assurance if verified else None,
        "enrolled_at": verified.record.enrolled_at if verified else None,
        "record_fault": None if verified else str(record),
        "intervals": [],
        "results": 0,
        "kits": 0,
        "label_kits": 0,
        "labels": 0,
        "labels_exact": True,
        "unlabelled_share": None,
        "refused": [],
        "refused_count": 0,
        "unchecked": 0,
        "series": None,
        "identity_doubts": [],
        "clock": {"doubts": []},
        "doubtful": [],
        "days": {},
    }


def _identity_doubts(index: Index) -> dict[str, list[str]]:
    """Devices that share a key, and devices that have had several."""
    result: dict[str, list[str]] = {}
    for row in index.rows(
        "SELECT ak, group_concat(DISTINCT device) AS names FROM devices GROUP BY ak HAVING count(DISTINCT device) > 1"
    ):
        for device in row["names"].split(","):
            result.setdefault(device, []).append(f"one TPM is enrolled as {row['names']}")
    for row in index.rows("SELECT device, count(DISTINCT ak) AS keys FROM devices GROUP BY device HAVING keys > 1"):
        result.setdefault(row["device"], []).append(f"{row['keys']} different TPMs were enrolled under this serial")
    return result


def _name_models(result: Audit, index: Index, names: Mapping[str, str], policy: str) -> None:
    known = {row["digest"]: row for row in index.rows("SELECT * FROM models")}
    signed = {
        row["digest"]: bool(row["verified"])
        for row in index.rows(
            "SELECT v.digest, v.verified FROM verdicts v JOIN models m ON m.digest = v.digest WHERE v.policy = ?",
            (policy,),
        )
    }
    for digest, model in result.models.items():
        model["devices"] = len(model.pop("_devices"))
        row = known.get(digest)
        model["name"] = names.get(digest)
        model["signed"] = signed.get(digest)
        model["security_version"] = row["security_version"] if row else None
        model["trained_on"] = row["trained_on"] if row else None
        model["unlabelled_share"] = _unlabelled(model["results"], model["labels"])
        result.totals["refused_models"] += model["signed"] is False
