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
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from edgeprov.errors import EdgeprovError
from edgeprov.fleet.audit.audit_kits import KitReader
from edgeprov.fleet.audit.audit_report import Audit
from edgeprov.fleet.audit.device_audit import DeviceAudit, unlabelled
from edgeprov.fleet.index.database import Index
from edgeprov.fleet.index.query import Query
from edgeprov.fleet.trust.folder import Trust
from edgeprov.fleet.verification.attested_heads import ClosingHead, left_heads
from edgeprov.fleet.verification.device_records import verified_devices
from edgeprov.fleet.verification.series_facts import SeriesFacts, parse_facts
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.formats.segment import device_serial
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.head_check import VerifiedHead


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
        heads: Verified answers to `edgeprov attest`, by device URN: they close the end of a series. Where a device
            was not asked, the newest head that it left in a registry does.
        exact: Open kits that reach over an end of the period and count their records, and kits with labels; else such
            kits count whole, and labels as the most that they can be, both marked.
        progress: Called with done and total devices.
    """
    since, to = query.since or "0001-01-01T00:00:00.000Z", query.to or "9999-12-31T00:00:00.000Z"
    names, records = index.model_names(), verified_devices(index, trust, now)
    kits = KitReader(index, (since, to), exact=exact)
    result = Audit(
        since=since,
        to=to,
        generated_at=rfc3339(now),
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
    closing = {device: ClosingHead(head) for device, head in (heads or {}).items()}
    wanted = records.keys() - closing.keys() if query.device is None else set(query.device) - closing.keys()
    closing |= left_heads(index, {device: records[device] for device in wanted & records.keys()}, trust)
    identity = _identity_doubts(index)
    series = Query(device=query.device, policy=query.policy)
    total = index.rows("SELECT count(DISTINCT device) FROM artifacts")[0][0]
    seen: set[str] = set()
    for done, (device, group) in enumerate(groupby(index.iterate(series), key=lambda item: item.device), 1):
        work = DeviceAudit(
            result, device, list(group), records.get(device), names, kits, _facts(index, device), query, (since, to)
        )
        entry = work.judge(closing.get(device), identity.get(device, []))
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
    result.devices.sort(key=lambda entry: entry["serial"])
    result.totals["devices"] = len(result.devices)
    _name_models(result, index, names, trust.digest)
    return result


def _facts(index: Index, device: str) -> dict[str, SeriesFacts]:
    return {
        row["digest"]: parse_facts(row["facts"])
        for row in index.rows(
            "SELECT f.digest, f.facts FROM artifacts a JOIN series_facts f ON f.digest = a.digest WHERE a.device = ?",
            (device,),
        )
    }


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
        model["unlabelled_share"] = unlabelled(model["results"], model["labels"])
        result.totals["refused_models"] += model["signed"] is False
