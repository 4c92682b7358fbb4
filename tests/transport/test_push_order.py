# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The tag is the commit: a link that ends after any request leaves no tag without its signatures."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from edgeprov.device.upload import upload
from edgeprov.errors import RegistryError
from edgeprov.fleet.ingest.stick import import_stick
from edgeprov.fleet.registries.sources import parse_source
from edgeprov.formats.datakit import kit_tag
from edgeprov.formats.descriptor import describe
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB, SIGSTORE_BUNDLE
from edgeprov.registry.base import Registry, fallback_tag
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.push_order import push_signed
from edgeprov.registry.retry import WaitClock
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.faultproxy import CutAfter
from tests.support.fleet import push_kit
from tests.support.peers import peer, referrers_registry
from tests.support.registries import docker_registry
from tests.support.sender import REPO, Hours, Sender
from tests.support.world import World

PLAIN = RegistrySettings(plain_http=True, connect_s=2, read_s=5)


@pytest.fixture(scope="module", params=["docker-registry", "registry", "referrers-registry"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "referrers-registry":
        with referrers_registry() as client:
            yield client.host
    else:
        with docker_registry(tmp_path_factory.mktemp(request.param), program=request.param) as host:
            yield host


def is_whole(registry: Registry, repo: str, tag: str, manifests: Sequence[Manifest]) -> bool:
    """Whether the tag is there; then everything that it promises must be."""
    found = registry.head_manifest(repo, tag)
    if found is None:
        return False
    artifact, *signatures = manifests
    assert found.digest == artifact.digest
    for manifest in manifests:
        assert registry.fetch_manifest(repo, manifest.digest).raw == manifest.raw
        assert all(registry.head_blob(repo, blob.digest) == blob.size for blob in manifest.blobs)
    for number, signature in enumerate(signatures, 1):
        named = registry.head_manifest(repo, f"{tag}.s{number}")
        assert named is not None
        assert named.digest == signature.digest
    listed = {item.digest for item in registry.list_referrers(repo, artifact.digest)}
    assert listed == {signature.digest for signature in signatures}
    return True


def cut_everywhere(server: str, push: Callable[[str, int], tuple[str, str, list[Manifest]]]) -> None:
    """Cut after each request of a push in turn; ``push`` gets the host and which try it is."""
    registry = OrasRegistry(server, settings=PLAIN)
    visible = []
    for after in range(1, 100):
        with CutAfter(server, after=after).serve() as link:
            repo, tag, manifests = push(link.host, after)
            visible.append(is_whole(registry, repo, tag, manifests))
            if link.requests < after:
                assert visible[-1]
                assert len(visible) > 10
                assert not all(visible)
                return
        assert push(server, after) == (repo, tag, manifests)  # the link is back
        assert is_whole(registry, repo, tag, manifests)
    raise AssertionError("the push never ends")


def test_a_cut_of_an_upload_leaves_no_tag_without_its_signatures(
    server: str, make_sender: Callable[..., Sender]
) -> None:
    senders: dict[int, Sender] = {}

    def push(host: str, number: int) -> tuple[str, str, list[Manifest]]:
        if number not in senders:
            senders[number] = make_sender(f"unit-{number}")
            senders[number].fill(1, 1000, seed=number)
        hours = Hours(number)
        clock = WaitClock(monotonic=hours.monotonic, sleep=hours.sleep, chance=hours.chance)
        entry, manifests = senders[number].kits[0]
        assert not upload(senders[number].context(host), clock=clock).parked
        return REPO, entry.tag, manifests

    cut_everywhere(server, push)


def signed_artifact(number: int) -> tuple[Manifest, list[Manifest], dict[int, bytes]]:
    blobs = {index: f"{number} {index}".encode() for index in range(3)}
    artifact = build_manifest(config=EMPTY_CONFIG, layers=[describe(blobs[0], "application/x")])
    signatures = [
        build_manifest(
            config=EMPTY_CONFIG,
            layers=[describe(blobs[index], SIGSTORE_BUNDLE)],
            artifact_type=SIGSTORE_BUNDLE,
            subject=artifact.descriptor,
        )
        for index in (1, 2)
    ]
    return artifact, signatures, blobs


def push_artifact(registry: Registry, repo: str, number: int, tags: Sequence[str]) -> list[Manifest]:
    artifact, signatures, blobs = signed_artifact(number)
    registry.push_blob(repo, artifact.layers[0], blobs[0])
    registry.push_blob(repo, EMPTY_CONFIG, EMPTY_BLOB)
    attached = [(item, {item.layers[0].digest: blobs[index]}) for index, item in enumerate(signatures, 1)]
    push_signed(registry, repo, artifact, attached, tags)
    return [artifact, *signatures]


def test_a_cut_at_the_desk_leaves_no_tag_without_its_signatures(server: str) -> None:
    """Models and device records: push_signed."""

    def push(host: str, number: int) -> tuple[str, str, list[Manifest]]:
        artifact, signatures, _ = signed_artifact(number)
        with suppress(RegistryError):
            push_artifact(OrasRegistry(host, settings=PLAIN), "models/m", number, [f"v{number}", f"alias-{number}"])
        return "models/m", f"v{number}", [artifact, *signatures]

    cut_everywhere(server, push)


def test_a_cut_of_an_import_leaves_no_tag_without_its_signatures(server: str, tmp_path: Path) -> None:
    unit = World().enroll("unit-1")
    sticks: dict[int, tuple[str, str, list[Manifest]]] = {}

    def push(host: str, number: int) -> tuple[str, str, list[Manifest]]:
        if number not in sticks:
            sealed = unit.seal(records=2, notation=True)
            repo = push_kit(LayoutRegistry(tmp_path / str(number), create=True), unit, sealed)
            manifests = [sealed.manifest, *(item.manifest for item in sealed.signatures)]
            sticks[number] = f"h/{repo}", kit_tag(unit.serial, sealed.kit.seq, sealed.digest), manifests
        with suppress(RegistryError):
            assert not import_stick(tmp_path / str(number), parse_source(f"{host}/h")).faults
        return sticks[number]

    cut_everywhere(server, push)


def test_signatures_of_several_signers_stand_side_by_side(server: str) -> None:
    registry = OrasRegistry(server, settings=PLAIN)
    artifact, *signatures = push_artifact(registry, "models/two", 1, ["v"])
    later = build_manifest(
        config=EMPTY_CONFIG, layers=[], artifact_type=SIGSTORE_BUNDLE, subject=artifact.descriptor,
        annotations={"by": "another"},
    )  # fmt: skip
    for _ in range(2):  # a repeat changes nothing
        push_signed(registry, "models/two", artifact, [(later, {})], ["v"])
    numbered = {tag for tag in registry.list_tags("models/two") if tag != fallback_tag(artifact.digest)}
    assert numbered == {"v", "v.s1", "v.s2", "v.s3"}
    assert registry.fetch_manifest("models/two", "v.s3").digest == later.digest
    assert is_whole(registry, "models/two", "v", [artifact, *signatures, later])


def test_rubbish_in_the_fallback_index_stops_no_upload(sender: Sender, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "server") as host:
        registry = OrasRegistry(host, settings=PLAIN)
        entry = sender.fill(1, 100)
        rubbish = build_manifest(config=EMPTY_CONFIG, layers=[])
        registry.push_blob(REPO, EMPTY_CONFIG, EMPTY_BLOB)
        registry.push_manifest(REPO, rubbish, tag=fallback_tag(entry.digest))
        assert len(upload(sender.context(host)).sent) == 1
        assert is_whole(registry, REPO, entry.tag, sender.kits[0][1])


def test_oras_copies_a_kit_with_its_signatures(server: str, sender: Sender, tmp_path: Path) -> None:
    """A subject that is elsewhere would stop it; copies have the signatures as referrers, and their tags by name."""
    entry = sender.fill(2, 1000)
    assert len(upload(sender.context(server)).sent) == 1
    tags = (entry.tag, f"{entry.tag}.s1", f"{entry.tag}.s2")
    with docker_registry(tmp_path / "mirror") as mirror:
        for tag in tags:
            names = (f"{server}/{REPO}:{tag}", f"{mirror}/{REPO}:{tag}")
            subprocess.run(
                [peer("oras"), "cp", "-r", "--from-plain-http", "--to-plain-http", *names],
                check=True,
                capture_output=True,
            )
        assert is_whole(OrasRegistry(mirror, settings=PLAIN), REPO, entry.tag, sender.kits[0][1])
