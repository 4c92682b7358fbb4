# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The second implementation of CONCLUSION.md agrees with the vectors, and with the whole answer of the first."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from edgeprov.fleet.conclusion.json_form import from_json, to_json
from edgeprov.fleet.conclusion.judge import judge
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import TrustRules
from edgeprov.fleet.conclusion.types import Knowledge
from tests import secondjudge
from tests.secondjudge import conclude

HISTORIES = [
    history
    for path in sorted((Path(__file__).parent / "conclusion").glob("R-con-*.json"))
    for history in json.loads(path.read_text("utf-8"))
]
COMPARED = ("code", "rule", "effect", "enrollment", "slot", "numbers")
ROWS = ("enrollment", "device", "word", "closing", "closed_by", "kits", "results", "labelled")


def names(history: dict[str, Any]) -> str:
    return f"{history['rule']}: {history['name']}"


def first(history: dict[str, Any]) -> dict[str, Any]:
    """The answer of the product, as JSON."""
    report = judge(
        from_json(Knowledge, history["knowledge"]),
        from_json(TrustRules, history["trust"]),
        from_json(Question, history["question"]),
    )
    answer: dict[str, Any] = json.loads(json.dumps(to_json(report)))
    return answer


def second(history: dict[str, Any]) -> dict[str, Any]:
    return conclude(history["knowledge"], history["trust"], history["question"])


def compared(report: dict[str, Any]) -> dict[str, Any]:
    """What CONCLUSION.md fixes of a report."""
    return {
        "reasons": sorted(json.dumps([one[name] for name in COMPARED]) for one in report["reasons"]),
        "devices": sorted(json.dumps([row[name] for name in ROWS]) for row in report["devices"]),
        **{name: report[name] for name in ("word", "exit_code", "so_far", "results", "labelled")},
    }


@pytest.mark.parametrize("history", HISTORIES, ids=names)
def test_a_history_gets_its_word_from_the_page_alone(history: dict[str, Any]) -> None:
    expected = history["expected"]
    answer = second(history)
    assert {name: answer[name] for name in expected if name != "reason"} == {
        name: value for name, value in expected.items() if name != "reason"
    }
    if expected["reason"] is not None:
        assert expected["reason"] in {one["code"] for one in answer["reasons"]}


@pytest.mark.parametrize("history", HISTORIES, ids=names)
def test_both_implementations_give_the_same_answer(history: dict[str, Any]) -> None:
    assert compared(second(history)) == compared(first(history))


def test_an_empty_period_is_refused() -> None:
    history = HISTORIES[0]
    question = {**history["question"], "since": history["question"]["until"]}
    with pytest.raises(ValueError, match="since"):
        conclude(history["knowledge"], history["trust"], question)


def test_it_imports_nothing_of_the_product() -> None:
    allowed = {"__future__", "collections", "itertools", "json", "typing", "tests"}
    for path in Path(secondjudge.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                modules = [node.module or ""]
            for module in modules:
                assert module.split(".")[0] in allowed, (path, module)
                assert module.split(".")[0] != "tests" or module.startswith("tests.secondjudge"), (path, module)
