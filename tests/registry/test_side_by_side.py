# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Requests side by side: all of them once, none begun after a failure, and whoever waits may be interrupted."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from edgeprov.registry.side_by_side import run_side_by_side


@pytest.mark.parametrize("threads", [1, 4, 50])
def test_every_call_is_made_once_and_its_result_is_told(threads: int) -> None:
    results: dict[int, int] = {}
    left = run_side_by_side([partial(pow, number, 2) for number in range(20)], threads, results.__setitem__)
    assert left == []
    assert results == {number: number**2 for number in range(20)}


def test_nothing_to_do_is_done() -> None:
    assert run_side_by_side([], 4, lambda _number, _result: None) == []


@pytest.mark.parametrize("threads", [1, 4])
def test_after_a_failure_no_call_is_begun_and_the_rest_is_named(threads: int) -> None:
    begun: list[int] = []

    def call(number: int) -> int:
        begun.append(number)
        if number == 5:
            raise OSError("the link is gone")
        return number

    done: list[int] = []
    left = run_side_by_side([partial(call, number) for number in range(100)], threads, lambda n, _: done.append(n))
    assert 5 in left
    assert sorted(done + left) == list(range(100))
    assert len(begun) <= 6 + threads * 5  # those that others had under way; no thread goes on for long


def test_calls_overlap() -> None:
    meeting = threading.Barrier(3, timeout=60)
    assert run_side_by_side([meeting.wait] * 3, 3, lambda _number, _result: None) == []


def test_an_interrupt_does_not_wait_for_a_stalled_answer() -> None:
    stalled = threading.Event()

    def interrupted(_number: int, _result: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([lambda: True, stalled.wait, stalled.wait], 2, interrupted)
    stalled.set()
