# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The ring between an application and the owner of the segments: kills, forks, hostile positions, full rings."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import FrameType
from zlib import crc32

import pytest

import edgeprov
from edgeprov.errors import LimitError, StoreBusy, StoreFull, UsageError
from edgeprov.limits import KIB
from edgeprov.store import ring_writer
from edgeprov.store.frames import CHECKSUM_OF_KIND, FRAME, FRAME_BYTES, INPUT, RECORD
from edgeprov.store.ring import (
    ATTENTION_OFFSET,
    HEAD_OFFSET,
    LIMIT_OFFSET,
    PAGE_BYTES,
    RingBroken,
    RingReader,
    create_ring,
    ring_bytes,
)
from edgeprov.store.ring_writer import RingWriter

SIZE = 4 * KIB


class Ring:
    """Both ends of one ring in a file."""

    def __init__(self, path: Path, size: int = SIZE, start: int = 0) -> None:
        self.path = path
        self.copied = bytearray()
        fd = create_ring(path, size)
        for offset in (HEAD_OFFSET, LIMIT_OFFSET):
            os.pwrite(fd, start.to_bytes(4, "little"), offset)
        self.woken = 0
        self.reader = RingReader(os.dup(fd), size, tail=start)
        self.reader.allow(size)
        self.writer = RingWriter(fd, size, 1, wake=self._wake, make_room=lambda _size: self.drain())

    def drain(self) -> int:
        count = self.reader.drain(self.copied.extend)
        self.reader.allow(self.reader.size_bytes)
        return count

    def _wake(self) -> None:
        self.woken += 1


def rows_of(data: bytes) -> list[bytes]:
    """Payloads of the frames, which must be whole."""
    rows, at = [], 0
    while at < len(data):
        length, _, kind = FRAME.unpack_from(data, at)
        assert kind in (RECORD, INPUT)
        rows.append(bytes(data[at + FRAME_BYTES : at + FRAME_BYTES + length]))
        assert len(rows[-1]) == length
        at += FRAME_BYTES + length
    return rows


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "ring")


@pytest.mark.parametrize("start", [0, SIZE - 7, 2**32 - 3 * SIZE + 5, 2**32 - 1])
def test_rows_come_out_as_they_went_in(tmp_path: Path, start: int) -> None:
    ring = Ring(tmp_path / "ring", start=start)
    dice = random.Random(start)
    rows = [dice.randbytes(dice.randrange(700)) for _ in range(400)]
    for n, row in enumerate(rows, 1):
        assert ring.writer.append(row) == n
        if dice.random() < 0.2:
            ring.drain()
    ring.drain()
    assert rows_of(ring.copied) == rows


def test_a_captured_input_stands_behind_its_record(ring: Ring) -> None:
    ring.writer.append(b"record", b"input")
    ring.drain()
    assert rows_of(ring.copied) == [b"record", b"input"]


def test_a_full_ring_asks_for_room_and_uses_no_number_when_there_is_none(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "ring")
    ring.writer._make_room = lambda _size: None
    row, taken = bytes(500), []
    with pytest.raises(StoreFull):
        while True:
            taken.append(ring.writer.append(row))
    assert ring.writer.next_n == len(taken) + 1
    ring.drain()
    assert ring.writer.append(b"next") == len(taken) + 1
    ring.drain()
    assert rows_of(ring.copied) == [row] * len(taken) + [b"next"]


def test_a_record_that_never_fits_is_refused(ring: Ring) -> None:
    with pytest.raises(LimitError, match="does not fit"):
        ring.writer.append(bytes(SIZE))
    assert ring.writer.append(bytes(SIZE - FRAME_BYTES)) == 1


def test_a_write_that_fails_takes_nothing(ring: Ring) -> None:
    ring.writer.append(b"one")

    def fail(_data: bytes) -> None:
        raise StoreFull("no space")

    with pytest.raises(StoreFull):
        ring.reader.drain(fail)
    ring.writer.append(b"two")
    ring.drain()
    assert rows_of(ring.copied) == [b"one", b"two"]


def test_a_sleeping_owner_is_woken_once(ring: Ring) -> None:
    assert ring.reader.sleep()
    ring.writer.append(b"one")
    ring.writer.append(b"two")
    assert ring.woken == 1
    assert not ring.reader.sleep()  # two records wait
    ring.drain()
    ring.writer.append(b"three")
    assert ring.woken == 1


def test_an_owner_goes_on_after_a_restart(ring: Ring) -> None:
    ring.writer.append(b"one")
    ring.drain()
    ring.writer.append(b"two")
    again = RingReader(os.open(ring.path, os.O_RDWR), SIZE, tail=len(ring.copied))
    again.drain(ring.copied.extend)
    assert rows_of(ring.copied) == [b"one", b"two"]
    ring.writer.append(b"three")
    again.drain(ring.copied.extend)
    assert rows_of(ring.copied) == [b"one", b"two", b"three"]


def test_two_rings_of_one_name_are_refused(ring: Ring) -> None:
    with pytest.raises(StoreBusy):
        create_ring(ring.path, SIZE)


def test_a_ring_has_room_for_four_records() -> None:
    assert ring_bytes(0) == 256 * KIB
    assert ring_bytes(100_000) == 512 * KIB
    assert ring_bytes(65_536) == 256 * KIB


# -- an application that does as it likes ---------------------------------------------------------------


@pytest.mark.parametrize("head", [2**32 - 1, SIZE + 1, 7 * SIZE, 2**31])
def test_impossible_positions_end_the_session(ring: Ring, head: int) -> None:
    os.pwrite(os.open(ring.path, os.O_RDWR), head.to_bytes(4, "little"), HEAD_OFFSET)
    with pytest.raises(RingBroken, match="impossible"):
        ring.drain()
    with pytest.raises(RingBroken):
        ring.reader.sleep()
    assert not ring.copied


@pytest.mark.parametrize("size", [0, 3, 80, PAGE_BYTES, PAGE_BYTES + 10])
def test_a_ring_that_was_cut_ends_the_session_without_a_signal(ring: Ring, size: int) -> None:
    fd = os.open(ring.path, os.O_RDWR)
    os.ftruncate(fd, size)
    os.pwrite(fd, (40).to_bytes(4, "little"), HEAD_OFFSET)
    os.ftruncate(fd, size)
    if size >= 4:
        with pytest.raises(RingBroken):
            ring.drain()
    else:
        with pytest.raises(RingBroken, match="cut"):
            ring.drain()
    assert not ring.copied
    os.close(fd)


def test_a_ring_that_grows_or_gets_holes_is_read_within_its_size(ring: Ring) -> None:
    ring.writer.append(b"one")
    fd = os.open(ring.path, os.O_RDWR)
    os.ftruncate(fd, 1 << 40)
    ring.drain()
    assert rows_of(ring.copied) == [b"one"]
    # fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
    length = PAGE_BYTES + SIZE
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(length)) == 0
    with pytest.raises(RingBroken):
        ring.drain()  # the position went back to 0
    os.close(fd)


def test_random_rubbish_never_does_more_than_end_the_session(tmp_path: Path) -> None:
    dice = random.Random(7)
    for number in range(300):
        ring = Ring(tmp_path / f"ring-{number}")
        fd = os.open(ring.path, os.O_RDWR)
        for _ in range(dice.randrange(1, 6)):
            os.pwrite(fd, dice.randbytes(dice.randrange(1, 200)), dice.choice((0, 2, 60, 64, 80, 4096, 5000)))
            if dice.random() < 0.3:
                os.ftruncate(fd, dice.randrange(PAGE_BYTES + SIZE))
            try:
                ring.drain()
                ring.reader.sleep()
            except RingBroken:
                pass
        assert len(ring.copied) <= 6 * SIZE
        os.close(fd)
        ring.reader.close()


def test_the_owner_tells_time_and_end(ring: Ring) -> None:
    assert ring.writer.control[0] == 0
    ring.reader.tell_floor(5)
    ring.reader.tell_floor(1_796_000_000_000_000_000)
    assert ring.writer.control[0] != 0
    assert not ring.writer.ended
    assert ring.writer.told_floor_ns() == 1_796_000_000_000_000_000
    assert ring.writer.control[0] == 0  # told once
    ring.reader.tell_end()
    ring.reader.tell_floor(7)
    assert ring.writer.told_floor_ns() == 7
    assert ring.writer.ended


# -- forks ----------------------------------------------------------------------------------------------


def in_child(action) -> str:
    """What ``action`` printed or raised in a forked child."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(into, repr(action()).encode())
        except BaseException as error:
            os.write(into, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as reader:
        said = reader.read()
    assert os.waitpid(child, 0)[1] == 0
    return said


def test_a_forked_child_is_refused_with_one_line_and_the_parent_goes_on(ring: Ring) -> None:
    ring.writer.append(b"parent")
    assert in_child(lambda: ring.writer.append(b"child")) == "UsageError: this device was opened in another process"
    assert ring.writer.append(b"parent again") == 2
    ring.drain()
    assert rows_of(ring.copied) == [b"parent", b"parent again"]


def test_a_fork_that_the_interpreter_does_not_see_is_refused_as_well(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import ctypes, os, sys
        from pathlib import Path
        from edgeprov.store.ring import RingReader, create_ring
        from edgeprov.store.ring_writer import RingWriter
        fd = create_ring(Path(sys.argv[1]), 4096)
        reader, copied = RingReader(os.dup(fd), 4096), bytearray()
        reader.allow(4096)
        writer = RingWriter(fd, 4096, 1, wake=int, make_room=int)
        writer.append(b"one")
        child = ctypes.CDLL(None).fork()
        if child == 0:
            try:
                writer.append(b"two")
            except Exception as error:
                os._exit(42 if "another process" in str(error) else 1)
            os._exit(2)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), writer.append(b"three"))
        reader.drain(copied.extend)
        print(b"two" in copied, b"three" in copied)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "ring")], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["42", "2", "False", "True"]


def test_a_closed_session_says_so(ring: Ring) -> None:
    ring.writer.append(b"one")
    ring.writer.close()
    ring.writer.close()
    with pytest.raises(UsageError, match="closed"):
        ring.writer.append(b"two")
    ring.drain()
    assert rows_of(ring.copied) == [b"one"]


# -- kills and exceptions -------------------------------------------------------------------------------

WRITER = textwrap.dedent("""
    import mmap, os, sys
    from edgeprov.store.ring_writer import RingWriter
    path, noted, first = sys.argv[1:]
    note = memoryview(mmap.mmap(os.open(noted, os.O_RDWR), 8)).cast("Q")
    import time
    def wait(_size):
        for _ in range(20000):
            time.sleep(0.0005)
            if (writer._allowed[0] - writer._position) % 2**32 > 65536:
                return
    writer = RingWriter(os.open(path, os.O_RDWR), 262144, int(first), wake=int, make_room=wait)
    while True:
        n = writer.append(b"%020d" % writer.next_n + bytes(30))
        note[0] = n
""")


def test_what_was_acknowledged_survives_sigkill_of_the_application(tmp_path: Path) -> None:
    path, noted = tmp_path / "ring", tmp_path / "noted"
    noted.write_bytes(bytes(8))
    reader = RingReader(create_ring(path, 256 * KIB), 256 * KIB)
    copied = bytearray()

    def drain() -> None:
        reader.drain(copied.extend)
        reader.allow(256 * KIB)

    drain()
    dice = random.Random(3)
    first = 1
    for _ in range(12):
        before = noted.read_bytes()
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(noted), str(first)]) as writer:
            deadline = time.monotonic() + 60
            while noted.read_bytes() == before:
                assert writer.poll() is None
                assert time.monotonic() < deadline
                drain()
                time.sleep(0.001)
            end = time.monotonic() + dice.random() / 20
            while time.monotonic() < end:
                drain()
            writer.send_signal(signal.SIGKILL)
        drain()
        rows = rows_of(copied)
        acknowledged = struct.unpack("Q", noted.read_bytes())[0]
        assert [int(row[:20]) for row in rows] == list(range(1, len(rows) + 1))  # none twice, none left out
        assert len(rows) in (acknowledged, acknowledged + 1)  # the last one may have been stored and not yet told
        first = len(rows) + 1


def test_exceptions_of_signal_handlers_lose_and_double_nothing(tmp_path: Path) -> None:
    class Interrupt(Exception):
        pass

    def interrupt(_number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename == ring_writer.__file__:
            raise Interrupt

    ring = Ring(tmp_path / "ring", size=256 * KIB)
    returned: list[int] = []
    count = [0]
    stop = threading.Event()

    def copy() -> None:  # as the owner does, in a thread that no signal handler runs in
        while not stop.is_set():
            ring.drain()
            stop.wait(0.001)

    owner = threading.Thread(target=copy, daemon=True)
    ring.writer._make_room = lambda _size: time.sleep(0.003)

    def work(deadline: float) -> None:
        while time.monotonic() < deadline:
            try:
                while time.monotonic() < deadline:
                    returned.append(ring.writer.append(b"%020d" % ring.writer.next_n))
            except (Interrupt, StoreFull):
                count[0] += 1

    owner.start()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        work(time.monotonic() + 3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    stop.set()
    owner.join()
    ring.drain()
    stored = [int(row) for row in rows_of(ring.copied)]
    assert count[0] > 100
    assert stored == sorted(set(stored))  # no number twice, and in order
    assert set(returned) <= set(stored)


def test_positions_are_shared_memory(ring: Ring) -> None:
    ring.writer.append(b"12345")
    with mmap.mmap(os.open(ring.path, os.O_RDWR), PAGE_BYTES) as page:
        assert struct.unpack_from("<I", page, HEAD_OFFSET)[0] == FRAME_BYTES + 5
        assert struct.unpack_from("<I", page, LIMIT_OFFSET)[0] == SIZE
        ring.drain()
        assert struct.unpack_from("<I", page, LIMIT_OFFSET)[0] == SIZE + FRAME_BYTES + 5
        assert page[ATTENTION_OFFSET] == 0


# -- from C ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["c11", "c++17"])
def test_c_and_cpp_append_what_the_owner_reads(tmp_path: Path, language: str) -> None:
    program, header = tmp_path / "ring_client", Path(edgeprov.__file__).parent / "data"
    compiler = ["gcc", "-x", "c"] if language == "c11" else ["g++", "-x", "c++"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    source = Path(__file__).with_name("ring_client.c")
    subprocess.run(
        [
            *compiler,
            f"-std={language}",
            "-D_GNU_SOURCE",
            "-O2",
            *warnings,
            f"-I{header}",
            str(source),
            "-o",
            str(program),
        ],
        check=True,
    )
    ring, count = tmp_path / "ring", 20_000
    reader = RingReader(create_ring(ring, 64 * KIB), 64 * KIB)
    copied = bytearray()
    with subprocess.Popen([program, ring, str(64 * KIB), str(count)], stdout=subprocess.PIPE, text=True) as client:
        while client.poll() is None:
            reader.drain(copied.extend)
            reader.allow(64 * KIB)
            time.sleep(0.0005)
        assert client.stdout is not None
        assert client.stdout.read().split() == [str(count), "42"]
    reader.drain(copied.extend)
    rows = [int(row) for row in rows_of(copied)]
    assert rows == list(range(1, count + 1))
    for length, checksum, at in frames_of(copied):
        assert checksum == crc32(copied[at : at + length], CHECKSUM_OF_KIND[RECORD])


def frames_of(data: bytes) -> list[tuple[int, int, int]]:
    """Length, checksum and start of the payload of each frame."""
    found, at = [], 0
    while at < len(data):
        length, checksum, _ = FRAME.unpack_from(data, at)
        found.append((length, checksum, at + FRAME_BYTES))
        at += FRAME_BYTES + length
    return found


def test_the_limit_is_what_the_owner_set_aside(ring: Ring) -> None:
    ring.reader.hold()
    ring.reader.allow(100)
    ring.writer.look()
    ring.writer._make_room = lambda _size: None
    assert ring.writer.append(bytes(91)) == 1
    with pytest.raises(StoreFull):
        ring.writer.append(b"")
    ring.reader.drain(ring.copied.extend)
    ring.reader.hold()
    ring.writer.look()
    with pytest.raises(StoreFull):
        ring.writer.append(b"")
    ring.reader.allow(FRAME_BYTES)
    assert ring.writer.append(b"") == 2
