# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""When to upload, how fast, and how long to wait: battery, metered links, budgets, back-off."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgeprov.device.upload import Options, upload
from edgeprov.device.upload_conditions import battery_percent, is_metered, why_not_now
from edgeprov.errors import RegistryDenied, RegistryError
from edgeprov.registry.retry import ATTEMPTS, FIRST_CONTACT_ATTEMPTS, LONGEST_WAIT_S, OutOfTime, Pace, WaitClock
from tests.support.sender import Hours, Sender

HOOK = Path(__file__).parents[2] / "edgeprov" / "data" / "network-hook.sh"


def pace(hours: Hours, **options: float) -> Pace:
    return Pace(clock=WaitClock(hours.monotonic, hours.sleep, hours.chance), **options)  # type: ignore[arg-type]


def failing(*errors: RegistryError | None):
    """A call that fails in this order; None succeeds."""
    left = list(errors)

    def call() -> str:
        error = left.pop(0)
        if error is not None:
            raise error
        return "done"

    return call


def test_waits_grow_at_random_up_to_a_cap() -> None:
    hours = Hours()
    runner = pace(hours, budget_s=10_000_000)
    assert runner.attempt(failing(*[RegistryError("down")] * 30, None)) == "done"
    ceilings = [min(LONGEST_WAIT_S, 2.0 * 2**number) for number in range(30)]
    assert len(hours.slept) == 30
    assert all(0 <= slept <= ceiling for slept, ceiling in zip(hours.slept, ceilings, strict=True))
    assert len(set(hours.slept)) == 30  # jitter: a fleet that lost its link together does not come back together
    assert max(hours.slept) > LONGEST_WAIT_S / 2


def test_what_the_registry_asks_for_is_waited_at_least() -> None:
    hours = Hours()
    assert pace(hours).attempt(failing(RegistryError("slow down", status=429, retry_after_s=120), None)) == "done"
    assert 120 <= hours.slept[0] <= 241  # up to twice: many devices were told the same
    with pytest.raises(RegistryError, match="tomorrow"):
        pace(hours).attempt(failing(RegistryError("tomorrow", status=429, retry_after_s=86_400)))


def test_a_run_without_any_link_ends_soon_and_one_that_lost_it_tries_longer() -> None:
    for reached, tries in ((False, FIRST_CONTACT_ATTEMPTS), (True, ATTEMPTS)):
        hours = Hours()
        runner = pace(hours)
        if reached:
            runner.attempt(lambda: None)
        with pytest.raises(RegistryError):
            runner.attempt(failing(*[RegistryError("down")] * 100))
        assert len(hours.slept) == tries - 1


def test_what_waiting_cannot_cure_is_not_repeated() -> None:
    hours = Hours()
    with pytest.raises(RegistryDenied):
        pace(hours).attempt(failing(RegistryDenied("no")))
    assert hours.slept == []


def test_a_budget_ends_the_run_before_a_wait_that_would_break_it() -> None:
    hours = Hours()
    with pytest.raises(OutOfTime):
        pace(hours, budget_s=60).attempt(failing(*[RegistryError("down")] * 1000))
    assert hours.now < 60


def test_a_bandwidth_limit_holds_on_average() -> None:
    hours = Hours()
    runner = pace(hours, bytes_per_s=1000)
    for _ in range(10):
        runner.spend(500)
    assert hours.now == pytest.approx(5.0)
    hours.now += 100  # an idle time is no credit
    runner.spend(1000)
    assert hours.slept[-1] == pytest.approx(1.0)


def test_an_upload_keeps_to_limit_and_budget_and_goes_on_later(sender: Sender, tmp_path: Path) -> None:
    for _ in range(4):
        sender.fill(4, 10_000)
    context = sender.context(f"oci:{tmp_path}/registry")
    hours = Hours()
    clock = WaitClock(hours.monotonic, hours.sleep, hours.chance)
    result = upload(context, Options(budget_s=60, bytes_per_s=1000), clock=clock)
    assert result.reason == "the time for this run is over"
    assert len(result.sent) == 1
    assert result.queued == 3
    assert hours.now <= 60
    sender.verify_nothing_lost()
    assert upload(context, clock=clock).queued == 0


def test_smallest_first_and_oldest_first(sender: Sender, tmp_path: Path) -> None:
    for parts in (5, 1, 3):
        sender.fill(parts, 10_000)
    first = upload(sender.context(f"oci:{tmp_path}/a"), Options(order="smallest"))
    assert [entry.seq for entry in first.sent] == [2, 3, 1]
    for parts in (5, 1, 3):
        sender.fill(parts, 10_000)
    second = upload(sender.context(f"oci:{tmp_path}/a"))
    assert [entry.seq for entry in second.sent] == [4, 5, 6]


def supply(root: Path, name: str, **values: str) -> None:
    (root / name).mkdir(parents=True)
    for key, value in values.items():
        (root / name / key).write_text(value + "\n")


def test_a_low_battery_waits_and_mains_power_does_not(sender: Sender, tmp_path: Path) -> None:
    power = tmp_path / "power"
    context = sender.context("127.0.0.1:1", "min_battery_percent = 30")
    assert battery_percent(power) is None  # no battery at all
    supply(power, "BAT0", type="Battery", capacity="80")
    supply(power, "BAT1", type="Battery", capacity="12")
    supply(power, "mouse", type="Battery", capacity="3", scope="Device")
    assert battery_percent(power) == 12
    assert "12 %" in (why_not_now(context, power_supply=power) or "")
    supply(power, "AC", type="Mains", online="1")
    assert battery_percent(power) is None
    assert why_not_now(context, power_supply=power) is None


@pytest.mark.parametrize("capacity", ["", "full", "-1", "٣"])
def test_a_battery_that_says_nonsense_holds_nothing_up(tmp_path: Path, capacity: str) -> None:
    supply(tmp_path / "power", "BAT0", type="Battery", capacity=capacity)
    assert battery_percent(tmp_path / "power") is None


def test_metered_is_what_the_hook_wrote_and_the_policy_decides(sender: Sender) -> None:
    context = sender.context("127.0.0.1:1")
    assert not is_metered(context.run_dir)
    (context.run_dir / "metered").write_text("yes\n")
    assert "metered" in (why_not_now(context) or "")
    assert why_not_now(sender.context("127.0.0.1:1", 'metered = "yes"')) is None


@pytest.mark.parametrize(
    ("nmcli", "route", "arguments", "expected"),
    [
        ("yes", "eth0", ["eth0", "up"], "yes"),
        ("yes (guessed)", "wlan0", ["wlan0", "up"], "yes"),
        ("no (guessed)", "wwan0", ["wwan0", "connectivity-change"], "no"),
        ("unknown", "eth0", ["eth0", "up"], "no"),
        ("", "wwan0", ["eth0", "up"], "yes"),  # the default route counts
        ("", "ppp0", [], "yes"),  # networkd-dispatcher
        ("", "eth0", ["eth0", "down"], None),
    ],
)
def test_the_network_hook_notes_metered_links_and_asks_for_an_upload(
    tmp_path: Path, nmcli: str, route: str, arguments: list[str], expected: str | None
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {
        "nmcli": f'[ -n "{nmcli}" ] && echo "{nmcli}"',
        "ip": f"echo default via 10.0.0.1 dev {route} metric 1",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    run = tmp_path / "run"
    (run / "trigger").mkdir(parents=True)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "EDGEPROV_RUN": str(run)}
    if not arguments:
        environment |= {"IFACE": "eth0", "STATE": "routable"}
    assert subprocess.run([str(HOOK), *arguments], env=environment, check=False).returncode == 0
    assert (run / "metered").exists() is (expected is not None)
    assert (run / "trigger" / "upload").exists() is (expected is not None)
    if expected:
        assert (run / "metered").read_text().strip() == expected
