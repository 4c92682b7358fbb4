# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in: inference, labels, seal, upload; with a link, and without one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from harness.bench import Device

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
    return sum(kit["records"] for kit in kits_at_the_vendor(device))


def upload_and_verify(device: Device) -> int:
    """Send what waits and have the vendor verify all of this device; the records that then count."""
    device.edgeprov("upload")
    device.vendor.verify("--device", device.serial)
    return records_at_the_vendor(device)


def kits_at_the_vendor(device: Device) -> list[dict[str, Any]]:
    """What the fleet side knows of each kit of this device."""
    found = device.vendor.fleet("query", "--fleet", device.vendor.fleet_dir, "--device", device.serial).items
    return [item for item in found if item["type"] == "kit"]


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
    kits = kits_at_the_vendor(device)
    assert sum(device.vendor.verify_with_cosign(kit) for kit in kits) >= 2 * len(kits) > 0


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
    device.edgeprov("upload", "--for", "5m")  # 100 if work remained
    device.vendor.verify("--device", device.serial)
