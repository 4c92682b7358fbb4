# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The roster: which enrollments must report. Publish the next version, also from a timer, or show the newest.

Run `edgeprov-fleet sync` before: the index says which devices are enrolled.
"""

from __future__ import annotations

import argparse
import datetime as dt

from edgeprov.cli.fleet import common
from edgeprov.cli.fleet.roster_options import open_desk, roster_options, tell
from edgeprov.cli.output import Output
from edgeprov.cli.parsing import subcommands


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = subcommands(
        parser, {"publish": "sign and push the next version", "show": "list the entries of the newest version"}
    )
    roster_options(actions["publish"])
    roster_options(actions["show"], signs=False)


def run(args: argparse.Namespace, out: Output) -> None:
    desk = open_desk(args)
    if args.action == "publish":
        signer = common.load_signer(args, "roster")
        assert signer is not None  # noqa: S101 - it is required
        with common.open_index(args) as index:
            verified = desk.publish(index, signer, dt.timedelta(days=args.days))
        tell(out, desk, verified)
        return
    found = desk.newest()
    if found is None:
        out.text("No roster was published yet.")
        out.next("edgeprov-fleet roster publish")
        return
    for entry in found.roster.entries:
        state = "active" if entry.ended is None else f"{entry.ended} {entry.until}"
        last = "" if entry.end is None else f", last number {entry.end}"
        out.item(
            "entry",
            f"{entry.enrollment.hex()}  {entry.device.rpartition(':')[2]:<20} base {entry.base}, {state}{last}",
            enrollment=entry.enrollment.hex(),
            device=entry.device,
            base=entry.base,
            since=entry.since,
            until=entry.until,
            ended=entry.ended,
            end=entry.end,
            bin=entry.bin,
            names=list(entry.names),
        )
    tell(out, desk, found)
