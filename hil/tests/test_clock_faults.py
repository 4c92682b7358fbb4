# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The clock is dead or jumps: order comes from the TPM, and a doubtful time is called doubtful."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.bench import Device
from harness.qemu import HilQemuDriver
from harness.strategy import State
from test_kits import COUNT, infer, seal, upload_and_verify


@pytest.mark.full
@pytest.mark.virtual
def test_a_dead_clock_is_called_doubtful_and_its_records_verify(
    make_device: Callable[..., Device], saved: Path, counts: dict[str, int]
) -> None:
    device = make_device(like=saved, resume=False)
    power = device.strategy.power
    assert isinstance(power, HilQemuDriver)
    power.rtc = "base=1970-01-01T00:00:00"
    counts["faults injected"] += 1
    device.strategy.transition("booted")
    device.run("date -s @86400")  # systemd lifts the clock to its own build; a bare init would not
    device.strategy.status = State.online
    infer(device, counts)
    status = device.edgeprov("status").item("status")
    assert status["doubts"], "the screen says that the clock is wrong"
    seal(device)
    assert upload_and_verify(device) == COUNT
    assert '"clock_doubts": 1' in device.vendor.audit().text


@pytest.mark.full
def test_a_clock_that_jumps_both_ways_keeps_the_order_of_records(device: Device, counts: dict[str, int]) -> None:
    first, _ = infer(device, counts)
    device.run("date -s '+400 days'")
    infer(device, counts)
    device.run("date -s '-800 days'")
    _, last = infer(device, counts)
    counts["faults injected"] += 2
    assert last - first + 1 == 3 * COUNT
    device.set_clock()
    seal(device)
    assert upload_and_verify(device) == 3 * COUNT
