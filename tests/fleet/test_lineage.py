# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Lineage is worth its signatures: a training set counts as verified only where a trusted collector signed it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgeprov.fleet.publishing.publish import collection_artifact, load_collection
from edgeprov.fleet.registries.sources import open_registry, parse_source
from edgeprov.fleet.trust.signers import load_signer, sign_statement
from edgeprov.formats.mediatypes import COLLECTION
from edgeprov.registry.push_order import attach
from tests.fleet.conftest import Hub
from tests.support.fleet import fleet
from tests.support.service import ROOT

NOW = "2026-02-03T04:05:06Z"


@dataclass
class Trained:
    """A world whose next model was trained on a collected set; the vendor's CA is in the trust folder."""

    hub: Hub
    root: Path
    published: dict[str, Any]

    @property
    def set(self) -> str:
        return str(self.published["trained_on"])

    def reattach(self, *bundles: bytes | None) -> None:
        """Whoever may write to the registry puts these in place of the honest collection; None is unsigned."""
        registry = open_registry(parse_source(self.hub.name))
        repo = self.published["repo"]
        model = registry.fetch_manifest(repo, self.published["tag"])
        for item in registry.list_referrers(repo, model.digest):
            if registry.fetch_manifest(repo, item.digest).artifact_type == COLLECTION:
                registry.layout.remove_manifest(item.digest)
        honest = load_collection(str(self.root / "out"))
        for bundle in bundles:
            attach(registry, repo, *collection_artifact(model, replace(honest, bundle=bundle), NOW))

    def told(self, *, verify: bool = True) -> dict[str, Any]:
        """What an index that is made now says of the set."""
        index = self.root / f"index-{len(list(self.root.glob('index-*')))}"
        where = ("--fleet", index, "--trust", self.hub.trust)
        assert fleet("sync", self.hub.name, "--fleet", index).code == 0
        if verify:
            fleet("verify", *where, "--workers", "1")
        found = fleet("lineage", self.published["digest"], "--json", *where).last("lineage")
        assert found["before"][0]["statement"] == self.set
        text = fleet("lineage", self.published["digest"], *where).out
        assert ("UNVERIFIED: " in text) is not found["before"][0]["verified"]
        listed = fleet("query", "--trained", self.published["digest"], "--json", *where).items
        assert listed[-1] == {"type": "training-set"} | {
            name: found["before"][0][name] for name in ("statement", "verified", "signer", "why")
        }
        return dict(found["before"][0]) | {"publisher": found["model"]["signed"]}

    def bundle(self, ca: Path) -> bytes:
        """A signature over the honest statement by some collector."""
        signer = load_signer(ca / "collector/collector.key", ca / "collector/collector.pem")
        return sign_statement(signer, load_collection(str(self.root / "out")).statement)


@pytest.fixture
def trained(judged: Hub, tmp_path: Path) -> Trained:
    for name in ("ca", "stranger"):
        assert fleet("ca", "init", tmp_path / name).code == 0
    with (judged.trust / "publisher.pem").open("ab") as file:
        file.write((tmp_path / "ca/trust.d/publisher.pem").read_bytes())
    assert judged.run("verify").code == 0
    assert judged.run("collect", "-o", tmp_path / "out", "--ca", tmp_path / "ca").code == 0
    kit = ROOT / "hil" / "model" / "kit"
    options = ("--to", judged.name, "--ca", tmp_path / "ca", "--dataset", tmp_path / "out", "--json")
    return Trained(judged, tmp_path, fleet("publish", kit, *options).last("published"))


def test_a_signed_set_is_verified_once_it_was_judged(trained: Trained) -> None:
    before = trained.told(verify=False)
    assert (before["verified"], before["why"]) == (False, "not judged yet: edgeprov-fleet verify")
    after = trained.told()
    assert (after["verified"], after["why"]) == (True, None)
    assert after["signer"]


def test_a_set_that_nobody_signed_is_unverified_and_no_refusal(trained: Trained) -> None:
    trained.reattach(None)
    told = trained.told()
    assert (told["verified"], told["signer"], told["why"]) == (False, None, "nobody signed it")


def test_a_statement_signed_by_a_stranger_is_unverified_and_verify_says_so(trained: Trained) -> None:
    trained.reattach(trained.bundle(trained.root / "stranger"))
    told = trained.told()
    assert (told["verified"], told["signer"]) == (False, None)
    run = fleet("verify", "--fleet", trained.root / "index-0", "--trust", trained.hub.trust, "--again", "--json")
    refused = {item["kind"]: item for item in run.items if item["type"] == "verdict" and not item["verified"]}
    assert refused.keys() == {"model", "training set"}  # the vendor of this CA is no publisher of the policy either
    assert (refused["training set"]["digest"], refused["training set"]["error"]) == (trained.set, "SignerUntrusted")
    assert run.code == 10


def test_a_forged_signature_beside_a_good_one_takes_nothing_from_it(trained: Trained) -> None:
    good, forged = trained.bundle(trained.root / "ca"), trained.bundle(trained.root / "stranger")
    bent = good.replace(b'"sig":"M', b'"sig":"N')
    assert bent != good
    trained.reattach(forged, bent, b"{}", good)
    assert trained.told()["verified"] is True
    trained.reattach(forged, bent)
    assert trained.told()["verified"] is False


def test_a_trust_folder_without_the_collector_believes_nobody(trained: Trained) -> None:
    (trained.hub.trust / "publisher.pem").write_bytes(trained.hub.world.policy_files["publisher.pem"])
    told = trained.told()
    assert (told["verified"], told["publisher"]) == (False, False)
