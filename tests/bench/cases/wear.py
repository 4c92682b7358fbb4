# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Flash wear and sleep: bytes written and wake-ups per record at a steady rate, and of a recorder that waits.

Each log runs in a process and, as root, on an ext4 of its own in a loop device, so that the sectors written to it, journal
and all, are this log's. All run side by side: each sleeps most of the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from tests.bench.harness import ROOT, Figure, Sense, environment, main, missing
from tests.bench.loggers import LOGS

GROUP = "flash wear and sleep"
PER_SECOND = 10.0
SECTOR_BYTES = 512
IMAGE_BYTES = 64 << 20
LABELS = {"json": "JSON lines", "sqlite": "SQLite WAL"}
PROMISES = {"group": "at most 0.2 s lost", "each": "every record durable"}
WEAR_NOTE = (
    "Bound by the sync: each writes the page that the record is in, and the file system's journal its inode. Ours allocates ahead and "
    "has 49 bytes a record to fill a page with; what is left is fewer, larger groups (record.interval_ms)."
)
SLEEP_NOTE = (
    "Bound by one timer and one sync a group: nothing polls, and the thread sleeps while no record waits. What is left is a longer "
    "record.interval_ms, which halves it as it doubles."
)


@contextmanager
def own_disk(folder: Path) -> Iterator[str | None]:
    """An ext4 of its own on ``folder``; gives the name of its block device, None where that is not possible."""
    folder.mkdir(parents=True)
    image = folder.with_suffix(".img")
    with image.open("wb") as stream:
        stream.truncate(IMAGE_BYTES)
    made = ["mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", image]
    try:
        subprocess.run(made, check=True, capture_output=True)
        loop = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    device = loop.strip()
    try:
        subprocess.run(["mount", "-o", "noatime", device, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)
        yield None
        return
    try:
        yield Path(device).name
    finally:
        subprocess.run(["umount", folder], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)


def sectors_bytes(device: str | None) -> float:
    """Bytes that reached a block device so far; NaN without one."""
    if device is None:
        return float("nan")
    return float(Path(f"/sys/block/{device}/stat").read_text().split()[6]) * SECTOR_BYTES


def flush(folder: Path) -> None:
    subprocess.run(["sync", "-f", folder], check=True)


class Running:
    """One log at work; the parent tells it when to begin and when to end."""

    def __init__(self, kind: str, folder: Path, disk: str | None, per_second: float, seconds: float) -> None:
        self.folder, self.disk = folder, disk
        self.records = per_second * seconds
        words = [sys.executable, "-m", "tests.bench.cases.wear_process", kind, folder / "log", per_second, seconds]
        (folder / "log").mkdir()
        self._child = subprocess.Popen(
            list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
        )
        self._before = 0.0

    @property
    def _in(self) -> IO[str]:
        assert self._child.stdin is not None
        return self._child.stdin

    @property
    def _out(self) -> IO[str]:
        assert self._child.stdout is not None
        return self._child.stdout

    def begin(self) -> None:
        if self._out.readline() != "ready\n":
            raise RuntimeError(f"{self._child.args} did not start")
        flush(self.folder)
        self._before = sectors_bytes(self.disk)
        self._go()

    def end(self) -> dict[str, float]:
        used: dict[str, float] = json.loads(self._out.readline())
        flush(self.folder)
        used["sectors"] = sectors_bytes(self.disk) - self._before
        self._go()
        self._child.wait()
        return used

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def _go(self) -> None:
        with suppress(BrokenPipeError):
            self._in.write("\n")
            self._in.flush()


def observe(work: Path, seconds: float) -> dict[tuple[str, float], dict[str, float]]:
    """What each log took, by kind and rate."""
    wanted = [(kind, PER_SECOND) for kind in LOGS if kind != "bare"] + [
        ("bare", PER_SECOND),
        ("ours group", 0.0),
        ("bare", 0.0),
    ]
    with ExitStack() as stack:
        running = {}
        for kind, rate in wanted:
            folder = work / f"{kind}-{rate:.0f}".replace(" ", "-")
            disk = stack.enter_context(own_disk(folder))
            running[kind, rate] = Running(kind, folder, disk, rate, seconds)
            stack.callback(running[kind, rate].kill)
        for item in running.values():
            item.begin()
        return {key: item.end() for key, item in running.items()}


def figures_of(seen: dict[tuple[str, float], dict[str, float]], seconds: float) -> list[Figure]:
    records = PER_SECOND * seconds
    bare = seen["bare", PER_SECOND]
    figures = []
    for promise, words in PROMISES.items():
        ours = seen[f"ours {promise}", PER_SECOND]
        for who, label in LABELS.items():
            peer = seen[f"{who} {promise}", PER_SECOND]
            name = f"{words}: bytes on the disk, {label} to ours"
            if ours["sectors"] != ours["sectors"]:
                why = "needs root and loop devices: a file system of its own for each log"
                figures.append(missing(GROUP, name, "x", ">=", 1.0, why))
            else:
                figures.append(against(name, ours["sectors"], peer["sectors"], records, "bytes a record", WEAR_NOTE))
            figures.append(
                against(
                    f"{words}: wake-ups, {label} to ours",
                    ours["wakeups"] - bare["wakeups"], peer["wakeups"] - bare["wakeups"], records, "a record", SLEEP_NOTE, 0.9,
                )
            )  # fmt: skip
    for kind in ("ours group", "ours each", "json write", "sqlite write"):
        used = seen[kind, PER_SECOND]
        figures.append(
            Figure(
                GROUP, f"written per record at {PER_SECOND:.0f} a second: {kind}", used["sectors"] / records if used["sectors"] == used["sectors"] else None, "bytes",
                ours=f"{used['written'] / records:,.0f} by /proc/self/io, {(used['wakeups'] - bare['wakeups']) / records:.2f} wake-ups, "
                f"{(used['cpu_s'] - bare['cpu_s']) / records * 1e6:.0f} us CPU",
                note="Sectors of the block device, journal and inode included; a log without syncs is written back when the kernel likes.",
            )
        )  # fmt: skip
    idle, still = seen["ours group", 0.0], seen["bare", 0.0]
    figures.append(
        Figure(
            GROUP, "wake-ups a minute of a recorder that waits", (idle["wakeups"] - still["wakeups"]) * 60 / seconds, "", "<=", 2.0,
            ours=f"{idle['written']:.0f} bytes written, {idle['cpu_s'] * 1e3:.1f} ms CPU in {seconds:.0f} s",
            note="One look a minute whether the segment is due; nothing else runs and nothing is written. What is left is that one look.",
        )
    )  # fmt: skip
    return figures


def against(
    name: str, ours: float, peer: float, records: float, unit: str, note: str, limit: float = 1.0, sense: Sense = ">="
) -> Figure:
    said = f"peer {peer / records:,.2f}, ours {ours / records:,.2f} {unit}"
    return Figure(GROUP, name, peer / ours if ours else None, "x", sense, limit, ours=said, note=note)


def measure(args: argparse.Namespace) -> list[Figure]:
    seconds = 120.0 if args.full else 30.0
    return figures_of(observe(args.work, seconds), seconds)


if __name__ == "__main__":
    main(measure)
