# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Make a small vendor PKI: two separate roots (publishers, devices), their keys, and trust folders.

A vendor with a PKI of its own does not need this: FORMAT.md, "Certificates", has the shapes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output
from edgeprov.cli.parsing import subcommands


def arguments(parser: argparse.ArgumentParser) -> None:
    init = subcommands(parser, {"init": "make both CAs, a signer for each role, and trust folders"})["init"]
    init.add_argument("folder", metavar="DIR", type=Path)
    init.add_argument("--name", default="Example Devices", help="organisation in every subject")
    init.add_argument("--country", default="DE", help="two letters")
    init.add_argument("--state", default="BY")
    init.add_argument(
        "--assurance", default="dev", choices=("dev", "firmware", "hardware"), help="what trust.d accepts"
    )


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.enrollment.ca import Vendor, init_ca

    vendor = Vendor(organisation=args.name, country=args.country, state=args.state)
    init_ca(args.folder, vendor, now=common.now(), assurance=args.assurance)
    out.item(
        "ca",
        folder=str(args.folder),
        device_trust=str(args.folder / "device-trust.d"),
        trust=str(args.folder / "trust.d"),
    )
    for name, what in {
        "publisher/": "signs models",
        "device/": "signs devices (issuing), their records (enroller), rosters (roster) and receipts (importer)",
        "collector/": "signs statements about training data",
        "device-trust.d/": "goes into the device image: whose models may run",
        "trust.d/": "goes to fleet and auditors: whose devices count",
    }.items():
        out.text(f"{args.folder}/{name:<16}{what}")
    if args.assurance == "dev":
        out.text("The trust folder accepts devices with a software TPM (assurance dev): for trials only.")
    out.next(f"edgeprov-fleet publish DIR --to REGISTRY --ca {args.folder}")
