# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""OCI layouts: nothing unverified comes out, nothing half-done shows, nothing pinned is collected."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from edgeprov.errors import (
    DigestMismatch,
    EdgeprovError,
    FormatError,
    LimitError,
    NotStored,
    StoreBusy,
    StoreError,
    StoreFull,
)
from edgeprov.formats.descriptor import Descriptor, describe, encode_descriptor
from edgeprov.formats.digest import digest_of
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest, encode_index, parse_manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB, OCI_EMPTY, SIGSTORE_BUNDLE
from edgeprov.store.layout import Layout

BLOB = "application/octet-stream"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "layout")


def put(layout: Layout, name: str, *, subject: Manifest | None = None, ref: str | None = None) -> Manifest:
    """An artifact with one layer."""
    layer = layout.save_blob(name.encode(), BLOB)
    layout.save_blob(EMPTY_BLOB, OCI_EMPTY)
    manifest = build_manifest(
        config=EMPTY_CONFIG,
        layers=[layer],
        artifact_type=SIGSTORE_BUNDLE if name.startswith("signature") else f"type/{name.split('-', maxsplit=1)[0]}",
        subject=subject.descriptor if subject else None,
        annotations={"name": name},
    )
    layout.save_manifest(manifest, ref=ref)
    return manifest


def blobs(layout: Layout) -> set[str]:
    return set(os.listdir(layout.root / "blobs" / "sha256"))


# -- the folder ---------------------------------------------------------------------------------


def test_a_new_layout_is_what_the_specification_says(layout: Layout) -> None:
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((layout.root / "index.json").read_bytes())["manifests"] == []
    Layout.create(layout.root)  # a second time changes nothing
    assert layout.manifests() == ()


@pytest.mark.parametrize(
    "marker", [None, b"{}", b'{"imageLayoutVersion":"2.0.0"}', b"garbage", b'{"imageLayoutVersion":1}']
)
def test_a_folder_that_is_no_layout_is_refused(tmp_path: Path, marker: bytes | None) -> None:
    if marker is not None:
        (tmp_path / "oci-layout").write_bytes(marker)
    with pytest.raises((NotStored, FormatError)):
        Layout.open(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"{}",
        b"[]",
        b'{"schemaVersion":2,"manifests":{}}',
        b'{"schemaVersion":2,"manifests":[{"digest":"sha256:0"}]}',
    ],
)
def test_a_damaged_index_is_an_error_and_stays_for_analysis(layout: Layout, index: bytes) -> None:
    (layout.root / "index.json").write_bytes(index)
    fresh = Layout.open(layout.root)
    with pytest.raises(FormatError):
        fresh.manifests()
    with pytest.raises(FormatError):
        put(fresh, "x")
    assert (layout.root / "index.json").read_bytes() == index


def test_a_read_only_layout_refuses_every_change(layout: Layout) -> None:
    manifest = put(layout, "model", ref="v1")
    baked = Layout.open(layout.root, read_only=True)
    assert baked.load_manifest(manifest.digest) == manifest
    with pytest.raises(StoreError):
        baked.save_blob(b"new", BLOB)
    with pytest.raises(StoreError):
        baked.save_manifest(manifest, ref="v2")
    with pytest.raises(StoreError):
        baked.remove_manifest(manifest.digest)
    with pytest.raises(StoreError):
        baked.collect_garbage()


# -- blobs --------------------------------------------------------------------------------------


def test_a_blob_reads_back_in_both_ways(layout: Layout) -> None:
    data = os.urandom(200_000)
    with layout.blob_writer() as writer:
        writer.write(data[:1000])
        writer.write(memoryview(data)[1000:])
        descriptor = writer.commit(BLOB)
    assert descriptor == describe(data, BLOB)
    assert layout.load_blob(descriptor, max_bytes=200_000) == data
    with layout.open_blob(descriptor) as stream:
        assert len(stream) == len(data)
        assert stream.read() == data
        assert stream.read(10) == b""
    assert os.listdir(layout.root / "ingest") == []


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537])
def test_sizes_at_the_edges(layout: Layout, size: int) -> None:
    descriptor = layout.save_blob(bytes(size), BLOB)
    layout.verify_blob(descriptor)
    with layout.open_blob(descriptor) as stream:
        assert stream.read() == bytes(size)


@pytest.mark.parametrize("damage", ["bit", "last", "cut", "longer", "empty"])
def test_a_damaged_blob_never_comes_out_whole(layout: Layout, damage: str) -> None:
    data = os.urandom(150_000)
    descriptor = layout.save_blob(data, BLOB)
    bad = {
        "bit": bytes([data[0] ^ 1]) + data[1:],
        "last": data[:-1] + bytes([data[-1] ^ 0x80]),
        "cut": data[:-1],
        "longer": data + b"x",
        "empty": b"",
    }[damage]
    layout.blob_path(descriptor.digest).write_bytes(bad)
    with pytest.raises(DigestMismatch):
        layout.load_blob(descriptor, max_bytes=1 << 20)
    with pytest.raises(DigestMismatch):
        layout.verify_blob(descriptor)
    received = b""
    with pytest.raises(DigestMismatch), layout.open_blob(descriptor) as stream:
        while chunk := stream.read(65_536):
            received += chunk
    assert len(received) < len(data), "the last bytes are held back"
    assert layout.save_blob(data, BLOB) == descriptor
    layout.verify_blob(descriptor)  # good bytes replace a rotten copy


def test_a_blob_that_is_cut_while_it_is_read_is_an_error(layout: Layout) -> None:
    descriptor = layout.save_blob(bytes(200_000), BLOB)
    with layout.open_blob(descriptor) as stream:
        stream.read(65_536)
        os.truncate(layout.blob_path(descriptor.digest), 70_000)
        with pytest.raises(DigestMismatch):
            while stream.read(65_536):
                pass


def test_what_is_asked_for_must_fit_the_bound_and_be_there(layout: Layout) -> None:
    descriptor = layout.save_blob(b"12345", BLOB)
    with pytest.raises(LimitError):
        layout.load_blob(descriptor, max_bytes=4)
    with pytest.raises(NotStored):
        layout.load_blob(describe(b"absent", BLOB), max_bytes=10)
    with pytest.raises(NotStored):
        layout.open_blob(describe(b"absent", BLOB))


def test_a_link_or_a_pipe_on_a_stick_is_not_followed(layout: Layout) -> None:
    secret = describe(b"secret", BLOB)
    (layout.root / "secret").write_bytes(b"secret")
    layout.blob_path(secret.digest).symlink_to(layout.root / "secret")
    pipe = describe(b"pipe", BLOB)
    os.mkfifo(layout.blob_path(pipe.digest))
    for descriptor in (secret, pipe):
        with pytest.raises(EdgeprovError):
            layout.load_blob(descriptor, max_bytes=100)
        with pytest.raises(EdgeprovError):
            layout.verify_blob(descriptor)


@pytest.mark.parametrize("chunks", [[b"too", b"short"], [b"wrong-byte"], [b"0123456789", b"x"], []])
def test_a_stream_that_is_not_what_was_promised_leaves_nothing(layout: Layout, chunks: list[bytes]) -> None:
    expected = describe(b"0123456789", BLOB)
    with pytest.raises(DigestMismatch):
        layout.save_blob_stream(chunks, expected)
    assert not layout.has_blob(expected.digest)
    assert os.listdir(layout.root / "ingest") == []
    layout.save_blob_stream([b"01234", b"56789"], expected)
    layout.save_blob_stream(iter(()), expected)  # what is here is not read from the source again
    assert layout.load_blob(expected, max_bytes=10) == b"0123456789"


def test_an_abandoned_blob_is_swept_at_the_next_start_but_not_a_living_one(layout: Layout) -> None:
    living = layout.blob_writer()
    living.write(b"living")
    dead = layout.blob_writer()
    dead.write(b"dead")
    dead._file.close()  # as the kernel does for a killed process
    Layout.open(layout.root)
    assert len(os.listdir(layout.root / "ingest")) == 1
    layout.verify_blob(living.commit(BLOB))


# -- manifests ----------------------------------------------------------------------------------


def test_an_artifact_shows_only_with_all_its_blobs(layout: Layout) -> None:
    layer = describe(b"layer", BLOB)
    manifest = build_manifest(config=EMPTY_CONFIG, layers=[layer])
    with pytest.raises(NotStored):
        layout.save_manifest(manifest, ref="a")
    layout.save_blob(EMPTY_BLOB, OCI_EMPTY)
    layout.save_blob(b"layer", BLOB)
    wrong_size = Descriptor(media_type=BLOB, digest=layer.digest, size=6)
    with pytest.raises(DigestMismatch):
        layout.save_manifest(build_manifest(config=EMPTY_CONFIG, layers=[wrong_size]))
    assert layout.manifests() == ()
    layout.save_manifest(manifest, ref="a")
    assert layout.resolve("a") == layout.resolve(str(manifest.digest))
    assert layout.load_manifest(manifest.digest) == manifest


def test_saving_twice_changes_nothing_and_a_name_moves(layout: Layout) -> None:
    first = put(layout, "first", ref="latest")
    before = (layout.root / "index.json").read_bytes()
    put(layout, "first", ref="latest")
    put(layout, "first")  # without a name it has one all the same
    assert (layout.root / "index.json").read_bytes() == before
    second = put(layout, "second", ref="latest")
    assert {name: entry.digest for name, entry in layout.refs().items()} == {"latest": second.digest}
    assert not layout.has_manifest(first.digest)
    put(layout, "second", ref="other")
    assert len(layout.manifests()) == 2
    layout.remove_ref("latest")
    assert list(layout.refs()) == ["other"]


def test_a_damaged_manifest_is_refused(layout: Layout) -> None:
    manifest = put(layout, "model")
    layout.blob_path(manifest.digest).write_bytes(manifest.raw.replace(b"model", b"medel"))
    with pytest.raises(DigestMismatch):
        layout.load_manifest(manifest.digest)
    with pytest.raises(NotStored):
        layout.load_manifest(digest_of(b"absent"))


def test_members_that_other_tools_wrote_are_kept(layout: Layout) -> None:
    path = layout.root / "index.json"
    index = json.loads(path.read_bytes())
    stranger = put(layout, "stranger")
    index["manifests"] = [{**encode_descriptor(stranger.descriptor), "platform": {"os": "linux"}}]
    index["annotations"] = {"by": "other"}
    path.write_bytes(json.dumps(index).encode())
    put(Layout.open(layout.root), "ours")
    after = json.loads(path.read_bytes())
    assert after["manifests"][0]["platform"] == {"os": "linux"}
    assert after["annotations"] == {"by": "other"}
    assert len(after["manifests"]) == 2


def test_referrers_by_annotation_by_reading_and_through_a_fallback_index(layout: Layout) -> None:
    model = put(layout, "model")
    ours = put(layout, "kit-1", subject=model)
    path = layout.root / "index.json"
    foreign = put(layout, "signature-1", subject=model)
    nested = put(layout, "signature-2", subject=model)
    put(layout, "kit-unrelated")
    fallback = encode_index([nested.descriptor])
    layout.save_index(fallback, ref=f"sha256-{model.digest.hex}")
    index = json.loads(path.read_bytes())
    index["manifests"] = [item for item in index["manifests"] if item["digest"] != str(nested.digest)]
    for item in index["manifests"]:
        if item["digest"] == str(foreign.digest):
            item.pop("annotations")
            item.pop("artifactType")
    path.write_bytes(json.dumps(index).encode())
    found = Layout.open(layout.root, read_only=True).referrers(model.digest)
    assert {item.digest for item in found} == {ours.digest, foreign.digest, nested.digest}
    assert all(item.annotations["name"] for item in found)
    signatures = Layout.open(layout.root).referrers(model.digest, SIGSTORE_BUNDLE)
    assert {item.digest for item in signatures} == {foreign.digest, nested.digest}
    assert layout.referrers(ours.digest) == ()


def test_a_removed_artifact_takes_its_signatures_along_when_asked(layout: Layout) -> None:
    kit = put(layout, "kit")
    signature = put(layout, "signature", subject=kit)
    layout.remove_manifest(kit.digest)
    assert layout.has_manifest(signature.digest)
    put(layout, "kit")
    layout.remove_manifest(kit.digest, with_signatures=True)
    assert layout.manifests() == ()


def test_two_openings_see_each_other(layout: Layout) -> None:
    other = Layout.open(layout.root)
    first = put(layout, "first", ref="a")
    assert other.resolve("a") is not None
    put(other, "second", ref="b")
    assert set(layout.refs()) == {"a", "b"}
    assert layout.load_manifest(first.digest)


# -- batches ------------------------------------------------------------------------------------


def test_a_batch_shows_at_its_end_with_one_write_of_the_index(layout: Layout, fail_at) -> None:
    other = Layout.open(layout.root)
    with fail_at(9999, only="rename") as renames, layout.batch():
        kits = [put(layout, f"kit-{number}", ref=f"k{number}") for number in range(20)]
        assert layout.resolve("k19") is not None, "the writer itself sees them"
        assert other.manifests() == ()
    assert len(other.manifests()) == 20
    assert len(renames) == 20 * 2 + 1 + 1, "layers, manifests, the empty config, index.json"
    assert other.load_manifest(kits[3].digest) == kits[3]


def test_a_batch_that_raises_shows_nothing(layout: Layout) -> None:
    with pytest.raises(ValueError, match="stop"), layout.batch():
        put(layout, "kit")
        raise ValueError("stop")
    assert layout.manifests() == ()
    assert Layout.open(layout.root).manifests() == ()


def test_a_batch_keeps_what_others_wrote_meanwhile(layout: Layout) -> None:
    other = Layout.open(layout.root)
    with layout.batch():
        put(layout, "mine", ref="mine")
        put(other, "theirs", ref="theirs")
    assert set(layout.refs()) == set(other.refs()) == {"mine", "theirs"}


# -- garbage ------------------------------------------------------------------------------------


def test_only_what_nobody_needs_is_collected(layout: Layout) -> None:
    model, kit = put(layout, "model"), put(layout, "kit")
    signature = put(layout, "signature", subject=kit)
    stray = layout.save_blob(b"stray", BLOB)
    before = blobs(layout)
    assert layout.collect_garbage() == len(b"stray")
    assert blobs(layout) == before - {stray.digest.hex}
    layout.remove_manifest(kit.digest, with_signatures=True)
    layout.remove_manifest(model.digest)
    layout.collect_garbage([kit.digest, signature.digest])
    assert kit.digest.hex in blobs(layout)
    assert kit.layers[0].digest.hex in blobs(layout)
    assert model.digest.hex not in blobs(layout)
    assert model.layers[0].digest.hex not in blobs(layout)
    assert EMPTY_CONFIG.digest.hex in blobs(layout), "shared with what stays"
    layout.collect_garbage()
    assert blobs(layout) == set()


def test_a_pinned_blob_that_is_no_manifest_stays(layout: Layout) -> None:
    pinned = layout.save_blob(b'{"not":"a manifest"}', BLOB)
    plain = layout.save_blob(b"\xff\x00", BLOB)
    layout.collect_garbage([pinned.digest, plain.digest, digest_of(b"absent")])
    assert blobs(layout) == {pinned.digest.hex, plain.digest.hex}


def test_nested_indexes_keep_what_they_name(layout: Layout) -> None:
    kit = put(layout, "kit")
    layout.save_index(encode_index([kit.descriptor]), ref="list")
    layout.remove_manifest(kit.digest)
    layout.collect_garbage()
    assert kit.layers[0].digest.hex in blobs(layout)


def test_nothing_is_collected_while_a_batch_is_open_or_a_kept_manifest_is_damaged(layout: Layout) -> None:
    other = Layout.open(layout.root)
    with layout.batch():
        layout.save_blob(b"not named yet", BLOB)
        with pytest.raises(StoreBusy):
            other.collect_garbage()
    kit = put(layout, "kit")
    stray = layout.save_blob(b"stray", BLOB)
    layout.blob_path(kit.digest).write_bytes(kit.raw[:-1])
    with pytest.raises(DigestMismatch):
        layout.collect_garbage()
    assert stray.digest.hex in blobs(layout)


# -- the disk fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_whatever_change_fails_the_artifact_is_whole_or_not_there(tmp_path: Path, fail_at, code: int) -> None:
    number = 0
    while True:
        layout = Layout.create(tmp_path / str(number))
        old = put(layout, "old", ref="a")
        with fail_at(number, code) as seen:
            try:
                put(layout, "new", ref="b")
            except StoreError as error:
                assert isinstance(error, StoreFull) == (code in (errno.ENOSPC, errno.EDQUOT))
            else:
                assert len(seen) <= number
        fresh = Layout.open(layout.root)
        assert fresh.load_manifest(old.digest) == old
        for entry in fresh.manifests():
            manifest = fresh.load_manifest(entry.digest)
            for blob in manifest.blobs:
                fresh.verify_blob(blob)
        put(fresh, "new", ref="b")  # and the next try succeeds
        assert set(fresh.refs()) == {"a", "b"}
        if len(seen) <= number:
            break
        number += 1
    assert number >= 12


def test_an_index_in_the_canonical_form_is_stable(layout: Layout) -> None:
    put(layout, "kit", ref="a")
    raw = (layout.root / "index.json").read_bytes()
    assert encode_json(json.loads(raw)) == raw
    assert parse_manifest(layout.load_manifest(layout.manifests()[0].digest).raw).annotations == {"name": "kit"}
