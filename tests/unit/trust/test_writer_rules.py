# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The test that FORMAT.md names for a rule for writers fails when the rule is switched off."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgeprov.formats
from tests.support.rule_switches import SWITCHES

ROOT = Path(__file__).parents[3]
TEXT = (Path(edgeprov.formats.__file__).parent / "FORMAT.md").read_text()
FLEET = ("tests/fleet", "tests/vectors", "tests/layer")  # these need the packages of the fleet side
NAMED = dict(re.findall(r"^\| (W-[a-z]+-\d+) \|.*\| `(tests/\S+)` \|$", TEXT, re.MULTILINE))


def test_each_rule_for_writers_has_a_switch() -> None:
    assert set(SWITCHES) == set(NAMED)


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(NAMED))
def test_the_named_test_fails_without_its_rule(rule: str) -> None:
    python = ROOT / ".venv/fleet/bin/python" if NAMED[rule].startswith(FLEET) else sys.executable
    command = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.support.rule_switches",
        "-p",
        "no:randomly",
        NAMED[rule],
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "EDGEPROV_RULE_OFF": rule}, capture_output=True, text=True, check=False
    )
    # 1: tests were collected and run, and some failed. Everything else is a switch that broke the collection.
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert " error" not in done.stdout.splitlines()[-1]
    assert "ModuleNotFoundError" not in done.stdout
