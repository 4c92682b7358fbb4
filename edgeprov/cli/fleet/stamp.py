# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Add RFC 3161 timestamps to the signatures of kits: they stay provable when certificates end or keys are lost."""

from __future__ import annotations

import argparse

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, short
from edgeprov.formats.rfc3339 import rfc3339


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tsa-command",
        metavar="CMD",
        required=True,
        help="reads a timestamp request on stdin, writes the response to stdout (curl to an authority, openssl ts)",
    )
    common.filter_options(parser)
    common.fleet_option(parser)
    common.trust_option(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.ingest.stamp import parse_authority, stamp_artifact
    from edgeprov.fleet.registries.sources import ArtifactReader, open_registry
    from edgeprov.formats.digest import parse_digest

    trust = common.load_trust(args)
    authority = parse_authority(args.tsa_command, trust.policy.timestamp_anchors)
    created = rfc3339(common.now())
    stamped = kits = 0
    with common.open_index(args) as index:
        query = common.make_query(args, index, trust)
        sources = index.sources()
        open_sources = {number: (ArtifactReader(source), open_registry(source)) for number, source in sources.items()}
        with out.progress("stamp", index.count(query)[0]) as bar:
            for item in index.iterate(query):
                reader, registry = open_sources[item.source]
                digest = parse_digest(item.digest)
                count = stamp_artifact(reader, registry, item.repo, digest, authority, created, tag=item.tag)
                if count:
                    out.item(
                        "stamped",
                        f"{short(item.digest)}  {item.device}  {count} signatures",
                        digest=item.digest,
                        count=count,
                    )
                stamped, kits = stamped + count, kits + bool(count)
                bar.advance()
    out.item("summary", f"{stamped} signatures of {kits} kits stamped", signatures=stamped, kits=kits)
    out.next("edgeprov-fleet sync, then verify --again: the verdicts then say before when each kit was signed")
