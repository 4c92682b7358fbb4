# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One vendor per run; one device per test, new or as it was after its enrollment."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.bench import Device, Vendor, environment, make_tpm
from harness.qemu import HilQemuDriver
from harness.strategy import EdgeprovStrategy, State
from labgrid import Target

COUNTS = {"faults injected": 0, "records acknowledged": 0, "records lost": 0, "false claims": 0}
NOTES: list[str] = []
KEPT: dict[str, Path] = {}


@pytest.fixture(scope="session")
def runs() -> Path:
    """Where this run keeps what it leaves behind."""
    folder = Path(os.environ["LG_RUNS"]) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def vendor(runs: Path, logs: Path, saved: Path | None, request: pytest.FixtureRequest) -> Iterator[Vendor]:
    """The vendor's side as it was right after the enrollment of the saved device, with a registry that runs.

    Each test has its own: devices that start from one saved state would look like forks of each other.
    """
    del runs
    new = request.node.get_closest_marker("new_vendor") is not None or saved is None
    made = Vendor(logs / "vendor", environment()["VENDOR"], None if new or saved is None else saved.parent / "vendor")
    with made.serve():
        yield made


@pytest.fixture
def logs(request: pytest.FixtureRequest, runs: Path) -> Path:
    """Where a test keeps what it leaves behind."""
    folder = runs / re.sub(r"[^\w-]", "_", request.node.name)[:80]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    setattr(item, f"report_{report.when}", report)
    if report.failed and "logs" in item.funcargs:  # type: ignore[attr-defined]
        KEPT[item.name] = item.funcargs["logs"]  # type: ignore[attr-defined]


def _power(strategy: EdgeprovStrategy) -> HilQemuDriver | None:
    return strategy.power if isinstance(strategy.power, HilQemuDriver) else None


@pytest.fixture(scope="session")
def saved(target: Target, runs: Path) -> Path | None:
    """A device right after its enrollment, memory and TPM included; None with a real board.

    LG_SAVED names one of an earlier run with the same image.
    """
    if "LG_SAVED" in os.environ:
        return Path(os.environ["LG_SAVED"])
    strategy = target.get_driver("EdgeprovStrategy", activate=False)
    power = _power(strategy)
    if power is None:
        return None
    logs = runs / "enrollment"
    vendor = Vendor(runs / "vendor", environment()["VENDOR"])
    with vendor.serve():
        power.prepare(logs, registry_port=vendor.port, serial="ward-7")
        make_tpm(logs / "tpm")
        vendor.trust_maker_of(logs / "tpm")
        strategy.status = State.off
        Device(strategy, vendor, logs, "ward-7")
        try:
            strategy.transition("enrolled")
        except BaseException:
            KEPT["the enrollment before all tests"] = logs
            strategy.cut_power()
            raise
    for driver in (strategy.ssh, strategy.shell):
        target.deactivate(driver)
    power.save(runs / "enrolled-device")
    strategy.status = State.off
    return runs / "enrolled-device"


@pytest.fixture
def make_device(
    request: pytest.FixtureRequest, target: Target, vendor: Vendor, logs: Path
) -> Iterator[Callable[..., Device]]:
    """Makes the device of a test: `make_device()` new from the factory, `like=` as it was saved.

    With ``resume=False`` a saved device boots from its disks, as after a power cut.
    """
    strategy = target.get_driver("EdgeprovStrategy", activate=False)
    power = _power(strategy)
    made: list[Device] = []

    def make(*, serial: str = "ward-7", like: Path | None = None, resume: bool = True, **settings: object) -> Device:
        if power is not None:
            power.prepare(logs, registry_port=vendor.port, serial=serial, like=like)
            if like is None:
                make_tpm(logs / "tpm")
                vendor.trust_maker_of(logs / "tpm")
            power.load = power.load if resume else None
            for name, value in settings.items():
                setattr(power, name, value)
        strategy.status = State.off
        strategy.broken = None  # one failed boot says nothing about the next test
        device = Device(strategy, vendor, logs, serial)
        made.append(device)
        return device

    yield make
    failed = getattr(request.node, "report_call", None)
    if made and (failed is None or failed.failed):
        made[-1].keep_evidence()
    strategy.cut_power()
    if failed is not None and failed.passed:
        for name in ("root.qcow2", "data.qcow2", "data.raw", "log.raw", "before.raw", "stick.raw"):
            (logs / name).unlink(missing_ok=True)


@pytest.fixture
def device(make_device: Callable[..., Device], saved: Path | None) -> Device:
    """An enrolled device, running, with its cable in."""
    made = make_device(like=saved)
    if saved is None:
        made.strategy.transition("online")
        return made
    made.strategy.transition("booted")
    made.set_clock()
    made.strategy.status = State.online
    return made


@pytest.fixture
def virtual(device: Device) -> HilQemuDriver:
    """The power driver with its faults; for tests marked `virtual`."""
    assert isinstance(device.strategy.power, HilQemuDriver)
    return device.strategy.power


@pytest.fixture
def counts() -> dict[str, int]:
    """Totals that the run prints at its end."""
    return COUNTS


@pytest.fixture
def notes() -> list[str]:
    """Lines that the run prints at its end."""
    return NOTES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, folder in KEPT.items():
        terminalreporter.write_line(f"kept of {name}: {folder}")
    for line in NOTES:
        terminalreporter.write_line(line)
    terminalreporter.write_line(", ".join(f"{name}: {number}" for name, number in COUNTS.items()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Levels: smoke ⊂ full ⊂ soak. On a real board what only a virtual device can do is left out."""
    level = os.environ.get("LG_LEVEL", "smoke")
    wanted = {"smoke": {"smoke"}, "full": {"smoke", "full"}, "soak": {"smoke", "full", "soak"}}[level]
    board = "qemu" not in str(config.getoption("lg_env") or "")
    keep, drop = [], []
    for item in items:
        levels = {mark.name for mark in item.iter_markers() if mark.name in ("smoke", "full", "soak")} or {"full"}
        skipped = not levels & wanted or (board and item.get_closest_marker("virtual") is not None)
        (drop if skipped else keep).append(item)
    config.hook.pytest_deselected(items=drop)
    items[:] = keep
