# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What `roster` and `retire` share: options, the desk, and what is told of a version."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output
from edgeprov.cli.parsing import positive

if TYPE_CHECKING:
    from edgeprov.fleet.enrollment.roster_desk import RosterDesk
    from edgeprov.verify.roster_check import VerifiedRoster


def roster_options(parser: argparse.ArgumentParser, *, signs: bool = True) -> None:
    """Where the roster lies, whom to trust, and who signs."""
    parser.add_argument("--to", required=True, metavar="REGISTRY", help="registry of the roster")
    parser.add_argument(
        "--state", metavar="DIR", type=Path,
        help="remembers the last version that this desk published (default: CA/enrollments; without --ca: nowhere)",
    )  # fmt: skip
    common.fleet_option(parser)
    common.trust_option(parser)
    common.registry_options(parser)
    if signs:
        parser.add_argument(
            "--days", metavar="N", type=positive, default=7, help="until this version expires (default: 7)"
        )
        common.signer_options(parser, "roster")


def open_desk(args: argparse.Namespace) -> RosterDesk:
    """The desk of the options; the trust folder of --ca counts where none is named."""
    from edgeprov.fleet.enrollment.roster_desk import RosterDesk
    from edgeprov.fleet.trust.folder import load_trust

    ca: Path | None = getattr(args, "ca", None)
    trust = load_trust(ca / "trust.d") if args.trust is None and ca is not None else common.load_trust(args)
    state = args.state or (None if ca is None else ca / "enrollments")
    return RosterDesk(common.source(args, args.to), trust.policy, common.now(), state=state)


def tell(out: Output, desk: RosterDesk, verified: VerifiedRoster) -> None:
    """Which version this is, and until when it speaks."""
    roster = verified.roster
    active = sum(entry.ended is None for entry in roster.entries)
    out.item(
        "roster",
        f"roster version {roster.version}: {len(roster.entries)} enrollments, {active} active; "
        f"issued {roster.issued_at}, expires {roster.expires_at}; {verified.digest}",
        version=roster.version,
        digest=str(verified.digest),
        repo=desk.repo,
        entries=len(roster.entries),
        active=active,
        issued_at=roster.issued_at,
        expires_at=roster.expires_at,
        signer=verified.signer,
    )
