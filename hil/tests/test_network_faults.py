# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The network is bad in each way that networks are: kits wait, nothing is lost, the next window sends them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from harness.bench import Device
from harness.qemu import PATIENCE_S, HilQemuDriver
from test_kits import COUNT, infer, seal, upload_and_verify

WAITING = (40, 44, 100)
FAULTS: dict[str, dict[str, Any]] = {
    "that_is_refused": {"mode": "refuse"},
    "that_stalls": {"mode": "stall"},
    "that_is_cut_in_a_part": {"mode": "cut", "bytes": 3000},
    "behind_a_captive_portal": {"mode": "portal"},
}


@pytest.mark.full
@pytest.mark.virtual
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_link(device: Device, virtual: HilQemuDriver, counts: dict[str, int], fault: dict[str, Any]) -> None:
    infer(device, counts)
    seal(device)
    virtual.set_fault(**fault)
    counts["faults injected"] += 1
    answer = device.edgeprov("upload", "--for", "40s", accept=WAITING)
    assert "Traceback" not in answer.text
    assert device.edgeprov("status").item("status")["outbox"] >= 1, "it waits"
    virtual.set_fault("ok")
    assert upload_and_verify(device) == COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_link_that_flaps(device: Device, virtual: HilQemuDriver, counts: dict[str, int]) -> None:
    infer(device, counts)
    seal(device)
    device.strategy.shell.run("true")
    over = threading.Event()

    def flap() -> None:
        while not over.wait(2):
            virtual.set_fault("refuse")
            counts["faults injected"] += 1
            over.wait(3)
            virtual.set_fault("ok")

    flapper = threading.Thread(target=flap)
    flapper.start()
    try:
        device.edgeprov("upload", "--for", "3m", accept=(0, *WAITING))
    finally:
        over.set()
        flapper.join()
    virtual.set_fault("ok")
    assert upload_and_verify(device) == COUNT


@pytest.mark.full
@pytest.mark.virtual
def test_a_cable_that_is_pulled_while_uploading(device: Device, virtual: HilQemuDriver, counts: dict[str, int]) -> None:
    infer(device, counts)
    seal(device)
    virtual.set_fault("slow", delay=0.5)
    before = virtual.connections()
    device.run(
        "(runuser -u edgeprov -- edgeprov upload --for 60s; echo $? >/run/edgeprov/upload.code) >/dev/null 2>&1 &"
    )
    deadline = time.monotonic() + PATIENCE_S
    while virtual.connections() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    device.strategy.transition("offline")
    counts["faults injected"] += 1
    time.sleep(5)
    virtual.set_fault("ok")
    device.strategy.transition("online")
    device.run("for i in $(seq 900); do test -s /run/edgeprov/upload.code && break; sleep 1; done")
    assert int(device.run("cat /run/edgeprov/upload.code").text) in (0, *WAITING)
    assert upload_and_verify(device) == COUNT
