# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One vector: a history as knowledge, a question, and the word and reason that it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeprov.fleet.conclusion.fleet_report import EXIT_CODES, Word
from edgeprov.fleet.conclusion.json_form import to_json
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import TrustRules
from edgeprov.fleet.conclusion.types import Knowledge
from tests.vectors.conclusion.history import QUESTION, TRUST

COMPLETE: Word = "COMPLETE"
EXCEPT: Word = "COMPLETE EXCEPT"
UP_TO: Word = "COMPLETE UP TO THE NEWEST KIT"
NOT_JUDGED: Word = "NOT JUDGED"
GAPS: Word = "WITH GAPS"
UNPROVED: Word = "UNPROVED"
NO_DATA: Word = "NO DATA"


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A history.

    Attributes:
        rule: The rule that it is about.
        worse: The rule costs it the better word; else it is the neighbour that keeps it.
        code: A reason that the report has.
        facts: Further members of the report, as (name, JSON value).
    """

    rule: str
    name: str
    worse: bool
    word: Word
    code: str | None
    knowledge: Knowledge
    trust: TrustRules
    question: Question
    facts: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return f"{self.rule}: {self.name}"

    def as_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "name": self.name,
            "worse": self.worse,
            "knowledge": to_json(self.knowledge),
            "trust": to_json(self.trust),
            "question": to_json(self.question),
            "expected": {
                "word": self.word, "exit_code": EXIT_CODES[self.word], "reason": self.code, **dict(self.facts)
            },
        }  # fmt: skip


def worse(
    rule: str, name: str, word: Word, knowledge: Knowledge, code: str | None, *,
    trust: TrustRules = TRUST, question: Question = QUESTION, **facts: Any,
) -> Vector:  # fmt: skip
    """A history that gets the worse word by a rule."""
    return Vector(
        rule=rule, name=name, worse=True, word=word, code=code, knowledge=knowledge, trust=trust, question=question,
        facts=tuple(facts.items()),
    )  # fmt: skip


def better(
    rule: str, name: str, word: Word, knowledge: Knowledge, *, told: str | None = None,
    trust: TrustRules = TRUST, question: Question = QUESTION, **facts: Any,
) -> Vector:  # fmt: skip
    """Its neighbour that keeps the better word."""
    return Vector(
        rule=rule, name=name, worse=False, word=word, code=told, knowledge=knowledge, trust=trust, question=question,
        facts=tuple(facts.items()),
    )  # fmt: skip
