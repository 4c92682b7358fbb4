# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The local engine: order, bounded look-ahead, and workers that die."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeprov.errors import EdgeprovError, UsageError
from edgeprov.fleet import engines
from edgeprov.fleet.engines import open_engine
from edgeprov.fleet.engines.local import LocalEngine
from tests.support.tasks import die, die_once, refuse, square


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order(workers):
    assert list(LocalEngine(workers).run(square, range(20))) == [n * n for n in range(20)]


def test_arguments_are_taken_as_workers_get_free():
    taken = []

    def source() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = LocalEngine(2).run(square, source())
    assert next(results) == 0
    assert len(taken) < 20
    results.close()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path):
    arguments = [(str(tmp_path), number) for number in range(12)]
    assert list(LocalEngine(2).run(die_once, arguments)) == list(range(12))
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_workers_that_keep_dying_are_an_error():
    with pytest.raises(EdgeprovError, match="keep dying"):
        list(LocalEngine(2).run(die, range(6)))


def test_errors_of_tasks_come_out_as_they_are():
    with pytest.raises(UsageError, match="no 0"):
        list(LocalEngine(2).run(refuse, range(6)))
    with pytest.raises(UsageError, match="unknown engine"):
        open_engine("spark")


THREADS = """
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice


class ThreadEngine:
    def __init__(self, workers):
        self.workers = workers or 2

    def run(self, task, arguments):
        source, waiting = iter(arguments), deque()
        with ThreadPoolExecutor(self.workers) as pool:
            while True:
                waiting.extend(pool.submit(task, argument) for argument in islice(source, self.workers - len(waiting)))
                if not waiting:
                    return
                yield waiting.popleft().result()


def open_engine(*, address, workers):
    return ThreadEngine(workers)
"""


def test_another_engine_is_one_file(full, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1784000000")
    monkeypatch.setattr("edgeprov.fleet.verification.verify_kits.BATCH", 3)
    monkeypatch.setattr("edgeprov.fleet.dataset.collect._BATCH_KITS", 3)
    full.sync()
    assert full.run("collect", "-o", tmp_path / "local").code == 0
    assert full.run("collect", "-o", tmp_path / "x", "--engine", "threads").code == 2
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "threads.py").write_text(THREADS)
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path / "more")])
    assert full.run("verify", "--again", "--engine", "threads").code == 0
    assert full.run("collect", "-o", tmp_path / "threads", "--engine", "threads").code == 0
    assert {path.relative_to(tmp_path / "local"): path.read_bytes() for path in (tmp_path / "local").rglob("*.*")} == {
        path.relative_to(tmp_path / "threads"): path.read_bytes() for path in (tmp_path / "threads").rglob("*.*")
    }
