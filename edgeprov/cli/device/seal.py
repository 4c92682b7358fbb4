# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Turn what was recorded and labelled into signed data kits in the outbox."""

from __future__ import annotations

import argparse

from edgeprov.cli.output import Output, short, size
from edgeprov.device.context import load_context


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--due",
        action="store_true",
        help="only what the seal settings say is due, and never more often than min_kit_interval_s (for the timer)",
    )


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.seal import Sealed, seal

    def show(sealed: Sealed) -> None:
        entry, contents = sealed.entry, sealed.contents
        if contents is None:
            text = f"tombstone {entry.seq}: {entry.info['reason']}"
        else:
            span = f" ({contents.first} to {contents.last})" if contents.records else ""
            text = (
                f"kit {entry.seq}: {contents.records} records{span}, {contents.labels} labels, "
                f"{size(int(entry.info['bytes']))}, model {short(entry.info['model'])}\n  {entry.digest}"
            )
        out.item(
            entry.kind,
            text,
            digest=str(entry.digest),
            seq=entry.seq,
            repo=entry.repo,
            tag=entry.tag,
            **{key: value for key, value in entry.info.items() if key != "signatures"},
        )

    done = seal(load_context(), due_only=args.due, progress=show)
    out.item("sealed", None if done else "nothing to seal", count=len(done))
    out.next("edgeprov upload, or edgeprov export DIR")
