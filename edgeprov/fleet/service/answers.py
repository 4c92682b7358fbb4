# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What the web service answers: plain values from the index, each request with its own connection.

Nothing here writes, and nothing here speaks HTTP: app.py does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from edgeprov import __version__
from edgeprov.errors import NotStored, StoreError, UsageError
from edgeprov.fleet.index.database import Index
from edgeprov.fleet.index.lineage import lineage
from edgeprov.fleet.index.query import VERDICTS, Artifact, Query
from edgeprov.fleet.index.query_terms import device_name, parse_moment
from edgeprov.fleet.trust.folder import Trust
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.names import is_number

PAGE_MAX: Final = 500
PAGE: Final = 50
PARAMETERS: Final[Mapping[str, str]] = {
    "digest": "of a kit, or its start (at least 6 hex digits)",
    "model": "digest, start of one, name, name:tag or name:version",
    "trained": "kits that this model (named as for model) was trained on",
    "device": "serial or URN",
    "slot": "slot of the device",
    "from": "RFC 3339, a day or a month; by the device's clock",
    "to": "as from; a day or month is included whole",
    "verdict": "under the service's trust folder",
    "labels": "with or without labels",
    "kind": "kits or tombstones",
    "limit": "items a page",
    "cursor": "`next` of the page before",
}
"""Of the list of kits: name and meaning."""

_INT_MAX: Final = 2**63 - 1

_SHOWN: Final = (
    "digest",
    "kind",
    "verdict",
    "model",
    "device",
    "slot",
    "seq",
    "prev",
    "records",
    "labels",
    "first",
    "last",
    "recorded_first",
    "recorded_last",
    "created",
    "found_at",
    "assurance",
    "step",
    "error",
    "detail",
    "signed_before",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """The service's data: where the index lies, and under which trust verdicts are read."""

    folder: Path
    trust: Trust

    def open(self) -> Index:
        """A reader.

        Raises:
            StoreError: The index is not there, or cannot be read: the service's trouble, not the question's.
        """
        try:
            index = Index.open(self.folder, write=False)
        except NotStored as error:
            raise StoreError("the index is not there now", advice="Try again after the next sync.") from error
        try:
            index.rows("BEGIN")  # one answer tells of one moment, whatever a sync writes meanwhile
        except BaseException:
            index.close()
            raise
        return index

    def status(self) -> dict[str, Any]:
        """How much the index holds, and how old it is."""
        with self.open() as index:
            rows = index.rows(
                "SELECT v.verified, count(*), coalesce(sum(a.records), 0), coalesce(sum(a.labels), 0) FROM artifacts a "
                "LEFT JOIN verdicts v ON v.digest = a.digest AND v.policy = ? GROUP BY v.verified",
                (self.trust.digest,),
            )
            by_verdict = {"unchecked" if row[0] is None else "ok" if row[0] else "refused": row[1] for row in rows}
            return {
                "edgeprov": __version__,
                "kits": sum(row[1] for row in rows),
                "records": sum(row[2] for row in rows),
                "labels": sum(row[3] for row in rows),
                "verdicts": {name: by_verdict.get(name, 0) for name in VERDICTS},
                "devices": index.rows("SELECT count(DISTINCT device) FROM artifacts")[0][0],
                "models": index.rows("SELECT count(*) FROM models")[0][0],
                "policy": f"sha256:{self.trust.digest}",
                "sources": [dict(row) for row in index.rows("SELECT name, synced_at FROM sources ORDER BY name")],
            }

    def kits(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """A page of kits.

        Args:
            parameters: Those of PARAMETERS, no other.

        Raises:
            UsageError: A parameter is unknown or malformed.
        """
        if unknown := sorted(parameters.keys() - PARAMETERS.keys()):
            raise UsageError(f"unknown parameter {unknown[0][:40]!r}", advice=f"Known: {', '.join(PARAMETERS)}.")
        limit = _limit(parameters.get("limit", str(PAGE)))
        with self.open() as index:
            query = self._query(index, parameters)
            found = list(index.iterate(query, limit=limit + 1, after=_parse_cursor(parameters.get("cursor"))))
            names = index.model_names()
            total = index.count(query)
        page = found[:limit]
        return {
            "items": [_artifact(item, names) for item in page],
            "total": {"kits": total[0], "records": total[1], "labels": total[2]},
            "next": _cursor(page[-1]) if len(found) > limit else None,
        }

    def kit(self, digest: str) -> dict[str, Any]:
        """One kit with its chain: the kits before and after, the model, the device.

        Raises:
            NotStored: Not in the index.
            FormatError: Not a digest.
        """
        name = str(parse_digest(digest if digest.startswith("sha256:") else f"sha256:{digest}"))
        with self.open() as index:
            item = self._one(index, name)
            names = index.model_names()
            after = index.rows(
                "SELECT digest FROM artifacts WHERE device = ? AND prev = ? ORDER BY seq, digest",
                (item.device, item.digest),
            )
            same = index.rows(
                "SELECT digest FROM artifacts WHERE device = ? AND seq = ? AND digest != ?",
                (item.device, item.seq, name),
            )
            return {
                **_artifact(item, names),
                "repo": item.repo,
                "tag": item.tag,
                "source": index.sources()[item.source].name,
                "after": [row["digest"] for row in after],
                "forks": [row["digest"] for row in same],
                "record": item.record,
                "chain": self._chain(index, item, names),
            }

    def models(self) -> dict[str, Any]:
        """All known models with what they produced."""
        with self.open() as index:
            rows = index.rows(
                "SELECT m.digest, m.name, m.version, m.security_version, "
                "m.trained_on, m.created, count(a.digest) AS kits, "
                "coalesce(sum(a.records), 0) AS records, count(DISTINCT a.device) "
                "AS devices, v.verified AS signed FROM models m "
                "LEFT JOIN artifacts a ON a.model = m.digest LEFT JOIN verdicts "
                "v ON v.digest = m.digest AND v.policy = ? "
                "GROUP BY m.digest ORDER BY m.name, m.version",
                (self.trust.digest,),
            )
            return {
                "items": [
                    dict(row) | {"signed": None if row["signed"] is None else bool(row["signed"])} for row in rows
                ]
            }

    def devices(self) -> dict[str, Any]:
        """All devices that have a record or a kit."""
        with self.open() as index:
            rows = index.rows(
                "SELECT d.device, max(r.enrolled_at) AS enrolled_at, max(r.assurance) "
                "AS assurance, count(DISTINCT a.digest) AS kits, "
                "max(a.seq) AS last_seq, max(a.recorded_last) AS last_result FROM "
                "(SELECT device FROM devices UNION SELECT device FROM "
                "artifacts) d LEFT JOIN devices r ON r.device = d.device LEFT JOIN artifacts a ON a.device = d.device "
                "GROUP BY d.device ORDER BY d.device"
            )
            return {"items": [dict(row) for row in rows]}

    def lineage(self, model: str) -> dict[str, Any]:
        """Where a model comes from and what became of its data.

        Raises:
            UsageError: No such model.
        """
        with self.open() as index:
            return {"items": [lineage(index, digest, self.trust.digest) for digest in index.resolve_model(model)]}

    def proof(self, device: str, slot: str, number: int) -> bytes:
        """The proof file of one record; every step of it is verified before it is given out.

        Raises:
            NotStored: No such record.
            VerificationError: It cannot be proved.
        """
        from edgeprov.fleet.verification.prove import make_proof, parse_record_name
        from edgeprov.formats.proof import encode_proof

        name = parse_record_name(f"{device}/{slot}/{number}")
        with self.open() as index:
            return encode_proof(make_proof(index, name, self.trust.policy, datetime.now(UTC)))

    def _query(self, index: Index, parameters: Mapping[str, str]) -> Query:
        verdict, labels, kind = (parameters.get(name) for name in ("verdict", "labels", "kind"))
        if (
            verdict not in (None, *VERDICTS)
            or labels not in (None, "true", "false")
            or kind not in (None, "kit", "tombstone")
        ):
            raise UsageError("verdict, labels or kind has an unknown value", advice=f"verdict: {', '.join(VERDICTS)}.")
        return Query(
            digest=index.resolve_kit(parameters["digest"]) if "digest" in parameters else None,
            collection=index.resolve_training(parameters["trained"]) if "trained" in parameters else None,
            model=index.resolve_model(parameters["model"]) if "model" in parameters else None,
            device=(device_name(parameters["device"]),) if "device" in parameters else None,
            slot=parameters.get("slot"),
            since=parse_moment(parameters["from"]) if "from" in parameters else None,
            to=parse_moment(parameters["to"], end=True) if "to" in parameters else None,
            verdict=verdict,
            labelled=None if labels is None else labels == "true",
            kind=kind,
            policy=self.trust.digest,
        )

    def _one(self, index: Index, digest: str) -> Artifact:
        rows = index.rows("SELECT device, seq FROM artifacts WHERE digest = ?", (digest,))
        if rows:
            before = (rows[0]["device"], rows[0]["seq"], "")
            for item in index.iterate(Query(device=(rows[0]["device"],), policy=self.trust.digest), after=before):
                if item.digest == digest:
                    return item
        raise NotStored(f"the index holds no kit {digest[:80]}", advice="Look for it by device and time, or sync.")

    def _chain(self, index: Index, item: Artifact, names: Mapping[str, str]) -> list[dict[str, Any]]:
        """The links of the proof, for a person: result, kit, device, model."""
        model = index.rows(
            "SELECT verified, detail FROM verdicts WHERE digest = ? AND policy = ?", (item.model, self.trust.digest)
        )
        record = index.rows("SELECT digest, enrolled_at, assurance FROM devices WHERE digest = ?", (item.record or "",))
        return [
            {"link": "kit", "digest": item.digest, "verdict": item.verdict, "step": item.step, "detail": item.detail},
            {
                "link": "device",
                "name": item.device,
                "digest": record[0]["digest"] if record else None,
                "verdict": "ok" if record else "unchecked",
                "assurance": item.assurance,
                "detail": f"enrolled {record[0]['enrolled_at']}" if record else None,
            },
            {
                "link": "model",
                "name": names.get(item.model),
                "digest": item.model,
                "verdict": ("ok" if model[0]["verified"] else "refused") if model else "unchecked",
                "detail": model[0]["detail"] if model else None,
            },
        ]


def _artifact(item: Artifact, names: Mapping[str, str]) -> dict[str, Any]:
    return {name: getattr(item, name) for name in _SHOWN} | {"model_name": names.get(item.model)}


def _limit(text: str) -> int:
    if not is_number(text) or not 0 < int(text) <= PAGE_MAX:
        raise UsageError(f"limit is not a number from 1 to {PAGE_MAX}")
    return int(text)


def _cursor(item: Artifact) -> str:
    return base64.urlsafe_b64encode(json.dumps([item.device, item.seq, item.digest]).encode()).decode().rstrip("=")


def _parse_cursor(text: str | None) -> tuple[str, int, str] | None:
    if text is None:
        return None
    try:
        device, seq, digest = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError("cursor is not one that this service gave") from error
    if not (isinstance(device, str) and type(seq) is int and isinstance(digest, str) and 0 <= seq <= _INT_MAX):
        raise UsageError("cursor is not one that this service gave")
    if not f"{device}{digest}".isascii():
        raise UsageError("cursor is not one that this service gave")
    return device, seq, digest
