# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Bring the index up to date with the registries; only new kits cost anything.

Registries are remembered: later, `edgeprov-fleet sync` alone reads all of them. When a registry, or a
shard of one, cannot be listed, the others are read all the same, and the exit code is that of the
first such failure. What is listed and unusable is shown; the exit code stays 0.
"""

from __future__ import annotations

import argparse

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output
from edgeprov.errors import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "registries", nargs="*", metavar="REGISTRY", help="host[:port]/prefix or oci:DIR; default: all known"
    )
    parser.add_argument(
        "--repo", action="append", default=[], help="repository below the prefix, where there is no catalogue"
    )
    common.fleet_option(parser)
    common.registry_options(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    from edgeprov.errors import EdgeprovError
    from edgeprov.fleet.ingest.sync import SyncReport, sync_source

    failed: EdgeprovError | None = None
    reports: list[SyncReport] = []
    with common.open_index(args, write=True, make=True) as index:
        sources = [common.source(args, name) for name in args.registries] or list(index.sources().values())
        if not sources:
            raise UsageError("no registry is known yet", advice="Name one: host[:port]/prefix or oci:DIR.")
        for source in sources:
            with out.progress(f"sync {source.name}", 1) as bar:
                try:
                    report = sync_source(index, source, now=common.now(), repos=args.repo, progress=bar.update)
                except EdgeprovError as error:
                    # The other registries are worth reading all the same.
                    failed = failed or error
                    out.item(
                        "source-failed",
                        f"{source.name}: {error.message}",
                        source=source.name,
                        error=type(error).__name__,
                        message=error.message,
                    )
                    continue
            reports.append(report)
            failed = failed or next(iter(report.unread), None)
            out.item(
                "synced",
                source=report.source,
                shards=report.shards,
                kits=report.kits,
                tombstones=report.tombstones,
                heads=report.heads,
                devices=report.devices,
                models=report.models,
                known=report.known,
                faults=len(report.faults),
                unread=len(report.unread),
            )
            for repo, reference, why in report.faults[:1000]:
                out.item("fault", source=source.name, repo=repo, reference=reference, why=why)
    out.table(
        ("registry", "shards", "new kits", "tombstones", "heads", "devices", "models", "unusable"),
        [(r.source, r.shards, r.kits, r.tombstones, r.heads, r.devices, r.models, len(r.faults)) for r in reports],
    )
    for report in reports:
        for repo, reference, why in report.faults[:5]:
            out.text(f"  unusable: {repo}:{reference}: {why}")
        if len(report.faults) > 5:
            out.text(f"  ... and {len(report.faults) - 5} more (--json lists all)")
    if failed is not None:
        raise failed
    out.next("edgeprov-fleet verify, then query, collect or audit")
    return 0
