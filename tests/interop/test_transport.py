# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What edgeprov uploads or exports is listed, pulled and inspected by oras, crane and skopeo; and the way back."""

from __future__ import annotations

import json
import subprocess
import zlib
from pathlib import Path

import pytest

from edgeprov.device.transfer import Tally, Transfer
from edgeprov.formats.datakit import kit_tag
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.manifest import EMPTY_CONFIG
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.registry.base import Registry
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.retry import Pace
from edgeprov.store.layout import Layout
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.store.state import OutboxEntry
from tests.support.peers import RegistryClient, peer, run
from tests.support.world import Sealed, World

pytestmark = pytest.mark.slow
REPO = "hospital/data/kits"


class Sent:
    """A signed kit in a device's layout, and in the registry or on the stick it was sent to."""

    def __init__(self, world: World, name: str, root: Path) -> None:
        self.unit = world.enroll(f"unit-{zlib.crc32(name.encode())}")
        self.sealed: Sealed = self.unit.seal(records=50, notation=True)
        self.layout = Layout.create(root / "device")
        blobs = {**self.sealed.blobs, EMPTY_CONFIG.digest: EMPTY_BLOB}
        for blob in self.sealed.manifest.blobs:
            self.layout.save_blob(blobs[blob.digest], blob.media_type)
        self.layout.save_manifest(self.sealed.manifest)
        for signature in self.sealed.signatures:
            self.layout.save_blob(EMPTY_BLOB, EMPTY_CONFIG.media_type)
            self.layout.save_blob(signature.blob, signature.manifest.layers[0].media_type)
            self.layout.save_manifest(signature.manifest)
        self.tag = kit_tag(self.unit.serial, self.sealed.kit.seq, self.sealed.digest)

    def to(self, registry: Registry) -> None:
        entry = OutboxEntry(
            kind="kit",
            digest=self.sealed.digest,
            seq=self.sealed.kit.seq,
            repo=REPO,
            tag=self.tag,
            state="signed",
            info={"signatures": [str(item.manifest.digest) for item in self.sealed.signatures]},
        )
        Transfer(self.layout, registry, Pace(), Tally()).push(REPO, entry)


@pytest.fixture
def sent(world: World, registry: RegistryClient, request: pytest.FixtureRequest, tmp_path: Path) -> Sent:
    sent = Sent(world, request.node.name, tmp_path)
    sent.to(OrasRegistry(registry.host, settings=RegistrySettings(plain_http=True)))
    return sent


def test_oras_lists_pulls_and_discovers(sent: Sent, registry: RegistryClient, tmp_path: Path) -> None:
    oras = peer("oras")
    reference = f"{registry.host}/{REPO}"
    assert sent.tag in run([oras, "repo", "tags", "--plain-http", reference])
    raw = run([oras, "manifest", "fetch", "--plain-http", f"{reference}:{sent.tag}"])
    assert raw.encode() == sent.sealed.manifest.raw
    found = json.loads(run([oras, "discover", "--plain-http", "--format", "json", f"{reference}@{sent.sealed.digest}"]))
    listed = {item["digest"] for item in found.get("referrers", found.get("manifests", []))}
    assert listed == {str(item.manifest.digest) for item in sent.sealed.signatures}
    # `oras cp` would follow the subject to the model, which a data repository does not hold: blob by blob then.
    for blob in sent.sealed.manifest.blobs:
        file = tmp_path / blob.digest.hex
        run([oras, "blob", "fetch", "--plain-http", "-o", str(file), f"{reference}@{blob.digest}"])
        blob.verify(file.read_bytes(), "what oras fetched")
    assert "records/000001.msgpack.zst" in run(["tar", "tf", str(tmp_path / sent.sealed.manifest.layers[0].digest.hex)])


def test_crane_lists_inspects_validates_and_unpacks(sent: Sent, registry: RegistryClient, tmp_path: Path) -> None:
    crane = peer("crane")
    reference = f"{registry.host}/{REPO}"
    assert sent.tag in run([crane, "ls", "--insecure", reference]).split()
    assert run([crane, "digest", "--insecure", f"{reference}:{sent.tag}"]).strip() == str(sent.sealed.digest)
    manifest = json.loads(run([crane, "manifest", "--insecure", f"{reference}:{sent.tag}"]))
    layer = manifest["layers"][0]
    (tmp_path / "layer.tar").write_bytes(
        subprocess.run(
            [crane, "blob", "--insecure", f"{reference}@{layer['digest']}"], check=True, capture_output=True
        ).stdout
    )
    names = run(["tar", "tf", str(tmp_path / "layer.tar")])
    assert "records/000001.msgpack.zst" in names
    run([crane, "copy", "--insecure", f"{reference}:{sent.tag}", f"{reference}-copy:again"])
    assert run([crane, "digest", "--insecure", f"{reference}-copy:again"]).strip() == str(sent.sealed.digest)


def test_skopeo_inspects_and_copies_without_changing_a_byte(
    sent: Sent, registry: RegistryClient, tmp_path: Path
) -> None:
    skopeo = peer("skopeo")
    reference = f"docker://{registry.host}/{REPO}:{sent.tag}"
    raw = run([skopeo, "inspect", "--raw", "--tls-verify=false", reference])
    assert raw.encode() == sent.sealed.manifest.raw
    run(
        [
            skopeo,
            "--insecure-policy",
            "copy",
            "--src-tls-verify=false",
            "--preserve-digests",
            reference,
            f"oci:{tmp_path}/copy:kit",
        ]
    )
    copy = Layout.open(tmp_path / "copy")
    assert copy.load_manifest(sent.sealed.digest).raw == sent.sealed.manifest.raw


def test_a_stick_is_read_by_oras_and_skopeo(
    world: World, registry: RegistryClient, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    sent = Sent(world, request.node.name, tmp_path)
    sent.to(LayoutRegistry(tmp_path / "stick", create=True))
    index = json.loads((tmp_path / "stick" / "index.json").read_text())
    name = next(
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in index["manifests"]
        if entry["digest"] == str(sent.sealed.digest)
    )
    assert name == f"{REPO}:{sent.tag}"
    raw = run([peer("oras"), "manifest", "fetch", "--oci-layout", f"{tmp_path}/stick@{sent.sealed.digest}"])
    assert raw.encode() == sent.sealed.manifest.raw
    for blob in sent.sealed.manifest.blobs:
        file = tmp_path / blob.digest.hex
        run([peer("oras"), "blob", "fetch", "--oci-layout", "-o", str(file), f"{tmp_path}/stick@{blob.digest}"])
        blob.verify(file.read_bytes(), "what oras fetched")
    target = f"docker://{registry.host}/{REPO}-stick:{sent.tag}"
    options = ["--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"]
    run([peer("skopeo"), *options, f"oci:{tmp_path}/stick:{name}", target])
    there = OrasRegistry(registry.host, settings=RegistrySettings(plain_http=True))
    found = there.head_manifest(f"{REPO}-stick", sent.tag)
    assert found is not None
    assert found.digest == sent.sealed.digest


def test_what_oras_pushed_is_read_by_us(registry: RegistryClient, tmp_path: Path) -> None:
    (tmp_path / "weights.tflite").write_bytes(b"w" * 100_000)
    reference = f"{registry.host}/models/by-oras:1"
    run(
        [
            peer("oras"),
            "push",
            "--plain-http",
            "--artifact-type",
            "application/x-model",
            reference,
            "weights.tflite:application/x-weights",
        ],
        cwd=tmp_path,
    )
    ours = OrasRegistry(registry.host, settings=RegistrySettings(plain_http=True))
    found = ours.head_manifest("models/by-oras", "1")
    assert found is not None
    manifest = ours.fetch_manifest("models/by-oras", parse_digest(str(found.digest)))
    assert b"".join(ours.fetch_blob("models/by-oras", manifest.layers[0])) == b"w" * 100_000
    (tmp_path / "note.txt").write_text("signed")
    run(
        [peer("oras"), "attach", "--plain-http", "--artifact-type", "application/x-note", reference, "note.txt"],
        cwd=tmp_path,
    )
    (note,) = ours.list_referrers("models/by-oras", manifest.digest, "application/x-note")
    assert ours.fetch_manifest("models/by-oras", note.digest).subject == manifest.descriptor.__class__(
        media_type=manifest.descriptor.media_type, digest=manifest.digest, size=len(manifest.raw)
    )
