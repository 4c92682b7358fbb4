# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What every registry back end does alike."""

from __future__ import annotations

import itertools
import os
from io import BytesIO

import pytest

from edgeprov.errors import DigestMismatch, EdgeprovError, FormatError, RegistryNotFound
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest, encode_index
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.registry.base import Registry, fallback_tag
from edgeprov.registry.push_order import attach

_numbers = itertools.count()


@pytest.fixture
def repo() -> str:
    return f"hospital/data/r{next(_numbers)}"


def push(registry: Registry, repo: str, content: bytes, **members: object) -> Manifest:
    layer = describe(content, "application/x-test")
    registry.push_blob(repo, layer, content)
    registry.push_blob(repo, EMPTY_CONFIG, EMPTY_BLOB)
    return build_manifest(config=EMPTY_CONFIG, layers=[layer], artifact_type="application/x-test", **members)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_000])
def test_a_blob_comes_back_whole_and_from_any_offset(registry: Registry, repo: str, size: int) -> None:
    content = os.urandom(size)
    blob = describe(content, "application/x-test")
    assert registry.head_blob(repo, blob.digest) is None
    assert registry.push_blob(repo, blob, content)
    assert registry.head_blob(repo, blob.digest) == size
    assert b"".join(registry.fetch_blob(repo, blob)) == content
    for offset in {1, size // 2, size - 1} - {0, -1}:
        if offset < size:
            assert b"".join(registry.fetch_blob(repo, blob, offset=offset)) == content[offset:]


def test_a_second_push_sends_nothing(registry: Registry, repo: str) -> None:
    blob = describe(b"once", "application/x-test")
    assert registry.push_blob(repo, blob, b"once")
    assert not registry.push_blob(repo, blob, b"once")


class OnlyRead:
    """The least that a caller may hand over as a stream."""

    def __init__(self, content: bytes) -> None:
        self._inner = BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(size)


def test_a_generated_stream_is_pushed_with_its_length(registry: Registry, repo: str) -> None:
    content = os.urandom(200_000)
    blob = describe(content, "application/x-test")
    assert registry.push_blob(repo, blob, OnlyRead(content))  # type: ignore[arg-type]
    assert b"".join(registry.fetch_blob(repo, blob)) == content


def test_a_file_object_is_pushed_as_well_as_bytes(registry: Registry, repo: str) -> None:
    content = os.urandom(200_000)
    blob = describe(content, "application/x-test")
    assert registry.push_blob(repo, blob, BytesIO(content))
    assert b"".join(registry.fetch_blob(repo, blob)) == content


@pytest.mark.parametrize("stream", [False, True])
def test_bytes_that_are_not_what_they_claim_are_refused(registry: Registry, repo: str, stream: bool) -> None:
    blob = describe(b"right", "application/x-test")
    with pytest.raises(DigestMismatch):
        registry.push_blob(repo, blob, BytesIO(b"wrong") if stream else b"wrong")
    assert registry.head_blob(repo, blob.digest) is None


def test_what_is_not_there_is_said_so(registry: Registry, repo: str) -> None:
    nothing = describe(b"nothing", "application/x-test")
    with pytest.raises(RegistryNotFound):
        list(registry.fetch_blob(repo, nothing))
    with pytest.raises(RegistryNotFound):
        registry.fetch_manifest(repo, nothing.digest)
    with pytest.raises(RegistryNotFound):
        registry.fetch_manifest(repo, "no-such-tag")
    with pytest.raises(RegistryNotFound):
        registry.fetch_index(repo, "no-such-tag")
    assert registry.head_manifest(repo, "no-such-tag") is None
    assert registry.head_manifest(repo, str(nothing.digest)) is None
    assert registry.list_tags(repo) == ()
    assert registry.list_referrers(repo, nothing.digest) == ()


def test_a_manifest_keeps_its_bytes_by_tag_and_by_digest(registry: Registry, repo: str) -> None:
    manifest = push(registry, repo, b"layer", annotations={"dev.edgeprov.seq": "7"})
    registry.push_manifest(repo, manifest, tag="ward-1.0000000007.0123456789abcdef")
    registry.push_manifest(repo, manifest, tag="ward-1.0000000007.0123456789abcdef")  # a repeat is no error
    for reference in (manifest.digest, "ward-1.0000000007.0123456789abcdef"):
        assert registry.fetch_manifest(repo, reference).raw == manifest.raw
    named = registry.head_manifest(repo, "ward-1.0000000007.0123456789abcdef")
    assert named is not None
    assert (named.digest, named.size) == (manifest.digest, len(manifest.raw))
    assert registry.list_tags(repo) == ("ward-1.0000000007.0123456789abcdef",)


def test_a_manifest_with_a_wrong_digest_is_not_parsed(registry: Registry, repo: str) -> None:
    manifest = push(registry, repo, b"layer")
    registry.push_manifest(repo, manifest, tag="a")
    with pytest.raises(EdgeprovError):
        registry.fetch_manifest(repo, describe(b"another", "").digest)


def test_many_tags_are_all_listed(registry: Registry, repo: str) -> None:
    manifest = push(registry, repo, b"layer")
    names = {f"tag-{number:03}" for number in range(120)}
    for name in names:
        registry.push_manifest(repo, manifest, tag=name)
    assert set(registry.list_tags(repo)) == names


def test_referrers_are_found_by_subject_and_type(registry: Registry, repo: str) -> None:
    kit = push(registry, repo, b"kit")
    registry.push_manifest(repo, kit, tag="kit")
    signatures = [
        build_manifest(
            config=EMPTY_CONFIG,
            layers=[describe(b"signature", "application/x-signature")],
            artifact_type=f"application/x-{name}",
            subject=kit.descriptor,
            annotations={"n": name},
        )
        for name in ("one", "two")
    ]
    for signature in [*signatures, signatures[0]]:  # a repeat changes nothing
        attach(registry, repo, signature, {signature.layers[0].digest: b"signature"})
    found = registry.list_referrers(repo, kit.digest)
    assert {item.digest for item in found} == {item.digest for item in signatures}
    assert len(found) == 2
    only = registry.list_referrers(repo, kit.digest, "application/x-two")
    assert [item.digest for item in only] == [signatures[1].digest]
    assert registry.fetch_manifest(repo, only[0].digest).annotations["n"] == "two"


def test_a_subject_may_be_in_no_repository_at_all(registry: Registry, repo: str) -> None:
    model = Descriptor(
        media_type="application/vnd.oci.image.manifest.v1+json", digest=describe(b"model", "").digest, size=5
    )
    kit = push(registry, repo, b"kit of an absent model", subject=model)
    registry.push_manifest(repo, kit, tag="kit")
    assert registry.fetch_manifest(repo, "kit").subject == model


def test_a_referrer_needs_a_subject(registry: Registry, repo: str) -> None:
    with pytest.raises(FormatError):
        attach(registry, repo, push(registry, repo, b"alone"), {describe(b"alone", "").digest: b"alone"})


def test_an_index_is_stored_and_read(registry: Registry, repo: str) -> None:
    manifest = push(registry, repo, b"member")
    registry.push_manifest(repo, manifest, tag="member")
    raw = encode_index([manifest.descriptor])
    registry.push_index(repo, raw, tag=fallback_tag(manifest.digest))
    index = registry.fetch_index(repo, fallback_tag(manifest.digest))
    assert index.raw == raw
    with pytest.raises(FormatError):
        registry.fetch_manifest(repo, fallback_tag(manifest.digest))


def test_repositories_are_listed(registry: Registry, repo: str) -> None:
    registry.push_manifest(repo, push(registry, repo, b"layer"), tag="a")
    assert repo in registry.list_repositories()
