# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Replays a log of a disk's writes: the disk as a power cut would have left it at any moment.

The log is written by QEMU's blklogwrites while a workload runs. A point is the state after a flush,
or in the middle of a write (its first half is on the disk, the rest is not).

Spec: Linux Documentation/admin-guide/device-mapper/log-writes.rst.
"""

from __future__ import annotations

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
    """One entry of the log."""

    offset: int
    data: bytes
    flags: int

    @property
    def acknowledged(self) -> int | None:
        """The record number in an acknowledgement; None for any other write."""
        return int.from_bytes(self.data[16:24], "little") if self.data.startswith(MARK) else None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One moment at which the power goes: the disk's image, and the last record that was acknowledged."""

    image: Path
    acknowledged: int
    torn: bool


def read_log(path: Path) -> Iterator[Write]:
    """The writes in order."""
    with path.open("rb") as log:
        magic, _, entries, sector = struct.unpack("<QQQI", log.read(28))
        if magic != MAGIC:
            raise BenchError(f"{path} is no log of writes")
        log.seek(sector)
        for _ in range(entries):
            offset, count, flags, _ = struct.unpack("<QQQQ", log.read(sector)[:32])
            data = b"" if flags & DISCARD else log.read(count * sector)
            yield Write(offset=offset * sector, data=data, flags=flags)


def points(disk: Path, log: Path, folder: Path, *, most: int, seed: int) -> Iterator[Point]:
    """Disk images at up to ``most`` moments, spread over the run; each is removed after its use.

    Args:
        disk: The disk before the first write of the log; it is changed.
        log: The log.
        folder: For the images.
        most: How many.
        seed: Chooses among the moments.
    """
    writes = list(read_log(log))
    # Boot and start-up do not interest; from the first acknowledgement on, every moment may.
    first = next((number for number, write in enumerate(writes) if write.acknowledged is not None), 0)
    flushes = [number for number, write in enumerate(writes) if write.flags & FLUSH and number >= first]
    inside = [number for number, write in enumerate(writes) if len(write.data) > 512 and number >= first]
    chance = random.Random(seed)
    chosen = set(chance.sample(flushes, min(len(flushes), (most + 1) // 2)))
    torn = set(chance.sample(inside, min(len(inside), most // 2)))
    acknowledged = 0
    with disk.open("r+b") as target:
        for number, write in enumerate(writes):
            target.seek(write.offset)
            if number in torn:
                half = len(write.data) // 2 // 512 * 512
                target.write(write.data[:half])
                target.flush()
                yield from _copy(disk, folder / f"torn-{number}.raw", acknowledged, torn=True)
                target.seek(write.offset)
            target.write(write.data)
            acknowledged = max(acknowledged, write.acknowledged or 0)
            if number in chosen:
                target.flush()
                yield from _copy(disk, folder / f"flush-{number}.raw", acknowledged, torn=False)


def _copy(disk: Path, image: Path, acknowledged: int, *, torn: bool) -> Iterator[Point]:
    run("cp", "--sparse=always", "--reflink=auto", disk, image)
    yield Point(image=image, acknowledged=acknowledged, torn=torn)
    image.unlink(missing_ok=True)


def unpack(image: Path, folder: Path) -> None:
    """Repair the file system as the boot would, and copy its files out; no mount, no root."""
    try:
        run("e2fsck", "-p", image)
    except BenchError:
        run("e2fsck", "-n", "-f", image)  # 1 means: repaired; what is not clean now is a finding
    folder.mkdir(parents=True)
    run("debugfs", "-R", f"rdump / {folder}", image)
