# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The judge of the power tests: it accepts a state before and one after, and names each thing that must not be."""

from __future__ import annotations

from typing import Any

import pytest
from harness.moments import Stage, Story, judge_moment

OLD, NEW, KIT, OTHER = ("sha256:" + digit * 64 for digit in "1234")
STORY = Story(last=3, before=OLD, after=NEW, confirmed={KIT: 500}, ranges={KIT: (1, 3)})
WAITING = {"digest": KIT, "kind": "kit", "first": 1, "last": 3, "records": 3, "signatures": 2}
EMPTY: dict[str, Any] = {"numbers": [], "kits": [], "listed": [], "active": None, "quarantined": []}


def judge(answer: dict[str, Any], *, acknowledged: int = 3, stage: Stage = Stage.RECORDED, at: int = 0) -> list[str]:
    """Problems of a state that differs from an empty one in ``answer``."""
    verdict = judge_moment(
        EMPTY | answer, STORY, acknowledged=set(range(1, acknowledged + 1)), at=at,
        done={item for item in Stage if item <= stage},
    )  # fmt: skip
    assert bool(verdict.lost) == any("are gone" in problem for problem in verdict.problems)
    return verdict.problems


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("answer", "given"),
    [
        pytest.param({"numbers": [1, 2]}, {"acknowledged": 2}, id="recording"),
        pytest.param({"numbers": [1, 2, 3]}, {"acknowledged": 2}, id="recorded and not yet acknowledged"),
        pytest.param({"numbers": [1, 2, 3], "kits": [WAITING]}, {}, id="sealed and not yet freed"),
        pytest.param({"kits": [WAITING]}, {"stage": Stage.SEALED}, id="sealed"),
        pytest.param({"kits": [WAITING]}, {"stage": Stage.SEALED, "at": 600}, id="confirmed and not yet freed"),
        pytest.param({}, {"stage": Stage.SEALED, "at": 500}, id="confirmed and freed"),
        pytest.param({"listed": [NEW]}, {"stage": Stage.UPLOADED, "at": 600}, id="uploaded, installing"),
        pytest.param({"listed": [NEW], "active": OLD}, {"stage": Stage.INSTALLED, "at": 600}, id="installed"),
        pytest.param({"listed": [NEW], "active": NEW}, {"stage": Stage.SWITCHED, "at": 600}, id="switched"),
    ],
)
def test_a_state_before_or_after_is_accepted(answer: dict[str, Any], given: dict[str, Any]) -> None:
    assert judge(answer, **given) == []


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("answer", "given", "words"),
    [
        pytest.param({"numbers": [1, 2]}, {}, "1 acknowledged records are gone, the first is 3", id="lost"),
        pytest.param({"numbers": [1, 3]}, {}, "the first is 2", id="lost within"),
        pytest.param({"numbers": [1, 2, 3, 4]}, {}, "never were", id="invented"),
        pytest.param({"numbers": [1, 2, 2, 3]}, {}, "used twice", id="twice"),
        pytest.param({"numbers": [1, 2, 3], "quarantined": ["torn"]}, {}, "torn", id="put away"),
        pytest.param({"kits": [WAITING | {"signatures": 0}]}, {}, "without a signature", id="unsigned"),
        pytest.param({"kits": [WAITING | {"records": 2}]}, {}, "has a hole", id="hole"),
        pytest.param(
            {"numbers": [1, 2, 3], "kits": [WAITING]}, {"stage": Stage.SEALED}, "still in the spool", id="kept"
        ),
        pytest.param({}, {"stage": Stage.SEALED, "at": 499}, "had not confirmed", id="freed too early"),
        pytest.param({"kits": [WAITING]}, {"stage": Stage.UPLOADED, "at": 600}, "still in the outbox", id="not freed"),
        pytest.param({}, {"stage": Stage.INSTALLED, "at": 600}, "not in the layout", id="not installed"),
        pytest.param(
            {"numbers": [1, 2, 3], "active": OTHER, "listed": [OTHER]}, {}, "neither model", id="another model"
        ),
        pytest.param({"active": NEW}, {"stage": Stage.INSTALLED, "at": 600}, "active model is not", id="half a model"),
        pytest.param(
            {"numbers": [1, 2, 3], "active": NEW, "listed": [NEW]}, {}, "before it was installed", id="too early"
        ),
        pytest.param({"listed": [NEW]}, {"stage": Stage.SWITCHED, "at": 600}, "old model", id="not switched"),
        pytest.param({"error": "StoreCorrupt", "message": "index"}, {}, "StoreCorrupt: index", id="unreadable"),
    ],
)
def test_a_state_that_must_not_be_is_named(answer: dict[str, Any], given: dict[str, Any], words: str) -> None:
    problems = judge(answer, **given)
    assert any(words in problem for problem in problems), problems
