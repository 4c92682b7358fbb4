# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Write the outbox to a stick, as an OCI layout for `edgeprov-fleet import`. Nothing is freed before a receipt."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeprov.cli.device.meter import Meter
from edgeprov.cli.output import Output, one_line, size
from edgeprov.device.context import load_context


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder on the stick")
    parser.add_argument("--verify", action="store_true", help="read everything back from the stick")


def run(args: argparse.Namespace, out: Output) -> int | None:
    from edgeprov.device.export import export

    meter = Meter(shown=not out.as_json and sys.stderr.isatty())
    try:
        result = export(load_context(), args.folder, verify=args.verify, changed=meter.changed)
    finally:
        meter.clear()
    for entry in result.entries:
        out.item("exported", f"{entry.kind} {entry.seq}  {entry.digest}", digest=str(entry.digest), seq=entry.seq)
    for entry, error in result.faults:
        out.item(
            "fault",
            f"{entry.kind} {entry.seq} is damaged on this device: {one_line(error.message)}",
            digest=str(entry.digest),
            seq=entry.seq,
            message=error.message,
        )
    checked = ", read back and intact" if args.verify else ""
    out.item(
        "export",
        f"{len(result.entries)} artifacts in {args.folder}, {size(result.written_bytes)} written{checked}",
        count=len(result.entries),
        folder=str(args.folder),
        bytes=result.written_bytes,
        verified=args.verify,
        same_disk=result.same_disk,
    )
    if result.same_disk:
        out.text(f"  {args.folder} is on the device's own disk: is the stick plugged in and mounted?")
    out.next(
        f"at the desk: edgeprov-fleet import {args.folder} --to REGISTRY; back here: edgeprov receipt install FILE"
    )
    return result.faults[0][1].exit_code if result.faults else None
