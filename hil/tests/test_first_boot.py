# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From the flashed image to an enrolled device that runs a measured model."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from harness.bench import Device
from harness.qemu import PATIENCE_S


@pytest.mark.smoke
@pytest.mark.new_vendor
def test_first_boot_measures_the_baked_in_model_and_enrollment_proves_the_tpm(
    make_device: Callable[..., Device],
) -> None:
    device = make_device(serial="ward-1")
    device.strategy.transition("booted")

    assert device.run("findmnt -no OPTIONS / | tr , '\\n' | head -1").text == "ro", "the root is never written"
    device.run("mountpoint -q /var/lib/edgeprov")
    assert device.run("systemctl --failed --no-legend").text == ""
    # The boot check is done before anything that needs the models may start.
    assert device.run("systemctl is-active edgeprov-boot-check edgeprov-models.target").text.split() == ["active"] * 2
    stamp = json.loads(device.run("cat /run/edgeprov/boot.json").text)
    assert stamp["slots"]["default"]["verdict"] == "verified"
    assert stamp["slots"]["default"]["model"] == device.vendor.model
    assert stamp["boot_id"] == device.run("cat /proc/sys/kernel/random/boot_id").text

    request = device.enroll()
    assert request["ek"], "this TPM came with an EK certificate"
    assert (device.logs / "enrollment/response.json").exists(), "the TPM opened the credential"
    status = device.edgeprov("status").item("status")
    assert status["device"] == "urn:edgeprov:device:ward-1"


@pytest.mark.smoke
def test_a_technician_at_the_serial_console(device: Device) -> None:
    console = device.strategy.shell.console
    console.sendline("")
    console.expect(r"# ", timeout=PATIENCE_S)
    console.sendline("edgeprov status")
    console.expect(r"urn:edgeprov:device:ward-7", timeout=PATIENCE_S)
    console.expect(r"slot\s+default: .*verified", timeout=PATIENCE_S)
    console.expect(r"# ", timeout=PATIENCE_S)
    console.sendline("edgeprov statsu")
    console.expect(r"status", timeout=PATIENCE_S)
    console.expect(r"# ", timeout=PATIENCE_S)
    console.sendline("runuser -u edgeprov -- edgeprov doctor")
    _, before, _, _ = console.expect(r"# ", timeout=PATIENCE_S)
    assert b"Traceback" not in before
