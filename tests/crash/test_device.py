# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every state-changing command of the device, stopped at changes of disk and TPM.

The slow tests kill at each change in turn; the fast ones at every n-th of one command. Failing calls
and power cuts are sampled, from starts that differ per command; EDGEPROV_CRASH=all tries each, in under
an hour for this folder (``pytest tests/crash -k COMMAND`` repeats a single command).
"""

from __future__ import annotations

import errno
import shutil
import zlib
from collections import Counter
from pathlib import Path

import pytest

from edgeprov.device.context import Context
from tests.support.crashpoints import EVERYTHING, TOTALS, calls_in, in_child, trace_changes, under_strace
from tests.support.device_commands import COMMANDS
from tests.support.device_scenarios import Bench, Command, check
from tests.support.powercut import Log, disks, write_disk

FAST = ("seal",)
each = pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=() if c.name in FAST else pytest.mark.slow, id=c.name.replace(" ", "-")) for c in COMMANDS],
)
exhaustive = [pytest.mark.slow, pytest.mark.timeout(3600)]
SOCKETS = 3


def exhaustively(test):
    """A slow test that may take long where everything is tried."""
    return pytest.mark.slow(pytest.mark.timeout(3600)(test))


STRIDE = 23
CUTS = 10**9 if EVERYTHING else 40  # power cuts per command in the slow test; each needs a third of a second


@pytest.fixture
def bench(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path / "site", command)
    site = bench.site
    for name in ("tpm", "boot_tpm"):
        monkeypatch.setattr(Context, name, lambda context: site.open_tpm(context))  # noqa: PLW0108  to bind
    monkeypatch.setattr(Context, "boot_id", lambda _: site.boot_id)
    monkeypatch.setenv("EDGEPROV_CONFIG", str(site.config_file))
    bench.prepare()
    return bench


def work_of(bench: Bench):
    def work(acknowledge) -> None:
        bench.site.tpm.on_change = acknowledge
        bench.command.run(bench.site, acknowledge)

    return work


def stop_at(bench: Bench, number: int, *, power_cut: bool, code: str | None = None) -> bool:
    """Run the command until its change ``number``, start again, check; True when it had no such change."""

    bench.restore()
    stopped = in_child(work_of(bench), number, code=getattr(errno, code) if code else None)
    assert stopped.error in (None, 30, 34, 98), (number, stopped)
    kind = "errors" if code else "kills"
    try:
        TOTALS[f"invariants held after {kind}"] += check(bench, stopped.acknowledged, power_cut=power_cut)
    except Exception as error:
        raise AssertionError(f"{code or 'killed'} at change {number}: {error!r}") from error
    if not stopped.finished:
        TOTALS[f"crash points tried: device, {code or 'killed'}"] += 1
    return stopped.finished


def first(command: Command, salt: str = "") -> int:
    return zlib.crc32(f"{command.name}{salt}".encode()) % STRIDE


@each
def test_killed_at_some_changes(bench: Bench) -> None:
    number = first(bench.command)
    while not stop_at(bench, number, power_cut=number % 2 == 0):
        number += STRIDE


@each
def test_some_changes_fail(bench: Bench) -> None:
    names = ("ENOSPC", "EIO", "EROFS", "EDQUOT")
    number = first(bench.command, "errors")
    while not stop_at(bench, number, power_cut=False, code=names[number % 4]):
        number += STRIDE


@each
@pytest.mark.parametrize(
    "power_cut",
    [pytest.param(False, id="restart", marks=exhaustive), pytest.param(True, id="reboot", marks=exhaustive)],
)
def test_killed_at_every_change(bench: Bench, power_cut: bool) -> None:
    number = 0
    while not stop_at(bench, number, power_cut=power_cut):
        number += 1
    assert number >= bench.command.least


@each
@pytest.mark.parametrize("name", [pytest.param(n, marks=exhaustive) for n in ("ENOSPC", "EIO", "EROFS", "EDQUOT")])
def test_every_change_fails_once(bench: Bench, name: str) -> None:
    step = 1 if EVERYTHING else 7
    number = first(bench.command, name) % step
    while not stop_at(bench, number, power_cut=False, code=name):
        number += step


def cut_power(bench: Bench, most: int) -> None:
    with Log(bench.site.root) as log:
        bench.site.tpm.on_change = log.acknowledge
        bench.command.run(bench.site, log.acknowledge)
        bench.site.tpm.on_change = None
    found = list(disks(log))
    step = max(1, len(found) // most)
    for done, acknowledged, disk in found[zlib.crc32(bench.command.name.encode()) % step :: step]:
        bench.restore()
        shutil.rmtree(bench.site.root)
        write_disk(disk, bench.site.root)
        try:
            TOTALS["invariants held after power cuts"] += check(bench, acknowledged, power_cut=True)
        except Exception as error:
            raise AssertionError(f"after change {done} of {len(log.changes)}: {error!r}") from error
        TOTALS["power cuts tried: device (disks that differ)"] += 1


@each
def test_power_cut_at_some_changes(bench: Bench) -> None:
    cut_power(bench, 4)


@exhaustively
@each
def test_power_cut_at_many_changes(bench: Bench) -> None:
    cut_power(bench, CUTS)


def traced(bench: Bench, log: Path) -> tuple[Counter[str], Counter[str]]:
    """What the kernel saw of one run, and what the store's hook saw."""
    hooked: Counter[str] = Counter()
    bench.restore()
    # The event log and the verdicts of this boot are gone after a power cut, as what they tell of is.
    volatile = f"{bench.site.root}/run/"
    assert under_strace(work_of(bench), *trace_changes(log), counts=hooked, but=volatile).finished
    return calls_in(log, but=volatile), hooked


@each
def test_every_change_passes_the_hook(bench: Bench, tmp_path: Path) -> None:
    """The kernel sees no change of a command that the hook does not: so the tests above miss none."""
    calls, hooked = traced(bench, tmp_path / "log")
    assert calls["pwrite64"] == hooked["write"]
    assert calls["fdatasync"] == hooked["sync"]
    assert calls["fsync"] == hooked["sync_dir"]
    assert calls["rename"] + calls["renameat"] + calls["renameat2"] == hooked["rename"]
    assert calls["ftruncate"] == hooked["truncate"]
    assert calls["fallocate"] == hooked["allocate"]
    assert calls["link"] + calls["linkat"] == 0
    # A socket's file in /run is none of the store's.
    assert hooked["remove"] <= calls["unlink"] + calls["unlinkat"] <= hooked["remove"] + SOCKETS
    assert hooked["mkdir"] <= calls["mkdir"] + calls["mkdirat"] <= hooked["mkdir"] + 1


@exhaustively
@each
def test_strace_kills_at_system_calls(bench: Bench, tmp_path: Path) -> None:
    traced(bench, tmp_path / "log")
    calls = calls_in(tmp_path / "log")
    points = [
        (call, number)
        for call in sorted(calls)
        if call not in ("write", "ioctl")
        for number in range(1, calls[call] + 1)
    ]  # write: acknowledgements; ioctl: questions
    tried = 0
    for call, number in points if EVERYTHING else points[first(bench.command) % 11 :: 11]:
        bench.restore()
        stopped = under_strace(work_of(bench), "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}")
        if stopped.finished:
            continue  # how often a client asks for the socket is a matter of time
        tried += 1
        try:
            TOTALS["invariants held after kills"] += check(bench, stopped.acknowledged, power_cut=False)
        except Exception as error:
            raise AssertionError(f"killed at {call} {number}: {error!r}") from error
        TOTALS["crash points tried: device, killed by strace"] += 1
    assert tried >= min(1, len(points) // 12)
