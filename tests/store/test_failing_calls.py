# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Each system call of a session fails once: a clear error comes, no descriptor is left, no record is lost."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgeprov.errors import EdgeprovError, StoreError
from edgeprov.store.ring import create_memory_ring, create_ring
from edgeprov.store.ring_writer import RingWriter
from edgeprov.store.spool import RECORD, read_segment
from edgeprov.store.state import State
from tests.support.failing_calls import descriptors, failing

Acknowledge = Callable[[bytes], None]
HOUR_MS = 3_600_000


def alone(state: State, acknowledge: Acknowledge) -> None:
    """An application without the device service: two sessions in one segment, and a third that ends it."""
    spool = state.spool("default")
    for number, sync in enumerate(("interval", "every", "seal")):
        with spool.open_writer(sync=sync, interval_ms=HOUR_MS) as writer:
            if writer.open_segments:
                writer.go_on(writer.open_segments[-1])
            else:
                writer.open_segment(b"header", b"evidence")
            for turn in range(3):
                row = b"record %d of session %d" % (turn, number)
                writer.append_record(row, b"input")
                acknowledge(row)
                writer.make_room(1000)
            writer.sync()
            if sync == "seal":
                writer.close_segment()


@contextmanager
def application() -> Iterator[int]:
    """A process that could append, for its number."""
    child = subprocess.Popen(["sleep", "600"])
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()


def beside_a_service(state: State, acknowledge: Acknowledge, pid: int) -> None:
    """The service of an application that goes on to append while the service is started again."""
    spool = state.spool("default")
    rows: RingWriter | None = None
    try:
        for number, resume in enumerate((False, True)):
            writer = spool.open_writer(interval_ms=HOUR_MS, pid=pid, resume=resume)
            try:
                if rows is None:
                    writer.open_segment(b"header", b"evidence")
                    rows = RingWriter(
                        writer.ring.duplicate(), writer.ring.size_bytes, writer.next_n,
                        wake=lambda: None, make_room=writer.make_room,
                    )  # fmt: skip
                elif writer.open_segments:
                    writer.go_on(writer.open_segments[-1])
                writer.ring.tell_floor(1)
                for turn in range(3):
                    row = b"record %d beside service %d" % (turn, number)
                    rows.append(row)
                    acknowledge(row)
                    writer.copy()
                writer.ring.tell_end()
            finally:
                writer.leave()
    finally:
        if rows is not None:
            rows.close()


def records(state: State) -> list[bytes]:
    """What a start after the failure finds."""
    spool = state.spool("default")
    spool.recover()
    found = []
    for info in spool.segments():
        found += [payload for kind, payload in read_segment(info.path).frames() if kind == RECORD]
    return found


def try_each_call(tmp_path: Path, run: Callable[[State, Acknowledge, int], None], *, named: bool) -> list[str]:
    """Fail each call in turn; gives the names of the calls, in order."""
    failed: list[str] = []
    while True:
        folder = tmp_path / str(len(failed))
        folder.mkdir()
        state = State.open(folder / "state", write=True, run_dir=folder if named else None)
        told: list[bytes] = []
        gc.collect()
        before = descriptors()
        with application() as pid:
            during = descriptors()
            with failing(len(failed)) as injected:
                try:
                    run(state, told.append, pid)
                except EdgeprovError as error:
                    assert error.exit_code in (30, 34), (len(failed), injected.name, error)
            left = {fd: name for fd, name in descriptors().items() if during.get(fd) != name}
        assert not left, (len(failed), injected.name, left)
        # Fewer are no fault: what an earlier test left behind may be collected meanwhile.
        assert descriptors().keys() <= before.keys()
        found = records(State.open(folder / "state", write=True, run_dir=folder if named else None))
        assert len(found) == len(set(found))
        if named:
            assert set(told) <= set(found), (len(failed), injected.name)
        if injected.name is None:
            assert len(told) > 3
            return failed
        failed.append(injected.name)


@pytest.mark.parametrize("named", [True, False], ids=["ring-in-a-folder", "ring-without-a-name"])
def test_an_application_without_a_service(tmp_path: Path, named: bool) -> None:
    failed = try_each_call(tmp_path, lambda state, tell, _pid: alone(state, tell), named=named)
    assert {"mmap", "dup", "pread", "pwrite", "flock", "fstat", "stat"} <= set(failed)
    assert ("memfd_create" in failed) != named


def test_an_application_beside_a_service(tmp_path: Path) -> None:
    failed = try_each_call(tmp_path, beside_a_service, named=True)
    assert failed.count("open") > 10


@pytest.mark.parametrize(
    "make", [lambda folder: create_ring(folder / "ring", 4096), lambda _folder: create_memory_ring(4096)]
)
def test_a_ring_that_cannot_be_made_leaves_nothing(tmp_path: Path, make: Callable[[Path], int]) -> None:
    before = descriptors()
    for number in range(2):
        with failing(number), pytest.raises(StoreError):
            make(tmp_path)
        assert descriptors() == before
        assert not list(tmp_path.iterdir())


def test_a_ring_that_cannot_be_read_for_the_moment_keeps_its_records(tmp_path: Path) -> None:
    number = 0
    failed = ""
    while failed is not None:
        (folder := tmp_path / str(number)).mkdir()
        spool = State.open(folder / "state", write=True, run_dir=folder).spool("default")
        with application() as pid:
            writer = spool.open_writer(interval_ms=HOUR_MS, pid=pid)
            writer.open_segment(b"header", b"evidence")
            rows = RingWriter(
                writer.ring.duplicate(),
                writer.ring.size_bytes,
                writer.next_n,
                wake=lambda: None,
                make_room=writer.make_room,
            )
            rows.append(b"waits in the ring")
            rows.close()
            writer._release()  # as a kill: nothing is copied
        with failing(number) as injected, suppress(StoreError):
            spool.open_writer().close()  # it makes a ring of its own
        failed = injected.name
        assert records(State.open(folder / "state", write=True, run_dir=folder)) == [b"waits in the ring"], failed
        number += 1
    assert number > 30
