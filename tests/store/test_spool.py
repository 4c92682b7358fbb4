# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The spool: what was synced is there after any damage of the tail, and no number is used twice."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections import deque
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprov.errors import LimitError, StoreBusy, StoreCorrupt, StoreError, StoreFull, UsageError
from edgeprov.limits import LIMITS
from edgeprov.store.salvage import salvaged_frames
from edgeprov.store.spool import INPUT, LABEL, RECORD, LabelLog, Quota, SlotSpool, read_segment
from edgeprov.store.spool_writer import RESERVED_NUMBERS


@pytest.fixture
def quarantine(tmp_path: Path):
    folder = tmp_path / "quarantine"
    folder.mkdir()

    def move(path: Path, reason: str) -> Path:
        target = folder / f"{path.name}.{len(os.listdir(folder))}"
        return path.rename(target)

    return move


@pytest.fixture
def spool(tmp_path: Path, quarantine) -> SlotSpool:
    return SlotSpool(tmp_path / "slot", quarantine=quarantine)


def die(writer) -> None:
    """What the kernel does when the process is killed: descriptors close, memory is gone."""
    writer._sync_thread.stop()
    writer._rows.clear()
    writer._buffer.clear()
    writer._failed = StoreError("dead")
    writer.close()


def records(spool: SlotSpool) -> list[bytes]:
    return [row for info in spool.segments() for kind, row in read_segment(info.path).rows() if kind == RECORD]


# -- the normal way -----------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["every", "interval", "seal"])
def test_records_come_back_in_order_across_segments(spool: SlotSpool, sync: str) -> None:
    rows = [b"row-%d" % number for number in range(1, 31)]
    with spool.open_writer(sync=sync, interval_ms=1) as writer:
        previous = None
        for start in (0, 10, 20):
            assert writer.position.next == start + 1
            assert writer.position.skipped == 0
            assert writer.position.prev == previous
            header = b"header-%d" % start
            previous = hashlib.sha256(header).digest()
            writer.open_segment(header, b"evidence")
            for row in rows[start : start + 10]:
                assert writer.append_record(row) == writer.next_n - 1
            assert writer.segment_records == 10
            path = writer.close_segment()
            assert writer.synced_n == start + 11
            segment = read_segment(path)
            assert (segment.header, segment.evidence, segment.records, segment.closed) == (
                header,
                (b"evidence",),
                10,
                True,
            )
    assert records(spool) == rows
    assert [info.next_n for info in spool.segments()] == [11, 21, 31]


def test_in_mode_every_a_record_is_on_the_disk_when_append_returns(spool: SlotSpool) -> None:
    writer = spool.open_writer(sync="every")
    writer.open_segment(b"h")
    for number in range(3):
        writer.append_record(b"row-%d" % number, b"input-%d" % number)
        assert writer.synced_n == writer.next_n
        (info,) = spool.segments()
        frames = [item for item in read_segment(info.path).frames() if item[0] in (RECORD, INPUT)]
        assert frames[-2:] == [(RECORD, b"row-%d" % number), (INPUT, b"input-%d" % number)]
    writer.close()


def test_in_mode_every_a_sync_asked_for_does_not_end_what_was_promised(spool: SlotSpool) -> None:
    with spool.open_writer(sync="every") as writer:
        writer.open_segment(b"h")
        for number in range(3):
            writer.sync()
            writer.append_record(b"row-%d" % number)
            assert writer.synced_n == writer.next_n
            (info,) = spool.segments()
            assert list(read_segment(info.path).frames())[-1] == (RECORD, b"row-%d" % number)


def test_in_mode_interval_a_lonely_record_is_synced_without_a_further_call(spool: SlotSpool, fail_at) -> None:
    import threading

    from edgeprov.store import atomic

    synced = threading.Event()
    with spool.open_writer(sync="interval", interval_ms=1) as writer:
        writer.open_segment(b"h")
        atomic.hook = lambda operation, *_: synced.set() if operation == "sync" else None
        try:
            writer.append_record(b"row")
            assert synced.wait(30)
        finally:
            atomic.hook = None
    assert records(spool) == [b"row"]


def test_misuse_is_refused(spool: SlotSpool) -> None:
    with pytest.raises(UsageError):
        spool.open_writer(sync="sometimes")
    with spool.open_writer(sync="seal") as writer:
        with pytest.raises(UsageError):
            writer.append_record(b"no segment")
        assert writer.close_segment() is None
        writer.open_segment(b"h")
        with pytest.raises(UsageError):
            writer.open_segment(b"h2")
        with pytest.raises(LimitError):
            writer.append_record(bytes(LIMITS.record_bytes * 2))
        with pytest.raises(LimitError):
            writer.append_record(b"r", bytes(LIMITS.input_bytes * 2))
        assert writer.next_n == 1
    with pytest.raises(UsageError):
        writer.append_record(b"closed")


def test_a_closed_segment_takes_no_record(spool: SlotSpool) -> None:
    with spool.open_writer(sync="seal") as writer:
        writer.open_segment(b"h")
        writer.append_record(b"r")  # there is room for many more
        writer.close_segment()
        with pytest.raises(UsageError):
            writer.append_record(b"late")
        with pytest.raises(UsageError):
            writer.append_record(b"late", b"input")
        assert writer.next_n == 2


def test_rows_of_many_threads_are_all_there_in_order_while_others_sync(spool: SlotSpool) -> None:
    """An append queues its row without the lock of those who write: none may be lost, doubled or overtaken."""
    each, done = 3_000, threading.Event()
    promised: list[tuple[int, int]] = []
    with spool.open_writer(sync="interval", interval_ms=1) as writer:
        writer.open_segment(b"h")

        def append(with_input: bool) -> None:
            for _ in range(each):
                with writer.lock:
                    n = writer.next_n
                    captured = b"input-%d" % n if with_input and n % 7 == 0 else None
                    assert writer.append_record(b"row-%d" % n, captured) == n

        def sync() -> None:
            while not done.is_set():
                appended = writer.next_n
                writer.sync()
                promised.append((appended, writer.synced_n))

        writers = [threading.Thread(target=append, args=(number == 0,)) for number in range(3)]
        syncers = [threading.Thread(target=sync) for _ in range(2)]
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)  # the scheduler looks for trouble
        try:
            for thread in (*writers, *syncers):
                thread.start()
            for thread in writers:
                thread.join()
        finally:
            done.set()
            for thread in syncers:
                thread.join()
            sys.setswitchinterval(switch_s)
        assert all(synced >= appended for appended, synced in promised), "what was appended before a sync is durable"
        path = writer.close_segment()
        assert path is not None
    rows = [bytes(payload) for kind, payload in read_segment(path).rows() if kind == RECORD]
    assert rows == [b"row-%d" % n for n in range(1, 3 * each + 1)]
    before = b""
    for kind, payload in read_segment(path).rows():
        if kind == INPUT:
            assert payload == before.replace(b"row", b"input"), "an input stands right behind its record"
        before = bytes(payload)


def test_a_sync_amid_an_append_promises_only_what_was_written(spool: SlotSpool) -> None:
    promised: list[int] = []

    class Interrupted(deque[bytes]):
        """Just before a row is in the queue, the other thread syncs."""

        def append(self, row: bytes) -> None:
            other = threading.Thread(target=writer.sync)
            other.start()
            other.join()
            promised.append(writer.synced_n)
            super().append(row)

    with spool.open_writer(sync="interval", interval_ms=100_000) as writer:
        writer.open_segment(b"h")
        writer._rows = Interrupted()
        for _ in range(3):
            writer.append_record(b"r")
        assert promised == [1, 2, 3], "the row on its way is not counted"
        writer.sync()
        assert writer.synced_n == 4


def test_one_writer_in_this_and_in_other_processes(spool: SlotSpool, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from edgeprov.store.spool import SlotSpool\n"
        "SlotSpool(Path(sys.argv[1]), quarantine=lambda p, r: p).open_writer().close()\n"
    )

    def other() -> str:
        return subprocess.run([sys.executable, "-c", script, spool.folder], capture_output=True, text=True).stderr

    with spool.open_writer():
        with pytest.raises(StoreBusy):
            spool.open_writer()
        with pytest.raises(StoreBusy):
            spool.recover()
        assert "StoreBusy" in other()
    assert other() == ""


def test_closed_segments_are_freed_and_their_numbers_stay_used(spool: SlotSpool) -> None:
    with spool.open_writer(sync="seal") as writer:
        writer.open_segment(b"h")
        writer.append_record(b"r")
        with pytest.raises(StoreBusy):
            spool.free(spool.segments()[0])
        path = writer.close_segment()
        (spool.folder / "head.json").unlink()  # as if the power had failed between END and head
    spool.free(path)
    spool.free(path)
    assert spool.segments() == ()
    assert spool.recover().next == 2
    assert spool.recover().prev == hashlib.sha256(b"h").digest()


# -- crashes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("appended", [1, 5])
def test_a_killed_writer_skips_what_it_had_reserved(spool: SlotSpool, appended: int) -> None:
    writer = spool.open_writer(sync="seal")
    writer.open_segment(b"h")
    for _ in range(appended):
        writer.append_record(b"r")
    writer.sync()
    writer.append_record(b"in memory only")
    die(writer)
    position = spool.recover()
    assert position.next == 1 + RESERVED_NUMBERS
    assert position.skipped == RESERVED_NUMBERS - appended
    assert records(spool) == [b"r"] * appended
    assert spool.recover() == position, "recovery is idempotent"
    assert spool.open_writer().position == position


@pytest.mark.parametrize("how", ["close", "close_segment", "kill", "kill while closing"])
def test_a_segment_without_records_leaves_no_trace_in_the_chain(spool: SlotSpool, how: str, fail_at) -> None:
    with spool.open_writer(sync="seal") as writer:
        writer.open_segment(b"full")
        writer.append_record(b"r")
    writer = spool.open_writer(sync="seal")
    before = writer.position
    writer.open_segment(b"empty", b"evidence")
    if how == "close_segment":
        assert writer.close_segment() is None
        assert writer.position == before
        writer.close()
    elif how == "close":
        writer.close()
    elif how == "kill":
        die(writer)
    else:
        with fail_at(0, only="remove"), pytest.raises(StoreError):
            writer.close()
    position = spool.recover()
    assert position.prev == hashlib.sha256(b"full").digest()
    assert position.next - position.skipped == 2
    assert position.next == (2 + RESERVED_NUMBERS if how == "kill" else 2)
    assert len(spool.segments()) == 1
    with spool.open_writer(sync="seal") as writer:
        assert writer.position == position
        writer.open_segment(b"third")
        assert writer.append_record(b"r") == position.next
    assert spool.recover().prev == hashlib.sha256(b"third").digest()


def test_a_reservation_without_its_segment_is_not_skipped(spool: SlotSpool, fail_at) -> None:
    with spool.open_writer() as writer:
        writer.open_segment(b"h")
        writer.append_record(b"r")
        writer.close_segment()
        with fail_at(0, only="rename"), pytest.raises(StoreError):
            writer.open_segment(b"h2")
        with fail_at(1, only="rename"), pytest.raises(StoreError):
            writer.open_segment(b"h2")
    assert spool.recover() == writer.position
    assert spool.recover().next == 2


def test_more_records_than_one_reservation(spool: SlotSpool) -> None:
    count = 2 * RESERVED_NUMBERS + 5
    writer = spool.open_writer(sync="seal")
    writer.open_segment(b"h")
    for _ in range(count):
        writer.append_record(b"r")
    writer.sync()
    die(writer)
    position = spool.recover()
    assert 1 + count < position.next <= 1 + count + RESERVED_NUMBERS
    assert position.next - position.skipped == 1 + count


@pytest.mark.parametrize("head", [None, b"", b"{}", b'{"reserved":1,"next":"x","ended":1,"prev":null}'])
def test_a_lost_head_is_rebuilt_from_the_segments(spool: SlotSpool, tmp_path: Path, head: bytes | None) -> None:
    with spool.open_writer() as writer:
        writer.open_segment(b"h")
        writer.append_record(b"r")
    path = spool.folder / "head.json"
    path.unlink()
    if head is not None:
        path.write_bytes(head)
    position = spool.recover()
    assert (position.next, position.skipped, position.prev) == (2, 0, hashlib.sha256(b"h").digest())
    assert len(os.listdir(tmp_path / "quarantine")) == (head is not None)
    assert spool.recover().next == 2


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    synced=st.integers(0, 8),
    cut=st.integers(0, 400),
    noise=st.binary(max_size=30),
)
def test_any_tail_is_cut_to_a_prefix_that_holds_all_that_was_synced(tmp_path_factory, rows, synced, cut, noise) -> None:
    spool = SlotSpool(tmp_path_factory.mktemp("s"), quarantine=lambda path, _: path.rename(f"{path}.quarantined"))
    writer = spool.open_writer(sync="seal")
    path = writer.open_segment(b"header")
    for row in rows[:synced]:
        writer.append_record(row)
    writer.sync()
    safe = writer.segment_bytes
    for row in rows[synced:]:
        writer.append_record(row)
    writer._flush()
    written = writer.segment_bytes
    die(writer)
    raw = path.read_bytes()[:written]
    path.write_bytes(raw[: max(safe, len(raw) - cut)] + noise)
    position = spool.recover()
    found = records(spool)
    assert found[: len(rows[:synced])] == rows[:synced]
    assert found == rows[: len(found)] or zlib.crc32(noise)  # noise may end in a valid frame only by its checksum
    assert position.next >= 1 + len(rows)


def killed_after_ten(spool: SlotSpool) -> tuple[Path, bytearray]:
    writer = spool.open_writer(sync="seal")
    path = writer.open_segment(b"h")
    for number in range(10):
        writer.append_record(b"record-%d" % number + bytes([number]) * 1000)
    writer.sync()
    die(writer)
    return path, bytearray(path.read_bytes())


def test_rows_behind_a_changed_bit_stay_where_they_are(spool: SlotSpool) -> None:
    path, raw = killed_after_ten(spool)
    raw[raw.index(b"record-3")] ^= 1
    path.write_bytes(raw)
    spool.recover()
    assert path.read_bytes().startswith(bytes(raw))
    with pytest.raises(StoreCorrupt):
        list(read_segment(path).rows())
    found = [payload[:8] for kind, payload in salvaged_frames(read_segment(path), search=False) if kind == RECORD]
    assert found == [b"record-%d" % number for number in range(10) if number != 3]


def test_rows_behind_a_gap_that_a_power_cut_left_were_never_acknowledged(spool: SlotSpool, tmp_path: Path) -> None:
    path, raw = killed_after_ten(spool)
    start = raw.index(b"record-3")
    raw[start : start + 1000] = bytes(1000)
    path.write_bytes(raw)
    spool.recover()
    assert [row[:8] for row in records(spool)] == [b"record-0", b"record-1", b"record-2"]
    (kept,) = (item for item in (tmp_path / "quarantine").iterdir() if item.suffix != ".reason")
    assert b"record-9" in kept.read_bytes()


@pytest.mark.parametrize("damage", ["bit", "cut", "end"])
def test_a_closed_segment_that_rotted_is_an_error_not_a_short_kit(spool: SlotSpool, damage: str) -> None:
    with spool.open_writer(sync="seal") as writer:
        path = writer.open_segment(b"h")
        for number in range(10):
            writer.append_record(b"record-%d" % number)
    raw = bytearray(path.read_bytes())
    if damage == "bit":
        raw[raw.index(b"record-3")] ^= 1
    elif damage == "cut":
        del raw[raw.index(b"record-5") - 9 : raw.index(b"record-6") - 9]
    else:
        raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(StoreCorrupt):
        list(read_segment(path).rows())


def test_a_segment_whose_header_rotted_goes_to_quarantine(spool: SlotSpool, tmp_path: Path) -> None:
    writer = spool.open_writer(sync="seal")
    path = writer.open_segment(b"header")
    writer.append_record(b"r")
    writer.sync()
    die(writer)
    raw = bytearray(path.read_bytes())
    raw[10] ^= 1
    path.write_bytes(raw)
    assert spool.recover().next == 1 + RESERVED_NUMBERS
    assert [item.name for item in (tmp_path / "quarantine").iterdir()] == [f"{path.name}.0"]


@pytest.mark.parametrize("length", [0xFFFFFFFF, LIMITS.input_bytes * 2])
def test_a_frame_that_claims_to_be_huge_takes_no_memory(tmp_path: Path, length: int) -> None:
    path = tmp_path / f"{1:020d}.seg"
    path.write_bytes(struct.pack("<IIB", length, 0, INPUT) + b"x")
    segment = read_segment(path)
    assert list(segment.frames()) == []
    assert segment.torn


def test_near_the_quota_it_is_looked_at_seldom(spool: SlotSpool) -> None:
    looks = 0

    def usage() -> int:
        nonlocal looks
        looks += 1
        return sum(path.stat().st_size for path in spool.folder.glob("*.seg"))

    with spool.open_writer(sync="seal", quota=Quota(limit_bytes=500_000, usage=usage)) as writer:
        writer.open_segment(b"h")
        with pytest.raises(StoreFull):
            while True:
                writer.append_record(bytes(50))
        assert writer.next_n > 8000
    assert looks < 10


# -- full disks and failing ones ----------------------------------------------------------------


@pytest.mark.parametrize("sync", ["every", "interval", "seal"])
def test_at_the_quota_a_record_is_refused_and_its_number_stays_free(spool: SlotSpool, sync: str) -> None:
    def usage() -> int:
        return sum(path.stat().st_size for path in spool.folder.glob("*.seg"))

    with spool.open_writer(sync=sync, quota=Quota(limit_bytes=2_000_000, usage=usage)) as writer:
        writer.open_segment(b"h")
        taken = 0
        with pytest.raises(StoreFull) as caught:
            while True:
                taken += bool(writer.append_record(bytes([1]) * 10_000))
        assert "quota" in caught.value.message
        assert 150 < taken < 200
        assert writer.next_n == taken + 1
        with pytest.raises(StoreFull):
            writer.append_record(bytes(100_000))
        first = writer.close_segment()
        with pytest.raises(StoreFull):
            for _ in range(1000):
                writer.open_segment(b"h2")
                writer.append_record(bytes([2]) * 10_000)
                writer.close_segment()
        writer.close_segment()
        spool.free(first)
        writer.open_segment(b"h3")
        writer.append_record(b"room again")
    assert records(spool)[-1] == b"room again"
    assert usage() < 2_000_000 + 300_000


@pytest.mark.parametrize("sync", ["every", "interval", "seal"])
@pytest.mark.parametrize("operation", ["write", "allocate"])
def test_a_full_disk_loses_nothing_that_was_taken(spool: SlotSpool, sync: str, operation: str) -> None:
    row = bytes([7]) * 5_000
    taken: list[int] = []
    with spool.open_writer(sync=sync, interval_ms=100_000) as writer:
        writer.open_segment(b"h")
        for number in range(30):
            with fail_everything(operation, number):
                for _ in range(10):
                    try:
                        taken.append(writer.append_record(row))
                    except StoreFull:
                        break
        assert taken == list(range(1, len(taken) + 1)), "a refused record used no number"
        assert writer.next_n == len(taken) + 1
    assert records(spool) == [row] * len(taken)


class fail_everything:
    """From the n-th operation of a kind on, the disk is full."""

    def __init__(self, operation: str, number: int) -> None:
        self.operation, self.left = operation, number % 4

    def __enter__(self) -> None:
        from edgeprov.store import atomic

        def hook(operation: str, path: str, *_: object) -> None:
            if operation == self.operation:
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.ENOSPC, "No space left on device", path)

        atomic.hook = hook

    def __exit__(self, *_: object) -> None:
        from edgeprov.store import atomic

        atomic.hook = None


@pytest.mark.parametrize("sync", ["every", "seal"])
def test_after_a_failed_sync_the_writer_refuses_everything(spool: SlotSpool, fail_at, sync: str) -> None:
    writer = spool.open_writer(sync=sync)
    writer.open_segment(b"h")
    writer.append_record(b"safe")
    writer.sync()
    with fail_at(0, errno.EIO, only="sync"), pytest.raises(StoreError):
        writer.append_record(b"doubtful")
        writer.sync()
    for use in (lambda: writer.append_record(b"x"), writer.sync, writer.close_segment):
        with pytest.raises(StoreError):
            use()
    writer.close()
    position = spool.recover()
    assert records(spool)[0] == b"safe"
    assert position.next == 1 + RESERVED_NUMBERS


def test_a_full_disk_at_the_end_of_a_segment_still_closes_it(spool: SlotSpool, fail_at) -> None:
    writer = spool.open_writer(sync="seal")
    writer.open_segment(b"h")
    writer.append_record(b"r")
    with fail_at(0, errno.ENOSPC, only="create"):
        path = writer.close_segment()
    assert read_segment(path).closed
    writer.close()
    assert spool.recover().next == 2


# -- labels -------------------------------------------------------------------------------------


@pytest.fixture
def labels(tmp_path: Path, quarantine) -> LabelLog:
    return LabelLog(tmp_path / "labels", quarantine=quarantine)


def label_rows(log: LabelLog) -> list[bytes]:
    return [row for info in log.segments() for kind, row in read_segment(info.path).frames() if kind == LABEL]


def test_labels_from_several_objects_gather_in_one_log(labels: LabelLog, tmp_path: Path, quarantine) -> None:
    other = LabelLog(tmp_path / "labels", quarantine=quarantine)
    assert labels.append([b"1", b"2"]) == 2
    assert other.append([b"3"]) == 1
    assert labels.append([b"4"]) == 1
    assert labels.append([]) == 0
    assert label_rows(labels) == [b"1", b"2", b"3", b"4"]
    with pytest.raises(StoreBusy):
        labels.free(labels.segments()[0])
    labels.rotate()
    labels.rotate()
    other.append([b"5"])
    first, second = labels.segments()
    assert (first.closed, first.records, second.closed) == (True, 4, False)
    assert list(read_segment(first.path).rows()) == [(LABEL, row) for row in (b"1", b"2", b"3", b"4")]
    labels.free(first)
    other.rotate()
    other.free(second.path)
    labels.append([b"6"])
    assert labels.segments()[0].first == 3, "names are not used again"


@pytest.mark.parametrize("tail", [b"x", struct.pack("<IIB", 5, 0, LABEL) + b"ab", bytes(20)])
def test_a_torn_label_is_cut_before_the_next_one(labels: LabelLog, tmp_path: Path, quarantine, tail: bytes) -> None:
    labels.append([b"1"])
    (info,) = labels.segments()
    with info.path.open("ab") as file:
        file.write(tail)
    LabelLog(tmp_path / "labels", quarantine=quarantine).append([b"2"])
    labels.append([b"3"])
    assert label_rows(labels) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_label_that_could_not_be_written_is_an_error_and_the_next_one_works(labels, fail_at, code) -> None:
    labels.append([b"1"])
    for operation in ("write", "sync"):
        with fail_at(0, code, only=operation), pytest.raises(StoreError):
            labels.append([b"lost"])
    labels.append([b"2"])
    assert label_rows(labels) == [b"1", b"2"]
