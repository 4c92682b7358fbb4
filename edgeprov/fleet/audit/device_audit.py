# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One device in an audit: its series and clock judged as a whole, its results counted in the period.

Spec: FLEET.md section "Audit".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeprov.errors import EdgeprovError
from edgeprov.fleet.audit.audit_kits import Inside, KitReader
from edgeprov.fleet.audit.audit_report import Audit
from edgeprov.fleet.audit.clock import ClockReport, judge_clock
from edgeprov.fleet.audit.series_lines import missing_days, model_runs, series_json
from edgeprov.fleet.index.query import Artifact, Query
from edgeprov.fleet.verification.attested_heads import ClosingHead
from edgeprov.fleet.verification.series_facts import SeriesFacts, stored_item
from edgeprov.formats.segment import device_serial
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.series import SeriesReport, check_series, series_end

REFUSED_SHOWN: Final = 10_000


class DeviceAudit:
    """One device: its series, its clock, and what of it lies in the period."""

    def __init__(
        self,
        result: Audit,
        device: str,
        items: list[Artifact],
        record: VerifiedDevice | EdgeprovError | None,
        names: Mapping[str, str],
        kits: KitReader,
        facts: Mapping[str, SeriesFacts],
        query: Query,
        period: tuple[str, str],
    ) -> None:
        self.result, self.device, self.items, self.record = result, device, items, record
        self.names, self.kits, self.query, self.period = names, kits, query, period
        self.facts = facts
        self.good = [item for item in items if item.verified]
        self.inside: dict[str, Inside] = {}

    def judge(self, closing: ClosingHead | None, identity: list[str]) -> dict[str, Any] | None:
        """The device's entry; None when it has nothing to do with the question."""
        verified = self.record if isinstance(self.record, VerifiedDevice) else None
        base = verified.record.counter_base if verified else min((item.seq for item in self.items), default=1) - 1
        newest = max((item.seq for item in self.good), default=base)
        if closing is not None and closing.found_at is not None and closing.head.seq < newest:
            closing = None  # a kit was sealed after it: it tells nothing of the end
        series = check_series(
            [stored_item(item, self.facts.get(item.digest, SeriesFacts())) for item in self.good],
            base,
            head=series_end(closing.head) if closing else None,
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
            "series": (told := series_json(series, base, self.items, closing, self.facts, to=self.period[1])),
            "identity_doubts": identity + [f"number {seq} has two explanations" for seq in sorted(forks)[:5]],
            "clock": clock.as_json(),
            "doubtful": [self._refusal(item) | {"why": clock.why(item)} for item in doubtful if item.verified],
            "days": self._days(counted, refused, doubtful, forks, told["missing"]),
        }
        entry["results"] = sum(interval["results"] for interval in entry["intervals"])
        entry["labels"] = sum(interval["labels"] for interval in entry["intervals"])
        entry["labels_exact"] = all(interval["labels_exact"] for interval in entry["intervals"])
        entry["unlabelled_share"] = unlabelled(entry["results"], entry["labels"])
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
            "unlabelled_share": unlabelled(results, labels),
            "assurance": sorted({item.assurance or "" for item in kits}),
            "boot_sets": sorted({name for item in kits for name in (item.boot_sets or "").split(", ") if name}),
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
        totals["unknown_numbers"] += len(told["unknown"])
        for tombstone in told["tombstones"]:
            for reason in tombstone["reasons"]:
                totals[f"voided_{reason}"] += 1
            totals["lost_records"] += tombstone["lost_records"]
        totals["forks"] += len(series.forks)
        totals["broken"] += len(series.broken_links)
        totals["reordered"] += len(series.reordered)
        totals["clock_doubts"] += bool(entry["clock"]["doubts"])
        totals["identity_doubts"] += bool(entry["identity_doubts"])
        totals["unknown_devices"] += self.record is None
        totals["headless"] += told["head"] is None
        totals["closed_by_clock"] += bool(told["head_at"])
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


def unlabelled(results: int, labels: int) -> float | None:
    """The share of results without a label; None where there are no results."""
    return round(1 - labels / results, 4) if results else None
