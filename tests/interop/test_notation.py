# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""notation-go, unmodified, accepts our signatures from registries and from an OCI layout, and refuses what is changed."""

from __future__ import annotations

import json
import zlib

import pytest

from edgeprov.formats.jsonx import encode_json
from edgeprov.store.layout import Layout
from tests.support import pki
from tests.support.peers import peer, run
from tests.support.softtpm import SoftTpm
from tests.support.world import sign_notation

pytestmark = [pytest.mark.slow, pytest.mark.peer("notation-verify")]


@pytest.fixture
def verify(trust):
    def call(*arguments: str, role: str = "devices", ok: bool = True) -> str:
        config = trust / f"notation-{role}" / "notation"
        return run([peer("notation-verify"), "-config", str(config), *arguments], ok=ok)

    return call


@pytest.fixture
def unit(world, request):
    return world.enroll(f"unit-{zlib.crc32(request.node.name.encode())}")


def test_kit_in_a_registry(verify, registry, unit):
    sealed = unit.seal(notation=True)
    reference = registry.push("data/notation", sealed.manifest, sealed.blobs)
    for signature in sealed.signatures:  # bundle and JWS side by side
        registry.attach("data/notation", signature)
    answer = json.loads(verify("-plain-http", reference))
    assert answer["digest"] == str(sealed.digest)
    assert answer["level"] == "strict"
    verify("-plain-http", reference, role="publishers", ok=False)  # a device is no publisher


def test_model_in_a_registry(verify, registry, world):
    config = encode_json({"manifestVersion": "1.0.0", "package": {"name": "wdbc"}, "model": {"path": "model.tflite"}})
    blobs = {world.model.layers[0].digest: b"model bytes, version 1", world.model.config.digest: config}
    reference = registry.push("models/notation", world.model, blobs)
    registry.attach("models/notation", sign_notation(world.model.descriptor, world.publisher))
    verify("-plain-http", reference, role="publishers")
    verify("-plain-http", reference, ok=False)


def test_kit_in_an_oci_layout(verify, unit, tmp_path):
    sealed = unit.seal(notation=True)
    layout = Layout.create(tmp_path / "stick")
    for data in sealed.blobs.values():
        layout.save_blob(data, "application/octet-stream")
    layout.save_blob(b"{}", "application/octet-stream")
    layout.save_manifest(sealed.manifest, ref="data/kits:newest")
    for signature in sealed.signatures:
        layout.save_blob(signature.blob, "application/octet-stream")
        layout.save_manifest(signature.manifest)
    verify("-layout", str(tmp_path / "stick"), "-scope", "local/kit", str(sealed.digest))
    manifest = tmp_path / "stick" / "blobs" / "sha256" / sealed.digest.hex
    manifest.chmod(0o600)
    manifest.write_bytes(sealed.manifest.raw.replace(b"default", b"defaulu"))
    verify("-layout", str(tmp_path / "stick"), "-scope", "local/kit", str(sealed.digest), ok=False)


def test_refused_by_notation(verify, registry, unit, world):
    def push(signer=None):
        sealed = unit.seal()
        reference = registry.push("data/refused", sealed.manifest, sealed.blobs)
        if signer is not None:
            registry.attach("data/refused", sign_notation(sealed.manifest.descriptor, signer))
        return reference

    assert "no signature" in verify("-plain-http", push(), ok=False)
    foreign = SoftTpm("foreign")
    foreign.certificate_chain = pki.device_certificate(pki.root("Foreign"), "x", foreign.sk).certificate_chain
    verify("-plain-http", push(foreign), ok=False)
    client = SoftTpm("client")
    wrong = pki.device_certificate(world.device_root, "y", client.sk, eku=[pki.ExtendedKeyUsageOID.CLIENT_AUTH])
    client.certificate_chain = wrong.certificate_chain
    verify("-plain-http", push(client), ok=False)
