# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Content apart from evidence: a lost part of content leaves the evidence verified, and is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeprov.formats.datakit import encode_part_header
from edgeprov.formats.label import Label
from tests.support.fleet import push_kit
from tests.support.kits import encode_label_parts

LABELS = [Label(n=n, value=n % 2, source="lab", labelled_at_ns=10**18 + n) for n in range(3)]


def blob_of(hub: Any, kit: Any, kind: str) -> Any:
    (part,) = [part for part in kit.kit.parts if part.kind == kind]
    return hub.root / "registry" / "blobs" / "sha256" / part.layer.digest.hex


@pytest.fixture
def kits(hub: Any) -> list[Any]:
    """Two kits of one device; the second one has labels."""
    unit = hub.device("a1")
    made = [unit.seal(records=7), unit.seal(records=7, labels=LABELS)]
    for sealed in made:
        push_kit(hub.registry, unit, sealed)
    hub.sync()
    return made


@pytest.mark.parametrize("kind", ["outputs", "label-values"])
@pytest.mark.parametrize("depth", [[], ["--records"]], ids=["blobs", "records"])
def test_lost_content_is_named_and_accuses_nobody(hub: Any, kits: list[Any], kind: str, depth: list[str]) -> None:
    path = blob_of(hub, kits[1], kind)
    whole = path.read_bytes()
    path.unlink()
    for _ in range(2):  # not judged is tried again in each run
        run = hub.run("verify", *depth)
        assert run.code == 40
        assert "CONTENT NOT AVAILABLE" in run.out
        assert f"{hub.units['a1'].urn} number {kits[1].kit.seq}: {kind}-000001" in run.out
        assert "2 verified (1 without all of their content), 0 refused" in run.out
    item = hub.run("verify", *depth, "--json").last("verified")
    assert (item["ok"], item["incomplete"], item["refused"]) == (2, 1, 0)
    path.write_bytes(whole)
    run = hub.run("verify", *depth)
    assert (run.code, "NOT AVAILABLE" in run.out) == (0, False)


@pytest.mark.parametrize("kind", ["records", "labels", "evidence"])
def test_lost_evidence_is_no_lost_content(hub: Any, kits: list[Any], kind: str) -> None:
    blob_of(hub, kits[1], kind).unlink()
    run = hub.run("verify", "--records")
    assert run.code != 0
    assert "CONTENT NOT AVAILABLE" not in run.out


def test_the_content_that_is_there_is_still_judged(hub: Any) -> None:
    """A kit whose labels are not those of its root is refused, though its outputs are lost."""
    unit = hub.device("a1")
    sealed = with_parts(unit, encode_label_parts(LABELS[::-1]))
    push_kit(hub.registry, unit, sealed)
    hub.sync()
    blob_of(hub, sealed, "outputs").unlink()
    run = hub.run("verify", "--records")
    assert run.code == 10
    assert "Merkle root of labels" in run.out


def test_a_proof_names_the_part_that_is_lost(judged: Any) -> None:
    sealed = judged.units["a1"].sealed[1]
    blob_of(judged, sealed, "outputs").unlink()
    run = judged.run("prove", f"a1/default/{sealed.kit.first}", "-o", judged.root / "x.proof")
    assert run.code != 0
    assert "content not available: part outputs-000001" in run.err
    other = judged.units["a1"].sealed[0].kit.first
    assert judged.run("prove", f"a1/default/{other}", "-o", judged.root / "y.proof").code == 0


def test_an_audit_needs_no_content(full: Any) -> None:
    full.sync()
    assert full.run("verify", "--records").code == 0
    for unit in full.units.values():
        for sealed in unit.sealed:
            for kind in ("outputs", "label-values"):
                if any(part.kind == kind for part in sealed.kit.parts):
                    blob_of(full, sealed, kind).unlink(missing_ok=True)
    audit = full.run("audit", "--from", "2026-01", "--to", "2026-12", "--json").last("audit")
    (model,) = audit["models"]
    assert (model["results"], model["labels"], model["labels_exact"]) == (160, 10, True)


def with_parts(unit: Any, plain: dict[str, bytes]) -> Any:
    """A kit of seven records and three labels, some of whose parts hold something else."""
    pack = unit.world.pack

    def other(data: bytes) -> bytes:
        for kind, instead in plain.items():
            head = encode_part_header(kind, [])[:-1]  # type: ignore[arg-type]
            if data.startswith(head):
                return bytes(pack(instead))
        return bytes(pack(data))

    unit.world.pack = other
    try:
        return unit.seal(records=7, labels=LABELS)
    finally:
        unit.world.pack = pack


WRONG_HALVES = [
    LABELS[:2],
    [*LABELS, LABELS[0]],
    [LABELS[0], Label(n=1, value=None, source=None, labelled_at_ns=1), LABELS[2]],
]


@pytest.mark.parametrize("labels", WRONG_HALVES, ids=["fewer", "more", "withdrawn"])
def test_halves_of_labels_that_differ_are_refused(hub: Any, labels: list[Label]) -> None:
    unit = hub.device("a1")
    push_kit(hub.registry, unit, with_parts(unit, {"label-values": encode_label_parts(labels)["label-values"]}))
    hub.sync()
    run = hub.run("verify", "--records")
    assert run.code == 10
    assert "label-values part" in run.out


SWAPS = [("records", "outputs"), ("outputs", "records"), ("labels", "label-values"), ("label-values", "labels")]


def other_kind(kind: str, instead: str) -> dict[str, bytes]:
    return {kind: encode_part_header(instead, [])}  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "instead"), SWAPS)
def test_a_part_of_another_kind_is_refused(hub: Any, kind: str, instead: str) -> None:
    unit = hub.device("a1")
    push_kit(hub.registry, unit, with_parts(unit, other_kind(kind, instead)))
    hub.sync()
    run = hub.run("verify", "--records")
    assert run.code == 10
    assert f"says that it holds {instead}" in run.out


@pytest.mark.parametrize(("kind", "instead"), SWAPS)
def test_collect_leaves_out_a_kit_with_a_part_of_another_kind(hub: Any, kind: str, instead: str, tmp_path: Any) -> None:
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=4))
    push_kit(hub.registry, unit, with_parts(unit, other_kind(kind, instead)))
    hub.sync()
    assert hub.run("verify").code == 0
    item = hub.run("collect", "-o", tmp_path / "set", "--json").last("collected")
    assert (item["rows"], item["refused"]) == (4, 1)
    told = json.loads((tmp_path / "set" / "_edgeprov" / "refused.jsonl").read_text())
    assert f"says that it holds {instead}" in told["why"]


def test_collect_names_the_part_of_a_kit_without_its_content(hub: Any, kits: list[Any], tmp_path: Any) -> None:
    assert hub.run("verify").code == 0
    blob_of(hub, kits[0], "outputs").unlink()
    item = hub.run("collect", "-o", tmp_path / "set", "--json").last("collected")
    assert (item["rows"], item["refused"]) == (7, 1)
    told = json.loads((tmp_path / "set" / "_edgeprov" / "refused.jsonl").read_text())
    assert told["why"].startswith("content not available: part outputs-000001")
