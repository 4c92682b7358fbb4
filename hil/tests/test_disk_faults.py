# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The data disk is full, slow, failing, or in another device: a clear error, and every acknowledged record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.bench import Device, make_tpm
from harness.faults import failing_disk, healed_disk, plain_disk
from harness.qemu import HilQemuDriver
from test_kits import CASES, COUNT, infer, seal, upload_and_verify
from test_tpm_faults import TPM_ERRORS, boot

FULL, FAILED = 30, 34
DATA = "/var/lib/edgeprov"


@pytest.mark.full
def test_a_full_disk_is_a_clear_error_and_costs_no_record(device: Device, counts: dict[str, int]) -> None:
    infer(device, counts)
    device.run(
        f"fallocate -l $(df --output=avail -B1 {DATA} | tail -1) {DATA}/ballast; "
        f"dd if=/dev/zero of={DATA}/rest bs=4k 2>/dev/null; true"
    )
    counts["faults injected"] += 1
    refused = device.edgeprov("infer", *CASES, accept=(FULL, FAILED))
    assert "Traceback" not in refused.text
    assert "Traceback" not in device.edgeprov("seal", accept=(0, FULL, FAILED)).text
    device.run(f"rm {DATA}/ballast {DATA}/rest")
    infer(device, counts)
    seal(device)
    assert upload_and_verify(device) >= 2 * COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_slow_disk_costs_time_and_nothing_else(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    virtual.throttle(65_536)
    counts["faults injected"] += 1
    infer(device, counts)
    seal(device)
    virtual.throttle(0)
    assert upload_and_verify(device) == COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_failing_disk_is_a_clear_error_and_what_was_acknowledged_is_there_after_a_reboot(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int]
) -> None:
    device = make_device(like=saved, resume=False)
    power = device.strategy.power
    assert isinstance(power, HilQemuDriver)
    plain_disk(power)
    boot(device)
    infer(device, counts)
    device.run("sync")
    failing_disk(power)
    counts["faults injected"] += 1
    refused = device.edgeprov("infer", *CASES, accept=(FULL, 31, FAILED))
    assert "Traceback" not in refused.text
    healed_disk(power)
    boot(device)
    seal(device)
    assert upload_and_verify(device) >= COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_disk_in_another_device_makes_no_kit_there(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    infer(device, counts)
    device.strategy.cut_power()
    assert virtual.folder is not None
    (virtual.folder / "tpm").rename(virtual.folder / "tpm-at-home")
    make_tpm(virtual.folder / "tpm")
    virtual.serial = "ward-8"
    counts["faults injected"] += 1
    boot(device)
    answer = device.edgeprov("seal", accept=(3, *TPM_ERRORS))
    assert "Traceback" not in answer.text
    device.edgeprov("upload", accept=(0, 3, *TPM_ERRORS))
    device.vendor.fleet("sync", device.vendor.registry, "--fleet", device.vendor.fleet_dir)
    found = device.vendor.fleet("query", "--fleet", device.vendor.fleet_dir).items
    false_claims = [item for item in found if item["type"] == "kit"]
    counts["false claims"] += len(false_claims)
    assert not false_claims
