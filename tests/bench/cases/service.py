# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device service as a process of its own: its memory and wake-ups, and an application beside it.

Applications are those of load_application.py: whole processes that open the device, load the verified model and run it.
This process imports nothing of the project: a child's peak memory counts what its parent had.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

from tests.bench.harness import PACKAGES, Figure, alternate, figure, main, micro, missing, tool
from tests.bench.real_device import RealDevice

GROUP = "device service"
MEMORY = "resident memory of the service, after three applications"
LOAD = "memory of an application beside the service over the bare interpreter"
RUNS = 20_000
IDLE_S = 10
SETTINGS = '[record]\ncapture = "none"\n'


def status(pid: int, word: str) -> float:
    """A figure of /proc/PID/status, in MB."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(word)]
    return int(line.split()[1]) * 1024 / 1e6


def wakeups(pid: int) -> int:
    """Voluntary context switches of all threads: each is one wait that ended."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (thread / "status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
    return total


def started(device: RealDevice) -> subprocess.Popen[bytes]:
    """The service, once it listens."""
    service = device.start("edgeprov_command.py", *device.search_path, "serve")
    end = time.monotonic() + 30
    while not (device.folder / "run" / "device.sock").exists():
        if service.poll() is not None or time.monotonic() > end:
            raise RuntimeError("the device service did not start")
        time.sleep(0.05)
    return service


def whole_model(device: RealDevice) -> list[Figure]:
    """Memory with a model of 4 MB."""
    image = device.search_path[1]
    device.boot_check()
    service = started(device)
    try:
        verified = []
        bare = []
        for _ in range(4):
            verified.append(device.process("load_application.py", "verified", PACKAGES, image, "1").rss_mb)
            bare.append(device.process("load_application.py", "bare", PACKAGES, device.model, "1").rss_mb)
        resident = status(service.pid, "VmRSS")
        before = wakeups(service.pid)
        time.sleep(IDLE_S)
        idle = wakeups(service.pid) - before
    finally:
        service.terminate()
        service.wait()
    over = [a - b for a, b in zip(verified[1:], bare[1:], strict=True)]
    return [
        Figure(
            GROUP, MEMORY, resident, "MB", "<=", 16, headline="device service: resident memory",
            note="Of it 8 MB are Python, 4 the OpenSSL of hashlib (pages that all processes share), 2 typing and enum, 5 modules of edgeprov. "
            "It does not grow with the model: weights are copied to their memory file in pieces.",
        ),
        Figure(
            GROUP, f"wake-ups of the idle service in {IDLE_S} s", float(idle), "", "<=", 0,
            note="Voluntary context switches of all its threads. An application that appends wakes it; nothing else does.",
        ),
        figure(
            GROUP, LOAD, over, "MB", "<=", 3, headline="verified load beside the service: memory over numpy and the interpreter",
            ours=f"verified {verified[-1]:.1f} MB, bare {bare[-1]:.1f} MB",
            note="A model of 4 MB in a sealed memory file, whose pages count once an application and are there once a device. Modules of a spool "
            "of its own are not loaded.",
        ),
    ]  # fmt: skip


def small_model(device: RealDevice) -> list[Figure]:
    """CPU of a recorded inference with a small model: the service's own CPU apart, and both."""
    image = device.search_path[1]
    device.boot_check()
    service = started(device)
    ticks = os.sysconf("SC_CLK_TCK")

    def of_service() -> float:
        fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    def one(kind: str, place: str | Path) -> float:
        few = device.process("load_application.py", kind, PACKAGES, place, "1").cpu_s
        many = device.process("load_application.py", kind, PACKAGES, place, str(RUNS + 1)).cpu_s
        return (many - few) / RUNS

    try:
        begun = of_service()
        samples = alternate(7, {"bare": lambda: one("bare", device.model), "ours": lambda: one("verified", image)})
        served = (of_service() - begun) / (8 * (RUNS + 2))
    finally:
        service.terminate()
        service.wait()
    over = [(a - b) * 1e6 for a, b in zip(samples["ours"], samples["bare"], strict=True)]
    return [
        figure(
            GROUP, "recording one inference, small tensors, over the bare invoke", over, "us CPU", "<=", 5,
            headline="recording one inference beside the service, over the bare invoke",
            ours=f"ours {micro(samples['ours'])}, bare {micro(samples['bare'])}; the service copies with {served * 1e6:.2f} us more",
            note="Whole processes of an application: 20,001 runs less one run, ours and the bare interpreter in turn.",
        )
    ]  # fmt: skip


def measure(args: argparse.Namespace) -> list[Figure]:
    if tool("swtpm") is None:
        return [missing(GROUP, MEMORY, "MB", "<=", 16, "swtpm is not installed")]
    with RealDevice(args.work / "whole", settings=SETTINGS) as device:
        figures = whole_model(device)
    with RealDevice(args.work / "small", settings=SETTINGS, model_bytes=16_000) as device:
        return figures + small_model(device)


if __name__ == "__main__":
    main(measure)
