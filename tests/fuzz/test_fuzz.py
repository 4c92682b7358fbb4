# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A short run of each fuzz target: the corpus, and mutations that are the same each time."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.mutate import mutate
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
