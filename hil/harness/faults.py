# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What happens to a device from outside: its TPM on another host, its disks in another computer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.qemu import PATIENCE_S, BenchError, HilQemuDriver, free_port, run


@contextlib.contextmanager
def tpm_on_the_bench(state: Path) -> Iterator[Callable[..., str]]:
    """The TPM of a device that is off, answering to tpm2-tools here; yields how to run one of them."""
    port = next(port for port in iter(free_port, None) if port < 65535)
    server = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state},mode=0600",
         "--server", f"type=tcp,port={port},bindaddr=127.0.0.1",
         "--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1",
         "--flags", "not-need-init,startup-clear"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:host=127.0.0.1,port={port}"}

    def tool(*words: str, accept: tuple[int, ...] = (0,)) -> str:
        result = subprocess.run(list(words), env=environment, capture_output=True, text=True, check=False)
        if result.returncode not in accept:
            raise BenchError(f"{' '.join(words)}: {result.stderr.strip()[-300:]}")
        return result.stdout

    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(BenchError):
                tool("tpm2_getcap", "properties-fixed")
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise BenchError("swtpm does not answer on the bench")
            time.sleep(0.1)
        yield tool
        tool("tpm2_shutdown", "-c")
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def slow_tpm(power: HilQemuDriver, seconds: float) -> Iterator[None]:
    """The TPM stands still for a while, as some do when they write their flash."""
    process = power._swtpm
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    waker = subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {process.pid}"])
    try:
        yield
    finally:
        waker.wait()


@contextlib.contextmanager
def disk_in_another_computer(power: HilQemuDriver, name: str) -> Iterator[Path]:
    """The ``root`` or ``data`` disk of a device that is off, as a raw file to change."""
    assert power.folder is not None
    disk, raw = power.folder / f"{name}.qcow2", power.folder / f"{name}-outside.raw"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
    with contextlib.suppress(BenchError):
        run("e2fsck", "-p", raw)  # replays the journal, as the next mount would
    yield raw
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    raw.unlink()


def debugfs(image: Path, command: str, *, write: bool = False) -> str:
    """One command of debugfs, which looks into an ext4 image without mounting it."""
    return run("debugfs", *(["-w"] if write else []), "-R", command, image)


def overwrite_page(image: Path, path: str, page: int = 0, *, wholly: bool = False) -> None:
    """Change one byte of a file on the medium itself, or a whole page: the file system and the kernel do not notice."""
    blocks = [int(word) for word in re.findall(r"\b\d+\b", debugfs(image, f"blocks {path}"))]
    if not blocks:
        raise BenchError(f"{path} has no blocks")
    offset = blocks[page] * 4096 + (0 if wholly else 100)
    with image.open("r+b") as disk:
        disk.seek(offset)
        old = disk.read(1)
        disk.seek(offset)
        disk.write(b"\xff" * 4096 if wholly else bytes([old[0] ^ 0x55]))


def keep_tpm(power: HilQemuDriver, name: str) -> Path:
    """A copy of the TPM's state, to be put back with `put_back`."""
    assert power.folder is not None
    copy = power.folder / name
    shutil.copytree(power.folder / "tpm", copy)
    return copy


def put_back(power: HilQemuDriver, copy: Path) -> None:
    """The TPM is again as it was when the copy was made."""
    assert power.folder is not None
    shutil.rmtree(power.folder / "tpm")
    shutil.copytree(copy, power.folder / "tpm")


def failing_disk(power: HilQemuDriver) -> None:
    """From now on each write to the data disk fails. It was given as a raw layer by `plain_disk`."""
    assert power.qmp is not None
    rule = {"event": "none", "iotype": "write", "errno": 5, "immediately": True, "once": False}
    power.qmp.run(
        "blockdev-add", **{"driver": "blkdebug", "node-name": "broken", "image": "datafile", "inject-error": [rule]}
    )
    _rewire(power, "broken")


def healed_disk(power: HilQemuDriver) -> None:
    """The data disk works again."""
    _rewire(power, "datafile")


def plain_disk(power: HilQemuDriver) -> None:
    """Give the data disk as a raw layer from the next boot on, so that its file can be rewired."""
    image = power.data_image()
    power.data_layers = ["-blockdev", json.dumps(
        {"driver": "raw", "node-name": "data",
         "file": {"driver": "file", "node-name": "datafile", "filename": str(image)}})]  # fmt: skip


def _rewire(power: HilQemuDriver, node: str) -> None:
    assert power.qmp is not None
    power.qmp.run("blockdev-reopen", options=[{"driver": "raw", "node-name": "data", "file": node}])
