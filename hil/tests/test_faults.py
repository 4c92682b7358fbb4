# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TPM, clock, network, disk and model go wrong: the device says so, keeps its records and claims nothing false."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.bench import Device
from harness.qemu import HilQemuDriver
from harness.strategy import State
from test_kits import infer, seal

UNAVAILABLE, IDENTITY = 21, 24


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


@pytest.mark.full
@pytest.mark.virtual
def test_a_device_rolled_back_with_its_tpm_shows_as_a_fork(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int]
) -> None:
    for _ in range(2):  # the same disk and the same TPM state, twice: only the fleet side can see it
        device = make_device(like=saved)
        device.strategy.transition("booted")
        device.set_clock()
        device.strategy.status = State.online
        infer(device, counts)
        seal(device)
        device.edgeprov("upload", accept=(0, 100, 43))
    counts["faults injected"] += 1
    device.vendor.verify("--device", device.serial, accept=(0, 10, 17))
    report = device.vendor.audit().text
    assert "fork" in report


@pytest.mark.full
@pytest.mark.virtual
def test_a_dead_clock_delays_nothing_and_is_told(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int]
) -> None:
    device = make_device(like=saved, resume=False, rtc="base=1970-01-01T00:00:00,clock=vm")
    counts["faults injected"] += 1
    device.strategy.transition("booted")
    assert device.run("systemctl is-active edgeprov-models.target").text == "active"
    infer(device, counts)
    seal(device)


@pytest.mark.full
@pytest.mark.virtual
@pytest.mark.parametrize("mode", ["refuse", "portal", "cut"])
def test_a_bad_link_delays_the_upload_and_loses_nothing(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int], mode: str
) -> None:
    infer(device, counts)
    seal(device)
    virtual.set_fault(mode, bytes=3000)
    counts["faults injected"] += 1
    answer = device.edgeprov("upload", accept=(100, 40, 41, 44))
    assert "Traceback" not in answer.text
    virtual.set_fault("ok")
    device.edgeprov("upload")
    device.vendor.verify("--device", device.serial)


@pytest.mark.full
def test_a_full_disk_stops_recording_with_a_clear_error(device: Device, counts: dict[str, int]) -> None:
    first, last = infer(device, counts)
    device.run(
        "dd if=/dev/zero of=/var/lib/edgeprov/filler bs=64k 2>/dev/null; sync",
        accept=None,
    )
    counts["faults injected"] += 1
    answer = device.edgeprov(
        "infer", "--input", "/usr/share/edgeprov/test_cases.npz", "--array", "X", "--quantize", accept=(30,)
    )
    assert "Traceback" not in answer.text
    device.run("rm /var/lib/edgeprov/filler")
    seal(device)
    device.edgeprov("upload")
    device.vendor.verify("--device", device.serial)
    assert last > first


@pytest.mark.full
@pytest.mark.virtual
def test_a_disk_in_another_device_signs_nothing(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int]
) -> None:
    import shutil

    from harness.bench import make_tpm

    device = make_device(like=saved, resume=False)
    power = device.strategy.power
    assert isinstance(power, HilQemuDriver)
    shutil.rmtree(power.folder / "tpm")
    make_tpm(power.folder / "tpm")
    counts["faults injected"] += 1
    device.strategy.transition("booted")
    refused = device.edgeprov(
        "infer", "--input", "/usr/share/edgeprov/test_cases.npz", "--array", "X", "--quantize", accept=(IDENTITY,)
    )
    assert "Traceback" not in refused.text
