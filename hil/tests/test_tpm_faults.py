# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The TPM is slow, locked, cleared, another one, or set back: no record is lost and no false claim is believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.bench import Device, make_tpm
from harness.faults import keep_tpm, put_back, slow_tpm, tpm_on_the_bench
from harness.qemu import BenchError, HilQemuDriver
from harness.strategy import State
from labgrid.strategy import StrategyError
from test_kits import COUNT, infer, kits_at_the_vendor, seal, upload_and_verify

IDENTITY = 24
TPM_ERRORS = (20, 21, 22, 23, IDENTITY)


def boot(device: Device) -> None:
    """Power off and on, with the right time and the cable in."""
    device.strategy.transition("booted")
    device.set_clock()
    device.strategy.status = State.online


def cold(make_device: Callable[..., Device], saved: Path) -> tuple[Device, HilQemuDriver]:
    device = make_device(like=saved, resume=False)
    power = device.strategy.power
    assert isinstance(power, HilQemuDriver)
    return device, power


@pytest.mark.full
@pytest.mark.virtual
def test_a_slow_tpm_costs_time_and_nothing_else(device: Device, virtual: HilQemuDriver, counts: dict[str, int]) -> None:
    infer(device, counts)
    with slow_tpm(virtual, 5):
        counts["faults injected"] += 1
        seal(device)
    assert upload_and_verify(device) == COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_tpm_in_lockout_still_signs_since_the_keys_ask_for_no_password(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int], tmp_path: Path
) -> None:
    device, power = cold(make_device, saved)
    assert power.folder is not None
    with tpm_on_the_bench(power.folder / "tpm") as tpm:
        tpm(
            "tpm2_dictionarylockout",
            "--setup-parameters",
            "--max-tries=1",
            "--recovery-time=9999",
            "--lockout-recovery-time=9999",
        )
        tpm("tpm2_createprimary", "-C", "o", "-p", "secret", "-c", str(tmp_path / "key"))
        (tmp_path / "data").write_bytes(b"data")
        for _ in range(2):
            words = ("-c", str(tmp_path / "key"), "-p", "wrong", "-o", str(tmp_path / "signature"))
            tpm("tpm2_sign", *words, str(tmp_path / "data"), accept=(0, 1, 3))
        assert "inLockout:                 1" in tpm("tpm2_getcap", "properties-variable")
    counts["faults injected"] += 1
    boot(device)
    infer(device, counts)
    seal(device)
    assert upload_and_verify(device) == COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_cleared_tpm_makes_the_same_keys_again_and_its_counter_never_goes_back(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    infer(device, counts)
    seal(device)
    device.strategy.cut_power()
    assert virtual.folder is not None
    with tpm_on_the_bench(virtual.folder / "tpm") as tpm:
        tpm("tpm2_clear", "-c", "p")
    counts["faults injected"] += 1
    boot(device)
    infer(device, counts)
    seal(device)
    assert upload_and_verify(device) == 2 * COUNT
    first, second = sorted(kit["seq"] for kit in kits_at_the_vendor(device))
    assert second > first
    assert '"forks": 0' in device.vendor.audit().text


@pytest.mark.full
@pytest.mark.virtual
def test_records_wait_while_another_tpm_is_in_their_place(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    infer(device, counts)
    device.strategy.cut_power()
    assert virtual.folder is not None
    copy = keep_tpm(virtual, "tpm-before")
    (virtual.folder / "tpm").rename(virtual.folder / "tpm-away")
    make_tpm(virtual.folder / "tpm")
    counts["faults injected"] += 1
    boot(device)
    answer = device.edgeprov("seal", accept=TPM_ERRORS)
    assert "Traceback" not in answer.text
    assert "Traceback" not in device.edgeprov("doctor", accept=tuple(range(256))).text
    slots = device.edgeprov("status").item("status")["slots"]
    assert sum(slot["records"] for slot in slots) == COUNT, "they wait"
    device.strategy.cut_power()
    put_back(virtual, copy)
    boot(device)
    seal(device)
    assert upload_and_verify(device) == COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_tpm_that_was_set_back_shows_at_the_vendor_as_a_number_claimed_twice(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    infer(device, counts)
    device.strategy.cut_power()
    power = virtual
    assert power.folder is not None
    copy = keep_tpm(power, "tpm-before")
    disk = power.folder / "data-before.qcow2"
    disk.write_bytes((power.folder / "data.qcow2").read_bytes())
    boot(device)
    seal(device)
    device.edgeprov("upload")
    device.vendor.verify("--device", device.serial)
    # Disk and TPM of yesterday: the device cannot know; only who has seen the first kit can.
    device.strategy.cut_power()
    put_back(power, copy)
    (power.folder / "data.qcow2").write_bytes(disk.read_bytes())
    counts["faults injected"] += 1
    boot(device)
    infer(device, counts)
    device.edgeprov("seal", accept=(0, 31))
    device.edgeprov("upload", accept=(0, 43, 100))
    device.vendor.verify("--device", device.serial, accept=(0, 10, 17))
    report = device.vendor.audit().text
    assert '"forks": 1' in report or "claimed twice" in report, report


@pytest.mark.full
@pytest.mark.virtual
def test_torn_tpm_state_is_a_broken_bench_and_not_a_verdict_on_the_device(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int]
) -> None:
    device, power = cold(make_device, saved)
    assert power.folder is not None
    state = power.folder / "tpm/tpm2-00.permall"
    state.write_bytes(state.read_bytes()[:100])
    counts["faults injected"] += 1
    with pytest.raises(StrategyError) as raised:
        device.strategy.transition("booted")
    assert isinstance(raised.value.__cause__, BenchError)
    assert "QEMU does not start" in str(raised.value.__cause__)
