# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The plug is pulled: whatever was acknowledged is there, and nothing else is claimed."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.activities import Activities, ssh_command
from harness.bench import Device
from harness.blocklog import Replay
from harness.moments import Stage, Story, confirmations, judge_moment, judging
from harness.qemu import HilQemuDriver
from test_kits import kits_at_the_vendor
from test_models import NAME, publish
from test_tpm_faults import boot

SYNC_EVERY = '[record]\nsync = "every"\n'
AREA = 127 * 1024 * 1024  # the first byte behind the file system of the data disk
EVERY = 1_000_000
COUNT = 60
LEVEL = os.environ.get("LG_LEVEL", "smoke")
MOST_S = 60 * float(os.environ.get("LG_MINUTES", "inf"))  # a short soak


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


def proved(device: Device) -> set[int]:
    """Records of this device that the vendor holds, after it has verified every kit."""
    device.vendor.verify("--device", device.serial)
    kits = [kit for kit in kits_at_the_vendor(device) if kit["records"]]
    assert all(kit["records"] == kit["last"] - kit["first"] + 1 for kit in kits), "a kit with a hole"
    return {n for kit in kits for n in range(kit["first"], kit["last"] + 1)}


@pytest.mark.smoke
def test_a_power_cut_while_recording_loses_no_acknowledged_record(device: Device, counts: dict[str, int]) -> None:
    device.settings(SYNC_EVERY)
    numbers = record_until_the_plug_is_pulled(device, 2.0)
    counts["faults injected"] += 1
    counts["records acknowledged"] += len(numbers)
    boot(device)
    device.edgeprov("seal")
    device.edgeprov("upload")
    lost = set(numbers) - proved(device)
    counts["records lost"] += len(lost)
    assert not lost


@pytest.mark.full
@pytest.mark.virtual
@pytest.mark.timeout(24 * 3600)
def test_power_cuts_at_random_times_leave_the_state_before_or_after(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int], notes: list[str], tmp_path: Path
) -> None:
    """In the manner of OSTree's tests: an activity is measured once, then cut at any time up to 1.1 times that."""
    cuts = {"smoke": 5, "full": 20, "soak": 200}[LEVEL]
    chance = random.Random(os.environ.get("LG_SEED", "1"))
    seen: Counter[tuple[str, str]] = Counter()
    with judging(tmp_path) as judge:
        activities = Activities(device, virtual, lambda version: publish(device.vendor, tmp_path, version), NAME, judge)
        device.settings(SYNC_EVERY)
        activities.measure()
        began = time.monotonic()
        for number in range(cuts):
            if time.monotonic() - began > MOST_S:
                break
            activity = activities.names[number % len(activities.names)]
            device.settings(SYNC_EVERY)
            verdict, outcome = activities.cut(activity, chance)
            seen[activity, outcome] += 1
            counts["faults injected"] += 1
            counts["records lost"] += verdict.lost
            assert not verdict.problems, f"cut {number + 1}, {activity} ({outcome}): {verdict.problems}"
            boot(device)
    notes += [
        f"power cuts while {activity}: {number} {outcome}" for (activity, outcome), number in sorted(seen.items())
    ]
    counts["records acknowledged"] += len(activities.acknowledged)
    device.edgeprov("seal")
    device.edgeprov("upload")
    lost = activities.acknowledged - proved(device)
    counts["records lost"] += len(lost)
    assert not lost
    assert '"forks": 0' in device.vendor.audit().text


@pytest.mark.smoke
@pytest.mark.virtual
@pytest.mark.timeout(24 * 3600)
def test_every_moment_of_recording_sealing_uploading_installing_and_switching_survives_a_power_cut(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int], notes: list[str], tmp_path: Path
) -> None:
    flushes, others = {"smoke": (60, 30), "full": (EVERY, 400), "soak": (EVERY, 4000)}[LEVEL]
    device = make_device(like=saved, resume=False)
    power = device.strategy.power
    assert isinstance(power, HilQemuDriver)
    before, log = power.log_writes()
    boot(device)
    device.settings(SYNC_EVERY)
    power.set_fault("ok", log=str(log), note=str(tmp_path / "confirmed"))
    model = publish(device.vendor, tmp_path, "1.1.0")
    numbers = device.workload(COUNT, "/dev/vdb", str(AREA))
    assert len(numbers) == COUNT
    for stage, command in {
        Stage.SEALED: "seal",
        Stage.UPLOADED: "upload",
        Stage.INSTALLED: f"model install --no-activate {device.registry}/models/{NAME}@{model}",
        Stage.SWITCHED: f"model activate {model}",
    }.items():
        device.run(f"runuser -u edgeprov -- edgeprov {command} && /usr/lib/edgeprov/hil-mark /dev/vdb {AREA} {stage}")
    device.strategy.cut_power()
    assert set(numbers) <= proved(device)

    kits = {kit["digest"]: kit for kit in kits_at_the_vendor(device)}
    story = Story(last=numbers[-1], before=device.vendor.model, after=model)
    story.ranges = {digest: (kit["first"], kit["last"]) for digest, kit in kits.items()}
    signatures = {digest: device.vendor.signatures(kit) for digest, kit in kits.items()}
    assert all(signatures.values())
    tags = {digest: kit["tag"] for digest, kit in kits.items()}
    story.confirmed = confirmations(tmp_path / "confirmed", signatures, tags)
    seen: Counter[tuple[Stage, str]] = Counter()
    replay, began = Replay(before, log), time.monotonic()
    with judging(tmp_path) as judge:
        for point in replay.points(tmp_path, flushes=flushes, others=others, seed=int(os.environ.get("LG_SEED", "1"))):
            done = {stage for stage in Stage if stage <= point.stage}
            verdict = judge_moment(
                judge.ask(point.image), story, acknowledged=set(range(numbers[0], point.acknowledged + 1)), done=done,
                at=point.at,
            )  # fmt: skip
            seen[Stage(point.stage), point.kind] += 1
            counts["faults injected"] += 1
            counts["records lost"] += verdict.lost
            counts["false claims"] += verdict.false_claims
            where = f"{point.kind} at {point.at}, {point.acknowledged} acknowledged, after {Stage(point.stage).name}"
            assert not verdict.problems, f"{where}: {verdict.problems}"
            if time.monotonic() - began > MOST_S:
                break
    counts["records acknowledged"] += len(numbers)
    notes.append(f"replayed {seen.total()} moments of {replay.flushes} flushes and {replay.writes} writes:")
    for stage in Stage:
        kinds = ", ".join(f"{seen[stage, kind]} {kind}" for kind in ("flush", "torn", "cache"))
        notes.append(f"  {'last' if stage is Stage.SWITCHED else 'next'} after {stage.name.lower()}: {kinds}")
    cut_short = time.monotonic() - began > MOST_S
    assert cut_short or all(seen[stage, "flush"] for stage in Stage), "each of the five activities has a flush"
