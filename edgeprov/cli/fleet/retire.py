# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""End an enrollment in the roster: its device reports no more.

With --final, the head that `edgeprov attest --final` made on the device, its last number is known. With --lost
nobody can know what it still had; reports name the unknown tail. An enrollment whose TPM goes on under another
one ends by itself with the next `roster publish`: the new record names its last number.
"""

from __future__ import annotations

import argparse
import datetime as dt
from pathlib import Path
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
    parser.add_argument("--final", metavar="FILE", type=Path, help="final head, from `edgeprov attest --final`")
    roster_options(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.enrollment.roster_desk import end_entry, final_number, find_entry
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes

    if args.lost == (args.final is not None):
        raise UsageError(
            "an enrollment ends with its final head, or is lost",
            advice="Give --final FILE, which `edgeprov attest NONCE --final` writes on the device; or --lost where the "
            "device died or never answers.",
        )
    head = None
    if args.final is not None:
        head = load_bytes(args.final, max_bytes=LIMITS.head_bytes, what=str(args.final))
    desk, moment = open_desk(args), common.now()
    signer = common.load_signer(args, "roster")
    assert signer is not None  # noqa: S101 - it is required
    with common.open_index(args) as index:

        def change(entries: dict[bytes, RosterEntry]) -> None:
            entry = find_entry(entries, args.enrollment)
            end = None
            if head is not None:
                end = final_number(desk.device(index, entry.enrollment), head, desk.policy)
            end_entry(entries, entry, moment, lost=args.lost, end=end)

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
