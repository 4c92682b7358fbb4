# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The five things that change a device's disk, each of which can be cut short by its plug.

A cut falls at a random time after the first write of the activity (starting Python, which takes most of the time
under emulation, changes nothing), up to 1.1 times what the whole activity took when it was measured.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from typing import Any

from harness.bench import ROOT, Device
from harness.moments import Judge, Stage, Story, Verdict, judge_moment
from harness.qemu import HilQemuDriver

KIT = ROOT / "hil/model/kit"
EDGEPROV = "runuser -u edgeprov -- edgeprov"
WORKLOAD = "runuser -u edgeprov -- /usr/lib/edgeprov/hil-workload"
BATCH = 20
ALWAYS = 2**62  # later than any confirmation


def ssh_command(device: Device, command: str) -> list[str]:
    """A command of its own connection: labgrid's runs one at a time and waits for its end."""
    service = device.strategy.ssh.networkservice
    return [
        "ssh", "-i", os.environ["LG_KEY"], "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-o", "ServerAliveInterval=60", "-p", str(service.port), "-l", "root",
        service.address, command,
    ]  # fmt: skip


class Activities:
    """Runs the activities on a device, cuts them, and judges what is left on the disk.

    Args:
        device: Running and enrolled.
        power: Its plug.
        publish: Publishes a version of the model; gives its digest.
        name: Name of the model in the registry.
        judge: Looks at the disk.

    Attributes:
        names: The activities.
        acknowledged: Records that the application was told of.
    """

    names = ("recording", "sealing", "uploading", "installing", "switching")

    def __init__(
        self, device: Device, power: HilQemuDriver, publish: Callable[[str], str], name: str, judge: Judge
    ) -> None:
        self._device, self._power, self._publish, self._judge = device, power, publish, judge
        self._models = f"{device.registry}/models/{name}@"
        self._took: dict[str, float] = {}
        self._active = device.vendor.model
        self._versions = self._signatures = 0
        self._target = ""
        self._state: dict[str, Any] = {}
        self.acknowledged: set[int] = set()

    def measure(self) -> None:
        """Let each activity run to its end once, as it does on a good day."""
        for activity in self.names:
            process = self._begin(activity)
            began = time.monotonic()
            self._read(process)
            assert process.returncode == 0, f"{activity} ended with {process.returncode}"
            self._took[activity] = time.monotonic() - began
        self._active = self._target
        self._state = {"numbers": [], "kits": [], "listed": [self._target]}
        self._signatures = min(len(self._device.vendor.signatures(kit)) for kit in self._kits_in_the_registry())
        assert self._signatures

    def cut(self, activity: str, chance: random.Random) -> tuple[Verdict, str]:
        """Pull the plug at a random time; what the disk shows, and whether it is as before or after."""
        self._prepare(activity)
        process = self._begin(activity)
        time.sleep(chance.uniform(0, 1.1 * self._took[activity]))
        self._device.strategy.cut_power()
        self._read(process)
        done = {Stage.INSTALLED} if activity == "switching" else set()
        if process.returncode == 0:
            done.add(Stage(self.names.index(activity)))
        answer = self._judge.ask(self._power.data_image())
        story = Story(last=ALWAYS, before=self._active, after=self._target)
        for kit in self._kits_in_the_registry():
            # A kit counts once the registry has all of it; before that it must still wait on the device.
            if len(self._device.vendor.signatures(kit)) >= self._signatures:
                story.confirmed[kit["digest"]] = 0
                story.ranges[kit["digest"]] = (kit["first"], kit["last"])
        verdict = judge_moment(answer, story, acknowledged=self.acknowledged, done=done, at=ALWAYS)
        if verdict.problems:
            return verdict, "neither"
        outcome = self._outcome(activity, answer)
        self._state = answer
        self._active = answer["active"] or self._active
        return verdict, outcome

    def _prepare(self, activity: str) -> None:
        """Make sure that it has something to do."""
        nothing_waits = not any(kit["last"] for kit in self._state["kits"])
        needs_records = activity == "sealing" or (activity == "uploading" and nothing_waits)
        if needs_records and not self._state["numbers"]:
            self._read(self._begin("recording"))
        if activity == "uploading" and nothing_waits:
            self._device.edgeprov("seal")
        if activity == "switching" and self._target not in self._state["listed"]:
            self._device.edgeprov("model", "install", "--no-activate", self._models + self._target)

    def _begin(self, activity: str) -> subprocess.Popen[str]:
        """Start it, and wait until it does its first write or opens its first connection."""
        if activity == "installing":
            self._versions += 1
            self._target = self._publish(f"1.{self._versions}.0")
        command = {
            "recording": f"{WORKLOAD} {BATCH}",
            "sealing": f"{EDGEPROV} seal",
            "uploading": f"{EDGEPROV} upload",
            "installing": f"{EDGEPROV} model install --no-activate {self._models}{self._target}",
            "switching": f"{EDGEPROV} model activate {self._target}",
        }[activity]
        self._device.run("sync")
        before = self._work_done()
        process = subprocess.Popen(
            ssh_command(self._device, command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        while self._work_done() == before and process.poll() is None:
            time.sleep(0.01)
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        """Wait for its end; the numbers among its output are records that were acknowledged."""
        assert process.stdout is not None
        lines = [line for line in process.stdout if line.endswith("\n")]
        self.acknowledged.update(int(line) for line in lines if line.strip().isdigit())
        process.wait()

    def _work_done(self) -> tuple[int, int]:
        """Writes to the data disk, and connections to the registry."""
        assert self._power.qmp is not None
        disks = self._power.qmp.run("query-blockstats")
        writes = next(int(disk["stats"]["wr_operations"]) for disk in disks if "disk1" in disk.get("qdev", ""))
        return writes, self._power.connections()

    def _kits_in_the_registry(self) -> list[dict[str, Any]]:
        vendor = self._device.vendor
        vendor.fleet("sync", vendor.registry, "--fleet", vendor.fleet_dir)
        found = vendor.fleet("query", "--fleet", vendor.fleet_dir, "--device", self._device.serial).items
        return [item for item in found if item["type"] == "kit" and item["records"]]

    def _outcome(self, activity: str, answer: dict[str, Any]) -> str:
        waiting = [kit for kit in answer["kits"] if kit["last"]]
        if activity == "recording":
            new = len(set(answer["numbers"]) - set(self._state["numbers"]))
            return {0: "before", BATCH: "after"}.get(new, "between two records")
        sealed = {n for kit in waiting for n in range(kit["first"], kit["last"] + 1)}
        over = {
            "sealing": set(answer["numbers"]) <= sealed,
            "uploading": not waiting,
            "installing": self._target in answer["listed"],
            "switching": answer["active"] == self._target,
        }[activity]
        return "after" if over else "before"
