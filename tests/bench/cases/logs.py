# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One record against the logs that one would write otherwise, each beside the peer that promises the same."""

from __future__ import annotations

import argparse
import os
import time
import zlib
from collections.abc import Callable

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


def timed(append: Callable[[bytes], object], sync: Callable[[], object], batch: int) -> Callable[[], float]:
    def work() -> None:
        for _ in range(batch):
            append(OUTPUT)
        sync()

    return lambda: cpu_s(work) / batch


def floor_each(args: argparse.Namespace) -> tuple[Callable[[bytes], object], Callable[[], object]]:
    """Only what cannot be left out: the bytes of our row, written and synced."""
    file = os.open(args.work / "floor", os.O_WRONLY | os.O_CREAT)
    row = bytes(49)

    def append(_output: bytes) -> None:
        os.write(file, row)
        os.fdatasync(file)

    return append, lambda: None


def floor_group(args: argparse.Namespace) -> tuple[Callable[[bytes], object], Callable[[], object]]:
    """Two clocks, one packed row, one checksum, one copy into the group: no number, lock, check of room or thread."""
    file = os.open(args.work / "floor", os.O_WRONLY | os.O_CREAT)
    pack, crc32, wall_ns, mono_ns = msgpack.Packer(autoreset=True).pack, zlib.crc32, time.time_ns, time.monotonic_ns
    frame = FRAME.pack
    group = bytearray()

    def append(output: bytes) -> None:
        row = pack((1, wall_ns(), mono_ns(), DURATION_NS, (output,), None, None))
        group.extend(frame(len(row), crc32(row), RECORD))
        group.extend(row)

    def sync() -> None:
        os.write(file, group)
        os.fdatasync(file)
        group.clear()

    return append, sync


FLOORS = {"each": floor_each, "group": floor_group}
EACH_NOTE = (
    "A write and a sync per record on both sides: the system calls are nearly all of the cost, and the floor is what these alone take. "
    "Ours sets space aside ahead, which spares the file system a new size at each sync; there is nothing to group, so nothing is left."
)
GROUP_NOTE = (
    "Both gather records in memory and sync every 0.2 s, the default, so no system call is counted per record. Ours is two clocks, "
    "one packed row, one checksum and two locks; the floor is what is left without number, locks and room."
)
# The budgets of the design stand at the default; where each record is synced, the disk allows no such distance.
PROMISES = {
    "each": ("every record durable", EACH_NOTE, {"json": 1.0, "sqlite": 1.0}),
    "group": ("at most 0.2 s lost", GROUP_NOTE, {"json": 4.0, "sqlite": 8.0}),
}


def same_promise(args: argparse.Namespace, promise: str, logs: dict[str, Log]) -> list[Figure]:
    batch = BATCH[promise]
    calls = {who: timed(logs[who].append, logs[who].sync, batch) for who in ("ours", *PEERS)}
    calls["floor"] = timed(*FLOORS[promise](args), batch)
    samples = alternate(ROUNDS, calls)
    words, note, limits = PROMISES[promise]
    floor = ratios(samples["ours"], samples["floor"])
    figures = [
        figure(
            GROUP, f"{words}: {label} to ours", ratios(samples[who], samples["ours"]), "x", ">=", limits[who],
            headline=f"one record, {label} to ours, {words}" if promise == "group" else "",
            ours=f"{label} {micro(samples[who])}, ours {micro(samples['ours'])}; at the floor {micro(samples['floor'])} it would be "
            f"{spread(ratios(samples[who], samples['floor']))[0]:.1f} x",
            note=note,
        )
        for who, label in PEERS.items()
    ]  # fmt: skip
    return [*figures, figure(GROUP, f"{words}: ours to the floor", floor, "x", ours=micro(samples["floor"]), note=note)]


def weaker(ours: Log, logs: dict[str, Log]) -> list[Figure]:
    """The comparison that looks best and is not like for like: neither side promises what the other does."""
    calls = {"ours": timed(ours.append, ours.sync, BATCH["group"])}
    calls |= {who: timed(logs[who].append, logs[who].sync, BATCH["write"]) for who in PEERS}
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
