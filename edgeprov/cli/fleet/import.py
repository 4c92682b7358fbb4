# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Take in a technician's stick (`edgeprov export`): push its kits, and write the receipt that frees them on the device.

The receipt is signed by an enroller and lies on the stick (receipts/SERIAL.receipt.json) unless -o names
another folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, size
from edgeprov.errors import FormatError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stick", metavar="DIR", type=Path)
    parser.add_argument("--to", required=True, metavar="REGISTRY")
    parser.add_argument("-o", "--receipts", metavar="DIR", type=Path, help="default: DIR/receipts on the stick")
    common.signer_options(parser, "importer")
    common.registry_options(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    from edgeprov.fleet.ingest.stick import import_stick, make_receipts
    from edgeprov.store.atomic import make_dirs, save_bytes

    source = common.source(args, args.to)
    signer = common.load_signer(args, "importer", required=False)
    with out.progress(f"import {args.stick}", 1) as bar:
        report = import_stick(args.stick, source, progress=bar.update)
    files = []
    if signer is not None:
        folder = args.receipts or args.stick / "receipts"
        for name, data in make_receipts(report, source, signer, common.now()).items():
            make_dirs(folder, 0o755)
            save_bytes(folder / name, data, mode=0o644)
            files.append(str(folder / name))
    for name, why in report.faults:
        out.item("fault", f"  not taken: {name}: {why}", name=name, why=why)
    out.item(
        "imported",
        (
            f"{report.kits} kits and {report.heads} heads of {len(report.arrived)} devices "
            f"({report.known} were there), "
            f"{size(report.bytes)} sent; {len(report.faults)} not taken"
        ),
        kits=report.kits,
        heads=report.heads,
        known=report.known,
        bytes=report.bytes,
        faults=len(report.faults),
        devices={device: [str(item) for item in digests] for device, digests in report.arrived.items()},
        receipts=files,
    )
    for file in files:
        out.text(f"receipt: {file}")
    if files:
        out.next("carry the stick back: edgeprov receipt install FILE; here: edgeprov-fleet sync")
    else:
        out.next("edgeprov-fleet sync; with --ca DIR a receipt is written that frees the kits on the device")
    return FormatError.exit_code if report.faults else 0
