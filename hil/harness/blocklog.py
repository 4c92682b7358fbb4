# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Replays a log of a disk's writes: the disk as a power cut would have left it at any moment.

The log is written by QEMU's blklogwrites while a workload runs. A point is one of
    flush   all writes up to a flush, and nothing after it
    torn    the same up to a write, of which the first half arrived
    cache   between two flushes: an arbitrary part of the writes since the last one, for a disk may reorder

Spec: Linux Documentation/admin-guide/device-mapper/log-writes.rst.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.qemu import BenchError, run

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
MARK = b"edgeprov-ack\0\0\0\0"


@dataclass(frozen=True, kw_only=True)
class Write:
    """One entry of the log; ``at`` is where in the log it begins."""

    at: int
    offset: int
    data: bytes
    flags: int

    @property
    def mark(self) -> tuple[int, int] | None:
        """The record number and the stage of an acknowledgement; None for any other write."""
        return (int.from_bytes(self.data[16:24], "little"), self.data[24]) if self.data.startswith(MARK) else None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One moment at which the power goes.

    Attributes:
        kind: ``flush``, ``torn`` or ``cache``.
        image: The disk as it is left.
        acknowledged: The last record that the application had been told of.
        stage: The last stage that had returned to its caller; 0 for none.
        at: How much of the log had been written.
    """

    kind: str
    image: Path
    acknowledged: int
    stage: int
    at: int


def read_log(path: Path) -> Iterator[Write]:
    """The writes in order."""
    with path.open("rb") as log:
        magic, _, entries, sector = struct.unpack("<QQQI", log.read(28))
        if magic != MAGIC:
            raise BenchError(f"{path} is no log of writes")
        log.seek(sector)
        for _ in range(entries):
            at = log.tell()
            offset, count, flags, _ = struct.unpack("<QQQQ", log.read(sector)[:32])
            data = b"" if flags & DISCARD else log.read(count * sector)
            yield Write(at=at, offset=offset * sector, data=data, flags=flags)


class Replay:
    """A log with the moments that can be replayed.

    Args:
        disk: The disk before the first write of the log; it is changed.
        log: The log.

    Attributes:
        flushes: How many flushes there are from the first acknowledgement on.
        writes: How many writes.
    """

    def __init__(self, disk: Path, log: Path) -> None:
        self._disk = disk
        self._log = list(read_log(log))
        # Boot and start-up do not interest; from the first acknowledgement on, every moment may.
        first = next((number for number, write in enumerate(self._log) if write.mark), len(self._log))
        later = range(first, len(self._log))
        stages = list(itertools.accumulate((write.mark[1] if write.mark else 0 for write in self._log), max))
        self._flushes = [(stages[number], number) for number in later if self._log[number].flags & FLUSH]
        self._inside = [(stages[number], number) for number in later if len(self._log[number].data) > 512]
        self.flushes, self.writes = len(self._flushes), len(self._inside)

    def points(self, folder: Path, *, flushes: int, others: int, seed: int) -> Iterator[Point]:
        """Disk images in ``folder`` at up to so many flushes, and as many torn and reordered moments as ``others``.

        They are shared out evenly among the stages of the run. Each image is removed after its use.
        """
        chance = random.Random(seed)
        chosen = _share(chance, self._flushes, flushes)
        torn = _share(chance, self._inside, (others + 1) // 2)
        cached = _share(chance, self._inside, others // 2)
        image = folder / "moment.raw"
        acknowledged = stage = 0
        pending: list[Write] = []  # since the last flush
        with self._disk.open("r+b") as target:
            for number, write in enumerate(self._log):
                if write.flags & FLUSH:
                    for done in pending:
                        _apply(target, done)
                    pending = []
                    target.flush()
                if number in torn:
                    half = len(write.data) // 2 // 512 * 512
                    cut = Write(at=write.at, offset=write.offset, data=write.data[:half], flags=0)
                    _image(self._disk, image, [*pending, cut])
                    yield Point(kind="torn", image=image, acknowledged=acknowledged, stage=stage, at=write.at)
                pending.append(write)
                if write.mark:
                    acknowledged, stage = max(acknowledged, write.mark[0]), max(stage, write.mark[1])
                if number in cached:
                    _image(self._disk, image, [done for done in pending if done.flags & FUA or chance.random() < 0.5])
                    yield Point(kind="cache", image=image, acknowledged=acknowledged, stage=stage, at=write.at + 1)
                if number in chosen:
                    _image(self._disk, image, pending)
                    yield Point(kind="flush", image=image, acknowledged=acknowledged, stage=stage, at=write.at + 1)
        image.unlink(missing_ok=True)


def _share(chance: random.Random, moments: list[tuple[int, int]], most: int) -> set[int]:
    """Up to ``most`` of (stage, number): the same share of each stage, and what small ones leave for the others."""
    chosen: set[int] = set()
    by_stage = sorted(([n for stage, n in moments if stage == wanted] for wanted in {s for s, _ in moments}), key=len)
    for place, numbers in enumerate(by_stage):
        quota = (most - len(chosen)) // (len(by_stage) - place)
        chosen.update(chance.sample(numbers, min(len(numbers), quota)))
    return chosen


def _apply(target, write: Write) -> None:  # type: ignore[no-untyped-def]
    if write.data:
        target.seek(write.offset)
        target.write(write.data)


def _image(disk: Path, image: Path, writes: list[Write]) -> None:
    run("cp", "--sparse=always", "--reflink=auto", disk, image)
    with image.open("r+b") as target:
        for write in writes:
            _apply(target, write)


def unpack(image: Path, folder: Path) -> None:
    """Repair the file system as the boot would, and copy its files out; no mount, no root."""
    try:
        run("e2fsck", "-p", image)
    except BenchError:
        run("e2fsck", "-n", "-f", image)  # 1 means: repaired; what is not clean now is a finding
    folder.mkdir(parents=True)
    run("debugfs", "-R", f"rdump / {folder}", image)
