# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The spool: what was synced is there after any damage of the tail, and no number is used twice."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprov.errors import LimitError, StoreBusy, StoreCorrupt, StoreError, StoreFull, UsageError
from edgeprov.limits import LIMITS
from edgeprov.store.salvage import salvaged_frames
from edgeprov.store.segment_owner import RESERVED_NUMBERS
from edgeprov.store.spool import INPUT, LABEL, RECORD, LabelLog, Quota, SlotSpool, read_segment


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
    """What a power cut does: descriptors close, memory is gone, and so is a ring, which has no name here."""
    writer._sync_thread.stop()
    writer._failed = StoreError("dead")
    writer.close()


def records(spool: SlotSpool) -> list[bytes]:
    """All rows, of closed segments only where each is whole."""
    return [
        row
        for info in spool.segments()
        for kind, row in (read_segment(info.path).rows() if info.closed else read_segment(info.path).frames())
        if kind == RECORD
    ]


# -- the normal way -----------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["every", "interval", "seal"])
def test_records_come_back_in_order_across_segments(spool: SlotSpool, sync: str) -> None:
    rows = [b"row-%d" % number for number in range(1, 31)]
    with spool.open_writer(sync=sync, interval_ms=1) as writer:
        for start in (0, 10, 20):
            assert writer.next_n == start + 1
            header = b"header-%d" % start
            writer.open_segment(header, b"evidence")
            for row in rows[start : start + 10]:
                assert writer.append_record(row) == writer.next_n - 1
            assert writer.segment_records == 10
            path = writer.close_segment()
            assert writer.synced_n == start + 11
            segment = read_segment(path)
            assert (segment.header, segment.evidence, segment.records, segment.closed) == (
                header,
                b"evidence",
                10,
                True,
            )
    assert records(spool) == rows
    assert [(info.next_n, info.ranges) for info in spool.segments()] == [
        (11, ((1, 10),)), (21, ((11, 20),)), (31, ((21, 30),)),
    ]  # fmt: skip


def test_in_mode_every_a_record_is_on_the_disk_when_append_returns(spool: SlotSpool) -> None:
    writer = spool.open_writer(sync="every")
    writer.open_segment(b"h", b"evidence")
    for number in range(3):
        writer.append_record(b"row-%d" % number, b"input-%d" % number)
        assert writer.synced_n == writer.next_n
        (info,) = spool.segments()
        frames = [item for item in read_segment(info.path).frames() if item[0] in (RECORD, INPUT)]
        assert frames[-2:] == [(RECORD, b"row-%d" % number), (INPUT, b"input-%d" % number)]
    writer.close()


def test_in_mode_every_a_sync_asked_for_does_not_end_what_was_promised(spool: SlotSpool) -> None:
    with spool.open_writer(sync="every") as writer:
        writer.open_segment(b"h", b"evidence")
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
        writer.open_segment(b"h", b"evidence")
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
        writer.open_segment(b"h", b"evidence")
        with pytest.raises(UsageError):
            writer.open_segment(b"h2", b"evidence")
        with pytest.raises(LimitError):
            writer.append_record(bytes(LIMITS.record_bytes * 2))
        with pytest.raises(LimitError):
            writer.append_record(b"r", bytes(LIMITS.input_bytes * 2))
        assert writer.next_n == 1
    with pytest.raises(UsageError):
        writer.append_record(b"closed")


def test_a_closed_segment_takes_no_record(spool: SlotSpool) -> None:
    with spool.open_writer(sync="seal") as writer:
        writer.open_segment(b"h", b"evidence")
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
        writer.open_segment(b"h", b"evidence")

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

    class Sync(bytes):
        """Just before a row is in the ring, the other thread syncs."""

        __slots__ = ()

        def __radd__(self, head: bytes) -> bytes:
            other = threading.Thread(target=writer.sync)
            other.start()
            other.join()
            promised.append(writer.synced_n)
            return head + bytes(self)

    with spool.open_writer(sync="interval", interval_ms=100_000) as writer:
        writer.open_segment(b"h", b"evidence")
        for _ in range(3):
            writer.append_record(Sync(b"r"))
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
        writer.open_segment(b"h", b"evidence")
        writer.append_record(b"r")
        with pytest.raises(StoreBusy):
            spool.free(spool.segments()[0])
        path = writer.close_segment()
        (spool.folder / "head.json").unlink()  # as if the power had failed between END and head
    spool.free(path)
    spool.free(path)
    assert spool.segments() == ()
    assert spool.recover().next == 2


# -- crashes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("appended", [0, 1, 5])
def test_a_killed_writer_skips_what_it_had_reserved_and_the_stop_is_named(spool: SlotSpool, appended: int) -> None:
    writer = spool.open_writer(sync="seal")
    writer.open_segment(b"h", b"evidence")
    for _ in range(appended):
        writer.append_record(b"r")
    writer.sync()
    writer.append_record(b"in memory only")
    die(writer)
    position = spool.recover()
    assert position.next == 1 + RESERVED_NUMBERS
    (stop,) = spool.stops()
    assert (stop.after, stop.resumed) == (appended, 1 + RESERVED_NUMBERS)
    assert stop.header == hashlib.sha256(b"h").digest()
    assert records(spool) == [b"r"] * appended
    assert spool.recover() == position, "recovery is idempotent"
    assert spool.stops() == (stop,)
    spool.forget_stops([stop])
    assert spool.stops() == ()


@pytest.mark.parametrize(("sync", "bound_ms"), [("every", 0), ("interval", 150), ("seal", 2**53 - 1)])
def test_a_stop_carries_the_bound_of_the_writer_that_died(spool: SlotSpool, sync: str, bound_ms: int) -> None:
    writer = spool.open_writer(sync=sync, interval_ms=150)
    writer.open_segment(b"h", b"evidence")
    writer.append_record(b"r")
    die(writer)
    spool.open_writer(sync="interval", interval_ms=7).close()
    assert [stop.bound_ms for stop in spool.stops()] == [bound_ms]


def test_stops_in_a_row_are_one_and_a_record_between_them_parts_them(spool: SlotSpool) -> None:
    def session(rows: int) -> None:
        writer = spool.open_writer(sync="every")
        if writer.open_segments:
            writer.go_on(writer.open_segments[0])
        else:
            writer.open_segment(b"h", b"evidence")
        for _ in range(rows):
            writer.append_record(b"r")
        die(writer)

    for _ in range(3):
        session(0)
    spool.recover()
    assert [(stop.after, stop.resumed) for stop in spool.stops()] == [(0, 1 + 3 * RESERVED_NUMBERS)]
    session(2)
    spool.recover()
    assert [(stop.after, stop.resumed) for stop in spool.stops()] == [
        (0, 1 + 3 * RESERVED_NUMBERS),
        (2 + 3 * RESERVED_NUMBERS, 1 + 4 * RESERVED_NUMBERS),
    ]
    assert [stop.header for stop in spool.stops()] == [hashlib.sha256(b"h").digest()] * 2


# -- one segment, several writers ---------------------------------------------------------------


def test_a_later_writer_goes_on_in_the_segment(spool: SlotSpool) -> None:
    for session in range(10):
        with spool.open_writer(sync="interval") as writer:
            if session:
                writer.go_on(writer.open_segments[0])
            else:
                writer.open_segment(b"h", b"evidence")
            assert writer.segment_records == 2 * session
            for _ in range(2):
                writer.append_record(b"row-%d" % writer.next_n)
    (info,) = spool.segments()
    assert not info.closed
    assert spool.stops() == ()
    spool.end_open()
    (info,) = spool.segments()
    assert (info.records, info.ranges, info.next_n) == (20, ((1, 20),), 21)
    assert records(spool) == [b"row-%d" % n for n in range(1, 21)]


def test_after_a_kill_the_segment_goes_on_with_later_numbers(spool: SlotSpool) -> None:
    writer = spool.open_writer(sync="every")
    writer.open_segment(b"h", b"evidence")
    writer.append_record(b"1")
    die(writer)
    with spool.open_writer(sync="every") as writer:
        writer.go_on(writer.open_segments[0])
        assert writer.append_record(b"2") == 1 + RESERVED_NUMBERS
        assert writer.append_record(b"3") == 2 + RESERVED_NUMBERS
        writer.close_segment()
    (info,) = spool.segments()
    assert info.ranges == ((1, 1), (1 + RESERVED_NUMBERS, 2 + RESERVED_NUMBERS))
    assert records(spool) == [b"1", b"2", b"3"]


def test_two_kinds_in_turn_keep_a_segment_each(spool: SlotSpool) -> None:
    for turn in range(3):
        for place, header in enumerate((b"one", b"two")):
            with spool.open_writer(sync="interval") as writer:
                if turn:
                    writer.go_on(writer.open_segments[place])
                else:
                    writer.open_segment(header, b"evidence")
                writer.append_record(header)
    spool.end_open()
    assert [info.ranges for info in spool.segments()] == [((1, 1), (3, 3), (5, 5)), ((2, 2), (4, 4), (6, 6))]


def test_the_next_segment_is_prepared_while_the_one_before_takes_records(spool: SlotSpool) -> None:
    with spool.open_writer(sync="interval") as writer:
        first = writer.open_segment(b"one", b"evidence")
        writer.append_record(b"1")
        new = writer.prepare(b"two")
        writer.append_record(b"2")
        assert read_segment(new.path).evidence == b"", "without evidence it takes no record"
        new.start(b"evidence of two")
        writer.append_record(b"3")
        assert writer.use(new) == first
        writer.append_record(b"4")
    spool.end_open()
    assert [info.ranges for info in spool.segments()] == [((1, 3),), ((4, 4),)]


def test_a_segment_without_records_stays_open_and_a_header_without_evidence_too(spool: SlotSpool) -> None:
    with spool.open_writer() as writer:
        empty = writer.open_segment(b"empty", b"evidence")
        unquoted = writer.prepare(b"unquoted")
        unquoted.close()
    spool.end_open()
    assert [(info.path, info.closed) for info in spool.segments()] == [(empty, False), (unquoted.path, False)]
    with spool.open_writer() as writer:
        assert writer.open_segments == (empty,)
        with pytest.raises(UsageError):
            writer.go_on(unquoted.path)
    with pytest.raises(StoreBusy):
        spool.drop_unquoted(spool.segments()[0].path)
    spool.drop_unquoted(spool.segments()[1].path)
    spool.free(empty)
    assert spool.segments() == ()


@pytest.mark.parametrize("step", range(12))
def test_a_failure_between_two_segments_uses_no_number_twice(spool: SlotSpool, fail_at, step: int) -> None:
    writer = spool.open_writer(sync="every")
    writer.open_segment(b"one", b"evidence")
    writer.append_record(b"row-1")
    try:
        with fail_at(step, errno.EIO):
            new = writer.prepare(b"two")
            new.start(b"evidence")
            writer.use(new)
    except StoreError:
        die(writer)
    else:
        writer.close()
    with spool.open_writer(sync="every") as writer:
        writer.open_segment(b"three", b"evidence")
        n = writer.append_record(b"row-next")
    assert n == 2 or [(stop.after, stop.resumed) for stop in spool.stops()] == [(1, n)]
    spool.end_open()
    assert [row for row in records(spool) if row == b"row-1"] == [b"row-1"]


def test_a_reservation_without_its_segment_is_not_skipped(spool: SlotSpool, fail_at) -> None:
    with spool.open_writer() as writer:
        writer.open_segment(b"h", b"evidence")
        writer.append_record(b"r")
        writer.close_segment()
        for step in range(4):
            with fail_at(step, only="rename"), suppress(StoreError):
                writer.open_segment(b"h2", b"evidence")
            writer.close_segment()
    assert spool.recover().next == 2
    assert spool.stops() == ()


def test_more_records_than_one_reservation(spool: SlotSpool) -> None:
    count = 2 * RESERVED_NUMBERS + 5
    writer = spool.open_writer(sync="seal")
    writer.open_segment(b"h", b"evidence")
    for _ in range(count):
        writer.append_record(b"r")
    writer.sync()
    die(writer)
    position = spool.recover()
    assert 1 + count < position.next <= 1 + count + RESERVED_NUMBERS
    assert spool.stops()[0].after == count


@pytest.mark.parametrize("head", [None, b"", b"{}", b'{"reserved":1,"next":"x","order":1,"open":{},"writing":null}'])
def test_a_lost_head_is_rebuilt_from_the_segments(spool: SlotSpool, tmp_path: Path, head: bytes | None) -> None:
    with spool.open_writer() as writer:
        writer.open_segment(b"h", b"evidence")
        writer.append_record(b"r")
        writer.close_segment()
    path = spool.folder / "head.json"
    path.unlink()
    if head is not None:
        path.write_bytes(head)
    assert spool.recover().next == 2
    assert len(os.listdir(tmp_path / "quarantine")) == (head is not None)
    assert spool.recover().next == 2
    assert spool.stops() == ()


def test_a_lost_head_beside_an_open_segment_skips_what_may_have_been_reserved(spool: SlotSpool) -> None:
    with spool.open_writer() as writer:
        writer.open_segment(b"h", b"evidence")
        writer.append_record(b"r")
    (spool.folder / "head.json").unlink()
    assert spool.recover().next == 2 + RESERVED_NUMBERS
    assert [(stop.after, stop.resumed) for stop in spool.stops()] == [(1, 2 + RESERVED_NUMBERS)]


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
    path = writer.open_segment(b"header", b"evidence")
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
    path = writer.open_segment(b"h", b"evidence")
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
        path = writer.open_segment(b"h", b"evidence")
        for number in range(10):
            writer.append_record(b"record-%d" % number)
        writer.close_segment()
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
    path = writer.open_segment(b"header", b"evidence")
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
        writer.open_segment(b"h", b"evidence")
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
        writer.open_segment(b"h", b"evidence")
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
                writer.open_segment(b"h2", b"evidence")
                writer.append_record(bytes([2]) * 10_000)
                writer.close_segment()
        writer.close_segment()
        spool.free(first)
        writer.open_segment(b"h3", b"evidence")
        writer.append_record(b"room again")
    assert records(spool)[-1] == b"room again"
    assert usage() < 2_000_000 + 300_000


@pytest.mark.parametrize("sync", ["every", "interval", "seal"])
@pytest.mark.parametrize("operation", ["write", "allocate"])
def test_a_full_disk_loses_nothing_that_was_taken(spool: SlotSpool, sync: str, operation: str) -> None:
    row = bytes([7]) * 5_000
    taken: list[int] = []
    with spool.open_writer(sync=sync, interval_ms=100_000) as writer:
        writer.open_segment(b"h", b"evidence")
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
    writer.open_segment(b"h", b"evidence")
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
    writer.open_segment(b"h", b"evidence")
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
    assert labels.segments()[0].order == 3, "names are not used again"


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


def test_what_a_dead_owner_left_in_the_ring_is_copied_once(tmp_path: Path, quarantine) -> None:
    spool = SlotSpool(tmp_path / "slot", quarantine=quarantine, ring=tmp_path / "run" / "slot")
    for number in range(3):
        writer = spool.open_writer(sync="seal")
        writer.open_segment(b"header-%d" % number, b"evidence")
        writer.append_record(b"row-%d" % writer.next_n)
        writer.copy()
        writer.append_record(b"row-%d" % writer.next_n)  # waits in the ring when a kit ends the segment
        new = writer.prepare(b"next-%d" % number)
        new.start(b"evidence")
        writer.use(new)
        writer.append_record(b"row-%d" % writer.next_n)
        writer.copy()
        writer.append_record(b"row-%d" % writer.next_n)
        writer.leave()  # all that a kill does, but that the disk has it
        assert spool.recover().next == 4 * number + 5
        assert spool.stops() == ()
    spool.end_open()
    assert records(spool) == [b"row-%d" % n for n in range(1, 13)]


# -- kills, with the ring in a folder ------------------------------------------------------------------

KILLED = """
import mmap, os, sys
from pathlib import Path
from edgeprov.store.spool import SlotSpool
root, noted, header, every = Path(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), int(sys.argv[4])
note = memoryview(mmap.mmap(os.open(noted, os.O_RDWR), 8)).cast("Q")
spool = SlotSpool(root / "slot", quarantine=lambda path, reason: sys.exit(reason), ring=root / "run" / "slot")
writer = spool.open_writer(sync="interval", interval_ms=20)
writer.go_on(writer.open_segments[-1]) if writer.open_segments else writer.open_segment(header, b"evidence")
while True:
    n = writer.append_record(b"row-%d" % writer.next_n, b"input" if writer.next_n % 5 == 0 else None)
    note[0] = n
    if n % every == 0:  # a kit ends the segment, and another is ready
        new = writer.prepare(header + b"-%d" % n)
        new.start(b"evidence")
        writer.use(new)
"""


@pytest.mark.parametrize("every", [10**9, 700])
def test_a_kill_loses_nothing_and_is_no_unclean_stop(tmp_path: Path, quarantine, every: int) -> None:
    noted = tmp_path / "noted"
    noted.write_bytes(bytes(8))
    spool = SlotSpool(tmp_path / "slot", quarantine=quarantine, ring=tmp_path / "run" / "slot")
    dice = random.Random(every)
    for number in range(8):
        before = noted.read_bytes()
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(noted), f"header-{number}", str(every)]
        with subprocess.Popen(command) as process:
            deadline = time.monotonic() + 60
            while noted.read_bytes() == before:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(dice.random() / 10)
            process.kill()
        acknowledged = int.from_bytes(noted.read_bytes(), sys.byteorder)
        next_n = spool.recover().next
        assert next_n - 1 in (acknowledged, acknowledged + 1)  # the last may be stored and not yet told
        assert spool.stops() == ()
    rows = []
    spool.end_open()
    for info in spool.segments():
        if info.closed:
            rows += [bytes(row) for kind, row in read_segment(info.path).rows() if kind == RECORD]
    assert rows == [b"row-%d" % n for n in range(1, next_n)]
