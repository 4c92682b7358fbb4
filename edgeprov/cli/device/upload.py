# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Send sealed kits to the registry; exit status 100 means that some wait for a better link."""

from __future__ import annotations

import argparse

from edgeprov.cli.output import Output, one_line, size
from edgeprov.device.context import load_context
from edgeprov.errors import EXIT_DONE, EXIT_QUEUED


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # everything comes from the configuration


def run(_args: argparse.Namespace, out: Output) -> int:
    from edgeprov.device.upload import upload

    context = load_context()
    with out.progress("uploading", 0) as bar:
        result = upload(context, progress=bar.advance)
    for entry in result.sent:
        out.item(
            "uploaded",
            f"{entry.kind} {entry.seq}  {entry.repo}:{entry.tag}",
            digest=str(entry.digest),
            seq=entry.seq,
            repo=entry.repo,
            tag=entry.tag,
            kind=entry.kind,
        )
    for entry, error in result.parked:
        out.item(
            "parked",
            f"{entry.kind} {entry.seq} cannot be sent: {one_line(error.message)}\n  {error.advice}",
            digest=str(entry.digest),
            seq=entry.seq,
            code=error.exit_code,
            message=error.message,
            advice=error.advice,
        )
    out.item(
        "upload",
        f"{len(result.sent)} sent ({size(result.bytes_sent)}), {result.queued} waiting",
        sent=len(result.sent),
        bytes=result.bytes_sent,
        queued=result.queued,
    )
    if result.error is not None:
        if not result.sent:
            raise result.error
        out.text(f"  {one_line(result.error.message)}")
    if result.parked:
        return result.parked[0][1].exit_code
    return EXIT_QUEUED if result.queued else EXIT_DONE
