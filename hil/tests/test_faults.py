# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TPM and model go wrong: the device says so, keeps its records and claims nothing false."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.bench import Device
from harness.qemu import HilQemuDriver
from harness.strategy import State
from test_kits import infer, seal

UNAVAILABLE = 21


@pytest.mark.smoke
@pytest.mark.virtual
def test_without_its_tpm_the_device_boots_and_runs_no_model(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int]
) -> None:
    device = make_device(like=saved, resume=False, without_tpm=True)
    counts["faults injected"] += 1
    device.strategy.transition("booted")
    assert device.run("systemctl is-active edgeprov-boot-check edgeprov-models.target", accept=None).text.split() == [
        "failed",
        "inactive",
    ]
    assert device.edgeprov("boot-check", accept=(UNAVAILABLE,)).item("error")["error"] == "TpmUnavailable"
    refused = device.edgeprov(
        "infer", "--input", "/usr/share/edgeprov/test_cases.npz", "--array", "X", "--quantize", accept=(55, UNAVAILABLE)
    )
    assert "Traceback" not in refused.text
    assert device.run("ls /var/lib/edgeprov/tpm").text.find("tpm2-00.permall") < 0, "no simulator took its place"


@pytest.mark.smoke
@pytest.mark.virtual
def test_a_tpm_that_dies_keeps_the_records_waiting(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    infer(device, counts)
    virtual.kill_tpm()
    counts["faults injected"] += 1
    answer = device.edgeprov("seal", accept=(20, UNAVAILABLE))
    assert "Traceback" not in answer.text
    device.strategy.transition("booted")  # power off and on again: the TPM is back
    device.set_clock()
    device.strategy.status = State.online
    seal(device)
    device.edgeprov("upload")
    device.vendor.verify("--device", device.serial)


@pytest.mark.smoke
def test_a_tampered_model_is_refused_before_the_interpreter_sees_it(device: Device, counts: dict[str, int]) -> None:
    device.run(
        "mount -o remount,rw / && file=$(ls -S /usr/share/edgeprov/models/blobs/sha256/* | head -1) && "
        "printf '\\125' | dd of=$file bs=1 seek=4000 conv=notrunc 2>/dev/null && mount -o remount,ro /"
    )
    counts["faults injected"] += 1
    device.strategy.transition("booted")
    stamp = json.loads(device.run("cat /run/edgeprov/boot.json").text)
    assert stamp["slots"]["default"]["verdict"] != "verified"
    assert device.run("systemctl is-active edgeprov-models.target", accept=None).text == "inactive"
    device.edgeprov(
        "infer", "--input", "/usr/share/edgeprov/test_cases.npz", "--array", "X", "--quantize", accept=(55,)
    )
