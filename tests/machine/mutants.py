# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Each rule of the conclusion switched off, and some weakened: which vector and which history notices.

    python -m tests.machine.mutants [--histories 300]

Prints the table; the exit code is 1 when one is noticed by nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from edgeprov.fleet.conclusion.fleet_report import FleetReport
from edgeprov.fleet.conclusion.json_form import compared_report, from_json, to_json
from edgeprov.fleet.conclusion.judge import judge
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import TrustRules
from edgeprov.fleet.conclusion.types import Knowledge
from tests.machine.run import run
from tests.machine.switches import mutations, switched_off
from tests.vectors.test_conclusion import VECTORS, name_of


def read_vectors() -> list[tuple[str, dict[str, Any], Knowledge, TrustRules, Question]]:
    """The vectors as values."""
    return [
        (
            name_of(vector),
            vector["expected"],
            from_json(Knowledge, vector["knowledge"]),
            from_json(TrustRules, vector["trust"]),
            from_json(Question, vector["question"]),
        )
        for vector in VECTORS
    ]


def first_vector(vectors: Iterable[tuple[str, dict[str, Any], Knowledge, TrustRules, Question]]) -> str | None:
    """The first vector that does not get what it expects."""
    for name, expected, knowledge, trust, question in vectors:
        try:
            report = judge(knowledge, trust, question)
        except Exception as error:
            return f"{name} ({type(error).__name__})"
        if not _is_expected(report, dict(expected)) or _depends_on_order(report, knowledge, trust, question):
            return name
    return None


def _is_expected(report: FleetReport, expected: dict[str, Any]) -> bool:
    reason, shown = expected.pop("reason"), to_json(report)
    return all(shown[name] == value for name, value in expected.items()) and (
        reason is None or reason in {item.code for item in report.reasons}
    )


def _depends_on_order(report: FleetReport, knowledge: Knowledge, trust: TrustRules, question: Question) -> bool:
    members = {name: tuple(reversed(getattr(knowledge, name))) for name in knowledge.__slots__}
    return compared_report(judge(Knowledge(**members), trust, question)) != compared_report(report)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    vectors, missed = read_vectors(), []
    print(f"{'switched off or weakened':44} {'noticed by vector':58} by history")
    for name in mutations():
        with switched_off(name):
            vector = first_vector(vectors)
            _, faults = run(options.histories, options.seed, 1, first_only=True) if options.histories else ({}, [])
        history = f"{faults[0][0]}: {faults[0][1].kind[:50]}" if faults else "-"
        print(f"{name:44} {(vector or '-')[:58]:58} {history}", flush=True)
        if vector is None and not faults:
            missed.append(name)
    print(f"{len(mutations())} mutations, noticed by nothing: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
