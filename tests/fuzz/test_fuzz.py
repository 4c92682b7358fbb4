# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A short run of each fuzz target: the corpus, mutations that are the same each time, and two thousand guided runs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutate
from tests.fuzz.run import find_atheris
from tests.fuzz.targets import TARGETS, Fuzz

each = pytest.mark.parametrize("fuzz", TARGETS, ids=lambda fuzz: fuzz.name)


@each
def test_seeds_are_accepted_and_the_corpus_breaks_nothing(fuzz: Fuzz) -> None:
    assert fuzz.seeds()
    for data in fuzz.inputs():
        fuzz.once(data)


def _mutations(fuzz: Fuzz, count: int, seed: int) -> None:
    rng = random.Random(f"{fuzz.name} {seed}")
    inputs = fuzz.inputs()
    for number in range(count):
        data = mutate(rng.choice(inputs), rng.choice(inputs), rng)
        try:
            fuzz.once(data)
        except Exception as error:
            raise AssertionError(f"mutation {number}: {error!r} on {data[:200]!r} ({len(data)} bytes)") from error


@each
def test_three_hundred_mutations(fuzz: Fuzz) -> None:
    _mutations(fuzz, 300, 1)


@pytest.mark.slow
@each
def test_thousands_of_mutations(fuzz: Fuzz) -> None:
    _mutations(fuzz, 6_000 if fuzz.name not in ("spool", "layout", "config") else 1_000, 2)


@pytest.mark.slow
@pytest.mark.peer("atheris")
def test_guided_by_coverage_nothing_is_found() -> None:
    """Each target 2,000 times by libFuzzer through atheris: a few seconds, and the long runs are known to work."""
    if find_atheris() is None:
        reason = "atheris is missing: run tests/peers/install atheris"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    command = [sys.executable, "-m", "tests.fuzz.run", "--runs", "2000"]
    child = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert child.returncode == 0, child.stdout[-2000:] + child.stderr[-2000:]
    for fuzz in TARGETS:
        assert f"{fuzz.name}: nothing found\n" in child.stdout
    executed = [int(line.split()[-1]) for line in child.stderr.splitlines() if "number_of_executed_units" in line]
    assert len(executed) == len(TARGETS)
    assert min(executed) >= 2000
