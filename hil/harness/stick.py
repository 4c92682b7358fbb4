# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A USB stick in the technician's hand: put into the device, pulled out without a word, read at the desk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from harness.bench import Device
from harness.qemu import PATIENCE_S, BenchError, HilQemuDriver, run

WHERE: Final = "/run/stick"
_LIMIT: Final = "stick-limit"


class Stick:
    """One stick: a disk image with ext4 behind QEMU's usb-storage.

    Args:
        power: The machine that it goes into.
        image: The file to make; the fixture of the device removes ``stick.raw``.
        content: Folder that lies on it at first.
        writes_per_s: A slow one, so that a hand can be quicker; 0 for no limit.
    """

    def __init__(
        self, power: HilQemuDriver, image: Path, *, content: Path | None = None, writes_per_s: int = 0
    ) -> None:
        assert power.qmp is not None
        self._qmp = power.qmp
        self._image = image
        run("truncate", "-s", "32M", image)
        run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0", *(("-d", content) if content else ()), image)
        file = {"driver": "file", "filename": str(image)}
        self._qmp.run("blockdev-add", **{"driver": "raw", "node-name": "stick-image", "file": file})
        limits = {"iops-write": writes_per_s}
        self._qmp.run("object-add", **{"qom-type": "throttle-group", "id": _LIMIT, "limits": limits})
        slow = {"driver": "throttle", "node-name": "stick", "throttle-group": _LIMIT, "file": "stick-image"}
        self._qmp.run("blockdev-add", **slow)

    def plug_in(self, device: Device, *, read_only: bool = False) -> None:
        """Put it in and mount it at WHERE, for the service user."""
        self._qmp.run("device_add", driver="usb-storage", id="stick", drive="stick", bus="usb.0")
        option = "-r" if read_only else ""
        # The kernel gives the next name while somebody still holds the one before.
        device.run(
            f"mkdir -p {WHERE}; for i in $(seq 600); do disk=$(ls /dev/sd? 2>/dev/null | tail -n 1); "
            f'test -n "$disk" && mount {option} "$disk" {WHERE} 2>/dev/null && break; sleep 1; done; '
            f"mountpoint -q {WHERE}" + ("" if read_only else f" && chown edgeprov {WHERE}")
        )

    def pull(self) -> None:
        """Out it goes, whatever is being written."""
        self._qmp.run("device_del", id="stick")
        deadline = time.monotonic() + PATIENCE_S
        while any(item["name"] == "stick" for item in self._qmp.run("qom-list", path="/machine/peripheral")):
            if time.monotonic() > deadline:
                raise BenchError("QEMU does not let the stick go")
            time.sleep(0.05)

    def wait_for_writes(self, count: int) -> None:
        """Until so many writes have reached it since it was plugged in."""
        deadline = time.monotonic() + PATIENCE_S
        while self.writes() < count:
            if time.monotonic() > deadline:
                raise BenchError("nothing more is written to the stick")
            time.sleep(0.02)

    def at_the_desk(self, folder: Path) -> Path:
        """What lies on it, as a folder; it must not be plugged in."""
        folder.mkdir()
        run("e2fsck", "-p", self._image)
        run("debugfs", "-R", f"rdump / {folder}", self._image)
        return folder

    def writes(self) -> int:
        """How many have reached it since it was plugged in."""
        disks = self._qmp.run("query-blockstats")
        return next(int(disk["stats"]["wr_operations"]) for disk in disks if "/stick/" in f"{disk.get('qdev', '')}/")
