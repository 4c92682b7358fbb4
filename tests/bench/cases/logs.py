# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One record against the logs that one would write otherwise, each beside the peer that promises the same."""

from __future__ import annotations

import argparse
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgpack

from edgeprov.store.frames import FRAME, RECORD
from tests.bench.harness import Figure, alternate, cpu_s, figure, main, micro, ratios, spread
from tests.bench.loggers import DURATION_NS, LOGS, Log

GROUP = "one record"
ROUNDS = 7
OUTPUT = b"0123456789"
# Records between two calls of sync(): what is buffered is paid for within the round.
BATCH = {"each": 150, "group": 20_000, "write": 5_000}
PEERS = {"json": "JSON lines", "sqlite": "SQLite WAL"}


def timed(log: Log, batch: int) -> Callable[[], float]:
    def work() -> None:
        log.fill(OUTPUT, batch)
        log.sync()

    return lambda: cpu_s(work) / batch


class FloorEach(Log):
    """Only what cannot be left out: the bytes of our row, written and synced."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._row = bytes(49)

    def append(self, _output: bytes) -> None:
        os.write(self._file, self._row)
        os.fdatasync(self._file)

    def sync(self) -> None:
        pass


class FloorGroup(Log):
    """Two clocks, one packed row, one checksum, one copy into the group: no number, lock, check of room or thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._pack = msgpack.Packer(autoreset=True).pack
        self._group = bytearray()

    def fill(self, output: bytes, count: int) -> None:
        pack, crc32, frame, wall_ns, mono_ns = self._pack, zlib.crc32, FRAME.pack, time.time_ns, time.monotonic_ns
        group = self._group
        for _ in range(count):
            row = pack((1, wall_ns(), mono_ns(), DURATION_NS, (output,), None, None))
            group += frame(len(row), crc32(row), RECORD)
            group += row

    def append(self, output: bytes) -> None:
        self.fill(output, 1)

    def sync(self) -> None:
        os.write(self._file, self._group)
        os.fdatasync(self._file)
        self._group.clear()


FLOORS: dict[str, Callable[[Path], Log]] = {"each": FloorEach, "group": FloorGroup}
EACH_NOTE = (
    "A write and a sync per record on both sides: the system calls are nearly all of the cost, and the floor is what these alone take. "
    "Ours sets space aside ahead, which spares the file system a new size at each sync; there is nothing to group, so nothing is left."
)
GROUP_NOTE = (
    "Bound by Python: two clocks, one packed row, one checksum, and what the floor lacks: number, room, queue and one lock. "
    "Rows are framed a group at a time and the syncing thread shares no lock with them; a checksum for a whole group would cost damage a "
    "group instead of a record."
)
SQLITE_NOTE = (
    "In one transaction SQLite inserts in C, without a checksum per record. Where SQLite commits each record, as a log that survives a "
    "crash of the process would, it costs what the line below says."
)
# The budgets of the design stand at the default; where each record is synced, the disk allows no such distance.
PROMISES: dict[str, tuple[str, dict[str, tuple[float | None, str]]]] = {
    "each": ("every record durable", {"json": (1.0, EACH_NOTE), "sqlite": (1.0, EACH_NOTE)}),
    "group": ("at most 0.2 s lost", {"json": (4.0, GROUP_NOTE), "sqlite": (None, SQLITE_NOTE)}),
}


def same_promise(args: argparse.Namespace, promise: str, logs: dict[str, Log]) -> list[Figure]:
    batch = BATCH[promise]
    calls = {who: timed(logs[who], batch) for who in ("ours", *PEERS)}
    calls["floor"] = timed(FLOORS[promise](args.work / "floor"), batch)
    samples = alternate(ROUNDS, calls)
    words, budgets = PROMISES[promise]
    floor = ratios(samples["ours"], samples["floor"])
    figures = [
        figure(
            GROUP, f"{words}: {label} to ours", ratios(samples[who], samples["ours"]), "x", ">=", budgets[who][0],
            ours=f"{label} {micro(samples[who])}, ours {micro(samples['ours'])}; at the floor {micro(samples['floor'])} it would be "
            f"{spread(ratios(samples[who], samples['floor']))[0]:.1f} x",
            note=budgets[who][1],
        )
        for who, label in PEERS.items()
    ]  # fmt: skip
    name = f"{words}: ours to the floor"
    return [*figures, figure(GROUP, name, floor, "x", ours=micro(samples["floor"]), note=budgets["json"][1])]


def weaker(ours: Log, logs: dict[str, Log]) -> list[Figure]:
    """The comparison that looks best and is not like for like: neither side promises what the other does."""
    calls = {"ours": timed(ours, BATCH["group"])}
    calls |= {who: timed(logs[who], BATCH["write"]) for who in PEERS}
    samples = alternate(ROUNDS, calls)
    return [
        figure(
            GROUP, f"{label}, a write per record and no sync, to ours", ratios(samples[who], samples["ours"]), "x",
            ours=f"{label} {micro(samples[who])}, ours {micro(samples['ours'])}",
            note="The peer survives a crash of the process, ours loses up to 0.2 s there; at a power cut the peer loses half a minute, "
            "ours 0.2 s. Shown for information, since neither promises what the other does.",
        )
        for who, label in PEERS.items()
    ]  # fmt: skip


def measure(args: argparse.Namespace) -> list[Figure]:
    figures = []
    opened: dict[str, Log] = {}
    for promise in ("each", "group"):
        opened = {who: LOGS[f"{who} {promise}"](args.work) for who in ("ours", *PEERS)}
        figures += same_promise(args, promise, opened)
        for who in PEERS:
            opened[who].close()
        if promise == "each":
            opened["ours"].close()
    figures += weaker(opened["ours"], {who: LOGS[f"{who} write"](args.work) for who in PEERS})
    opened["ours"].close()
    return figures


if __name__ == "__main__":
    main(measure)
