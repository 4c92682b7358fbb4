# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A slot is corrupted on the medium: the system's, the pointer to a model, or its records."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.bench import Device
from harness.faults import disk_in_another_computer, overwrite_page
from harness.qemu import PATIENCE_S, HilQemuDriver, run
from harness.strategy import State
from test_kits import COUNT, infer, kits_at_the_vendor, seal, upload_and_verify
from test_models import active, install, publish
from test_tpm_faults import boot

DATA = "/var/lib/edgeprov"
CORRUPT = 31


@pytest.mark.full
@pytest.mark.virtual
def test_a_system_slot_that_was_overwritten_costs_no_record_once_it_is_flashed_again(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    infer(device, counts)
    device.run("sync")
    device.strategy.cut_power()
    with disk_in_another_computer(virtual, "root") as image, image.open("r+b") as disk:
        disk.write(b"\xff" * 65536)
    counts["faults injected"] += 1
    device.strategy.transition("tpm")
    power = device.strategy.power
    power.on()
    device.strategy.target.activate(device.strategy.console)
    device.strategy.console.expect("no root file system", timeout=PATIENCE_S)
    device.strategy.status = State.booted
    device.strategy.cut_power()
    assert virtual.folder is not None
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", virtual.root, "-F", "raw", virtual.folder / "root.qcow2")
    boot(device)
    infer(device, counts)
    seal(device)
    assert upload_and_verify(device) == 2 * COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_slot_whose_pointer_is_corrupted_claims_only_what_ran(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int], tmp_path: Path
) -> None:
    newer = publish(device.vendor, tmp_path, "1.1.0")
    install(device, newer)
    boot(device)
    infer(device, counts)
    device.run("sync")
    device.strategy.cut_power()
    with disk_in_another_computer(virtual, "data") as image:
        overwrite_page(image, "/active/default.json", wholly=True)
    counts["faults injected"] += 1
    boot(device)
    assert "default.json" in device.run(f"ls {DATA}/quarantine").text, "moved away, not deleted"
    infer(device, counts)  # by the model of the image
    assert "Traceback" not in device.edgeprov("doctor", accept=tuple(range(256))).text
    device.edgeprov("model", "activate", newer)
    assert active(device) == newer
    boot(device)
    infer(device, counts)
    seal(device)
    assert upload_and_verify(device) == 3 * COUNT
    per_model = {newer: 0, device.vendor.model: 0}
    for kit in kits_at_the_vendor(device):
        per_model[kit["model"]] += kit["records"]
    counts["false claims"] += abs(per_model[newer] - 2 * COUNT)
    assert per_model == {newer: 2 * COUNT, device.vendor.model: COUNT}


@pytest.mark.full
@pytest.mark.virtual
def test_a_slot_whose_records_are_corrupted_loses_only_those_and_names_them(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    first, last = infer(device, counts)
    device.run("sync")
    segment = device.run(f"ls -S {DATA}/spool/default/*.seg | head -1").text
    device.strategy.cut_power()
    with disk_in_another_computer(virtual, "data") as image:
        overwrite_page(image, segment.removeprefix(DATA), page=1)
    counts["faults injected"] += 1
    boot(device)
    refused = device.edgeprov("seal", accept=(CORRUPT,))
    assert "Traceback" not in refused.text
    seal(device)
    proved = upload_and_verify(device)
    assert COUNT - 3 <= proved < COUNT, "what one byte touched is gone, and the rest is proved"
    # The auditor sees it: fewer results than numbers, and a statement signed by the device in their place.
    (report,) = device.vendor.audit().item("audit")["devices"]
    (interval,) = report["intervals"]
    assert interval["records"] == [first, last]
    assert interval["results"] == proved
    assert len(report["series"]["voided"]) == 1
