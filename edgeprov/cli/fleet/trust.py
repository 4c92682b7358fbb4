# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Show who has which role in a trust folder, and which deny entries match nothing that the index knows."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, one_line
from edgeprov.formats.rfc3339 import rfc3339


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust", metavar="DIR", required=True, type=Path, help="the trust folder of the fleet (trust.d)"
    )
    common.fleet_option(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.errors import NotStored
    from edgeprov.fleet.trust.folder import load_trust
    from edgeprov.fleet.verification.deny_matches import deny_matches
    from edgeprov.verify.policy import ROLES

    policy = load_trust(args.trust).policy
    for role in ROLES:
        names = policy.identities(role)
        out.item("role", f"{role:<10} {', '.join(map(one_line, names)) or 'nobody'}", role=role, identities=list(names))
    try:
        with common.open_index(args) as index:
            found, known = deny_matches(index, policy), True
    except NotStored:
        found, known = deny_matches(None, policy), False
    for entry, count in found:
        since = "" if entry.since is None else f" from {rfc3339(entry.since)}"
        reason = f" ({one_line(entry.reason)})" if entry.reason else ""
        matched = f"matches {count}" if count else "MATCHES NOTHING that is known here"
        out.item(
            "deny", f"deny       {entry.type} {entry.value}{since}{reason}: {matched}", deny_type=entry.type,
            value=entry.value, since=None if entry.since is None else rfc3339(entry.since), reason=entry.reason,
            matches=count,
        )  # fmt: skip
    if not known and found:
        out.text("There is no index yet, so models, kits and devices were not compared: run edgeprov-fleet sync first.")
