#!/usr/bin/env python3
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What edgeprov itself makes of a device's state after a power cut. Runs in the device environment.

Reads folders from standard input, one a line, and answers each with one JSON line: the record numbers
that recovery finds, kits in the outbox with the number of their signatures, models, the active one, and
what went into quarantine. Every artifact that the layout shows is read and hashed first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgeprov.errors import EdgeprovError
from edgeprov.formats.record import parse_record
from edgeprov.store.frames import RECORD, read_segment
from edgeprov.store.state import State


def judge(folder: Path) -> dict[str, object]:
    """Recover one state as the next boot would, and describe it."""
    state = State.open(folder, write=True)
    listed = [str(entry.digest) for entry in state.layout.manifests()]
    for entry in state.layout.manifests():
        for blob in state.layout.load_manifest(entry.digest).blobs:
            state.layout.verify_blob(blob)
    spool = state.spool("default")
    spool.end_open()  # as a seal does: segments outlive their sessions
    numbers: list[int] = []
    for info in spool.segments():
        if info.closed:  # what stays open has no record
            numbers += [parse_record(row).n for kind, row in read_segment(info.path).rows() if kind == RECORD]
    kits = []
    for entry in state.outbox():
        manifest = state.layout.load_manifest(entry.digest)
        first, last = (manifest.annotations.get(f"dev.edgeprov.{name}") for name in ("first", "last"))
        kits.append({"digest": str(entry.digest), "kind": entry.kind, "first": int(first or 0), "last": int(last or 0),
                     "records": int(manifest.annotations.get("dev.edgeprov.records", "0")),
                     "signatures": len(state.layout.referrers(entry.digest))})  # fmt: skip
    active = state.active("default")
    return {"numbers": numbers, "kits": kits, "listed": listed, "active": str(active.model) if active else None,
            "quarantined": [reason for _, reason in state.quarantined()]}  # fmt: skip


def main() -> None:
    for line in sys.stdin:
        try:
            answer = judge(Path(line.strip()))
        except EdgeprovError as error:
            answer = {"error": type(error).__name__, "message": error.message}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
