# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The error table is a promise: codes are unique, in their range, and the README shows them."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from edgeprov import errors, journal
from edgeprov.errors import EdgeprovError, EvidenceInvalid

ROOT = Path(__file__).parents[2]
CLASSES = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, EdgeprovError)]
SHARED_CODE = {"LimitError", "LoginRefused"}  # a FormatError, a RegistryDenied that say more


def test_each_class_owns_its_code_and_message_id() -> None:
    owners = [item for item in CLASSES if item.__name__ not in SHARED_CODE]
    codes = [item.exit_code for item in owners]
    assert len(set(codes)) == len(codes)
    ids = [item.message_id for item in CLASSES] + list(journal.EVENTS.values())
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", item) for item in ids)


def test_codes_lie_in_the_ranges_of_the_table() -> None:
    ranges = {
        errors.VerificationError: range(10, 20),
        errors.TpmError: range(20, 30),
        errors.StoreError: range(30, 40),
        errors.RegistryError: range(40, 50),
        errors.ModelRuntimeError: range(50, 60),
        errors.EngineError: range(60, 70),
    }
    for family, allowed in ranges.items():
        for item in CLASSES:
            assert (item.exit_code in allowed) == issubclass(item, family), item


def test_every_error_gives_advice_in_one_line() -> None:
    for item in CLASSES:
        error = EvidenceInvalid("x", step=3) if item is EvidenceInvalid else item("x")
        assert error.advice.endswith(".")
        assert "\n" not in error.advice
        assert item.__doc__


def test_errors_travel_between_processes() -> None:
    for item in CLASSES:
        error = EvidenceInvalid("x", step=3) if item is EvidenceInvalid else item("x", advice="Do y.")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (item, str(error), vars(error))


def test_verification_failures_are_permanent() -> None:
    assert not any(item.retryable for item in CLASSES if issubclass(item, errors.VerificationError))


def test_the_readme_lists_every_code() -> None:
    table = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    owners = {str(item.exit_code): item.__name__ for item in CLASSES if item.__name__ not in SHARED_CODE}
    assert table == owners
