# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Step 1, and what the factory checks before it signs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgeprov.errors import (
    DigestMismatch,
    EnrollmentRefused,
    EvidenceInvalid,
    PolicyDenied,
    SignerUntrusted,
    SubjectMismatch,
)
from edgeprov.formats import tpmt
from edgeprov.formats.devicerecord import build_device_record, enroll_qualifying, parse_device_record
from edgeprov.formats.manifest import parse_manifest
from edgeprov.formats.tpmt import Attestation, parse_public
from edgeprov.verify.attestation import device_keys_fault
from edgeprov.verify.deny import parse_deny
from edgeprov.verify.enrollment import verify_device_record, verify_ek_certificate, verify_tpm_keys
from tests.support import pki
from tests.support.endorsement import tcg_names
from tests.support.softtpm import SoftTpm, public_area, soft_key

NONCE = bytes(32)
EK_USAGE = ObjectIdentifier("2.23.133.8.1")


def judged(world, unit, **record_changes):
    """Step 1 on a record with other fields, signed all the same by the enroller."""
    record = replace(unit.record, **record_changes)
    manifest, blob = build_device_record(record)
    return verify_device_record(manifest, blob, [world.vouch(manifest, record)], world.policy, pki.NOW)


def test_honest_record(world, unit):
    verified = unit.verified()
    assert verified.device == "urn:edgeprov:device:unit-0001"
    assert verified.enroller.san == "urn:edgeprov:enroller:line1"
    assert parse_device_record(unit.record_blob) == unit.record


def test_software_key_certified_as_sk(world, unit):
    """TPM2_LoadExternal lets a software key be certified; its attributes betray it."""
    tpm = SoftTpm("soft")
    area = public_area(tpm.sk, 0x40440)
    certify = tpm.certify_sk(enroll_qualifying(NONCE), public=area)
    with pytest.raises(EnrollmentRefused, match="do not show that the TPM made it"):
        verify_tpm_keys(parse_public(tpm.ak_public), parse_public(area), certify, NONCE)
    with pytest.raises(EvidenceInvalid, match="do not show that the TPM made it") as caught:
        judged(world, unit, sk=parse_public(public_area(unit.tpm.sk, 0x40440)))
    assert caught.value.step == 1


@pytest.mark.parametrize(
    "missing", [tpmt.RESTRICTED, tpmt.FIXED_TPM, tpmt.FIXED_PARENT, tpmt.SENSITIVE_DATA_ORIGIN, tpmt.SIGN]
)
def test_ak_that_is_not_restricted_or_not_of_a_tpm(world, unit, missing):
    area = public_area(unit.tpm.ak, tpmt.AK_ATTRIBUTES & ~missing)
    with pytest.raises(EvidenceInvalid, match="lack restricted, sign or TPM origin"):
        judged(world, unit, ak=parse_public(area))


def test_ak_or_sk_that_decrypts_and_restricted_sk(world, unit):
    for key, attributes in (("ak", tpmt.AK_ATTRIBUTES), ("sk", tpmt.SK_ATTRIBUTES)):
        area = public_area(getattr(unit.tpm, key), attributes | tpmt.DECRYPT)
        with pytest.raises(EvidenceInvalid, match="decrypt"):
            judged(world, unit, **{key: parse_public(area)})
    with pytest.raises(EvidenceInvalid, match="is restricted"):
        judged(world, unit, sk=parse_public(public_area(unit.tpm.sk, tpmt.AK_ATTRIBUTES)))


@pytest.mark.parametrize(("key", "attributes"), [("ak", tpmt.AK_ATTRIBUTES), ("sk", tpmt.SK_ATTRIBUTES)])
def test_keys_have_the_template_and_no_other_attributes(world, unit, key, attributes):
    """A key without noDA locks the TPM; one that has a policy, and does not need it, is not bound to it."""
    soft = getattr(unit.tpm, key)
    for area in (
        public_area(soft, attributes & ~tpmt.NO_DA),
        public_area(soft, attributes & ~tpmt.USER_WITH_AUTH),
        public_area(soft, attributes | 1 << 7),
        public_area(soft, attributes, auth_policy=bytes(32)),
    ):
        with pytest.raises(EvidenceInvalid, match="attributes are"):
            judged(world, unit, **{key: parse_public(area)})
    with pytest.raises(EvidenceInvalid, match="policy is not"):
        judged(
            world,
            unit,
            **{key: parse_public(public_area(soft, attributes & ~tpmt.USER_WITH_AUTH, auth_policy=bytes(20)))},
        )


def test_keys_may_be_bound_to_a_policy(unit):
    areas = [
        public_area(key, attributes & ~tpmt.USER_WITH_AUTH, auth_policy=b"\7" * 32)
        for key, attributes in ((unit.tpm.ak, tpmt.AK_ATTRIBUTES), (unit.tpm.sk, tpmt.SK_ATTRIBUTES))
    ]
    assert device_keys_fault(*map(parse_public, areas)) is None


def test_replayed_certification(world, unit):
    """Of an earlier enrollment: made for another nonce."""
    with pytest.raises(EvidenceInvalid, match="was made for"):
        judged(world, unit, nonce=bytes(32))
    with pytest.raises(EvidenceInvalid, match="was made for"):
        judged(world, unit, certify=unit.tpm.certify_sk(unit.record.nonce))  # without the label


def test_certification_of_another_key_or_by_another_ak(world, unit):
    other = SoftTpm("other")
    qualifying = enroll_qualifying(unit.record.nonce)
    with pytest.raises(EvidenceInvalid, match="certified another key"):
        judged(world, unit, certify=unit.tpm.certify_sk(qualifying, public=other.sk_public))
    with pytest.raises(EvidenceInvalid, match="another signer"):
        judged(world, unit, certify=other.certify_sk(qualifying))
    with pytest.raises(EvidenceInvalid, match="does not fit"):
        forged = unit.tpm.sign_attest(unit.tpm.certify_sk(qualifying).attest, key=soft_key("x"))
        judged(world, unit, certify=forged)


def test_quote_or_nothing_in_the_place_of_the_certification(world, unit):
    quote = unit.tpm.quote(enroll_qualifying(unit.record.nonce))
    with pytest.raises(EvidenceInvalid, match="type 0x8018, not 0x8017"):
        judged(world, unit, certify=quote)
    with pytest.raises(EvidenceInvalid, match="cut short"):
        judged(world, unit, certify=Attestation(attest=b"", signature=b""))


def test_certificate_of_another_key_or_for_another_serial(world, unit):
    other = SoftTpm("other")
    theirs = pki.device_certificate(world.device_root, "unit-0001", other.sk)
    with pytest.raises(EvidenceInvalid, match="holds another key"):
        judged(world, unit, certificates=theirs.certificate_chain)
    second = pki.device_certificate(world.device_root, "unit-0009", unit.tpm.sk)
    with pytest.raises(EvidenceInvalid, match="names urn:edgeprov:device:unit-0009"):
        judged(world, unit, certificates=second.certificate_chain)
    with pytest.raises(EvidenceInvalid, match="no certificate"):
        judged(world, unit, certificates=())


def test_certificate_of_another_ca_or_expired(world, unit):
    foreign = pki.device_certificate(pki.root("Foreign"), "unit-0001", unit.tpm.sk)
    with pytest.raises(SignerUntrusted, match="no device trust anchor"):
        judged(world, unit, certificates=foreign.certificate_chain)
    expired = pki.device_certificate(world.device_root, "unit-0001", unit.tpm.sk, end=pki.START.replace(year=2025))
    with pytest.raises(SignerUntrusted, match="has expired"):
        judged(world, unit, certificates=expired.certificate_chain)


def test_time_of_enrollment(world, unit):
    judged(world, unit, enrolled_at="2026-01-02T03:04:05.250Z")
    for text in ("2026-01-02", "2026-01-02T03:04:05", "2026-01-02T03:04:05+01:00", "yesterday", "2026-13-01T00:00:00Z"):
        with pytest.raises(EvidenceInvalid, match="time of enrollment"):
            judged(world, unit, enrolled_at=text)


def test_record_that_no_enroller_signed(world, unit):
    with pytest.raises(SignerUntrusted, match="does not name an enroller"):
        signature = world.vouch(unit.record_manifest, unit.record, signer=unit.tpm)  # the device vouches for itself
        verify_device_record(unit.record_manifest, unit.record_blob, [signature], world.policy, pki.NOW)
    with pytest.raises(SignerUntrusted, match="no enroller trust anchor"):
        foreign = pki.enroller_certificate(pki.root("Foreign"))
        signature = world.vouch(unit.record_manifest, unit.record, signer=foreign)
        verify_device_record(unit.record_manifest, unit.record_blob, [signature], world.policy, pki.NOW)


def test_enroller_that_the_policy_does_not_list_or_denies(world, unit):
    nobody = replace(world.policy, roles=())
    with pytest.raises(SignerUntrusted, match="the role 'enroller'"):
        unit.verified(nobody)
    serial = f"{world.enroller.certificate.serial_number:x}"
    with pytest.raises(PolicyDenied, match="deny list"):
        unit.verified(replace(world.policy, deny=parse_deny([{"type": "certificate", "value": f"serial:{serial}"}])))


def test_signature_of_another_record(world, unit):
    other = world.enroll("unit-0002")
    with pytest.raises(SubjectMismatch, match="hangs on another artifact"):
        verify_device_record(unit.record_manifest, unit.record_blob, other.record_signatures, world.policy, pki.NOW)


def test_changed_record(world, unit):
    changed = unit.record_blob.replace(b'"counter_base":100', b'"counter_base":105')
    with pytest.raises(DigestMismatch, match="device record has digest"):
        verify_device_record(unit.record_manifest, changed, unit.record_signatures, world.policy, pki.NOW)
    raw = unit.record_manifest.raw.replace(b"unit-0001", b"unit-0009")
    with pytest.raises(SubjectMismatch):
        verify_device_record(parse_manifest(raw), unit.record_blob, unit.record_signatures, world.policy, pki.NOW)


def test_assurance_is_never_silently_equal(world, unit):
    with pytest.raises(PolicyDenied, match="accepts: dev"):
        judged(world, unit, assurance="hardware")
    policy = replace(world.policy, assurance=frozenset({"dev", "hardware", "firmware"}))
    record = replace(unit.record, assurance="hardware")
    manifest, blob = build_device_record(record)
    with pytest.raises(EvidenceInvalid, match="without a proof by the endorsement key"):
        verify_device_record(manifest, blob, [world.vouch(manifest, record)], policy, pki.NOW)


@pytest.mark.parametrize(
    ("manufacturer", "under_hardware"),
    [
        ("49465800", "hardware"),  # IFX
        ("53544D20", "hardware"),  # STM
        ("494E5443", "firmware"),  # INTC: firmware TPMs
        ("414D4400", "firmware"),  # AMD
        ("474F4F47", "firmware"),  # GOOG: chips and virtual TPMs
        ("58595A00", "firmware"),  # nobody knows
        ("49424D00", "dev"),  # IBM: libtpms
        ("00001014", "dev"),  # as swtpm's own CA writes it
        ("564D5700", "dev"),  # VMW
        (None, "firmware"),  # no TCG attributes
    ],
)
def test_the_level_is_that_of_anchor_and_manufacturer(world, manufacturer, under_hardware):
    maker = pki.root("TPM Maker Root")
    san = tcg_names(manufacturer) if manufacturer else []
    ek = maker.issue(pki.name("ek"), usage=pki.key_usage(key_agreement=True), eku=[EK_USAGE], san=san)
    levels = [
        verify_ek_certificate(ek.der, [], replace(world.policy, **{anchors: (maker.der,)}), pki.NOW)
        for anchors in ("ek_hardware_anchors", "ek_firmware_anchors")
    ]
    assert levels == [under_hardware, "dev" if under_hardware == "dev" else "firmware"]
    both = replace(world.policy, ek_hardware_anchors=(pki.root("Other").der,), ek_firmware_anchors=(maker.der,))
    assert verify_ek_certificate(ek.der, [], both, pki.NOW) == levels[1]


def test_a_manufacturer_that_is_no_vendor_id_is_refused(world):
    maker = pki.root("TPM Maker Root")
    ek = maker.issue(pki.name("ek"), usage=pki.key_usage(key_agreement=True), san=tcg_names("Infineon"))
    with pytest.raises(EnrollmentRefused, match="no TCG vendor id"):
        verify_ek_certificate(ek.der, [], replace(world.policy, ek_hardware_anchors=(maker.der,)), pki.NOW)


def test_ek_certificate(world):
    maker = pki.root("TPM Maker Root")
    middle = maker.issue(pki.name("TPM Maker CA"), ca=True)
    ek = middle.issue(
        pki.name("unknown"), usage=pki.key_usage(key_agreement=True), eku=[EK_USAGE], san=tcg_names("49465800")
    )
    policy = replace(world.policy, ek_hardware_anchors=(maker.der,))
    assert verify_ek_certificate(ek.der, [middle.der], policy, pki.NOW) == "hardware"
    with pytest.raises(EnrollmentRefused, match="no ek trust anchor"):
        verify_ek_certificate(ek.der, [], policy, pki.NOW)
    with pytest.raises(EnrollmentRefused, match="no ek trust anchor"):
        verify_ek_certificate(ek.der, [middle.der], world.policy, pki.NOW)
    forged = pki.root("TPM Maker Root", seed="forger").issue(pki.name("unknown"), eku=[EK_USAGE])
    with pytest.raises(EnrollmentRefused, match="no ek trust anchor"):
        verify_ek_certificate(forged.der, [], policy, pki.NOW)
    signer = middle.issue(pki.name("signer"), eku=[ExtendedKeyUsageOID.CODE_SIGNING])
    with pytest.raises(EnrollmentRefused, match="not for an endorsement key"):
        verify_ek_certificate(signer.der, [middle.der], policy, pki.NOW)
    with pytest.raises(EnrollmentRefused, match=r"not an X\.509 certificate"):
        verify_ek_certificate(b"\x30\x00", [], policy, pki.NOW)
