# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Histories against the conclusion: chosen by hypothesis, by seeds, and those that once went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.machine.acts import HONEST, HOSTILE, Act, arguments
from tests.machine.generate import History, Question, generate
from tests.machine.play import ask_all, from_json
from tests.machine.run import describe, one, run
from tests.machine.values import DAY
from tests.machine.world import World

pytestmark = pytest.mark.timeout(1200)
STORED = sorted((Path(__file__).parent / "histories").glob("*.json"))


SEEDS = (4, 94)
"""Histories that notice what no vector does: untold noise, a certificate without an end."""


def history_of(item: Path | int) -> History:
    """A stored history, or that of a seed."""
    return generate(item) if isinstance(item, int) else from_json(item.read_text())


def acts(*, honest: bool) -> st.SearchStrategy[Act]:
    """Acts, the frequent ones often."""
    weights = HONEST if honest else HOSTILE
    names = [name for name, often in weights.items() for _ in range(max(round(often * 2), 1))]
    each = {name: st.tuples(st.just(name), *map(st.sampled_from, arguments(name, honest=honest))) for name in weights}
    return st.sampled_from(names).flatmap(lambda name: each[name])


PERIODS = st.builds(
    lambda start, days: (start * DAY // 4, (start + days) * DAY // 4), st.integers(0, 11), st.integers(4, 23)
)
QUESTIONS = st.builds(
    lambda period, model, device: Question(*period, model, device),
    PERIODS,
    st.sampled_from((None, None, None, "A", "B")),
    st.sampled_from((None, None, None, "d0", "d1")),
)


class Fleet(RuleBasedStateMachine):
    """A fleet of three devices; after its acts a question is asked in three phases."""

    honest = False

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[Act] = []
        self.question = Question(0, DAY)

    @initialize(question=QUESTIONS, days=st.sampled_from((400, 400, 6)))
    def begin(self, question: Question, days: int) -> None:
        self.question = question
        self.world = World(3, days)
        for index in range(3):
            self._do(("enroll", index))
            self._do(("up", index, None))

    @rule(act=acts(honest=False))
    def act(self, act: Act) -> None:
        self._do(act)

    def _do(self, act: Act) -> None:
        self.acts.append(act)
        self.world.step(act)

    def teardown(self) -> None:
        if self.acts:
            fault = ask_all(self.world, self.question)
            assert fault is None, fault


class HonestFleet(Fleet):
    """The same without damage and malice: precise and practical are looked at."""

    @rule(act=acts(honest=True))
    def act(self, act: Act) -> None:
        self._do(act)


_SETTINGS = settings(
    max_examples=1000,
    derandomize=True,
    stateful_step_count=45,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestFleet = Fleet.TestCase
TestFleet.settings = _SETTINGS
TestHonestFleet = HonestFleet.TestCase
TestHonestFleet.settings = _SETTINGS


@pytest.mark.parametrize("item", [*STORED, *SEEDS], ids=lambda item: getattr(item, "stem", str(item)))
def test_a_history_that_was_hard_is_right(item: Path | int) -> None:
    history = history_of(item)
    fault = one(history)
    assert fault is None, describe(str(item), history, fault)


def test_histories_from_seeds_and_the_acts_that_they_hold() -> None:
    seen, faults = run(400, 1, 1)
    assert faults == []
    assert seen["acts"] / seen["histories"] >= 40
    assert seen["devices"] >= 2.9 * seen["histories"]
    missing: set[Any] = set(HOSTILE) - {key[1] for key in seen if key[0] == "act"}
    assert missing == set()
