# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Unmodified cosign v2.6 and v3 accept our kits, and refuse what is changed. No network beyond the loopback registry."""

from __future__ import annotations

import hashlib
import json
import zlib

import numpy as np
import pytest

import edgeprov
from edgeprov.formats.bundle import build_bundle, build_signature_manifest
from edgeprov.formats.envelope import pae_digest
from edgeprov.formats.mediatypes import IN_TOTO_PAYLOAD, SLSA_PROVENANCE
from edgeprov.verify.signature import SignatureArtifact
from tests.support.peers import peer, run
from tests.support.site import Site
from tests.support.world import sign_bundle

pytestmark = [pytest.mark.slow, pytest.mark.peer("cosign")]
IDENTITY = ["--certificate-identity-regexp", "^urn:edgeprov:device:", "--certificate-oidc-issuer-regexp", ".*"]
NO_LOG = ["--insecure-ignore-sct", "--insecure-ignore-tlog"]


@pytest.fixture(params=["cosign", "cosign2"])
def cosign(request, offline):
    path = peer(request.param)

    def call(*arguments: str, ok: bool = True, cwd=None) -> str:
        return run([path, *arguments], env=offline, ok=ok, cwd=cwd)

    call.version = request.param  # type: ignore[attr-defined]
    return call


@pytest.fixture
def kit(world, registry, request):
    """A kit with bundle and JWS side by side, pushed; its reference."""
    unit = world.enroll(f"unit-{zlib.crc32(request.node.name.encode())}")
    sealed = unit.seal(notation=True)
    reference = registry.push("data/kits", sealed.manifest, sealed.blobs)
    for signature in sealed.signatures:
        registry.attach("data/kits", signature)
    sealed.reference, sealed.unit = reference, unit  # type: ignore[attr-defined]
    return sealed


def root(trust, role="devices"):
    return ["--trusted-root", str(trust / "cosign" / f"{role}.trusted_root.json")]


def test_verify(cosign, kit, trust):
    text = cosign("verify", *root(trust), *IDENTITY, *NO_LOG, kit.reference)
    assert str(kit.digest) in text


def test_verify_attestation_of_the_provenance_type(cosign, kit, trust):
    text = cosign("verify-attestation", "--type", "slsaprovenance1", *root(trust), *IDENTITY, *NO_LOG, kit.reference)
    payloads = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert payloads
    cosign("verify-attestation", "--type", "spdx", *root(trust), *IDENTITY, *NO_LOG, kit.reference, ok=False)


REGO = """package signature
import rego.v1
default allow := false
allow if {
  some dependency in input.predicate.buildDefinition.resolvedDependencies
  dependency.name == "model"
  dependency.digest.sha256 == "%s"
}
"""
CUE = """import "list"
predicate: buildDefinition: resolvedDependencies: [{name: "model", digest: sha256: "%s"}]
"""


@pytest.mark.parametrize("kind", ["rego", "cue"])
def test_policy_on_the_model_digest(cosign, kit, trust, tmp_path, kind):
    for model, ok in ((kit.kit.model.hex, True), (hashlib.sha256(b"x").hexdigest(), False)):
        policy = tmp_path / f"policy.{kind}"
        policy.write_text((REGO if kind == "rego" else CUE.removeprefix('import "list"\n')) % model)
        arguments = ["--type", "slsaprovenance1", "--policy", str(policy), *root(trust), *IDENTITY, *NO_LOG]
        cosign("verify-attestation", *arguments, kit.reference, ok=ok)


def test_blob_attestation_for_the_technicians_stick(cosign, kit, trust, tmp_path):
    bundle, manifest = tmp_path / "kit.sigstore.json", tmp_path / "kit-manifest.json"
    bundle.write_bytes(kit.signatures[0].blob)
    manifest.write_bytes(kit.manifest.raw)
    arguments = [
        "verify-blob-attestation",
        "--bundle",
        str(bundle),
        "--type",
        "slsaprovenance1",
        *root(trust),
        *IDENTITY,
        *NO_LOG,
    ]
    if cosign.version == "cosign2":
        arguments.append("--new-bundle-format")
    cosign(*arguments, str(manifest))
    manifest.write_bytes(kit.manifest.raw.replace(b"default", b"defaulu"))
    assert "digest" in cosign(*arguments, str(manifest), ok=False)


def test_key_mode_needs_no_certificate(cosign, kit, registry, trust, tmp_path):
    """The same statement wrapped with a key hint; no new signature by the TPM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    tpm = kit.unit.tpm
    blob = build_bundle(
        statement=kit.statement,
        signature_der=tpm.sign_digest(pae_digest(IN_TOTO_PAYLOAD, kit.statement)),
        key_hint=hashlib.sha256(tpm.public_key_spki).digest(),
    )
    manifest = build_signature_manifest(kit.manifest.descriptor, blob, SLSA_PROVENANCE, "2026-02-03T04:05:06Z")
    registry.attach("data/kits", SignatureArtifact(manifest=manifest, blob=blob))
    key = tmp_path / "device.pub"
    key.write_bytes(tpm.sk.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    extra = root(trust) if cosign.version == "cosign2" else []
    cosign("verify", "--key", str(key), "--insecure-ignore-tlog", *extra, kit.reference)


def test_kits_that_a_device_sealed(cosign, registry, tmp_path, monkeypatch):
    """Two kits of a whole device, sealed into its layout, then pushed to the registry, then cosign."""
    from edgeprov.device.context import Context
    from edgeprov.device.seal import seal
    from edgeprov.fleet.trust.trust_export import export_trust

    site = Site(tmp_path, serial="sealed")
    for name in ("tpm", "boot_tpm"):
        monkeypatch.setattr(Context, name, lambda context: site.open_tpm(context))  # noqa: PLW0108 - binds as a method
    monkeypatch.setattr(Context, "boot_id", lambda _self: site.boot_id)
    monkeypatch.setenv("EDGEPROV_CONFIG", str(site.config_file))
    site.install_identity()
    site.install()
    sealed = []
    for _ in range(2):
        with edgeprov.open_device() as device:
            device.load_model().run(np.zeros((1, 30), np.int8))
            device.load_model().run(np.ones((1, 30), np.int8))
        sealed += seal(site.context)
    trusted = tmp_path / "trusted_root.json"
    trusted.write_bytes(export_trust(site.world.policy_files)["cosign/devices.trusted_root.json"])
    layout, repo = site.context.state().layout, f"data/sealed-{cosign.version}"
    assert len(sealed) == 2
    for item in sealed:
        manifest = layout.load_manifest(item.entry.digest)
        blobs = {blob.digest: layout.load_blob(blob, max_bytes=2**24) for blob in manifest.blobs}
        reference = registry.push(repo, manifest, blobs)
        for entry in layout.referrers(item.entry.digest):
            signature = layout.load_manifest(entry.digest)
            blob = layout.load_blob(signature.layers[0], max_bytes=2**20)
            registry.attach(repo, SignatureArtifact(manifest=signature, blob=blob))
        root_of = ["--trusted-root", str(trusted)]
        cosign("verify", *root_of, *IDENTITY, *NO_LOG, reference)
        cosign("verify-attestation", "--type", "slsaprovenance1", *root_of, *IDENTITY, *NO_LOG, reference)


def test_refused_by_cosign(cosign, kit, world, registry, trust):
    wrong_identity = ["--certificate-identity", "urn:edgeprov:device:other", "--certificate-oidc-issuer-regexp", ".*"]
    cosign("verify", *root(trust), *wrong_identity, *NO_LOG, kit.reference, ok=False)
    cosign("verify", *root(trust, "publishers"), *IDENTITY, *NO_LOG, kit.reference, ok=False)
    moved = kit.unit.seal()
    reference = registry.push("data/moved", moved.manifest, moved.blobs)
    registry.attach("data/moved", sign_bundle(moved.manifest.descriptor, kit.statement, kit.unit.tpm, SLSA_PROVENANCE))
    cosign("verify", *root(trust), *IDENTITY, *NO_LOG, reference, ok=False)
    unsigned = kit.unit.seal()
    reference = registry.push("data/unsigned", unsigned.manifest, unsigned.blobs)
    cosign("verify", *root(trust), *IDENTITY, *NO_LOG, reference, ok=False)


def test_device_statement_does_not_make_cosign_accept_the_model(cosign, kit, world, registry, trust):
    """The subject is the kit only, so that a kit hanging on a model endorses nothing there."""
    blobs = {layer.digest: b"model bytes, version 1" for layer in world.model.layers}
    from edgeprov.formats.jsonx import encode_json

    config = encode_json({"manifestVersion": "1.0.0", "package": {"name": "wdbc"}, "model": {"path": "model.tflite"}})
    reference = registry.push("models/wdbc", world.model, blobs | {world.model.config.digest: config})
    registry.attach("models/wdbc", sign_bundle(world.model.descriptor, kit.statement, kit.unit.tpm, SLSA_PROVENANCE))
    cosign("verify", *root(trust), *IDENTITY, *NO_LOG, reference, ok=False)
