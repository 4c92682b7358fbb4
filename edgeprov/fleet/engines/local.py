# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The default engine: a pool of processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Final, TypeVar

from edgeprov.errors import EngineError

T = TypeVar("T")
R = TypeVar("R")

_ALONE: Final = 2  # batches that are done here before a pool is worth its start (about half a second)
_AHEAD: Final = 2  # batches waiting for each worker
_ATTEMPTS: Final = 3


class LocalEngine:
    """Processes of this machine; a worker that dies (out of memory) is replaced and its batch run again."""

    def __init__(self, workers: int | None = None) -> None:
        """Use ``workers`` processes; default one for each usable processor, 0 for none at all."""
        self._workers = len(os.sched_getaffinity(0)) if workers is None else workers

    def run(self, task: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
        """As Engine.run."""
        source = iter(arguments)
        first = list(islice(source, _ALONE + 1))
        if len(first) <= _ALONE or self._workers <= 1:
            for argument in chain(first, source):
                yield task(argument)
            return
        yield from self._pooled(task, chain(first, source))

    def _pooled(self, task: Callable[[T], R], source: Iterator[T]) -> Iterator[R]:
        waiting: deque[tuple[T, Future[R]]] = deque()
        pool = self._pool()
        attempts = 0
        try:
            while True:
                for argument in islice(source, self._workers * _AHEAD - len(waiting)):
                    waiting.append((argument, pool.submit(task, argument)))
                if not waiting:
                    return
                try:
                    result = waiting[0][1].result()
                except BrokenProcessPool as error:
                    attempts += 1
                    if attempts >= _ATTEMPTS:
                        raise EngineError(
                            "worker processes keep dying", advice="Most likely memory: try --workers 1."
                        ) from error
                    pool.shutdown(wait=False, cancel_futures=True)
                    pool = self._pool()
                    waiting = deque((argument, pool.submit(task, argument)) for argument, _ in waiting)
                    continue
                attempts = 0
                waiting.popleft()
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _pool(self) -> ProcessPoolExecutor:
        # Not fork: pyarrow and the network stack have threads, and a forked lock stays locked.
        return ProcessPoolExecutor(self._workers, mp_context=multiprocessing.get_context("forkserver"))


def open_engine(*, address: str, workers: int | None) -> LocalEngine:
    """For engines.open_engine."""
    del address
    return LocalEngine(workers)
