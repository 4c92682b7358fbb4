# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""End an enrollment in the roster: its device reports no more.

With --lost nobody can know what it still had; reports name the unknown tail. An enrollment whose TPM goes on
under another one ends by itself with the next `roster publish`: the new record names its last number.
"""

from __future__ import annotations

import argparse
import datetime as dt
from typing import TYPE_CHECKING

from edgeprov.cli.fleet import common
from edgeprov.cli.fleet.roster_options import open_desk, roster_options, tell
from edgeprov.cli.output import Output
from edgeprov.errors import UsageError

if TYPE_CHECKING:
    from edgeprov.formats.roster import RosterEntry


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("enrollment", metavar="ENROLLMENT", help="its id, or the first digits of it")
    parser.add_argument("--lost", action="store_true", help="the device died, or never answers: its end is unknown")
    roster_options(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.enrollment.roster_desk import end_entry, find_entry

    if not args.lost:
        raise UsageError(
            "nothing shows the last number of this enrollment",
            advice="Give --lost where the device died or never answers.",
        )
    desk, moment = open_desk(args), common.now()
    signer = common.load_signer(args, "roster")
    assert signer is not None  # noqa: S101 - it is required
    with common.open_index(args) as index:

        def change(entries: dict[bytes, RosterEntry]) -> None:
            entry = find_entry(entries, args.enrollment)
            end_entry(entries, entry, moment, lost=True, end=None)

        verified = desk.publish(index, signer, dt.timedelta(days=args.days), change)
    ended = next(
        entry for entry in verified.roster.entries if entry.enrollment.hex().startswith(args.enrollment.lower())
    )
    out.item(
        "retired",
        f"{ended.device}: enrollment {ended.enrollment.hex()} ended, {ended.ended}"
        + ("" if ended.end is None else f", last number {ended.end}"),
        device=ended.device,
        enrollment=ended.enrollment.hex(),
        ended=ended.ended,
        until=ended.until,
        end=ended.end,
    )
    tell(out, desk, verified)
