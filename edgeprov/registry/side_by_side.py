# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Requests side by side while a link is good: their waiting overlaps.

Nothing is repeated here. At the first failure no further call is begun, those under way end, and the caller
goes on one by one with what is left, which is also how a bad link is best used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def run_side_by_side(calls: Sequence[Callable[[], T]], threads: int, done: Callable[[int, T], None]) -> list[int]:
    """Make ``calls`` in their order from several threads, until one fails.

    Args:
        calls: Each may be made again, wholly or partly done.
        threads: How many at a time.
        done: Told in this thread which call returned what, in the order in which they end.

    Returns:
        The calls that did not return, ascending; empty when all did. Their errors are dropped: whoever
        makes them again sees them again, or they are gone.
    """
    queue: SimpleQueue[tuple[int, T] | None] = SimpleQueue()
    waiting = iter(range(len(calls)))
    lock = threading.Lock()
    stopped = threading.Event()

    def work() -> None:
        try:
            while not stopped.is_set():
                with lock:
                    number = next(waiting, None)
                if number is None:
                    break
                queue.put((number, calls[number]()))
        except BaseException:  # noqa: BLE001 - see Returns; a thread has nobody to tell
            stopped.set()
        finally:
            queue.put(None)

    # Daemons: Ctrl-C must not wait for a stalled answer, and what they leave half done may be repeated.
    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(calls)))]
    left = set(range(len(calls)))
    running = len(workers)
    try:
        for worker in workers:
            worker.start()
        while running:
            result = queue.get()
            if result is None:
                running -= 1
                continue
            left.discard(result[0])
            done(*result)
    finally:
        stopped.set()
    return sorted(left)
