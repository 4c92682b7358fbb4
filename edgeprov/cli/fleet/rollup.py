# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Write a signed index of every closed shard: a model's month in which no device's series has a gap.

Run `sync` and `verify` before it: only verified kits are named. It may be stopped and repeated.
"""

from __future__ import annotations

import argparse

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-fallback",
        action="store_true",
        help="do not list the kits under their model's fallback tag, where a registry has no referrers API",
    )
    common.fleet_option(parser)
    common.trust_option(parser)
    common.signer_options(parser, "collector")


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.rollup import roll_up

    signer = common.load_signer(args, "collector")
    assert signer is not None  # noqa: S101 - it is required
    with common.open_index(args, write=True) as index, out.progress("roll-up", 1) as bar:
        shards = roll_up(
            index,
            common.load_trust(args),
            signer,
            now=common.now(),
            fallback=not args.no_fallback,
            progress=bar.update,
        )
    for shard in shards:
        out.item(
            "shard",
            source=shard.source,
            repo=shard.repo,
            state=shard.state,
            kits=shard.kits,
            reference=shard.reference,
            digest=shard.digest,
            why=shard.why,
            fallback=shard.fallback,
        )
    out.table(
        ("shard", "state", "kits", "roll-up"),
        [(shard.repo, shard.state, shard.kits, shard.why or shard.reference) for shard in shards],
    )
    counts = {state: sum(shard.state == state for shard in shards) for state in ("written", "current", "open")}
    out.item("rollup", ", ".join(f"{count} {state}" for state, count in counts.items()), **counts)
