# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A process that logs at a steady rate, then prints what it cost: wake-ups, bytes written, CPU."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

from tests.bench.loggers import LOGS

SETTLE_S = 1.0  # opening a log writes and wakes, once


def written_bytes() -> int:
    """What this process made the kernel write back (dirtied pages, whole)."""
    return int(Path("/proc/self/io").read_text().split("\nwrite_bytes:")[1].split()[0])


def wakeups() -> int:
    """Times that a thread of this process slept and was woken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def run(kind: str, folder: Path, per_second: float, seconds: float) -> dict[str, float]:
    log = LOGS[kind](folder)
    time.sleep(SETTLE_S)
    count = 0
    # The folder's file system is this log's own: what its device has written so far is told by the parent.
    print("ready", flush=True)
    sys.stdin.readline()
    before = wakeups(), written_bytes(), time.process_time()
    start = time.monotonic()
    while per_second and count < per_second * seconds:
        count += 1
        log.append(b"0123456789")
        time.sleep(max(0.0, start + count / per_second - time.monotonic()))
    if not per_second:
        time.sleep(seconds)
    after = wakeups(), written_bytes(), time.process_time()
    log.sync()
    print(
        json.dumps(
            dict(zip(("wakeups", "written", "cpu_s"), (b - a for a, b in zip(before, after, strict=True)), strict=True))
        )
    )
    sys.stdout.flush()
    sys.stdin.readline()  # the parent reads its device first: closing would write once more
    os._exit(0)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
