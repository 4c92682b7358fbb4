# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Signatures are found under their own tags; where these are absent or a stranger's, the referrers are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeprov.fleet.registries.kits import open_reader
from edgeprov.fleet.registries.sources import open_registry, parse_source
from edgeprov.formats.datakit import kit_tag
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest
from edgeprov.formats.mediatypes import SIGSTORE_BUNDLE, SLSA_PROVENANCE
from edgeprov.registry.base import Registry
from edgeprov.registry.distribution import DistributionClient
from edgeprov.registry.push_order import attach
from edgeprov.verify.signature import SignatureArtifact
from tests.fleet.conftest import Hub
from tests.support.fleet import push_kit
from tests.support.registries import docker_registry
from tests.support.world import Sealed, Unit, sign_bundle


class Ward:
    """A hub on a real registry, with one device and one kit."""

    def __init__(self, hub: Hub, host: str) -> None:
        self.hub = hub
        self.host = host
        self.registry: Registry = open_registry(parse_source(host), create=True)
        hub.registry = self.registry  # type: ignore[assignment]
        self.unit: Unit = hub.device("a1")
        self.sealed: Sealed = self.unit.seal(records=3)
        self.repo = push_kit(hub.registry, self.unit, self.sealed)
        self.tag = kit_tag("a1", self.sealed.kit.seq, self.sealed.digest)
        open_reader.cache_clear()

    def verify(self) -> list[str]:
        assert self.hub.run("sync", self.host).code == 0
        run = self.hub.run("verify", "--json")
        summary = run.last("verified")
        assert (summary["ok"], summary["refused"]) == (1, 0), run.out
        return [item["reference"] for item in run.items if item["type"] == "fault"]


@pytest.fixture
def ward(hub: Hub, tmp_path: Path) -> Iterator[Ward]:
    with docker_registry(tmp_path / "server") as host:
        yield Ward(hub, host)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests whose referrers are asked for."""
    digests: list[str] = []
    ask = DistributionClient.list_referrers

    def counted(self: DistributionClient, repo: str, digest: object, *more: object) -> object:
        digests.append(str(digest))
        return ask(self, repo, digest, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(DistributionClient, "list_referrers", counted)
    return digests


def test_a_signature_under_its_tag_is_found_without_the_referrers(ward: Ward, asked: list[str]) -> None:
    ward.verify()
    assert str(ward.sealed.digest) not in asked


def over_another_kit(ward: Ward) -> SignatureArtifact:
    return ward.unit.seal(records=1).signatures[0]


def by_another_device(ward: Ward) -> SignatureArtifact:
    stranger = ward.hub.world.enroll("b2")
    return sign_bundle(ward.sealed.manifest.descriptor, ward.sealed.statement, stranger.tpm, SLSA_PROVENANCE)


def rubbish(ward: Ward) -> SignatureArtifact:
    return sign_bundle(ward.sealed.manifest.descriptor, b"{}", ward.unit.tpm, SLSA_PROVENANCE)


def without_subject(ward: Ward) -> SignatureArtifact:
    good = ward.sealed.signatures[0]
    bare = build_manifest(config=EMPTY_CONFIG, layers=good.manifest.layers, artifact_type=SIGSTORE_BUNDLE)
    return SignatureArtifact(manifest=bare, blob=good.blob)


@pytest.mark.parametrize("stranger", [over_another_kit, by_another_device, rubbish, without_subject])
def test_a_stranger_under_a_signature_tag_is_passed_over(
    ward: Ward, asked: list[str], stranger: Callable[[Ward], SignatureArtifact]
) -> None:
    other = stranger(ward)
    for layer in other.manifest.layers:
        ward.registry.push_blob(ward.repo, layer, other.blob)
    ward.registry.push_manifest(ward.repo, other.manifest, tag=f"{ward.tag}.s1")
    ward.verify()
    assert str(ward.sealed.digest) in asked


def test_referrers_count_where_there_is_no_signature_tag(ward: Ward, asked: list[str]) -> None:
    sealed = ward.unit.seal(records=2)
    for blob in sealed.manifest.blobs:
        ward.registry.push_blob(ward.repo, blob, sealed.blobs[blob.digest])
    for item in sealed.signatures:
        attach(ward.registry, ward.repo, item.manifest, {item.manifest.layers[0].digest: item.blob})
    ward.registry.push_manifest(ward.repo, sealed.manifest, tag=kit_tag("a1", sealed.kit.seq, sealed.digest))
    assert ward.hub.run("sync", ward.host).code == 0
    assert ward.hub.run("verify", "--json").last("verified")["ok"] == 2
    assert str(sealed.digest) in asked
    assert str(ward.sealed.digest) not in asked


def test_a_signature_tag_is_no_artifact_of_its_own(ward: Ward) -> None:
    assert ward.verify() == []
    seen = ward.hub.run("query", "--json").items
    assert [item["tag"] for item in seen if item["type"] == "kit"] == [ward.tag]
