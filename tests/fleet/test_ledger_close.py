# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Closing a day under kills, full disks, and rivals; the desk runs as a program of its own."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.errors import ConfigError, StoreError, StoreFull
from edgeprov.fleet.ledger import close
from edgeprov.fleet.ledger.chains import load_chain, verify_chain
from edgeprov.fleet.ledger.close import Closer
from edgeprov.fleet.ledger.day_statement import chain_name
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder
from edgeprov.fleet.ledger.open_day import append_rows
from edgeprov.formats.digest import digest_of
from edgeprov.store import atomic
from edgeprov.verify.policy import parse_policy
from tests.support.ledger import DAY_NS, NOW_NS, ROOT, at, collector, content, kit, make_folder, policy
from tests.support.tsa import Tsa

EVERYTHING = os.environ.get("EDGEPROV_CRASH") == "all"
RANDOM_KILLS = 100 if EVERYTHING else 6


def program(folder: Path, verb: str, days: int, step: int | None = None, **options) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.support.ledger_program", str(folder), verb, str(days)]
    return subprocess.Popen(
        [*words, *([] if step is None else [str(step)])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2], **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed day, and an open one whose kits partly stand in the closed one."""
    path = tmp_path_factory.mktemp("before") / "ledger"
    folder = make_folder(path, [[kit(1), kit(2)]])
    append_rows(folder, [kit(2, source="mirror"), kit(3)], NOW_NS + DAY_NS)
    append_rows(folder, [kit(4), kit(4, source="mirror")], NOW_NS + DAY_NS)
    return path


def verify_whole(path: Path, kits: int = 4) -> None:
    """Each kit is there exactly once to readers, and all that is closed is a good chain."""
    folder = LedgerFolder(path)
    assert [number for _, number, _ in sorted(content(folder)["kits"], key=lambda row: row[1])] == list(
        range(1, kits + 1)
    )
    load_chain(folder, "desk", policy(), at(NOW_NS + 9 * DAY_NS))


def finish(path: Path) -> None:
    """The next run closes the day, and the next day works."""
    done = program(path, "close", 2)
    assert done.communicate()[1] == "", "the second run"
    folder = LedgerFolder(path)
    assert [day for day, _ in folder.list_days()] == ["2026-09-21", "2026-09-22"]
    verify_whole(path)
    assert content(folder)["doubled"] == [(0,)]
    append_rows(folder, [kit(5)], NOW_NS + 2 * DAY_NS)
    assert [day.day for day in Closer(folder=folder, signer=collector()).close_due(NOW_NS + 3 * DAY_NS)] == [
        "2026-09-23"
    ]
    verify_whole(path, 5)


def test_a_kill_at_each_step_leaves_the_open_or_the_closed_day(before: Path, tmp_path: Path) -> None:
    states, step = [], 0
    while True:
        path = tmp_path / str(step)
        shutil.copytree(before, path)
        run = program(path, "close", 2, step)
        out, error = run.communicate()
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, error
        verify_whole(path)
        states.append(LedgerFolder(path).day_path("2026-09-22").exists())
        if EVERYTHING or step % 3 == 0:
            finish(path)
        shutil.rmtree(path)
        step += 1
    assert out == "2026-09-22\n"
    assert step > 10
    assert states == sorted(states), "open before the commit, closed after it"
    assert states[-1], "there is a step after the commit"
    assert not states[0]


def test_a_kill_at_each_step_of_an_append_loses_no_row_that_was_there(before: Path, tmp_path: Path) -> None:
    step = 0
    while True:
        path = tmp_path / str(step)
        shutil.copytree(before, path)
        run = program(path, "append", 1, step)
        run.communicate()
        kits = {number for _, number, _ in content(LedgerFolder(path))["kits"]}
        assert kits in ({1, 2, 3, 4}, {1, 2, 3, 4, 1001})
        if run.returncode == 0:
            assert 1001 in kits
            break
        shutil.rmtree(path)
        step += 1
    assert step > 3


def test_kills_at_random_while_days_are_closed(before: Path, tmp_path: Path) -> None:
    chance = random.Random(20)
    path = tmp_path / "ledger"
    for _ in range(RANDOM_KILLS):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(before, path)
        run = program(path, "close", 2)
        time.sleep(chance.uniform(0.2, 1.6))
        run.kill()
        run.communicate()
        verify_whole(path)
        finish(path)


def test_two_closers_at_once(before: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    shutil.copytree(before, path)
    runs = [program(path, "close", 2) for _ in range(2)]
    outs = [run.communicate() for run in runs]
    assert sorted(out for out, _ in outs) == ["", "2026-09-22\n"], outs
    finish(path)


def test_the_signature_has_its_name_before_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LedgerFolder(tmp_path)
    append_rows(folder, [kit(1)], NOW_NS)
    names = []

    def hook(operation: str, _path: str, argument: object, _offset: int) -> None:
        if operation == "rename":
            names.append(Path(str(argument)).name)

    monkeypatch.setattr(atomic, "hook", hook)
    Closer(folder=folder, signer=collector()).close_due(NOW_NS + DAY_NS)
    assert names == ["2026-09-21.json", "2026-09-21.parquet"]


def test_a_signature_without_a_table_does_not_count_and_is_written_again(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path)
    append_rows(folder, [kit(1)], NOW_NS)
    Closer(folder=folder, signer=collector()).close_due(NOW_NS + DAY_NS)
    folder.day_path("2026-09-21").unlink()
    append_rows(folder, [kit(2)], NOW_NS)
    Closer(folder=folder, signer=collector()).close_due(NOW_NS + DAY_NS)
    verify_whole(tmp_path, 2)


@pytest.fixture
def full_disk() -> Iterator[list[int]]:
    """No file may grow beyond this many bytes: the writes of a full disk, for root as well."""
    bound = [0]

    def hook(operation: str, _path: str, argument: object, offset: int) -> None:
        if operation == "write" and isinstance(argument, bytes) and offset + len(argument) > bound[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    atomic.hook = hook
    yield bound
    atomic.hook = None


@pytest.mark.parametrize("room", [0, 100, 3_000, 20_000])
def test_a_full_disk_leaves_the_day_open(before: Path, tmp_path: Path, full_disk: list[int], room: int) -> None:
    path = tmp_path / "ledger"
    shutil.copytree(before, path)
    full_disk[0] = room
    folder = LedgerFolder(path)
    with pytest.raises(StoreFull, match="No space left"):
        Closer(folder=folder, signer=collector()).close_due(NOW_NS + 2 * DAY_NS)
    with pytest.raises(StoreFull):
        append_rows(folder, [kit(9)], NOW_NS + DAY_NS)
    assert not folder.day_path("2026-09-22").exists()
    assert [entry.name for entry in folder.days.iterdir()] == ["2026-09-21.parquet"]
    verify_whole(path)
    full_disk[0] = 10**9
    finish(path)


def test_a_limit_of_the_kernel_on_files_leaves_the_day_open(before: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    shutil.copytree(before, path)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    run = program(path, "close", 2, preexec_fn=limit)
    _, error = run.communicate()
    assert run.returncode == StoreFull.exit_code, error
    assert error.startswith("StoreFull")
    verify_whole(path)
    finish(path)


def test_a_read_only_folder_is_told_in_one_line(before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    shutil.copytree(before, path)

    def hook(operation: str, *_: object) -> None:
        if operation in {"create", "rename", "remove", "mkdir"}:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(atomic, "hook", hook)
    with pytest.raises(StoreError, match="Read-only file system"):
        Closer(folder=LedgerFolder(path), signer=collector()).close_due(NOW_NS + 2 * DAY_NS)
    verify_whole(path)


def test_a_failed_signature_leaves_the_day_open(before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    shutil.copytree(before, path)

    def fail(*_: object) -> bytes:
        raise ConfigError("the token was taken away")

    monkeypatch.setattr(close, "sign_statement", fail)
    with pytest.raises(ConfigError):
        Closer(folder=LedgerFolder(path), signer=collector()).close_due(NOW_NS + 2 * DAY_NS)
    monkeypatch.undo()
    finish(path)


def test_a_day_of_another_collector_does_not_get_into_this_chain(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [[kit(1)]])
    append_rows(folder, [kit(2)], NOW_NS + DAY_NS)
    with pytest.raises(StoreError, match="holds the chain desk"):
        Closer(folder=folder, signer=collector("other")).close_due(NOW_NS + 2 * DAY_NS)


def test_a_closed_day_carries_a_stamp_where_there_is_an_authority(tmp_path: Path) -> None:
    (tmp_path / "tsa").mkdir()
    tsa = Tsa(tmp_path / "tsa")
    folder = LedgerFolder(tmp_path / "ledger")
    append_rows(folder, [kit(1)], NOW_NS)

    def stamp(data: bytes) -> bytes:
        from edgeprov.fleet.ingest.stamp import Authority

        return Authority(tuple(tsa.command), (tsa.root.der,)).stamp(data)

    def absent(_data: bytes) -> bytes:
        raise ConfigError("the authority does not answer")

    with pytest.raises(ConfigError):
        Closer(folder=folder, signer=collector(), stamp=absent).close_due(NOW_NS + DAY_NS)
    assert folder.list_days() == ()
    Closer(folder=folder, signer=collector(), stamp=stamp).close_due(NOW_NS + DAY_NS)
    files = {"publisher-root.pem": ROOT.pem, "tsa.pem": tsa.root.pem}
    trust = parse_policy(files | {"policy.toml": b'[roles]\ncollector = ["urn:edgeprov:collector:desk"]\n'})
    chain = load_chain(folder, "desk", trust, at())
    assert [anchor for anchor, _ in chain.days[0].stamps] == [digest_of(tsa.root.der).raw]


def test_a_chain_that_goes_on_from_another_says_so(tmp_path: Path) -> None:
    old = digest_of(b"the last bundle")
    folder = LedgerFolder(tmp_path)
    closer = Closer(folder=folder, signer=collector(), number=2, continues=old)
    for day in range(2):
        append_rows(folder, [kit(1 + day)], NOW_NS + day * DAY_NS)
        closer.close_due(NOW_NS + (day + 1) * DAY_NS)
    assert chain_name(collector(), 2) == "desk.2"
    days = verify_chain(
        "desk.2", [(day, folder.load_bundle(day)) for day, _ in folder.list_days()], policy(), at()
    ).days
    assert [day.statement.continues for day in days] == [old, None]
