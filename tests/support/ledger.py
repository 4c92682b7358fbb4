# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rows, keys and folders of ledgers for tests."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprov.fleet.ledger.close import Closer
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder
from edgeprov.fleet.ledger.members import FoundSignature, LabelSpan, ListedSegment, SealedSegment
from edgeprov.fleet.ledger.open_day import append_rows
from edgeprov.fleet.ledger.rows import ARTIFACT_KINDS, KitRow, Row
from edgeprov.fleet.ledger.views import LedgerView, ask
from edgeprov.verify.policy import TrustPolicy, parse_policy
from tests.support import pki

NS = 10**9
DAY_NS = 86_400 * NS
NOW_NS = 1_790_000_000 * NS + 7
"""2026-09-21T14:13:20Z, and 7 ns that no reader may lose."""

ROOT = pki.root("ledger publishers")
BASIS = hashlib.sha256(b"rules 1").digest()


def collector(who: str = "desk", **options: Any) -> pki.Issued:
    """A collector's key with its certificate."""
    return pki.role_certificate(ROOT, "collector", who, **options)


def policy(*who: str, **options: Any) -> TrustPolicy:
    """A policy that knows some collectors."""
    names = ", ".join(f'"urn:edgeprov:collector:{name}"' for name in who or ("desk",))
    return parse_policy({"publisher-root.pem": ROOT.pem, "policy.toml": f"[roles]\ncollector = [{names}]\n".encode()})


def at(now_ns: int = NOW_NS) -> dt.datetime:
    return dt.datetime.fromtimestamp(now_ns // NS, dt.UTC)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def kit(number: int, *, unit: str = "u1", **changes: Any) -> KitRow:
    """A verified kit with one segment and one that is still open."""
    header = digest(f"header {unit} {number}")
    members: dict[str, Any] = {
        "seen_ns": NOW_NS, "digest": digest(f"kit {unit} {number}"), "source": "registry.example", "bytes": 20_000,
        "repo": f"data/{unit}/2026", "enrollment": digest(unit), "device": unit, "number": number,
        "created_ns": NOW_NS - 5, "prev": digest(f"kit {unit} {number - 1}"), "slot": "main", "model": digest("model"),
        "records": 10, "labels": 2, "first": 10 * number, "last": 10 * number + 9,
        "recorded_first_ns": NOW_NS - 50, "recorded_last_ns": NOW_NS - 10,
        "segments": (
            SealedSegment(number - 1, header, digest(f"header {unit} {number - 2}"), "main", digest("model"), False,
                    10 * number, 10 * number + 9, NOW_NS - 50, NOW_NS - 10, 3, "tflite 2.14"),
        ),
        "unused": (), "times_read": True, "doubtful": 0, "labelled": (LabelSpan(10 * number, 10 * number + 1, False),),
        "open": (ListedSegment(number, digest(f"header {unit} {number}"), "aux", None, None, None, None, None, False),),
        "stops": (), "events": (), "missing": (), "leaves": (), "made_ns": NOW_NS - 5, "floor_ns": NOW_NS - 100,
        "doubt": False, "final": False, "newest": header, "reset_count": 3, "restart_count": 0,
        "clock_ms": 1_000 * number, "opened_clock_ms": 990 * number, "safe": True, "record": digest(f"record {unit}"),
        "firmware": "2019102300163636", "model_pcr": 14, "pcrs": (), "boot": ("release-7",), "assurance": "dev",
        "edgeprov": "0.1.0", "verdict": "verified", "signed": True, "checked_ns": NOW_NS, "depth": 1, "basis": BASIS,
        "signatures": (FoundSignature(digest(f"signature {unit} {number}"), digest(f"signer {unit}"), None, None),),
    }  # fmt: skip
    return KitRow(**(members | changes))


def make_folder(path: Path, days: Sequence[Sequence[Row]], *, who: str = "desk", closed: bool = True) -> LedgerFolder:
    """A ledger with a day for each list of rows, the first one today."""
    folder = LedgerFolder(path)
    closer = Closer(folder=folder, signer=collector(who))
    for number, rows in enumerate(days):
        append_rows(folder, rows, NOW_NS + number * DAY_NS)
        if closed:
            closer.close_due(NOW_NS + (number + 1) * DAY_NS)
    return folder


def content(folder: LedgerFolder) -> dict[str, list[Any]]:
    """What a ledger says, whichever part is closed: artifacts, and places and verdicts of each."""

    def read(view: LedgerView) -> dict[str, list[Any]]:
        kits = sorted((row.digest, row.number, row.verdict) for row in view.merged(["kit"]))  # type: ignore[attr-defined]
        once = view.query(f"SELECT count(*) - count(DISTINCT digest) FROM ledger WHERE row IN {ARTIFACT_KINDS}")
        return {"kits": kits, "doubled": once}

    return ask({"own": folder}, read)
