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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from edgeprov import __version__
from edgeprov.errors import EdgeprovError
from edgeprov.fleet.check import Trust, load_part, open_kit, verified_devices
from edgeprov.fleet.clock import TPM_CLOCK_ERROR, ClockReport, judge_clock
from edgeprov.fleet.index import Artifact, Index, Query, digest_of_text
from edgeprov.fleet.remotes import Reader, Source
from edgeprov.formats.datakit import parse_part
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.segment import device_serial
from edgeprov.verify.chain import SeriesItem, SeriesReport, check_series
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
)


@dataclass(slots=True)
class Audit:
    """The whole answer, in plain values: see as_json."""

    since: str
    to: str
    generated_at: str
    policy: str
    sources: list[dict[str, Any]]
    query: dict[str, Any]
    totals: Counter[str] = field(default_factory=Counter)
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
        exact: Open kits that reach over an end of the period and count their records; else they count whole, marked.
        progress: Called with done and total devices.
    """
    since, to = query.since or "0001-01-01T00:00:00.000Z", query.to or "9999-12-31T00:00:00.000Z"
    names, records = index.model_names(), verified_devices(index, trust, now)
    sources = index.sources()
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
        work = _Device(result, device, list(group), records.get(device), names, sources, query, (since, to), exact)
        entry = work.judge((heads or {}).get(device), identity.get(device, []))
        if entry is not None:
            result.devices.append(entry)
            seen.add(device)
        if progress:
            progress(done, total)
    for device, record in sorted(records.items()):
        if device in seen or query.model is not None or (query.device is not None and device not in query.device):
            continue
        if not index.rows("SELECT 1 FROM artifacts WHERE device = ? LIMIT 1", (device,)):
            result.devices.append(_silent(device, record))
            result.totals["silent_devices"] += 1
    result.devices.sort(key=lambda entry: entry["serial"])
    result.totals["devices"] = len(result.devices)
    _name_models(result, index, names)
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
        sources: Mapping[int, Source],
        query: Query,
        period: tuple[str, str],
        exact: bool,  # noqa: FBT001
    ) -> None:
        self.result, self.device, self.items, self.record = result, device, items, record
        self.names, self.sources, self.query, self.period, self.exact = names, sources, query, period, exact
        self.good = [item for item in items if item.verified]

    def judge(self, head: VerifiedHead | None, identity: list[str]) -> dict[str, Any] | None:
        """The device's entry; None when it has nothing to do with the question."""
        verified = self.record if isinstance(self.record, VerifiedDevice) else None
        base = verified.record.counter_base if verified else min((item.seq for item in self.items), default=1) - 1
        series = check_series(
            map(series_item, self.good), base, head=head.seq if head else None, newest=head.newest if head else None
        )
        clock = judge_clock(self.good, verified.record if verified else None)
        forks = set(series.forks)
        inside, doubtful, labels = [], [], Counter[str]()
        for item in self.items:
            if not self._asked(item):
                continue
            labels[item.model] += item.labels if item.verified else 0
            place = clock.place(item, self.period)
            if place == "in":
                inside.append(item)
            elif place == "doubt":
                doubtful.append(item)
        if not inside and not doubtful and (self.query.model or not self._gap_in_period(series)):
            return None
        counted = [item for item in inside if item.verified and item.kind == "kit" and item.seq not in forks]
        refused = [item for item in [*inside, *doubtful] if item.verified is False]
        unchecked = [item for item in [*inside, *doubtful] if item.verified is None]
        entry: dict[str, Any] = {
            "device": self.device,
            "serial": device_serial(self.device),
            "assurance": verified.record.assurance if verified else None,
            "enrolled_at": verified.record.enrolled_at if verified else None,
            "record_fault": None if verified else self._record_fault(),
            "intervals": [self._interval(list(group), clock) for group in _runs(counted)],
            "results": 0,
            "kits": len(counted),
            "labels": sum(labels.values()),
            "refused": [self._refusal(item) for item in refused[:REFUSED_SHOWN]],
            "refused_count": len(refused),
            "unchecked": len(unchecked),
            "series": _series_json(series, base, self.items, head),
            "identity_doubts": identity + ([f"{len(forks)} numbers claimed twice"] if forks else []),
            "clock": clock.as_json(),
            "doubtful": [self._refusal(item) | {"why": clock.why(item)} for item in doubtful if item.verified],
            "days": self._days(counted, refused, doubtful, series),
        }
        entry["results"] = sum(interval["results"] for interval in entry["intervals"])
        self._count(entry, series, counted, labels)
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

    def _interval(self, kits: list[Artifact], clock: ClockReport) -> dict[str, Any]:
        counts = [self._results(item) for item in kits]
        bounds = [bound for item in kits if (bound := clock.bounds(item)) is not None]
        since, to = self.period
        return {
            "model": kits[0].model,
            "name": self.names.get(kits[0].model),
            "slot": kits[0].slot,
            "from": max(min(item.recorded_first or item.created for item in kits), since),
            "to": min(max(item.recorded_last or item.created for item in kits), to),
            "seq": [kits[0].seq, kits[-1].seq],
            "kits": len(kits),
            "results": sum(count for count, _ in counts),
            "approximate": any(not sure for _, sure in counts),
            "assurance": sorted({item.assurance or "" for item in kits}),
            "provable": {
                "after": min((bound[0] for bound in bounds if bound[0]), default=None),
                "before": max((bound[1] for bound in bounds if bound[1]), default=None),
            },
        }

    def _results(self, item: Artifact) -> tuple[int, bool]:
        """Records of a kit inside the period, and whether that is exact."""
        since, to = self.period
        if not item.records or ((item.recorded_first or "") >= since and (item.recorded_last or "") < to):
            return item.records, True
        if not self.exact:
            return item.records, False
        try:
            return _count_records(self.sources[item.source], item, since, to), True
        except EdgeprovError:
            return item.records, False  # the registry does not answer now: shown as approximate

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
        self, counted: list[Artifact], refused: list[Artifact], doubtful: list[Artifact], series: SeriesReport
    ) -> dict[str, dict[str, Any]]:
        """What the picture shows: results by day (of the kit's first record), and marks."""
        days: dict[str, dict[str, Any]] = {}
        forks = set(series.forks)

        def cell(item: Artifact) -> dict[str, Any]:
            day = max((item.recorded_first or item.created)[:10], self.period[0][:10])
            return days.setdefault(day, {"models": {}})

        for item in counted:
            if not item.records:
                continue  # labels only: no model ran
            models = cell(item)["models"]
            models[item.model] = models.get(item.model, 0) + item.records
        for mark, items in (("refused", refused), ("doubtful", [item for item in doubtful if item.verified])):
            for item in items:
                place = cell(item)
                place[mark] = place.get(mark, 0) + 1
        for item in self.good:
            if (
                item.seq in forks
                and item in self.items
                and self._asked(item)
                and self.period[0] <= (item.recorded_first or item.created) < self.period[1]
            ):
                place = cell(item)
                place["forks"] = place.get("forks", 0) + 1
        for day, count in _missing_days(self.good, series):
            if self.period[0][:10] <= day < self.period[1][:10]:
                place = days.setdefault(day, {"models": {}})
                place["missing"] = place.get("missing", 0) + count
        return dict(sorted(days.items()))

    def _count(
        self, entry: dict[str, Any], series: SeriesReport, counted: list[Artifact], labels: Counter[str]
    ) -> None:
        totals = self.result.totals
        totals["kits"] += len(counted)
        totals["results"] += entry["results"]
        totals["labels"] += entry["labels"]
        totals["refused"] += entry["refused_count"]
        totals["unchecked"] += entry["unchecked"]
        totals["missing"] += entry["series"]["missing_count"]
        totals["voided"] += len(series.voided)
        totals["forks"] += len(series.forks)
        totals["broken"] += len(series.broken_links)
        totals["reordered"] += len(series.reordered)
        totals["clock_doubts"] += bool(entry["clock"]["doubts"])
        totals["identity_doubts"] += bool(entry["identity_doubts"])
        totals["unknown_devices"] += self.record is None
        totals["headless"] += series.head is None
        for interval in entry["intervals"]:
            model = self.result.models.setdefault(
                interval["model"],
                {"digest": interval["model"], "results": 0, "kits": 0, "devices": 0, "labels": 0, "_devices": set()},
            )
            model["results"] += interval["results"]
            model["kits"] += interval["kits"]
            model["_devices"].add(self.device)
        for name, count in labels.items():
            if name in self.result.models:
                self.result.models[name]["labels"] += count


def _missing_days(good: list[Artifact], series: SeriesReport) -> Iterator[tuple[str, int]]:
    """Where a gap shows in a picture by day: the day after the kit before it, else that of the kit after it."""
    for first, last in series.gaps:
        before = [(item.recorded_last or item.created)[:10] for item in good if item.seq < first]
        after = [(item.recorded_first or item.created)[:10] for item in good if item.seq > last]
        if before:
            day = (dt.date.fromisoformat(before[-1]) + dt.timedelta(days=1)).isoformat()
            yield min([day, *after[:1]]), last - first + 1
        elif after:
            yield after[0], last - first + 1


def _runs(items: Iterable[Artifact]) -> Iterator[list[Artifact]]:
    """Stretches of one model, slot by slot."""
    ordered = sorted((item for item in items if item.records), key=lambda item: (item.slot, item.seq))
    for _, group in groupby(_numbered(ordered), key=lambda pair: pair[0]):
        yield [item for _, item in group]


def _numbered(items: list[Artifact]) -> Iterator[tuple[int, Artifact]]:
    run, before = 0, None
    for item in items:
        if before is not None and (before.slot, before.model) != (item.slot, item.model):
            run += 1
        before = item
        yield run, item


def series_item(item: Artifact) -> SeriesItem:
    """A verified artifact as verify.chain wants it."""
    return SeriesItem(
        seq=item.seq,
        digest=digest_of_text(item.digest),
        prev=digest_of_text(item.prev) if item.prev else None,
        reset_count=item.reset_count or 0,
        clock_ms=item.clock_ms or 0,
        kind="kit" if item.kind == "kit" else "tombstone",
    )


def _series_json(series: SeriesReport, base: int, items: list[Artifact], head: VerifiedHead | None) -> dict[str, Any]:
    present = {item.seq for item in items if not item.verified}
    missing, refused_there = [], []
    count = 0
    for first, last in series.gaps:
        inside = sorted(seq for seq in present if first <= seq <= last)
        refused_there += inside
        start = first
        for seq in [*inside, last + 1]:
            if seq > start:
                missing.append([start, seq - 1])
                count += seq - start
            start = seq + 1
    return {
        "base": base,
        "last": max((item.seq for item in items if item.verified), default=None),
        "missing": missing,
        "missing_count": count,
        "refused_numbers": refused_there,
        "voided": list(series.voided),
        "forks": list(series.forks),
        "broken_links": list(series.broken_links),
        "reordered": list(series.reordered),
        "closed_until": series.closed_until,
        "head": head.seq if head else None,
        "whole": series.whole,
    }


def _count_records(source: Source, item: Artifact, since: str, to: str) -> int:
    reader = Reader(source)
    kit = open_kit(reader, item.repo, reader.manifest(item.repo, parse_digest(item.digest)))
    first, end = _ns(since), _ns(to)
    count = 0
    for part in kit.parts:
        if part.kind == "records":
            for block in parse_part(load_part(reader, item.repo, part)).blocks:
                count += sum(first <= moment < end for moment in block.recorded_at_ns())
    return count


def _ns(text: str) -> int:
    moment = dt.datetime.fromisoformat(text) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (moment.days * 86_400 + moment.seconds) * 10**9 + moment.microseconds * 1_000


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
        "labels": 0,
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


def _name_models(result: Audit, index: Index, names: Mapping[str, str]) -> None:
    known = {row["digest"]: row for row in index.rows("SELECT * FROM models")}
    for digest, model in result.models.items():
        model["devices"] = len(model.pop("_devices"))
        row = known.get(digest)
        model["name"] = names.get(digest)
        model["security_version"] = row["security_version"] if row else None
        model["trained_on"] = row["trained_on"] if row else None
        model["unlabelled_share"] = (
            round(max(0.0, 1 - model["labels"] / model["results"]), 4) if model["results"] else None
        )
