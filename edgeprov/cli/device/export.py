# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Write the outbox to a stick, as an OCI layout for `edgeprov-fleet import`. Nothing is freed before a receipt."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.output import Output
from edgeprov.device.context import load_context


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.export import export

    context = load_context()
    with out.progress("exporting", 0) as bar:
        entries = export(context, args.folder, progress=bar.advance)
    for entry in entries:
        out.item("exported", f"{entry.kind} {entry.seq}  {entry.digest}", digest=str(entry.digest), seq=entry.seq)
    out.item("export", f"{len(entries)} artifacts in {args.folder}", count=len(entries), folder=str(args.folder))
    out.next(f"edgeprov-fleet import {args.folder}; then edgeprov receipt install FILE")
