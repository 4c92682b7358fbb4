# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The store's work stopped at each change of the disk: killed, failing, and without power."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.crashpoints import EVERYTHING, TOTALS, count_calls, in_child, program, strace
from tests.support.powercut import Log, disks, write_disk
from tests.support.store_scenarios import SCENARIOS, Scenario, check

FAST = ("record, sync every", "seal")
each = pytest.mark.parametrize(
    "scenario",
    [pytest.param(s, marks=() if s.name in FAST else pytest.mark.slow, id=s.name.replace(" ", "-")) for s in SCENARIOS],
)
ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT")


class Start:
    """Copies of a scenario's starting point."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        scenario.prepare(folder / "start")

    def copy(self) -> Path:
        self._count += 1
        target = self._folder / str(self._count) / "state"
        target.parent.mkdir()
        if (self._folder / "start").exists():
            shutil.copytree(self._folder / "start", target)
        return target


@each
def test_killed_at_every_change(scenario: Scenario, tmp_path: Path) -> None:
    start = Start(scenario, tmp_path)
    number = 0
    while True:
        root = start.copy()
        stopped = in_child(lambda tell, root=root: scenario.run(root, tell), number)
        TOTALS["invariants held after kills"] += check(root, stopped.acknowledged)
        shutil.rmtree(root.parent)
        if stopped.finished:
            break
        TOTALS["crash points tried: killed"] += 1
        number += 1
    assert number >= 5


@each
@pytest.mark.parametrize("name", [ERRORS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ERRORS[1:])])
def test_every_change_fails_once(scenario: Scenario, tmp_path: Path, name: str) -> None:
    _fail(scenario, tmp_path, name, sticky=False)


@each
def test_the_disk_is_full_from_some_change_on(scenario: Scenario, tmp_path: Path) -> None:
    _fail(scenario, tmp_path, "ENOSPC", sticky=True)


def _fail(scenario: Scenario, tmp_path: Path, name: str, *, sticky: bool) -> None:
    start = Start(scenario, tmp_path)
    number = 0
    while True:
        root = start.copy()
        stopped = in_child(
            lambda tell, root=root: scenario.run(root, tell), number, code=getattr(errno, name), sticky=sticky
        )
        TOTALS["invariants held after errors"] += check(root, stopped.acknowledged)
        shutil.rmtree(root.parent)
        if stopped.finished:
            break
        # 98: the work went on in spite of the error, which is right only where the store knows another way.
        assert stopped.error in ((30, 98) if name in ("ENOSPC", "EDQUOT") else (34, 98))
        TOTALS[f"crash points tried: {name}{' from there on' if sticky else ''}"] += 1
        number += 1


@each
def test_power_cut_at_every_change(scenario: Scenario, tmp_path: Path) -> None:
    scenario.prepare(tmp_path / "start" / "state")
    (tmp_path / "start").mkdir(exist_ok=True)
    with Log(tmp_path / "start") as log:
        scenario.run(tmp_path / "start" / "state", log.acknowledge)
    tried = 0
    for number, (done, acknowledged, disk) in enumerate(disks(log)):
        folder = tmp_path / "cut"
        write_disk(disk, folder)
        try:
            TOTALS["invariants held after power cuts"] += check(folder / "state", acknowledged)
        except Exception as error:
            raise AssertionError(f"disk {number} after change {done} of {len(log.changes)}: {error!r}") from error
        shutil.rmtree(folder)
        tried += 1
    TOTALS["power cuts tried (disks that differ)"] += tried
    assert tried > len(log.changes) / 2


@each
def test_every_change_passes_the_hook(scenario: Scenario, tmp_path: Path) -> None:
    """The kernel sees no change of the disk that the hook does not: so the tests above miss none."""
    start = Start(scenario, tmp_path)
    root = start.copy()
    argv = program("tests.support.store_program", scenario.name, str(root))
    calls = count_calls(argv, tmp_path / "log", but="</memfd:edgeprov-ring>")  # memory, not the disk
    root = start.copy()
    (root.parent / "x").mkdir()
    with Log(root.parent) as log:
        scenario.run(root, log.acknowledge)
    hooked = [item.operation for item in log.changes if not isinstance(item, str)]
    assert calls["pwrite64"] == hooked.count("write")
    assert calls["fdatasync"] == hooked.count("sync")
    assert calls["fsync"] == hooked.count("sync_dir")
    assert calls["rename"] + calls["renameat"] + calls["renameat2"] == hooked.count("rename")
    assert calls["ftruncate"] == hooked.count("truncate")
    assert calls["fallocate"] == hooked.count("allocate")
    assert calls["link"] + calls["linkat"] == 0
    assert calls["unlink"] + calls["unlinkat"] >= hooked.count("remove")
    assert calls["write"] == len(log.changes) - len(hooked), "nothing but the acknowledgements"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@each
def test_strace_kills_at_every_system_call(scenario: Scenario, tmp_path: Path) -> None:
    start = Start(scenario, tmp_path)
    argv = program("tests.support.store_program", scenario.name)
    calls = count_calls([*argv, str(start.copy())], tmp_path / "log")
    for call, count in calls.items():
        for number in range(1, count + 1):
            root = start.copy()
            result = strace([*argv, str(root)], call, number)
            assert result.returncode in (-9, 137), (call, number, result.stderr)
            TOTALS["invariants held after kills"] += check(root, result.stdout.splitlines())
            TOTALS["crash points tried: killed by strace"] += 1
            shutil.rmtree(root.parent)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@each
@pytest.mark.parametrize("name", ERRORS)
def test_strace_fails_every_system_call(scenario: Scenario, tmp_path: Path, name: str) -> None:
    start = Start(scenario, tmp_path)
    argv = program("tests.support.store_program", scenario.name)
    calls = count_calls([*argv, str(start.copy())], tmp_path / "log")
    del calls["write"]  # standard output, not the store
    for call, count in calls.items():
        # Every error at every change is tried through the hook above; here the kernel says it.
        for number in range(1, count + 1, 1 if EVERYTHING else 9):
            root = start.copy()
            result = strace([*argv, str(root)], call, number, error=name)
            assert result.returncode in (0, 30, 34, 35), (call, number, result.stderr)
            assert "Traceback" not in result.stderr
            TOTALS["invariants held after errors"] += check(root, result.stdout.splitlines())
            TOTALS[f"crash points tried: {name} by strace"] += 1
            shutil.rmtree(root.parent)


def test_strace_is_there() -> None:
    assert subprocess.run(["strace", "-V"], capture_output=True, check=True).stdout
