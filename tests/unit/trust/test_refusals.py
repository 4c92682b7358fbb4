# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What is left of the readers' and verifiers' refusals: keys, device records, bundles, heads, proofs."""

from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgeprov.errors import EvidenceInvalid, FormatError, LimitError, SignatureInvalid, SignerUntrusted
from edgeprov.formats.bundle import build_bundle, parse_bundle
from edgeprov.formats.descriptor import describe
from edgeprov.formats.devicerecord import (
    encode_device_record,
    parse_device_record,
    parse_device_record_artifact,
)
from edgeprov.formats.ecdsa import encode_ecdsa_raw
from edgeprov.formats.head import encode_head, parse_head
from edgeprov.formats.jws import encode_notation_payload, parse_jws, signing_input
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest
from edgeprov.formats.mediatypes import DEVICE_RECORD, JOSE, NOTATION_SIGNATURE
from edgeprov.verify.head_check import verify_head
from edgeprov.verify.public_keys import load_key, load_pem_key, verify_cms, verify_ecdsa, verify_jws, verify_message
from edgeprov.verify.signature import SignatureArtifact, signature_kind, verify_model_signature
from edgeprov.verify.x509path import verify_chain
from tests.support import pki
from tests.support.softtpm import sign_der, soft_key, spki

P384 = ec.derive_private_key(4242, ec.SECP384R1())
NONCE = bytes(16)


def der(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(65537, 2048)


# -- keys -------------------------------------------------------------------------------------------


def test_keys_of_other_kinds_are_not_accepted(rsa_key):
    p521 = ec.derive_private_key(7, ec.SECP521R1())
    for key in (rsa_key, p521):
        with pytest.raises(FormatError, match="not ECDSA"):
            load_key(der(key))
    off_curve = spki(soft_key("k"))[:-1] + b"\x00"
    for raw in (b"", b"\x30\x00", off_curve):
        with pytest.raises(FormatError, match="not a usable"):
            load_key(raw)
    with pytest.raises(FormatError, match="not a usable"):
        load_pem_key(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")


def test_device_keys_are_p256():
    digest = sha256(b"x").digest()
    with pytest.raises(FormatError, match="not ECDSA P-256"):
        verify_ecdsa(der(P384), b"", digest)
    key = soft_key("k")
    verify_ecdsa(spki(key), sign_der(key, digest), digest)
    verify_ecdsa(spki(key)[-64:], sign_der(key, digest), digest)
    for wrong in (b"", sign_der(soft_key("other"), digest), sign_der(key, digest) + b"\0"):
        with pytest.raises(SignatureInvalid):
            verify_ecdsa(spki(key), wrong, digest)


def test_p384_signs_sha384_or_sha256_and_nothing_else():
    for algorithm in (SHA384(), pki.SHA256()):
        verify_message(der(P384), P384.sign(b"m", ec.ECDSA(algorithm)), b"m")
    with pytest.raises(SignatureInvalid):
        verify_message(der(P384), P384.sign(b"m", ec.ECDSA(SHA512())), b"m")


def test_jws_signature_must_have_the_length_of_its_curve():
    raw = encode_ecdsa_raw(P384.sign(b"m", ec.ECDSA(SHA384())), 48)
    verify_jws(der(P384), "ES384", raw, b"m")
    for algorithm, signature in (("ES384", raw[:-1]), ("ES256", raw), ("ES512", raw), ("ES384", bytes(96))):
        with pytest.raises(SignatureInvalid):
            verify_jws(der(P384), algorithm, signature, b"m")


def test_timestamp_authorities_may_use_rsa(rsa_key):
    signature = rsa_key.sign(b"m", padding.PKCS1v15(), SHA512())
    verify_cms(der(rsa_key), signature, b"m", "sha512", "timestamp")
    for message, wrong in ((b"n", signature), (b"m", b""), (b"m", signature[:-1])):
        with pytest.raises(SignatureInvalid):
            verify_cms(der(rsa_key), wrong, message, "sha512", "timestamp")
    small = rsa.generate_private_key(65537, 1024)
    with pytest.raises(SignatureInvalid, match="not accepted"):
        verify_cms(der(small), small.sign(b"m", padding.PKCS1v15(), SHA512()), b"m", "sha512", "timestamp")


# -- certificates -----------------------------------------------------------------------------------


def test_device_certificate_with_another_curve_and_anchor_as_leaf(world):
    wide = world.device_root.issue(
        pki.name("device"), P384, san=[pki.x509.UniformResourceIdentifier("urn:edgeprov:device:a")]
    )
    with pytest.raises(SignerUntrusted, match="ECDSA P-256"):
        verify_chain(wide.der, [], [world.device_root.der], pki.NOW, "device")
    with pytest.raises(SignerUntrusted, match="itself a trust anchor"):
        verify_chain(world.device_root.der, [], [world.device_root.der], pki.NOW, "device")
    with pytest.raises(SignerUntrusted, match="more than 5"):
        verify_chain(wide.der, [world.device_root.der] * 6, [], pki.NOW, "device")
    with pytest.raises(FormatError, match="has 20000 bytes"):
        verify_chain(bytes(20_000), [], [], pki.NOW, "device")


def test_weak_ca_is_no_anchor(world):
    from edgeprov.verify.x509path import verify_anchor

    small = rsa.generate_private_key(65537, 1024)
    weak = world.device_root.issue(pki.name("weak"), public_key=small.public_key(), ca=True)
    with pytest.raises(SignerUntrusted, match="less than 2048"):
        verify_anchor(weak.der, "anchor")


# -- device record ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2}, {"ek": 5}, {"proof": {"credential": "trust me"}}, {"proof": None}, {"assurance": "perfect"}, {"certificates": [5]},
        {"certificates": ["!"]}, {"certificates": ["AAAA"] * 6}, {"counter_base": -1}, {"counter_base": True}, {"ak": ""}, {"nonce": None},
        {"certify": {"attest": "AAAA"}}, {"certificates": [base64.b64encode(bytes(20_000)).decode()]},
    ],
)  # fmt: skip
def test_device_record_refuses(unit, change):
    value = json.loads(unit.record_blob) | change
    with pytest.raises(FormatError):
        parse_device_record(json.dumps(value).encode())


def test_device_record_of_another_kind_of_artifact(unit):
    assert encode_device_record(parse_device_record(unit.record_blob)) == unit.record_blob
    layer = describe(unit.record_blob, DEVICE_RECORD)
    notes = dict(unit.record_manifest.annotations)
    for options in (
        {"artifact_type": "application/x", "layers": [layer]},
        {"artifact_type": DEVICE_RECORD, "layers": [layer, layer]},
        {"artifact_type": DEVICE_RECORD, "layers": [describe(unit.record_blob, "application/json")]},
        {"artifact_type": DEVICE_RECORD, "layers": [layer], "annotations": {}},
    ):
        manifest = build_manifest(config=EMPTY_CONFIG, **({"annotations": notes} | options))
        with pytest.raises(FormatError):
            parse_device_record_artifact(manifest, unit.record_blob)
    with pytest.raises(LimitError):
        parse_device_record(b" " * 300_000)


# -- bundle, JWS, statement -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "material",
    [
        {"x509CertificateChain": {"certificates": []}}, {"x509CertificateChain": {"certificates": [5]}}, {"publicKey": {"hint": 5}},
        {"certificate": {"rawBytes": base64.b64encode(bytes(20_000)).decode()}}, {"certificate": []},
        {"certificate": {"rawBytes": "AAAA"}, "timestampVerificationData": 5},
        {"certificate": {"rawBytes": "AAAA"}, "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": "A"}]}},
    ],
)  # fmt: skip
def test_bundle_material_refuses(material):
    value = json.loads(build_bundle(statement=b"{}", signature_der=b"s", certificate=b"c"))
    value["verificationMaterial"] = material
    with pytest.raises(FormatError):
        parse_bundle(json.dumps(value).encode())


def test_statement_too_long():
    with pytest.raises(LimitError):
        parse_bundle(build_bundle(statement=bytes(600_000), signature_der=b"s", certificate=b"c"))


def jws(world, **protected) -> SignatureArtifact:
    """A JWS by the publisher with other protected headers."""
    payload = encode_notation_payload(world.model.descriptor)
    header = {
        "alg": "ES256", "cty": "application/vnd.cncf.notary.payload.v1+json", "crit": ["io.cncf.notary.signingScheme"],
        "io.cncf.notary.signingScheme": "notary.x509", "io.cncf.notary.signingTime": "2026-01-01T00:00:00Z",
    } | protected  # fmt: skip
    raw = json.dumps(header).encode()
    signature = encode_ecdsa_raw(world.publisher.sign_digest(sha256(signing_input(raw, payload)).digest()))

    def url(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    chain = [base64.b64encode(item).decode() for item in world.publisher.certificate_chain]
    value = {"payload": url(payload), "protected": url(raw), "header": {"x5c": chain}, "signature": url(signature)}
    blob = json.dumps(value).encode()
    manifest = build_manifest(
        config=describe(b"{}", NOTATION_SIGNATURE), layers=[describe(blob, JOSE)], subject=world.model.descriptor
    )
    return SignatureArtifact(manifest=manifest, blob=blob)


def test_notation_expiry_is_kept(world):
    expiry = {"io.cncf.notary.expiry": "2026-02-01T00:00:00Z"}
    critical = {"crit": ["io.cncf.notary.signingScheme", "io.cncf.notary.expiry"]}
    artifact = jws(world, **expiry, **critical)
    january = dt.datetime(2026, 1, 15, tzinfo=dt.UTC)
    assert verify_model_signature(world.model, [artifact], world.policy, january).san
    with pytest.raises(SignerUntrusted, match="expired on"):
        verify_model_signature(world.model, [artifact], world.policy, pki.NOW)
    for text in ("yesterday", "2026-02-01T00:00:00"):
        with pytest.raises(SignatureInvalid):
            verify_model_signature(world.model, [jws(world, **{"io.cncf.notary.expiry": text})], world.policy, pki.NOW)
    with pytest.raises(FormatError, match="expiry"):
        parse_jws(jws(world, **{"io.cncf.notary.expiry": 5}).blob)


def test_referrer_that_is_no_signature(world):
    manifest = build_manifest(
        config=EMPTY_CONFIG, layers=[describe(b"x", "text/plain")], subject=world.model.descriptor
    )
    assert signature_kind(manifest) is None
    with pytest.raises(SignatureInvalid, match="not a signature"):
        verify_model_signature(world.model, [SignatureArtifact(manifest=manifest, blob=b"x")], world.policy, pki.NOW)


# -- head -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"newest": 5}, {"newest": "sha256:x"}, {"quote": {}}, {"log": "!"}, {"nonce": 5}, {"standing": None}],
)
def test_head_document_refuses(unit, change):
    value = json.loads(encode_head(unit.head(NONCE))) | change
    with pytest.raises(FormatError):
        parse_head(json.dumps(value).encode())


def test_head_of_two_boots_or_malformed(world, unit):
    first = unit.head(NONCE)
    unit.tpm.reset_count += 1
    second = unit.head(NONCE)
    with pytest.raises(EvidenceInvalid, match="same boot"):
        verify_head(replace(first, counter=second.counter), NONCE, unit.verified(), world.policy)
    broken = replace(first.quote, attest=first.quote.attest[:-1])
    with pytest.raises(EvidenceInvalid, match="cut short") as caught:
        verify_head(replace(first, quote=broken), NONCE, unit.verified(), world.policy)
    assert caught.value.step == 3
