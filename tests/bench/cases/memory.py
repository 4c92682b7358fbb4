# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`edgeprov seal` as a whole process with its TPM: peak memory and CPU.

This process imports nothing of the project: a child's peak memory counts what its parent had.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from tests.bench.harness import Figure, figure, main, milli, missing, run_process, spread, tool
from tests.bench.real_device import BARE, RealDevice

GROUP = "seal"
MB = 1_000_000
INPUT_BYTES = 10_000
MEMORY = "peak memory of the whole command with its TPM, {}"
SETTINGS = """[record]
sync = "seal"
capture = "full"
quota_bytes = 100000000000
[seal]
max_records = 100000000
max_bytes = 100000000000
max_age_s = 1000000
"""


def small(args: argparse.Namespace) -> list[Figure]:
    with RealDevice(args.work / "small", settings=SETTINGS.replace("full", "none")) as device:
        device.boot_check()
        used = []
        for _ in range(5):
            device.record(1_000)
            used.append(device.command("seal"))
    bare = [run_process(BARE).cpu_s for _ in range(5)]
    cpu = [item.cpu_s for item in used]
    return [
        figure(
            GROUP, MEMORY.format("1,000 records"), [item.rss_mb for item in used], "MB", "<=", 45,
            note="Python, the TPM library, cryptography, zstandard and msgpack. What a kit adds is in the next line.",
        ),
        figure(
            GROUP, "CPU of the whole command with its TPM, 1,000 records", [item * 1e3 for item in cpu], "ms CPU",
            ours=f"{spread(cpu)[0] / spread(bare)[0]:.1f} x a bare interpreter of {milli(bare)}; swtpm's own time is not in it",
            note="Imports are two thirds, the TPM library the largest; then 21 TPM commands, thirty durable small files and two signatures' envelopes.",
        ),
    ]  # fmt: skip


def large(args: argparse.Namespace) -> list[Figure]:
    size = 1000 if args.full else 200
    folder = args.work / "large"
    with RealDevice(folder, settings=SETTINGS) as device:
        device.boot_check()
        device.record(size * MB // INPUT_BYTES, INPUT_BYTES)
        used = device.command("seal")
    shutil.rmtree(folder)
    argv = [sys.executable, "-m", "tests.bench.cases.seal_memory"]
    run_process([*argv, "prepare", folder, str(size * MB)])
    floor = run_process([*argv, "seal", folder])
    shutil.rmtree(folder)
    return [
        Figure(
            GROUP, MEMORY.format(f"{size} MB"), used.rss_mb, "MB", "<=", 45, ours=f"{used.cpu_s:.1f} s CPU, {used.wall_s:.1f} s",
            headline=f"`edgeprov seal` with its TPM: peak memory, kit of {size} MB",
            note="One block of rows and one compressed part above the line of 1,000 records. What grows is the list of parts and its JSON: 5 MB from 10 MB to 1 GB.",
        ),
        Figure(
            GROUP, f"floor of that: without the TPM library, its answers from memory, {size} MB", floor.rss_mb, "MB",
            note="No device runs this. It is the limit for a process that seals and leaves the TPM to another.",
        ),
    ]  # fmt: skip


def measure(args: argparse.Namespace) -> list[Figure]:
    if tool("swtpm") is None:
        return [missing(GROUP, MEMORY.format("1,000 records"), "MB", "<=", 45, "swtpm is not installed")]
    return small(args) + large(args)


if __name__ == "__main__":
    main(measure)
