# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The vectors against our verifier and against the second, independent one; and that they are what the generator writes."""

from __future__ import annotations

import ast
import datetime as dt
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprov.errors import FormatError
from edgeprov.fleet.verification.prove import unpack_evidence
from edgeprov.formats.proof import parse_proof
from edgeprov.verify.policy import TrustPolicy, parse_policy
from edgeprov.verify.proof_check import check_proof
from tests.vectors import second
from tests.vectors.conformance import HERE, Vector, differences, load
from tests.vectors.generate import main as generate

VECTORS = load()


def moment(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)


def our_policy(folder: Path) -> TrustPolicy:
    return parse_policy({path.name: path.read_bytes() for path in folder.iterdir()})


def ours(raw: bytes, trust: Path, at: str) -> dict:
    try:
        report = check_proof(parse_proof(raw), our_policy(trust), moment(at), unpack_evidence)
    except FormatError:
        return {"verified": False}
    return {"verified": report.verified} | ({"step": report.failed.number} if report.failed else {})


def theirs(raw: bytes, trust: Path, at: str) -> dict:
    verdict = second.check(raw, second.Policy(trust), moment(at))
    verdict.pop("why", None)
    return verdict


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_both_verifiers_give_the_expected_verdict(vector: Vector):
    raw = vector.file.read_bytes()
    assert ours(raw, vector.trust, vector.at) == vector.expected, vector.comment
    assert theirs(raw, vector.trust, vector.at) == vector.expected, vector.comment


def test_every_step_has_at_least_two_refused_cases():
    for step in range(1, 13):
        assert sum(vector.expected.get("step") == step for vector in VECTORS) >= 2, step
    assert sum(vector.expected["verified"] for vector in VECTORS) >= 15


def test_vectors_are_what_the_generator_writes():
    assert generate(check=True) == 0


def test_document_lists_every_case():
    text = (HERE / "VECTORS.md").read_text()
    missing = [vector.id for vector in VECTORS if f"`{vector.id.partition('/')[2]}`" not in text]
    assert not missing


def test_second_checker_shares_no_code():
    """Standard library, cryptography and its own files only."""
    names = set()
    for path in (HERE / "second").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {item.name for item in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    foreign = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    assert all(name.startswith(("cryptography", "tests.vectors.second")) for name in foreign), foreign


def bound(raw: bytes) -> dict:
    """All of a proof but the manifests of its signatures, whose notes nobody signs."""
    document = json.loads(raw)
    for name in ("kit", "device", "model"):
        document[name]["signatures"] = [item["blob"] for item in document[name]["signatures"]]
    return document


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "two-segments", "model-notation-legacy", "model-sig-tag-certificate"])
def test_random_changes_are_refused(name):
    """One bit anywhere in the file: refused, unless it only touched a note in the manifest of a signature."""
    vector = next(item for item in VECTORS if item.id == f"accepted/{name}")
    raw = vector.file.read_bytes()
    original = bound(raw)
    generator = random.Random(name)
    for _ in range(200):
        changed = bytearray(raw)
        position = generator.randrange(len(raw))
        changed[position] ^= 1 << generator.randrange(7)
        first, second = (judge(bytes(changed), vector.trust, vector.at)["verified"] for judge in (ours, theirs))
        assert second or not first, f"only ours accepts a change at {position}"
        if second:
            assert bound(bytes(changed)) == original, position


@pytest.mark.slow
def test_conformance_runner_with_both_command_lines(monkeypatch):
    """The protocol that another implementation follows, on a few cases of each group."""
    chosen = [vector for number, vector in enumerate(VECTORS) if number % 12 == 0]
    second = [sys.executable, "-m", "tests.vectors.second", "{file}", "--trust", "{trust}", "--at", "{at}"]
    assert list(differences(second, chosen)) == []
    epoch = str(int(moment(VECTORS[0].at).timestamp()))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    program = "import sys; from edgeprov.cli.fleet_main import main; sys.exit(main(sys.argv[1:]))"
    first = [sys.executable, "-c", program, "check-proof", "--json", "{file}", "--trust", "{trust}"]
    assert list(differences(first, chosen)) == []


def test_runner_reports_a_checker_that_accepts_everything():
    wrong = [sys.executable, "-c", "print('{{\"verified\": true}}')"]
    some = [vector for vector in VECTORS if not vector.expected["verified"]][:2]
    assert len(list(differences(wrong, some))) >= 2
    done = subprocess.run(
        [sys.executable, "-m", "tests.vectors.second", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert json.loads((HERE / "cases.json").read_text())["numberOfTests"] == len(VECTORS)
