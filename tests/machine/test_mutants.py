# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Each rule of the conclusion is switched off, and some are weakened: a vector or a history notices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import edgeprov.formats
from tests.machine.mutants import first_vector, read_vectors
from tests.machine.run import one
from tests.machine.switches import mutations, switched_off
from tests.machine.test_machine import SEEDS, STORED, history_of

VECTORS = read_vectors()
DOCUMENT = Path(edgeprov.formats.__path__[0]) / "CONCLUSION.md"


@pytest.mark.parametrize("name", mutations())
def test_a_rule_that_does_not_hold_is_noticed(name: str) -> None:
    with switched_off(name):
        assert first_vector(VECTORS) is not None or any(one(history_of(item)) is not None for item in (*STORED, *SEEDS))


def test_nothing_is_noticed_when_every_rule_holds() -> None:
    with switched_off("R-con-31"):
        assert first_vector(VECTORS) is not None
    assert first_vector(VECTORS) is None


def test_each_rule_of_the_document_is_switched_off() -> None:
    assert set(re.findall(r"^\| (R-con-\d+) \|", DOCUMENT.read_text(), re.MULTILINE)) <= set(mutations())
