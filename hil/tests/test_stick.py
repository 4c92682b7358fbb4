# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Kits carried away on a USB stick that somebody pulls out while it is written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from harness.bench import Device
from harness.qemu import HilQemuDriver
from harness.stick import WHERE, Stick
from test_kits import COUNT, infer, records_at_the_vendor, seal

PULLED = 34
OUTPUT, CODE = "/run/edgeprov/export.out", "/run/edgeprov/export.code"


def export_and_pull(device: Device, stick: Stick, writes: int) -> dict[str, Any]:
    """Start an export, pull the stick out after so many writes, and say how the export ended."""
    before = stick.writes()
    export = f"runuser -u edgeprov -- edgeprov export {WHERE} --verify --json"
    device.run(f"sync; rm -f {OUTPUT} {CODE}; ({export}; echo $? >{CODE}) >{OUTPUT} 2>&1 </dev/null &")
    stick.wait_for_writes(before + writes)
    stick.pull()
    device.run(f"for i in $(seq 600); do test -s {CODE} && break; sleep 1; done; test -s {CODE}")
    text = device.run(f"cat {OUTPUT}").text
    assert "Traceback" not in text
    device.run(f"umount -l {WHERE}")
    return {"code": int(device.run(f"cat {CODE}").text), **json.loads(text.splitlines()[-1])}


@pytest.mark.full
@pytest.mark.virtual
def test_a_stick_that_is_pulled_out_while_it_is_written(
    device: Device, virtual: HilQemuDriver, counts: dict[str, int], tmp_path: Path
) -> None:
    for _ in range(3):
        infer(device, counts)
        seal(device)
    waiting = device.edgeprov("status").item("status")["outbox"]
    stick = Stick(virtual, device.logs / "stick.raw", writes_per_s=8)
    for writes in (4, 30, 60):
        stick.plug_in(device)
        answer = export_and_pull(device, stick, writes)
        counts["faults injected"] += 1
        assert answer["code"] == PULLED, answer
        assert WHERE in answer["message"], answer
        assert "Put the stick in again" in answer["advice"], answer
        assert device.edgeprov("status").item("status")["outbox"] == waiting, "nothing counts as exported"
        time.sleep(1)  # a hand
    stick.plug_in(device)
    there = device.run(f"cat {WHERE}/blobs/sha256/* 2>/dev/null | wc -c")
    done = device.edgeprov("export", WHERE, "--verify").item("export")
    assert (done["count"], done["verified"]) == (waiting, True)
    everything = int(device.run(f"cat {WHERE}/blobs/sha256/* | wc -c").text)
    assert int(there.text) > 0
    assert done["bytes"] < everything, "it went on with what was missing"
    device.run(f"umount {WHERE}")
    stick.pull()

    desk = stick.at_the_desk(tmp_path / "desk")
    vendor = device.vendor
    vendor.fleet("import", desk, "--to", vendor.registry, "--ca", vendor.home / "ca")
    vendor.verify("--device", device.serial)
    assert records_at_the_vendor(device) == 3 * COUNT
    device.put(next((desk / "receipts").iterdir()).read_bytes(), "/run/edgeprov/receipt.json")
    assert device.edgeprov("receipt", "install", "/run/edgeprov/receipt.json").item("receipt")["freed"] == waiting
    assert device.edgeprov("status").item("status")["outbox"] == 0
