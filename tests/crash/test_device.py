# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every state-changing command of the device, stopped at each change of disk and TPM."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.device.context import Context
from tests.support.crashpoints import TOTALS, in_child
from tests.support.device_scenarios import COMMANDS, Bench, Command, check
from tests.support.powercut import Log, disks, write_disk

each = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name.replace(" ", "-"))


@pytest.fixture
def bench(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(tmp_path / "site", command)
    site = bench.site
    monkeypatch.setattr(Context, "tpm", lambda context: site.open_tpm(context))  # noqa: PLW0108  to bind
    monkeypatch.setattr(Context, "boot_id", lambda _self: site.boot_id)
    monkeypatch.setenv("EDGEPROV_CONFIG", str(site.config_file))
    bench.prepare()
    return bench


def run(bench: Bench, number: int, **how) -> tuple[bool, list[str], int | None]:
    def work(acknowledge) -> None:
        bench.site.tpm.on_change = acknowledge
        bench.command.run(bench.site, acknowledge)

    stopped = in_child(work, number, **how)
    return stopped.finished, stopped.acknowledged, stopped.error


@each
@pytest.mark.parametrize("power_cut", [False, True], ids=["restart", "reboot"])
def test_killed_at_every_change(bench: Bench, power_cut: bool) -> None:
    number = 0
    while True:
        bench.restore()
        finished, acknowledged, _ = run(bench, number)
        try:
            TOTALS["invariants held after kills"] += check(bench, acknowledged, power_cut=power_cut)
        except Exception as error:
            raise AssertionError(f"killed at change {number}: {error!r}") from error
        if finished:
            break
        TOTALS["crash points tried: device, killed"] += 1
        number += 1
    assert number >= 3


@each
@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EROFS", "EDQUOT"])
def test_every_change_fails_once(bench: Bench, name: str) -> None:
    number = 0
    while True:
        bench.restore()
        finished, acknowledged, code = run(bench, number, code=getattr(errno, name))
        assert finished or code in (30, 34, 98), (number, code)
        try:
            TOTALS["invariants held after errors"] += check(bench, acknowledged, power_cut=False)
        except Exception as error:
            raise AssertionError(f"{name} at change {number}: {error!r}") from error
        if finished:
            break
        TOTALS[f"crash points tried: device, {name}"] += 1
        number += 1


@each
def test_power_cut_at_every_change(bench: Bench) -> None:
    with Log(bench.site.root) as log:
        bench.site.tpm.on_change = log.acknowledge
        bench.command.run(bench.site, log.acknowledge)
        bench.site.tpm.on_change = None
    for done, acknowledged, disk in disks(log):
        bench.restore()
        shutil.rmtree(bench.site.root)
        write_disk(disk, bench.site.root)
        try:
            TOTALS["invariants held after power cuts"] += check(bench, acknowledged, power_cut=True)
        except Exception as error:
            raise AssertionError(f"after change {done} of {len(log.changes)}: {error!r}") from error
        TOTALS["power cuts tried: device (disks that differ)"] += 1
