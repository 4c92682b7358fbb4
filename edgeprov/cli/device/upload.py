# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Send sealed kits to the registry. It may be stopped at any time; the next run goes on from there.

Exit status 100 means that some kits wait for a better link.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from edgeprov.cli.device.meter import Meter
from edgeprov.cli.device.waits import Waits
from edgeprov.cli.output import Output, one_line, size
from edgeprov.device.context import load_context
from edgeprov.device.upload import Observer
from edgeprov.errors import EXIT_DONE, EXIT_QUEUED, UsageError

if TYPE_CHECKING:
    from edgeprov.device.transfer import Tally
    from edgeprov.device.upload import Uploaded
    from edgeprov.errors import EdgeprovError, RegistryError
    from edgeprov.store.state import OutboxEntry

_INTERRUPTED: Final = 130
_SPAN = re.compile(r"([0-9]{1,6})(s|m|h)?")
_RATE = re.compile(r"([0-9]{1,9})(k|M)?")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--for", dest="span", metavar="TIME", help="stop after this time: 30s, 5m, 2h")
    parser.add_argument("--limit", metavar="RATE", help="bytes per second: 500k, 2M (0: no limit)")
    parser.add_argument("--order", choices=("oldest", "smallest"), help="which kits first")
    parser.add_argument(
        "--now", action="store_true", help="although the link is metered or the battery below its minimum"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    from edgeprov.device.upload import Options, upload

    options = Options(
        budget_s=None if args.span is None else parse_span(args.span),
        bytes_per_s=None if args.limit is None else parse_rate(args.limit),
        order=args.order,
        regardless=args.now,
    )
    context = load_context()
    limit = context.config.upload.bandwidth_bytes_per_s if options.bytes_per_s is None else options.bytes_per_s
    observer = _Teller(out, limit)
    try:
        result = upload(context, options, observer=observer)
    finally:
        observer.meter.clear()
    out.item(
        "upload",
        f"{len(result.sent)} sent ({size(result.bytes_sent)}), {result.queued} waiting",
        sent=len(result.sent),
        bytes=result.bytes_sent,
        queued=result.queued,
        reason=result.reason,
    )
    return _exit_code(result, out)


def _exit_code(result: Uploaded, out: Output) -> int:
    if result.reason == "interrupted":
        out.text("stopped; nothing is lost, and what was sent is not sent again")
        return _INTERRUPTED
    if result.reason:
        out.text(f"  {result.reason}")
    if result.error is not None:
        if not result.sent:
            raise result.error
        out.text(f"  {one_line(result.error.message)}")
    if result.parked:
        return result.parked[0][1].exit_code
    if result.queued:
        out.next("edgeprov upload, when the link is better; or edgeprov export DIR")
    return EXIT_QUEUED if result.queued else EXIT_DONE


class _Teller(Observer):
    """A bar on a terminal, and a line for each kit as it arrives."""

    def __init__(self, out: Output, limit_bytes_per_s: int) -> None:
        self._out = out
        self.meter = Meter(shown=not out.as_json and sys.stderr.isatty(), limit_bytes_per_s=limit_bytes_per_s)
        self._waits = Waits(out, self.meter.clear)

    def changed(self, tally: Tally) -> None:
        self.meter.changed(tally)

    def waiting(self, seconds: float, error: RegistryError) -> None:
        self._waits.told(seconds, error)

    def sent(self, entry: OutboxEntry) -> None:
        text = f"{entry.kind} {entry.seq}  {entry.repo}:{entry.tag}"
        self._line("uploaded", text, **_named(entry), repo=entry.repo, tag=entry.tag)

    def parked(self, entry: OutboxEntry, error: EdgeprovError) -> None:
        text = f"{entry.kind} {entry.seq} cannot be sent: {one_line(error.message)}\n  {error.advice}"
        values = {"code": error.exit_code, "message": error.message, "advice": error.advice}
        self._line("parked", text, **_named(entry), **values)

    def _line(self, kind: str, text: str, /, **values: Any) -> None:
        self.meter.clear()
        self._out.item(kind, text, **values)
        sys.stdout.flush()


def _named(entry: OutboxEntry) -> dict[str, Any]:
    return {"digest": str(entry.digest), "seq": entry.seq, "kind": entry.kind}


def parse_span(text: str) -> float:
    """``90``, ``30s``, ``5m``, ``2h`` in seconds.

    Raises:
        UsageError: Something else, or nothing at all.
    """
    found = _SPAN.fullmatch(text)
    if not found or not int(found.group(1)):
        raise UsageError(f"{text[:40]!r} is not a time", advice="Write 30s, 5m or 2h.")
    return float(int(found.group(1)) * {"s": 1, "m": 60, "h": 3600}[found.group(2) or "s"])


def parse_rate(text: str) -> int:
    """``500k``, ``2M`` in bytes per second.

    Raises:
        UsageError: Something else.
    """
    found = _RATE.fullmatch(text)
    if not found:
        raise UsageError(f"{text[:40]!r} is not a rate", advice="Write bytes per second: 500k, 2M.")
    return int(found.group(1)) * {"": 1, "k": 1000, "M": 1_000_000}[found.group(2) or ""]
