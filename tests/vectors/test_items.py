# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Tombstones and heads against our verifier and against the second one."""

from __future__ import annotations

import datetime as dt
import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgeprov.errors import EdgeprovError
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.head import parse_head, parse_head_artifact
from edgeprov.formats.manifest import parse_manifest
from edgeprov.formats.tombstone import parse_tombstone
from edgeprov.verify.enrollment import VerifiedDevice, verify_device_record
from edgeprov.verify.evidence import check_kit
from edgeprov.verify.head_check import verify_head
from edgeprov.verify.kit_evidence import evidence_of_tombstone
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.signature import SignatureArtifact
from tests.vectors import second
from tests.vectors.conformance import HERE, Vector, load
from tests.vectors.test_vectors import moment, our_policy

VECTORS = load("items", "item")


def bytes_of(text: str) -> bytes:
    return parse_b64(text, "case")


def signatures(artifact: dict[str, Any]) -> list[SignatureArtifact]:
    return [
        SignatureArtifact(manifest=parse_manifest(bytes_of(item["manifest"])), blob=bytes_of(item["blob"]))
        for item in artifact["signatures"]
    ]


def record_of(artifact: dict[str, Any], policy: TrustPolicy, at: dt.datetime) -> VerifiedDevice:
    manifest = parse_manifest(bytes_of(artifact["manifest"]))
    return verify_device_record(manifest, bytes_of(artifact["layer"]), signatures(artifact), policy, at)


def of_tombstone(document: dict[str, Any], policy: TrustPolicy, at: dt.datetime) -> dict[str, Any]:
    item = document["item"]
    try:
        stone = parse_tombstone(parse_manifest(bytes_of(item["manifest"])), bytes_of(item["layer"]))
    except EdgeprovError:
        return {"verified": False}
    evidence = evidence_of_tombstone(stone, signatures(item))
    report = check_kit(evidence, record_of(document["device"], policy, at), policy, at)
    return {"verified": report.verified} | ({"step": report.failed.number} if report.failed else {})


def of_head(document: dict[str, Any], policy: TrustPolicy, at: dt.datetime) -> dict[str, Any]:
    raw, manifest, nonce = bytes_of(document["head"]), document["manifest"], document["nonce"]
    try:
        head = parse_head_artifact(parse_manifest(bytes_of(manifest)), raw) if manifest else parse_head(raw)
    except EdgeprovError:
        return {"verified": False}
    device = record_of(document["device"], policy, at)
    try:
        verify_head(head, None if nonce is None else bytes_of(nonce), device, policy)
    except EdgeprovError as error:
        return {"verified": False, "step": getattr(error, "step", None)}
    return {"verified": True}


def ours(raw: bytes, trust: Path, at: str) -> dict[str, Any]:
    document = json.loads(raw)
    judge = of_head if document["kind"] == "head" else of_tombstone
    return judge(document, our_policy(trust), moment(at))


def theirs(raw: bytes, trust: Path, at: str) -> dict[str, Any]:
    verdict = second.check_item(raw, second.Policy(trust), moment(at))
    verdict.pop("why", None)
    return verdict


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_both_verifiers_give_the_expected_verdict(vector: Vector):
    raw = vector.file.read_bytes()
    assert ours(raw, vector.trust, vector.at) == vector.expected, vector.comment
    assert theirs(raw, vector.trust, vector.at) == vector.expected, vector.comment


@pytest.mark.parametrize(("kind", "steps"), [("tombstone", (1, 2, 3, 4, 6, 8, 9)), ("head", (1, 3, 4, 5, 6, 8, 9))])
def test_every_step_has_at_least_two_refused_cases(kind: str, steps: tuple[int, ...]):
    mine = [vector.expected for vector in VECTORS if vector.id.startswith(kind)]
    for step in steps:
        assert sum(expected.get("step") == step for expected in mine) >= 2, step
    assert sum(expected["verified"] for expected in mine) >= 5
    assert sum("step" not in expected and not expected["verified"] for expected in mine) >= 5


def test_document_lists_every_case():
    text = (HERE / "VECTORS.md").read_text()
    missing = [vector.id for vector in VECTORS if f"`{vector.id}`" not in text]
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tombstone/accepted/several", "head/accepted/unasked", "head/accepted/answer"])
def test_random_changes_are_refused(name: str):
    """One bit anywhere in the file: refused, unless it touched only what nobody signs."""
    vector = next(item for item in VECTORS if item.id == name)
    raw = vector.file.read_bytes()
    bound = judged(json.loads(raw))
    generator = random.Random(name)
    for _ in range(150):
        changed = bytearray(raw)
        position = generator.randrange(len(raw))
        changed[position] ^= 1 << generator.randrange(7)
        verdicts = []
        for judge in (ours, theirs):
            try:
                verdicts.append(judge(bytes(changed), vector.trust, vector.at)["verified"])
            except (ValueError, KeyError, EdgeprovError, second.Bad):  # a bit of the case file's own form
                verdicts.append(False)
        assert verdicts[1] or not verdicts[0], f"only ours accepts a change at {position}"
        if verdicts[1]:
            assert judged(json.loads(changed)) == bound, position


def judged(document: dict[str, Any]) -> list[str]:
    """What a signature or an attestation is bound to."""
    item = document.get("item")
    layers = [item["manifest"], item["layer"]] if item else [document["head"]]
    return [*layers, str(document.get("nonce")), document["device"]["manifest"], document["device"]["layer"]]
