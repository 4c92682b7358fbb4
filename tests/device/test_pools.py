# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Worker pools: several processes record in one slot at once, beside the device service and without it.

The pre-forking server here does what gunicorn does: its master starts workers with fork and starts another one for
each that ends; an application object that the master made is what ``--preload`` makes.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.device_service import Service, wait_for

pytestmark = pytest.mark.peer("swtpm")

PLACES = 64
SERVER = """
import mmap, os, sys, time

workers = int(sys.argv[2])
board = memoryview(mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 1024)).cast("Q")  # records by place, then pids by place

def work(place):
    import numpy
    import edgeprov
    model = edgeprov.open_device().load_model()
    x = numpy.zeros((1, 30), numpy.int8)
    while True:
        model.run(x)
        board[place] += 1
        if board[place] > 36_000:
            time.sleep(0.002)

def start(place):
    pid = os.fork()
    if pid == 0:
        try:
            work(place)
        finally:
            os._exit(1)
    board[64 + place] = pid

for place in range(workers):
    start(place)
print("serving", flush=True)
while True:
    os.wait()
    time.sleep(0.3)
    workers += 1
    start(workers - 1)
"""


class Board:
    """How many records each worker was told of, and its process."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(2 * 8 * PLACES))
        self.path = path
        self._words = memoryview(mmap.mmap(os.open(path, os.O_RDWR), 2 * 8 * PLACES)).cast("Q")

    def records(self, place: int) -> int:
        return self._words[place]

    def total(self) -> int:
        return sum(self._words[:PLACES])

    def kill(self, place: int) -> None:
        os.kill(self._words[PLACES + place], signal.SIGKILL)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board")


def verify_numbers(service: Service, least: int, most: int) -> list[tuple[int, int]]:
    """Seal; no number twice, the count within bounds, no unclean stop. Gives the unused numbers."""
    found = service.segments()
    ranges = sorted(item for segment, _ in found for item in segment.ranges)
    unused = [item for segment, _ in found for item in segment.unused]
    assert [stop for _, stops in found for stop in stops] == []
    everything = sorted(ranges + unused)
    assert all(low[1] < high[0] for low, high in pairwise(everything))
    assert least <= sum(last - first + 1 for first, last in ranges) <= most
    return unused


def test_four_workers_in_one_slot_and_kills_of_workers_and_service(service: Service, board: Board) -> None:
    dice = random.Random(4)
    master = service.application(SERVER, board.path, 4, wait="serving")
    wait_for(lambda: all(board.records(place) > 100 for place in range(4)))
    living, kills = [0, 1, 2, 3], 0
    for number in range(6):
        if number % 3 == 0:
            service.stop(signal.SIGKILL)
            time.sleep(dice.random() / 10)
        place = living.pop(dice.randrange(4))
        board.kill(place)
        kills += 1
        if number % 3 == 0:
            service.start()
        known = max(place, *living) + 1  # a worker that began while the service was away has ended
        wait_for(lambda known=known: any(board.records(at) > 100 for at in range(known, PLACES)))
        living.append(next(at for at in range(known, PLACES) if board.records(at) > 100))
        if number in (1, 4):
            assert service.box.run("seal")[0]["records"] > 0
        before = [board.records(place) for place in living]
        wait_for(lambda: all(board.records(place) > least + 100 for place, least in zip(living, before, strict=True)))
    # Until one of them has used up its block, which another one's follows.
    wait_for(lambda: max(board.records(place) for place in living) > 36_500)
    os.kill(master.pid, signal.SIGSTOP)  # so that it starts no other ones
    for place in living:
        board.kill(place)
    master.kill()
    verify_numbers(service, board.total(), board.total() + kills + 4)


def test_a_pool_without_a_service(service: Service, board: Board) -> None:
    """Each worker owns its lane by itself; what a killed one left in its ring is copied by the seal."""
    service.stop()
    service.socket.unlink(missing_ok=True)
    service.process = None
    master = service.application(SERVER, board.path, 4, wait="serving")
    wait_for(lambda: all(board.records(place) > 100 for place in range(4)))
    board.kill(1)
    wait_for(lambda: board.records(4) > 100)
    assert service.box.run("seal")[0]["records"] > 400
    wait_for(lambda: board.records(4) > 1_000)
    os.kill(master.pid, signal.SIGSTOP)
    for place in (0, 2, 3, 4):
        board.kill(place)
    master.kill()
    verify_numbers(service, board.total(), board.total() + 5)


def test_a_pool_of_multiprocessing_with_a_session_each(service: Service) -> None:
    program = service.box.root / "pool.py"  # a file, which the other start methods import again
    program.write_text(POOL)
    out = service.run(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')")
    assert out.split() == ["600", "600"]
    verify_numbers(service, 600, 600)


POOL = """
import multiprocessing, os, sys
import numpy

def begin():
    global model
    import edgeprov
    model = edgeprov.open_device().load_model()

def work(_number):
    return model.run(numpy.zeros((1, 30), numpy.int8)).record.n

if __name__ == "__main__":
    numbers = []
    for way in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(way).Pool(3, begin) as pool:
            for _ in range(4):
                numbers += pool.map(work, range(50), chunksize=5)
    print(len(numbers), len(set(numbers)))
"""


PRELOAD = """
import os, sys
import numpy
import edgeprov

device = edgeprov.open_device()
model = device.load_model()  # in the master, as with --preload: each worker inherits it
x = numpy.zeros((1, 30), numpy.int8)
model.run(x)

def told(use):
    try:
        use()
    except edgeprov.errors.UsageError as error:
        return str(error)
    return "not refused"

def worker(daemon):
    if daemon:  # a daemon forks twice and leaves its session
        os.setsid()
        if os.fork():
            os._exit(0)
    lines = {told(lambda: model.run(x)), told(model.sync)}
    own = edgeprov.open_device().load_model().run(x).record.n if not daemon else 0
    os.write(out, f"{sorted(lines)} {own > 1}\\n".encode())
    os._exit(0)

read, out = os.pipe()
for daemon in (False, False, True):
    if os.fork() == 0:
        worker(daemon)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
os.close(out)
with os.fdopen(read) as lines:  # until the daemon has ended, too
    print("".join(sorted(lines)), end="")
print(model.run(x).record.n)
model.sync()
"""


def test_workers_that_inherit_a_session_are_refused_and_may_open_their_own(service: Service) -> None:
    lines = service.run(PRELOAD).splitlines()
    refused = "['this device was opened in another process']"
    assert lines == [f"{refused} False", f"{refused} True", f"{refused} True", "2"]
    verify_numbers(service, 4, 4)
