# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Several writers of one slot: a lane each, and record numbers in blocks that never meet."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from edgeprov.errors import StoreError
from edgeprov.store import segment_owner, spool_writer
from edgeprov.store.frames import RECORD, ranges_of, unused_of
from edgeprov.store.ring_writer import NumbersMoved
from edgeprov.store.spool import SlotSpool, SpoolWriter, read_segment

BLOCK = 1_000


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlotSpool:
    for module in (segment_owner, spool_writer):
        monkeypatch.setattr(module, "RESERVED_NUMBERS", BLOCK)

    def quarantine(path: Path, reason: str) -> Path:
        raise AssertionError((path, reason))

    return SlotSpool(tmp_path / "slot", quarantine=quarantine, ring=tmp_path / "rings" / "slot")


def begin(spool: SlotSpool, lane: int) -> SpoolWriter:
    writer = spool.of_lane(lane).open_writer(sync="interval", interval_ms=100_000)
    if writer.open_segments:
        writer.go_on(writer.open_segments[-1])
    else:
        writer.open_segment(b"header of %d" % lane, b"evidence")
    return writer


def append(writer: SpoolWriter, count: int) -> list[int]:
    """Numbers of records, each of which carries its own number."""
    taken = []
    while len(taken) < count:
        try:
            taken.append(writer.append_record(b"%020d" % writer.next_n))
        except NumbersMoved:
            continue
    return taken


def die(writer: SpoolWriter) -> None:
    """What a kill does: nothing more is written, and the ring stays."""
    writer._sync_thread.stop()
    writer._file_lock.release()
    writer._ring.close()
    if writer._file is not None:
        writer._file.close()
    writer._closed = True


def verify(spool: SlotSpool, numbers: list[int]) -> list[tuple[int, int]]:
    """Every row has the number that it was given, none is there twice; gives the unused ranges."""
    found: list[int] = []
    unused: list[tuple[int, int]] = []
    for lane in spool.lanes():
        lane.end_open()
    for info in spool.segments():
        rows = [int(row) for kind, row in read_segment(info.path).rows() if kind == RECORD]
        assert info.ranges == ranges_of(read_segment(info.path).frames())
        assert rows == [n for first, last in info.ranges for n in range(first, last + 1)]
        found += rows
        unused += unused_of(read_segment(info.path).frames())
    assert sorted(found) == sorted(numbers)
    assert len(set(found)) == len(found)
    everything = sorted([(n, n) for n in found] + unused)
    assert all(low[1] < high[0] for low, high in pairwise(everything))
    return unused


def test_two_writers_of_a_slot_never_give_the_same_number(spool: SlotSpool) -> None:
    first, second = begin(spool, 0), begin(spool, 1)
    numbers = []
    for count in (10, 700, 900, 2_500, 3):
        numbers += append(first, count) + append(second, count)
    first.close()
    second.close()
    assert [lane.lane for lane in spool.lanes()] == [0, 1]
    unused = verify(spool, numbers)
    assert unused, "blocks were used up while another one followed"
    assert sum(last - first + 1 for first, last in unused) < 20


def test_a_writer_alone_has_no_gaps(spool: SlotSpool) -> None:
    numbers = []
    for _ in range(3):
        with begin(spool, 0) as writer:
            numbers += append(writer, 3 * BLOCK)
    assert numbers == list(range(1, 9 * BLOCK + 1))
    assert verify(spool, numbers) == []


def test_each_lane_goes_on_in_its_own_segment_and_block(spool: SlotSpool) -> None:
    numbers = []
    for _ in range(3):
        with begin(spool, 0) as first, begin(spool, 1) as second:
            numbers += append(first, 5) + append(second, 5)
    assert numbers[:10] + numbers[10:20] == [n for at in (1, 6) for b in (0, BLOCK) for n in range(at + b, at + b + 5)]
    assert [info.path.name for info in spool.segments()] == [f"{1:020d}.seg", f"{2:020d}-1.seg"]
    verify(spool, numbers)


@pytest.mark.parametrize("step", ["_write_range", "_save"])
def test_a_kill_while_a_block_is_changed(spool: SlotSpool, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    first, second = begin(spool, 0), begin(spool, 1)
    numbers = append(second, 5) + append(first, 900)

    class Killed(BaseException):
        pass

    def change(*_args: object) -> None:
        def kill(*_args: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            if step == "_save":
                patch.setattr(first, step, kill)
            else:
                written = first._write_range

                def write(*args: object) -> None:
                    written(*args)
                    raise Killed

                patch.setattr(first, step, write)
            changed(*_args)

    changed = first._change_block
    monkeypatch.setattr(first, "_change_block", change)
    with pytest.raises(Killed):
        while True:
            numbers += append(first, 1)
    die(first)
    with begin(spool, 0) as again:
        numbers += append(again, 50)
    second.close()
    assert numbers[-1] < 3 * BLOCK + 100, "the block that was taken before the kill"
    verify(spool, numbers)
    assert spool.stops() == ()


def test_a_power_cut_skips_the_rest_of_one_lane_only(spool: SlotSpool) -> None:
    first, second = begin(spool, 0), begin(spool, 1)
    kept = append(first, 5)
    first.sync()
    die(first)
    (spool.folder.parent / "rings" / "slot").unlink()  # memory is gone
    kept += append(second, 5)
    with begin(spool, 0) as again:
        (n,) = append(again, 1)
        assert n > 2 * BLOCK
    kept += [n, *append(second, 5)]
    second.close()
    (stop,) = spool.stops()
    assert (stop.after, stop.resumed) == (5, BLOCK + 1)
    verify(spool, kept)


def test_the_document_of_a_lane_or_of_the_blocks_is_lost(spool: SlotSpool) -> None:
    with begin(spool, 0) as first, begin(spool, 1) as second:
        numbers = append(first, 5) + append(second, 5)
    (spool.folder / "blocks.json").unlink()
    with begin(spool, 0) as first, begin(spool, 1) as second, begin(spool, 2) as third:
        numbers += append(first, 5) + append(second, 5) + append(third, 5)
    (spool.folder / "head-1.json").unlink()
    for lane in spool.lanes():
        lane.recover()
    with begin(spool, 0) as first, begin(spool, 1) as second:
        numbers += append(first, 1_500) + append(second, 1_500)
    verify(spool, numbers)


def test_an_application_that_writes_more_records_than_it_has_numbers_for_ends_its_session(spool: SlotSpool) -> None:
    first, second = begin(spool, 0), begin(spool, 1)
    append(second, 1)
    rows = first.rows
    with pytest.raises(StoreError, match="more records than it had numbers for"):
        for _ in range(3 * BLOCK):
            rows._limit = rows._position + 1_000  # whatever the owner allows
            rows.append(b"")
            if rows._position % 4_000 < 9:
                first.copy()
    second.close()
