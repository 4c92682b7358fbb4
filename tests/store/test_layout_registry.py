# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A layout folder as a registry: what only the folder form has; the rest is in the contract suite."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from edgeprov.errors import DigestMismatch, NotStored, RegistryNotFound, RegistryProtocolError, StoreError
from edgeprov.formats.descriptor import describe, encode_descriptor
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest, encode_index
from edgeprov.formats.mediatypes import A_SUBJECT, ANNOTATION_REF_NAME
from edgeprov.store.layout_registry import LayoutRegistry

REPO = "acme/data/month"


@pytest.fixture
def registry(tmp_path: Path) -> LayoutRegistry:
    return LayoutRegistry(tmp_path / "registry", create=True)


def push(
    registry: LayoutRegistry, repo: str, name: str, *, tag: str | None = None, subject: Manifest | None = None
) -> Manifest:
    layer = describe(name.encode(), "a/b")
    registry.push_blob(repo, layer, name.encode())
    registry.push_blob(repo, EMPTY_CONFIG, b"{}")
    manifest = build_manifest(
        config=EMPTY_CONFIG, layers=[layer], artifact_type="t/x", subject=subject.descriptor if subject else None,
        annotations={"name": name},
    )  # fmt: skip
    assert registry.push_manifest(repo, manifest, tag=tag)
    return manifest


def entries(registry: LayoutRegistry) -> list[dict]:
    return json.loads((registry.layout.root / "index.json").read_bytes())["manifests"]


def test_names_in_the_index_hold_repository_and_tag(registry: LayoutRegistry) -> None:
    kit = push(registry, REPO, "kit", tag="d1.0000000001.aa")
    signature = push(registry, REPO, "signature", subject=kit)
    first, second = entries(registry)
    assert first["annotations"] == {
        "name": "kit", ANNOTATION_REF_NAME: f"{REPO}:d1.0000000001.aa", A_SUBJECT: "none",
    }  # fmt: skip
    assert second["annotations"] == {
        "name": "signature", ANNOTATION_REF_NAME: f"{REPO}@{signature.digest}", A_SUBJECT: str(kit.digest),
    }  # fmt: skip
    assert registry.list_repositories() == (REPO,)
    assert registry.list_tags(REPO) == ("d1.0000000001.aa",)


def test_a_tag_that_moves_leaves_the_old_artifact_reachable_by_digest(registry: LayoutRegistry) -> None:
    old = push(registry, REPO, "old", tag="latest")
    new = push(registry, REPO, "new", tag="latest")
    assert registry.fetch_manifest(REPO, "latest") == new
    assert registry.fetch_manifest(REPO, old.digest) == old
    push(registry, REPO, "old", tag="again")
    assert len(entries(registry)) == 2, "the bare name gave way to the tag"


def test_a_push_without_tag_of_what_has_one_adds_no_second_name(registry: LayoutRegistry) -> None:
    push(registry, REPO, "kit", tag="v1")
    push(registry, REPO, "kit")
    assert len(entries(registry)) == 1
    push(registry, "other/repo", "kit")
    assert len(entries(registry)) == 2
    assert registry.list_tags("other/repo") == ()


def test_repositories_do_not_show_each_others_artifacts(registry: LayoutRegistry) -> None:
    kit = push(registry, REPO, "kit", tag="v1")
    push(registry, "elsewhere", "signature", subject=kit)
    with pytest.raises(RegistryNotFound):
        registry.fetch_manifest("elsewhere", kit.digest)
    with pytest.raises(RegistryNotFound):
        registry.fetch_manifest(REPO, "v2")
    assert registry.list_referrers(REPO, kit.digest) == ()
    assert len(registry.list_referrers("elsewhere", kit.digest)) == 1
    assert len(registry.list_referrers("", kit.digest)) == 1


def test_the_empty_repository_is_the_folder_as_other_tools_write_it(registry: LayoutRegistry) -> None:
    kit = push(registry, "x", "kit", tag="t")
    path = registry.layout.root / "index.json"
    plain = {**encode_descriptor(kit.descriptor), "annotations": {ANNOTATION_REF_NAME: "v1"}}
    path.write_bytes(json.dumps({"schemaVersion": 2, "manifests": [plain]}).encode())
    foreign = LayoutRegistry(registry.layout.root, read_only=True)
    assert foreign.list_tags("") == ("v1",)
    assert foreign.fetch_manifest("", "v1") == kit
    assert foreign.fetch_manifest("", str(kit.digest)) == kit
    assert foreign.list_repositories() == ("",)
    with pytest.raises(StoreError):
        foreign.push_manifest("", kit, tag="v2")


def test_a_blob_is_fetched_from_an_offset_and_verified_all_the_same(registry: LayoutRegistry) -> None:
    data = bytes(range(256)) * 600
    descriptor = describe(data, "a/b")
    assert registry.push_blob(REPO, descriptor, io.BytesIO(data))
    assert not registry.push_blob(REPO, descriptor, data)
    for offset in (0, 1, 65_536, 65_537, len(data) - 1):
        assert b"".join(registry.fetch_blob(REPO, descriptor, offset=offset)) == data[offset:]
    registry.layout.blob_path(descriptor.digest).write_bytes(data[:-1] + b"?")
    with pytest.raises(DigestMismatch):
        list(registry.fetch_blob(REPO, descriptor, offset=65_536))


def test_a_push_that_lacks_a_blob_or_lies_is_refused(registry: LayoutRegistry) -> None:
    layer = describe(b"layer", "a/b")
    with pytest.raises(DigestMismatch):
        registry.push_blob(REPO, layer, b"liar!")
    with pytest.raises(RegistryProtocolError):
        registry.push_manifest(REPO, build_manifest(config=EMPTY_CONFIG, layers=[layer]), tag="x")
    assert registry.list_repositories() == ()
    with pytest.raises(RegistryNotFound):
        list(registry.fetch_blob(REPO, layer))


def test_an_index_is_stored_and_found(registry: LayoutRegistry) -> None:
    kit = push(registry, REPO, "kit", tag="k")
    raw = encode_index([kit.descriptor])
    registry.push_index(REPO, raw, tag="list")
    assert registry.fetch_index(REPO, "list").manifests == (kit.descriptor,)
    raw = encode_index([])
    registry.push_index(REPO, raw, tag="list")
    assert registry.fetch_index(REPO, "list").manifests == ()


def test_a_folder_that_is_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotStored):
        LayoutRegistry(tmp_path)
