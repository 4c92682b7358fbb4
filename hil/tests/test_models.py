# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Model-out: over the network, from a stick, a roll-out that fails its known answer, a damaged medium."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness.bench import ROOT, Device, Vendor
from harness.faults import disk_in_another_computer, overwrite_page
from harness.qemu import HilQemuDriver
from harness.stick import WHERE, Stick
from test_kits import CASES, COUNT, infer, seal, upload_and_verify
from test_tpm_faults import boot

NAME = "breast-cancer-diagnosis"
SELFTEST_FAILED, NOT_READY = 54, 55
RIGHT_ANSWER, WRONG_ANSWER = "- 0w==", "- AA=="


def publish(vendor: Vendor, work: Path, version: str, *, to: str | None = None, wrong: bool = False) -> str:
    """Publish a later version of the model, whose known answer may be ``wrong``; its digest."""
    kit = work / f"kit-{version}"
    shutil.copytree(ROOT / "hil/model/kit", kit)
    text = (kit / "Kitfile").read_text().replace("  version: 1.0.0", f"  version: {version}")
    if wrong:
        assert RIGHT_ANSWER in text
        text = text.replace(RIGHT_ANSWER, WRONG_ANSWER)
    (kit / "Kitfile").write_text(text)
    words = ("publish", kit, "--to", to or vendor.registry, "--ca", vendor.home / "ca")
    return str(json.loads(vendor.fleet(*words).text.splitlines()[0])["digest"])


def install(device: Device, digest: str, accept: tuple[int, ...] = (0,)) -> str:
    """Install from the registry."""
    return device.edgeprov("model", "install", f"{device.registry}/models/{NAME}@{digest}", accept=accept).text


def active(device: Device) -> str:
    """Digest of the active model of the only slot."""
    return str(device.edgeprov("status").item("status")["slots"][0]["model"])


@pytest.mark.full
def test_a_roll_out_over_the_network_returns_when_the_known_answer_does_not_come_out(
    device: Device, counts: dict[str, int], tmp_path: Path
) -> None:
    good = publish(device.vendor, tmp_path, "1.1.0")
    install(device, good)
    assert active(device) == good
    boot(device)
    infer(device, counts)
    bad = publish(device.vendor, tmp_path, "1.2.0", wrong=True)
    counts["faults injected"] += 1
    assert "Traceback" not in install(device, bad, accept=(SELFTEST_FAILED,))
    assert active(device) == good, "the previous model stays"
    boot(device)
    infer(device, counts)
    seal(device)
    assert upload_and_verify(device) == 2 * COUNT
    kits = device.vendor.fleet("query", "--fleet", device.vendor.fleet_dir, "--model", good).items
    assert sum(kit["records"] for kit in kits if kit["type"] == "kit") == 2 * COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_model_comes_on_a_stick(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int], tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    digest = publish(device.vendor, tmp_path, "1.1.0", to=f"oci:{layout}")
    Stick(virtual, device.logs / "stick.raw", content=layout).plug_in(device, read_only=True)
    device.edgeprov("model", "install", f"oci:{WHERE}//models/{NAME}@{digest}")
    device.run(f"umount {WHERE}")
    assert active(device) == digest
    boot(device)
    infer(device, counts)
    seal(device)
    device.edgeprov("upload")
    device.vendor.verify("--device", device.serial)


@pytest.mark.full
@pytest.mark.virtual
def test_the_kernel_refuses_a_page_of_an_installed_model_that_was_changed_on_the_medium(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int], tmp_path: Path
) -> None:
    good = publish(device.vendor, tmp_path, "1.1.0")
    install(device, good)
    largest = device.run("ls -S /var/lib/edgeprov/layout/blobs/sha256/* | head -1").text
    assert device.run(f"fsverity measure {largest}").text.startswith("sha256:"), "the kernel keeps its digest"
    device.run("sync")
    device.strategy.cut_power()
    with disk_in_another_computer(virtual, "data") as image:
        overwrite_page(image, largest.removeprefix("/var/lib/edgeprov"))
    counts["faults injected"] += 1
    boot(device)
    # The boot check asks for the kernel's digest and reads no weights; the kernel checks each page that is read.
    assert device.run(f"cat {largest} >/dev/null", accept=None).code != 0, "an I/O error, not wrong bytes"
    assert "Traceback" not in device.edgeprov("infer", *CASES, accept=(11, 31, 34, NOT_READY)).text
    assert "Traceback" not in device.edgeprov("doctor", accept=tuple(range(256))).text


@pytest.mark.full
@pytest.mark.virtual
def test_a_root_without_its_trust_anchors_runs_no_model(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int]
) -> None:
    device.run("mount -o remount,rw / && rm -r /etc/edgeprov/trust.d/* && sync && mount -o remount,ro /")
    counts["faults injected"] += 1
    boot(device)
    assert device.run("systemctl is-active edgeprov-models.target", accept=None).text == "inactive"
    refused = device.edgeprov("infer", *CASES, accept=(3, 13, 19, NOT_READY))
    assert "Traceback" not in refused.text
