# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The vectors of the conclusion: each history gets its word, in any order of the knowledge, and each rule has its histories."""

from __future__ import annotations

import importlib
import json
import pkgutil
import random
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgeprov.fleet.conclusion
import edgeprov.formats
from edgeprov.errors import FormatError
from edgeprov.fleet.conclusion.fleet_report import FleetReport
from edgeprov.fleet.conclusion.json_form import compared_report, encode_report, from_json, parse_report, to_json
from edgeprov.fleet.conclusion.judge import judge
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import TrustRules
from edgeprov.fleet.conclusion.types import Knowledge
from edgeprov.fleet.conclusion.view import RULES
from tests.vectors.conclusion.history import QUESTION, TRUST, known, working
from tests.vectors.generate import HERE

VECTORS: list[dict[str, Any]] = [
    vector for path in sorted((HERE / "conclusion").glob("*.json")) for vector in json.loads(path.read_text())
]
DOCUMENT = Path(edgeprov.formats.__path__[0]) / "CONCLUSION.md"
NO_WORSE = {"R-con-24", "R-con-25", "R-con-59", "R-con-80", "R-con-81", "R-con-82", "R-con-88", "R-con-89"}
"""Rules that only tell or count something beside the word."""
INNER = {"R-con-22", "R-con-30", "R-con-50", "R-con-52", "R-con-88"}
"""Definitions that other rules use and that have no word of their own."""


def answer(vector: dict[str, Any], knowledge: Knowledge | None = None) -> FleetReport:
    read = from_json(Knowledge, vector["knowledge"]) if knowledge is None else knowledge
    return judge(read, from_json(TrustRules, vector["trust"]), from_json(Question, vector["question"]))


def name_of(vector: dict[str, Any]) -> str:
    return f"{vector['rule']}: {vector['name']}"


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_a_history_gets_its_word(vector: dict[str, Any]) -> None:
    report, expected = answer(vector), dict(vector["expected"])
    assert (report.word, report.exit_code) == (expected.pop("word"), expected.pop("exit_code")), report.sentence
    codes = {reason.code for reason in report.reasons}
    reason = expected.pop("reason")
    assert reason is None or reason in codes
    shown = to_json(report)
    assert {name: shown[name] for name in expected} == expected
    assert parse_report(encode_report(report)) == report
    assert all(reason.rule in RULES for reason in report.reasons)


def shuffled(knowledge: Knowledge, generator: random.Random) -> Knowledge:
    members = {item.name: list(getattr(knowledge, item.name)) for item in fields(knowledge)}
    for values in members.values():
        generator.shuffle(values)
    return replace(knowledge, **{name: tuple(values) for name, values in members.items()})


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_knowledge_does_not_matter(seed: int) -> None:
    generator = random.Random(seed)
    for vector in VECTORS:
        knowledge = from_json(Knowledge, vector["knowledge"])
        first = compared_report(answer(vector, knowledge))
        assert compared_report(answer(vector, shuffled(knowledge, generator))) == first, name_of(vector)


def test_each_rule_has_histories_with_the_worse_and_with_the_better_word() -> None:
    rules = set(re.findall(r"^\| (R-con-\d+) \|", DOCUMENT.read_text(), re.MULTILINE))
    assert {vector["rule"] for vector in VECTORS} <= rules
    assert set(RULES) <= rules
    for rule in sorted(rules - INNER):
        mine = [vector for vector in VECTORS if vector["rule"] == rule]
        assert sum(vector["worse"] for vector in mine) >= (0 if rule in NO_WORSE else 2), rule
        assert any(not vector["worse"] for vector in mine), rule


def silent(*arguments: object) -> Iterator[object]:
    del arguments
    return iter(())


def modules() -> Iterator[ModuleType]:
    for item in pkgutil.iter_modules(edgeprov.fleet.conclusion.__path__, "edgeprov.fleet.conclusion."):
        yield importlib.import_module(item.name)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_that_is_switched_off_is_missed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each history that names the rule's reason loses it, and at least one gets another answer."""
    off = set(RULES[rule])
    for module in modules():
        for name, value in list(vars(module).items()):
            if name in off and callable(value):
                monkeypatch.setattr(module, name, silent)
            elif isinstance(value, tuple) and any(getattr(part, "__name__", None) in off for part in value):
                kept = tuple(part for part in value if getattr(part, "__name__", None) not in off)
                monkeypatch.setattr(module, name, kept)
    mine = [vector for vector in VECTORS if vector["rule"] == rule and vector["expected"]["reason"] is not None]
    assert mine
    answers = []
    for vector in mine:
        report, expected = answer(vector), vector["expected"]
        same = report.word == expected["word"] and expected["reason"] in {reason.code for reason in report.reasons}
        assert not same or any(reason.rule != rule and reason.code == expected["reason"] for reason in report.reasons)
        answers.append(same)
    assert not all(answers)


def test_an_empty_period_is_refused() -> None:
    with pytest.raises(FormatError, match="period"):
        judge(known(working()), TRUST, replace(QUESTION, until=QUESTION.since))


def test_reasons_come_worst_first() -> None:
    for vector in VECTORS:
        ranks = [
            ("gap", "not-judged", "open", "except", "note").index(reason.effect) for reason in answer(vector).reasons
        ]
        assert ranks == sorted(ranks)
