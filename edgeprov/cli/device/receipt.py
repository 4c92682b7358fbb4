# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Install the receipt that `edgeprov-fleet import` wrote: the kits that arrived are freed on this device."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.output import Output, size
from edgeprov.cli.parsing import subcommands
from edgeprov.device.context import load_context
from edgeprov.errors import FormatError
from edgeprov.limits import LIMITS


def arguments(parser: argparse.ArgumentParser) -> None:
    install = subcommands(parser, {"install": "verify a receipt and free what it names"})["install"]
    install.add_argument("file", metavar="FILE", type=Path, help="receipts/SERIAL.receipt.json on the stick")


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.install_receipt import install_receipt
    from edgeprov.store.atomic import load_bytes

    raw = load_bytes(args.file, max_bytes=LIMITS.signature_blob_bytes, what=str(args.file))
    try:
        freed = install_receipt(load_context(), raw)
    except FormatError as error:
        raise FormatError(f"{args.file} is no receipt: {error.message}") from error
    for entry in freed.entries:
        out.item("freed", f"{entry.kind} {entry.seq}  {entry.digest}", digest=str(entry.digest), seq=entry.seq)
    known = f"; {freed.unknown} were freed before" if freed.unknown else ""
    out.item(
        "receipt",
        f"{len(freed.entries)} artifacts freed, {size(freed.freed_bytes)}: they are in {freed.receipt.registry}{known}",
        freed=len(freed.entries),
        unknown=freed.unknown,
        bytes=freed.freed_bytes,
        registry=freed.receipt.registry,
        at=freed.receipt.at,
    )
