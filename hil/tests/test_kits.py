# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in: inference, labels, seal, upload; with a link, without one, and on a stick."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from harness.bench import Device
from harness.qemu import HilQemuDriver, run

CASES = ("--input", "/usr/share/edgeprov/test_cases.npz", "--array", "X", "--quantize", "--quiet")
COUNT = 143


def infer(device: Device, counts: dict[str, int], rounds: int = 1) -> tuple[int, int]:
    """Run all cases; the numbers of the first and the last record."""
    numbers = []
    for _ in range(rounds):
        done = device.edgeprov("infer", *CASES).item("records")
        numbers += [done["first"], done["last"]]
        counts["records acknowledged"] += done["count"]
    return numbers[0], numbers[-1]


def seal(device: Device) -> None:
    device.edgeprov("seal")


def records_at_the_vendor(device: Device) -> int:
    """Verified records of this device that the fleet side counts."""
    return sum(
        item["records"]
        for item in device.vendor.fleet("query", "--fleet", device.vendor.fleet_dir, "--device", device.serial).items
        if item["type"] == "kit"
    )


@pytest.mark.smoke
def test_a_thousand_results_with_labels_reach_the_vendor_and_verify(device: Device, counts: dict[str, int]) -> None:
    numbers = device.workload(7 * COUNT)
    counts["records acknowledged"] += len(numbers)
    first = numbers[0]
    assert numbers == list(range(first, first + 7 * COUNT))
    device.edgeprov("label", "--from", "/usr/share/edgeprov/test_cases.npz", "--array", "y", "--first", str(first))
    seal(device)
    device.edgeprov("upload")
    device.vendor.verify("--device", device.serial)
    assert records_at_the_vendor(device) >= 7 * COUNT


@pytest.mark.smoke
def test_weeks_offline_and_then_one_short_window(device: Device, counts: dict[str, int]) -> None:
    device.strategy.transition("offline")
    for week in range(2):
        device.run(f"date -s @{int(time.time()) + (week + 1) * 7 * 86400}")
        infer(device, counts)
        seal(device)
    waiting = device.edgeprov("upload", accept=(100, 40))
    assert waiting.code in (100, 40), "work remains queued; nothing is lost and nothing crashes"
    device.strategy.transition("online")
    began = time.monotonic()
    device.edgeprov("upload")
    assert time.monotonic() - began < 300, "five minutes are enough"
    device.vendor.verify("--device", device.serial)


@pytest.mark.full
@pytest.mark.virtual
def test_kits_leave_on_a_usb_stick(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int], tmp_path: Path
) -> None:
    infer(device, counts)
    seal(device)
    stick = virtual.folder / "stick.raw"
    run("qemu-img", "create", "-q", "-f", "raw", stick, "64M")
    run("mke2fs", "-q", "-t", "ext4", "-L", "STICK", stick)
    virtual.qmp.run(
        "blockdev-add", **{"driver": "raw", "node-name": "stick", "file": {"driver": "file", "filename": str(stick)}}
    )
    virtual.qmp.run("device_add", driver="usb-storage", drive="stick", id="stick", removable=True)
    device.run("for i in $(seq 100); do [ -b /dev/disk/by-label/STICK ] && break; sleep 0.2; done")
    device.run("mkdir -p /tmp/stick && mount LABEL=STICK /tmp/stick && chown edgeprov /tmp/stick")
    device.edgeprov("export", "/tmp/stick/kits")
    device.run("umount /tmp/stick")
    virtual.qmp.run("device_del", id="stick")
    run("debugfs", "-R", f"rdump /kits {tmp_path}", stick)
    device.vendor.fleet("import", tmp_path / "kits", "--to", device.vendor.registry)
    device.vendor.verify("--device", device.serial)


@pytest.mark.full
def test_real_cosign_verifies_what_the_device_signed(device: Device, counts: dict[str, int]) -> None:
    cosign = Path.home() / ".cache/edgeprov/peers/bin/cosign"
    infer(device, counts)
    seal(device)
    device.edgeprov("upload")
    device.vendor.fleet("sync", device.vendor.registry, "--fleet", device.vendor.fleet_dir)
    kit = [
        item
        for item in device.vendor.fleet("query", "--fleet", device.vendor.fleet_dir, "--device", device.serial).items
        if item["type"] == "kit"
    ][-1]
    trust = device.logs / "trust"
    device.vendor.fleet("export-trust", "--trust", device.vendor.home / "ca/trust.d", "-o", trust)
    reference = f"127.0.0.1:{device.vendor.port}/{kit['repo']}@{kit['digest']}"
    root = next(trust.rglob("trusted_root.json"))
    run(cosign, "verify-attestation", "--allow-http-registry", "--trusted-root", root, "--type", "slsaprovenance1",
        "--certificate-identity-regexp", "urn:edgeprov:device:.*", "--certificate-oidc-issuer-regexp", ".*",
        "--insecure-ignore-sct", "--insecure-ignore-tlog", reference)  # fmt: skip
    json.dumps(kit)
