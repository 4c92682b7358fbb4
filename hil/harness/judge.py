#!/usr/bin/env python3
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What edgeprov itself makes of a device's state after a power cut. Runs in the device environment.

Reads folders from standard input, one a line, and answers each with one JSON line: the record
numbers that recovery finds, what it put into quarantine, and the kits in the outbox.
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
    spool = state.spool("default")
    spool.recover()
    numbers: list[int] = []
    for info in spool.segments():
        numbers += [parse_record(row).n for kind, row in read_segment(info.path).rows() if kind == RECORD]
    kits = []
    for entry in state.outbox():
        manifest = state.layout.load_manifest(entry.digest)
        for layer in (*manifest.layers, manifest.config):
            state.layout.verify_blob(layer)
        kits.append({"kind": entry.kind, "first": manifest.annotations.get("dev.edgeprov.first"),
                     "last": manifest.annotations.get("dev.edgeprov.last")})  # fmt: skip
    whole = numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True
    return {"first": min(numbers, default=0), "last": max(numbers, default=0), "count": len(numbers), "whole": whole,
            "kits": kits, "quarantined": len(state.quarantined())}  # fmt: skip


def main() -> None:
    for line in sys.stdin:
        try:
            answer = judge(Path(line.strip()))
        except EdgeprovError as error:
            answer = {"error": type(error).__name__, "message": error.message}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
