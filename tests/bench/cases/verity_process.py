#!/usr/bin/python3
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Times the question for the kernel's fs-verity digest of a file of 1 MB and of one of 1 GB; prints one JSON line.

Runs in a folder of this machine (its argument), or as the first and only process of the hil image, where the kernel
has fs-verity. There the second disk is the folder.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

SIZES = {"small": 1_000_000, "large": 1_000_000_000}
CALLS = 100
POWER_OFF = 0x4321FEDC


def measure(folder: Path) -> dict[str, float]:
    """Median seconds of one call by size, alternating; empty where the file system has no fs-verity."""
    from edgeprov.errors import EdgeprovError
    from edgeprov.store.verity import enable
    from edgeprov.store.verity import measure as kernel_digest

    for name, size in SIZES.items():
        with (folder / name).open("wb") as stream:
            stream.truncate(size)
        try:
            if not enable(folder / name):
                return {}
        except EdgeprovError:
            return {}
    taken: dict[str, list[float]] = {name: [] for name in SIZES}
    for _ in range(CALLS):
        for name, values in taken.items():
            start = time.perf_counter()
            kernel_digest(folder / name)
            values.append(time.perf_counter() - start)
    return {name: sorted(values)[CALLS // 2] for name, values in taken.items()}


def measure_in_image() -> None:
    """As process 1: mount, measure, say it on the console, switch off."""
    try:
        sys.path.insert(0, "/usr/lib/edgeprov/python")
        subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
        subprocess.run(["mount", "-t", "ext4", "/dev/vdb", "/mnt"], check=True)
        print(f"\nVERITY {json.dumps(measure(Path('/mnt')))}", flush=True)
    finally:
        os.sync()
        ctypes.CDLL(None).reboot(POWER_OFF)


if __name__ == "__main__":
    if os.getpid() == 1:
        measure_in_image()
    else:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True)
        print(f"VERITY {json.dumps(measure(folder))}")
