# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""RFC 3161 timestamps by ``openssl ts``: a signature outlives its certificate, and only if it was stamped in time."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgeprov.errors import EdgeprovError, FormatError, SignatureInvalid, SignerUntrusted
from edgeprov.formats.bundle import add_timestamp, build_signature_manifest, parse_bundle
from edgeprov.formats.descriptor import describe
from edgeprov.formats.jws import add_jws_timestamp, build_notation_manifest, parse_jws
from edgeprov.formats.mediatypes import JOSE, SLSA_PROVENANCE
from edgeprov.formats.timestamp import encode_timestamp_request, parse_timestamp, timestamp_token
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.signature import SignatureArtifact, verify_model_signature
from edgeprov.verify.timestamp_check import verify_timestamp
from tests.support import pki
from tests.support.softtpm import SoftTpm
from tests.support.tsa import Tsa
from tests.support.world import sign_notation

BYTES = b"any signature"
LATER = dt.datetime(2090, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def tsa(tmp_path_factory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def stamp(tsa) -> bytes:
    return tsa.stamp(encode_timestamp_request(BYTES, 2**62 + 5))


def test_response_and_token(tsa, stamp):
    before = verify_timestamp(stamp, BYTES, [tsa.root.der])
    assert before == verify_timestamp(timestamp_token(stamp), BYTES, [tsa.root.der])
    assert abs(before - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
    assert parse_timestamp(stamp).accuracy_s == 1.0


def test_timestamp_of_other_bytes(tsa, stamp):
    with pytest.raises(SignatureInvalid, match="of another signature"):
        verify_timestamp(stamp, b"other", [tsa.root.der])


def test_timestamp_of_an_untrusted_authority(stamp, world, tmp_path):
    with pytest.raises(SignerUntrusted, match="no timestamp trust anchor"):
        verify_timestamp(stamp, BYTES, [world.device_root.der])
    twin = pki.root("Test TSA Root", seed="twin")
    with pytest.raises(SignerUntrusted, match="no timestamp trust anchor"):
        verify_timestamp(stamp, BYTES, [twin.der])


def test_authority_whose_certificate_had_expired(tmp_path):
    old = Tsa(tmp_path, end=dt.datetime(2025, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(SignerUntrusted, match="has expired"):
        verify_timestamp(old.stamp(encode_timestamp_request(BYTES, 5)), BYTES, [old.root.der])


def test_every_changed_byte_is_refused(tsa, stamp):
    for position in range(0, len(stamp), 5):
        changed = bytearray(stamp)
        changed[position] ^= 0x01
        try:
            verify_timestamp(bytes(changed), BYTES, [tsa.root.der])
        except EdgeprovError:
            continue
        # What is neither signed nor part of the path may change: free text of the status, other certificates.
        assert parse_timestamp(bytes(changed)).signed_attributes == parse_timestamp(stamp).signed_attributes


@pytest.mark.parametrize("raw", [b"", b"\x30\x00", b"\x30\x03\x02\x01\x02", b"\x30\x80\x00\x00", b"\x30\x82\xff\xff"])
def test_what_is_no_timestamp(raw):
    with pytest.raises(FormatError):
        parse_timestamp(raw)


def test_refusal_of_the_authority_is_no_timestamp():
    with pytest.raises(FormatError, match="granted no timestamp"):
        parse_timestamp(b"\x30\x05\x30\x03\x02\x01\x02")


@pytest.fixture
def short(world):
    """A device whose certificate ends in 2030."""
    unit = world.enroll("unit-short")
    end = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    chain = pki.device_certificate(world.device_root, "unit-short", unit.tpm.sk, end=end).certificate_chain
    unit = world.enroll("unit-short", certificates=chain)
    unit.tpm.certificate_chain = chain
    return unit


def stamped(sealed, tsa) -> list[SignatureArtifact]:
    bundle = sealed.signatures[0].blob
    response = tsa.stamp(encode_timestamp_request(parse_bundle(bundle).signature, 7))
    blob = add_timestamp(bundle, response)
    manifest = build_signature_manifest(sealed.manifest.descriptor, blob, SLSA_PROVENANCE, "2026-03-01T00:00:00Z")
    return [*sealed.signatures, SignatureArtifact(manifest=manifest, blob=blob)]


def with_tsa(world, tsa, **changes):
    return replace(world.policy, timestamp_anchors=(tsa.root.der,), **changes)


def test_kit_outlives_the_device_certificate_when_it_was_stamped(world, short, tsa):
    sealed = short.seal()
    enroller_time = pki.NOW
    device = short.verified()
    assert verify_kit(sealed.evidence(), device, world.policy, enroller_time).signed_before is None
    with pytest.raises(SignerUntrusted, match="has expired"):
        verify_kit(sealed.evidence(), device, world.policy, LATER)
    verdict = verify_kit(sealed.evidence(signatures=stamped(sealed, tsa)), device, with_tsa(world, tsa), LATER)
    assert verdict.signed_before is not None
    with pytest.raises(SignerUntrusted, match="has expired"):  # the authority is not trusted: no proof of time
        verify_kit(sealed.evidence(signatures=stamped(sealed, tsa)), device, world.policy, LATER)


def test_kit_stamped_only_after_the_certificate_expired(world, tsa):
    unit = world.enroll("unit-late")
    end = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)  # openssl stamps with the real time, which is later
    chain = pki.device_certificate(world.device_root, "unit-late", unit.tpm.sk, end=end).certificate_chain
    unit = world.enroll("unit-late", certificates=chain)
    unit.tpm.certificate_chain = chain
    sealed = unit.seal()
    with pytest.raises(SignerUntrusted, match="has expired"):
        verify_kit(sealed.evidence(signatures=stamped(sealed, tsa)), unit.verified(), with_tsa(world, tsa), pki.NOW)


def test_policy_that_requires_a_timestamp(world, unit, tsa):
    policy = with_tsa(world, tsa, timestamp_required=True)
    sealed = unit.seal()
    device = unit.verified()
    with pytest.raises(SignerUntrusted, match="requires a timestamp"):
        verify_kit(sealed.evidence(), device, policy, pki.NOW)
    assert verify_kit(sealed.evidence(signatures=stamped(sealed, tsa)), device, policy, pki.NOW).signed_before


def test_timestamp_moved_from_another_kit(world, unit, tsa):
    policy = with_tsa(world, tsa, timestamp_required=True)
    first, second = unit.seal(), unit.seal()
    response = parse_bundle(stamped(first, tsa)[-1].blob).timestamps[0]
    blob = add_timestamp(second.signatures[0].blob, response)
    manifest = build_signature_manifest(second.manifest.descriptor, blob, SLSA_PROVENANCE, None)
    moved = SignatureArtifact(manifest=manifest, blob=blob)
    with pytest.raises(SignerUntrusted, match="requires a timestamp"):
        verify_kit(second.evidence(signatures=[moved]), unit.verified(), policy, pki.NOW)


def test_notation_signature_of_a_model_outlives_its_certificate_when_it_was_stamped(world, tsa):
    publisher = pki.publisher_certificate(world.publisher_root, end=dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
    signature = sign_notation(world.model.descriptor, publisher)
    token = timestamp_token(tsa.stamp(encode_timestamp_request(parse_jws(signature.blob).signature, 9)))
    blob = add_jws_timestamp(signature.blob, token)
    manifest = build_notation_manifest(world.model.descriptor, describe(blob, JOSE), publisher.certificate_chain, None)
    artifact = SignatureArtifact(manifest=manifest, blob=blob)
    policy = with_tsa(world, tsa)
    assert verify_model_signature(world.model, [artifact], policy, LATER).san == "https://acme.example/models"
    with pytest.raises(SignerUntrusted, match="has expired"):
        verify_model_signature(world.model, [signature], policy, LATER)
    with pytest.raises(SignerUntrusted, match="has expired"):  # nobody trusts this authority
        verify_model_signature(world.model, [artifact], world.policy, LATER)


def test_stamping_needs_the_right_kind_of_certificate(tmp_path, world):
    """A TSA whose certificate also signs code is none; openssl itself refuses to work with it."""
    tpm = SoftTpm("x")
    wrong = world.device_root.issue(
        pki.name("tsa"),
        tpm.sk,
        eku=[ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING],
        eku_critical=True,
    )
    from edgeprov.verify.x509path import verify_chain

    with pytest.raises(SignerUntrusted, match="not for timestamps only"):
        verify_chain(wrong.der, [], [world.device_root.der], pki.NOW, "timestamp")
    not_critical = world.device_root.issue(pki.name("tsa2"), tpm.sk, eku=[ExtendedKeyUsageOID.TIME_STAMPING])
    with pytest.raises(SignerUntrusted, match="not for timestamps only"):
        verify_chain(not_critical.der, [], [world.device_root.der], pki.NOW, "timestamp")
