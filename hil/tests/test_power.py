# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The plug is pulled: whatever was acknowledged is there, and nothing else is claimed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import blocklog
from harness.bench import ROOT, Device
from harness.qemu import HilQemuDriver
from harness.strategy import State
from test_kits import kits_at_the_vendor

SYNC_EVERY = '[record]\nsync = "every"\n'
AREA = 127 * 1024 * 1024  # the first byte behind the file system of the data disk


def record_until_the_plug_is_pulled(device: Device, after_s: float) -> list[int]:
    """Numbers that the application saw before the power went."""
    process = subprocess.Popen(
        ssh_command(device, "runuser -u edgeprov -- /usr/lib/edgeprov/hil-workload 100000"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    numbers = [int(process.stdout.readline())]
    timer = threading.Timer(after_s, device.strategy.cut_power)
    timer.start()
    numbers += [int(line) for line in process.stdout if line.endswith("\n")]
    timer.join()
    process.kill()
    process.wait()
    return numbers


def ssh_command(device: Device, command: str) -> list[str]:
    """A command of its own connection: labgrid's runs one at a time and waits for its end."""
    service = device.strategy.ssh.networkservice
    return [
        "ssh", "-i", os.environ["LG_KEY"], "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=2", "-p", str(service.port), "-l", "root",
        service.address, command,
    ]  # fmt: skip


@pytest.mark.smoke
def test_a_power_cut_while_recording_loses_no_acknowledged_record(device: Device, counts: dict[str, int]) -> None:
    chance = random.Random(os.environ.get("LG_SEED", "1"))
    rounds = {"smoke": 1, "full": 20, "soak": 200}[os.environ.get("LG_LEVEL", "smoke")]
    acknowledged: list[int] = []
    for _ in range(rounds):
        device.settings(SYNC_EVERY)
        numbers = record_until_the_plug_is_pulled(device, chance.uniform(0.2, 3.0))
        acknowledged += numbers
        counts["faults injected"] += 1
        counts["records acknowledged"] += len(numbers)
        device.strategy.transition("booted")
        device.set_clock()
        device.strategy.status = State.online
    device.edgeprov("seal")
    device.edgeprov("upload")
    device.vendor.verify("--device", device.serial)
    proved = {n for kit in kits_at_the_vendor(device) if kit["records"] for n in range(kit["first"], kit["last"] + 1)}
    lost = set(acknowledged) - proved
    counts["records lost"] += len(lost)
    assert not lost


@pytest.mark.smoke
@pytest.mark.virtual
def test_every_moment_of_recording_survives_a_power_cut(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int], tmp_path: Path
) -> None:
    device = make_device(like=saved, resume=False)
    power = device.strategy.power
    assert isinstance(power, HilQemuDriver)
    before, log = power.log_writes()
    device.strategy.transition("booted")
    device.set_clock()
    device.settings(SYNC_EVERY)
    numbers = device.workload(60, "/dev/vdb", str(AREA))
    assert len(numbers) == 60
    device.edgeprov("seal")
    device.strategy.cut_power()

    most = {"smoke": 24, "full": 200, "soak": 1000}[os.environ.get("LG_LEVEL", "smoke")]
    with subprocess.Popen(
        [str(ROOT / ".venv/device/bin/python"), str(ROOT / "hil/harness/judge.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as judge:  # fmt: skip
        assert judge.stdin is not None
        assert judge.stdout is not None
        for number, point in enumerate(blocklog.points(before, log, tmp_path, most=most, seed=1)):
            folder = tmp_path / f"state-{number}"
            blocklog.unpack(point.image, folder)
            judge.stdin.write(f"{folder}\n")
            judge.stdin.flush()
            answer = json.loads(judge.stdout.readline())
            counts["faults injected"] += 1
            where = f"{point.image.name}, {point.acknowledged} acknowledged: {answer}"
            assert "error" not in answer, where
            assert answer["whole"], where
            sealed = max((int(kit["last"]) for kit in answer["kits"] if kit["last"]), default=0)
            found = max(answer["last"], sealed)
            counts["records lost"] += max(0, point.acknowledged - found)
            counts["false claims"] += max(0, found - numbers[-1])
            assert found >= point.acknowledged, where
            assert found <= numbers[-1], f"a record that never was: {where}"
        judge.stdin.close()
    counts["records acknowledged"] += len(numbers)
