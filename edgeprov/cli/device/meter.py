# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The progress of a transfer: a bar that is redrawn on a terminal, nothing of it elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Final

from edgeprov.cli.output import size

if TYPE_CHECKING:
    from edgeprov.device.transfer import Tally

_REDRAW_S: Final = 0.1
_RATE_WINDOW_S: Final = 10.0
_BAR: Final = 20


class Meter:
    """Draws bytes, artifacts, rate and time left on stderr; ``note`` puts a line above the bar."""

    def __init__(self, *, shown: bool, limit_bytes_per_s: int = 0) -> None:
        """With a bandwidth limit nothing is told to be faster than that: between two parts the link rests."""
        self._shown = shown
        self._limit = limit_bytes_per_s
        self._next = 0.0
        self._drawn = False
        self._samples: list[tuple[float, int]] = []

    def changed(self, tally: Tally) -> None:
        """Redraw, at most ten times a second."""
        now = time.monotonic()
        if not self._shown or (now < self._next and tally.done_artifacts < tally.artifacts):
            return
        self._next = now + _REDRAW_S
        self._samples = [item for item in self._samples if now - item[0] < _RATE_WINDOW_S]
        self._samples.append((now, tally.sent_bytes))
        line = progress_line(tally, self._rate(), shutil.get_terminal_size().columns - 1)
        sys.stderr.write("\r" + line + "\x1b[K")
        sys.stderr.flush()
        self._drawn = True

    def _rate(self) -> float:
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        rate = (after - before) / (last - first) if last > first else 0.0
        return min(rate, self._limit) if self._limit else rate

    def clear(self) -> None:
        """Take the bar away, so that a line can be written."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False


def progress_line(tally: Tally, bytes_per_s: float, columns: int = 120) -> str:
    """``[####....] 12.3 MB of 40.0 MB, 3 of 12 kits, 1.2 MB/s, 0:23 left``; on a narrow terminal the best of it."""
    total = max(tally.total_bytes, 1)
    filled = min(_BAR, _BAR * tally.done_bytes // total)
    bar = f"[{'#' * filled}{'.' * (_BAR - filled)}] "
    amount = f"{size(tally.done_bytes)} of {size(tally.total_bytes)}"
    kits = f"{tally.done_artifacts} of {tally.artifacts} kits"
    rate = left = ""
    if bytes_per_s >= 1:
        seconds = int(max(0, total - tally.done_bytes) / bytes_per_s)
        hours, rest = divmod(seconds, 3600)
        rate = f"{size(int(bytes_per_s))}/s"
        left = (f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}") + " left"
    for head, parts in (
        (bar, (amount, kits, rate, left)),
        ("", (amount, kits, rate, left)),
        ("", (amount, kits, left)),
        ("", (amount, left)),
        ("", (amount,)),
    ):
        line = head + ", ".join(filter(None, parts))
        if len(line) <= columns:
            return line
    return f"{100 * tally.done_bytes // total} %"[: max(columns, 0)]
