# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Signatures stamped by ``openssl ts`` pass with real cosign and notation-go after the device certificate has expired."""

from __future__ import annotations

import datetime as dt

import pytest

from edgeprov.formats.bundle import add_timestamp, build_signature_manifest, parse_bundle
from edgeprov.formats.descriptor import describe
from edgeprov.formats.jws import add_jws_timestamp, build_notation_manifest, parse_jws
from edgeprov.formats.mediatypes import JOSE, SLSA_PROVENANCE
from edgeprov.formats.timestamp import encode_timestamp_request, timestamp_token
from edgeprov.verify.signature import SignatureArtifact
from tests.support import pki
from tests.support.peers import peer, run
from tests.support.tsa import Tsa
from tests.support.world import World, save_exported_trust

pytestmark = [pytest.mark.slow, pytest.mark.peer("cosign")]
IDENTITY = ["--certificate-identity-regexp", "^urn:edgeprov:device:", "--certificate-oidc-issuer-regexp", ".*"]
NO_LOG = ["--insecure-ignore-sct", "--insecure-ignore-tlog"]


def test_expired_certificate(registry, offline, tmp_path):
    """The certificate is valid for some seconds; both signatures are stamped in that time and verified after it."""
    import time

    world, tsa = World(), Tsa(tmp_path)
    world.policy_files["tsa.pem"] = tsa.root.pem
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    end = now + dt.timedelta(seconds=15)
    unit = world.enroll("unit-short")
    leaf = pki.device_certificate(
        world.device_root, "unit-short", unit.tpm.sk, start=now - dt.timedelta(minutes=1), end=end
    )
    unit.tpm.certificate_chain = leaf.certificate_chain
    sealed = unit.seal(notation=True)
    original, jws = (item.blob for item in sealed.signatures)
    blob = add_timestamp(original, tsa.stamp(encode_timestamp_request(parse_bundle(original).signature, 1)))
    token = timestamp_token(tsa.stamp(encode_timestamp_request(parse_jws(jws).signature, 2)))
    stamped_jws = add_jws_timestamp(jws, token)
    subject = sealed.manifest.descriptor
    stamped = [
        SignatureArtifact(
            manifest=build_signature_manifest(subject, blob, SLSA_PROVENANCE, "2026-03-01T00:00:00Z"),
            blob=blob,
        ),
        SignatureArtifact(
            manifest=build_notation_manifest(subject, describe(stamped_jws, JOSE), leaf.certificate_chain, None),
            blob=stamped_jws,
        ),
    ]
    assert dt.datetime.now(dt.UTC) < end, "stamped too late: the machine was too slow for this test's certificate"
    reference = registry.push("data/stamped", sealed.manifest, sealed.blobs)
    for item in [*sealed.signatures, *stamped]:
        registry.attach("data/stamped", item)
    save_exported_trust(world, tmp_path / "trust")
    time.sleep(max(0.0, (end - dt.datetime.now(dt.UTC)).total_seconds() + 1))  # the certificate must have expired
    root = ["--trusted-root", str(tmp_path / "trust/cosign/devices.trusted_root.json")]
    for version in ("cosign", "cosign2"):
        command = [peer(version), "verify", *root, *IDENTITY, *NO_LOG]
        run([*command, "--use-signed-timestamps", reference], env=offline)
        run([*command, reference], env=offline, ok=False)
    config = tmp_path / "trust/notation-devices/notation"
    run([peer("notation-verify"), "-config", str(config), "-plain-http", reference])
