# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Turn what was recorded and labelled into signed data kits in the outbox."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edgeprov.cli.output import Output, short, size
from edgeprov.device.context import load_context
from edgeprov.errors import StoreCorrupt


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--due",
        action="store_true",
        help="only what the seal settings say is due, and never more often than min_kit_interval_s (for the timer)",
    )


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.seal import Sealed, seal

    damaged: list[str] = []

    def show(sealed: Sealed) -> None:
        entry, info = sealed.entry, sealed.entry.info
        if sealed.damaged or entry.info.get("reason") == "damaged":
            damaged.append(entry.info["slot"])
        if entry.kind == "tombstone":
            text = f"tombstone {entry.seq}: {entry.info['reason']}"
        else:
            span = f" ({info['first']} to {info['last']})" if info["records"] else ""
            text = (
                f"kit {entry.seq}: {info['records']} records{span}, {info['labels']} labels, "
                f"{size(int(entry.info['bytes']))}, model {short(entry.info['model'])}\n  {entry.digest}"
            )
            if sealed.lost:
                text += f"\n  damaged on disk: {_numbers(sealed.lost)}; all others of its segments are in this kit"
        out.item(
            entry.kind,
            text,
            digest=str(entry.digest),
            seq=entry.seq,
            repo=entry.repo,
            tag=entry.tag,
            lost=list(sealed.lost),
            **{key: value for key, value in entry.info.items() if key != "signatures"},
        )

    done = seal(load_context(), due_only=args.due, progress=show)
    out.item("sealed", None if done else "nothing to seal", count=len(done))
    if damaged:
        raise StoreCorrupt(
            f"slot {', '.join(sorted(set(damaged)))}: segments were damaged on the disk; every record that still "
            "verifies is sealed, and signed tombstones name the others",
            advice="The damaged segments are in quarantine for analysis: run edgeprov doctor, and check the disk.",
        )
    out.next("edgeprov upload, or edgeprov export DIR")


def _numbers(ranges: Sequence[tuple[int, int]]) -> str:
    text = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges[:20])
    return text + (f" and {len(ranges) - 20} more ranges" if len(ranges) > 20 else "")
