# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Enrollment: do these keys live in one genuine TPM, and does a trusted enroller vouch for the device?

The first half is asked by the CA in the factory, before it signs; the second, step 1 of every kit's
verification, by everyone afterwards.

Spec: FORMAT.md "Enrollment" and "Verification", step 1; TCG EK Credential Profile 2.5.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from edgeprov._dataclass import dataclass
from edgeprov.errors import EdgeprovError, EnrollmentRefused, EvidenceInvalid, FormatError
from edgeprov.formats import tpmt
from edgeprov.formats.devicerecord import (
    DeviceRecord,
    FactoryKey,
    enroll_qualifying,
    parse_device_record_artifact,
    vouch_qualifying,
)
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import DEVICE_PREDICATE, Assurance
from edgeprov.formats.rfc3339 import parse_rfc3339
from edgeprov.formats.tpmt import Attestation, Certify, PublicArea
from edgeprov.verify.attestation import (
    attestation_key_fault,
    device_keys_fault,
    signing_key_fault,
    verify_attestation,
    verify_counter,
    verify_extra_data,
)
from edgeprov.verify.certificates import certificate_spki
from edgeprov.verify.ek_attributes import level_of_manufacturer, lower_level, tpm_manufacturer
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.signature import SignatureArtifact, verify_kit_signature
from edgeprov.verify.signer_identity import Purpose, SignerIdentity
from edgeprov.verify.x509path import verify_chain

_Anchors = Sequence[tuple[Assurance, tuple[bytes, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedDevice:
    """A device whose record passed step 1: keep it, and judge all its kits by it."""

    record: DeviceRecord
    sk_identity: SignerIdentity
    enroller: SignerIdentity

    @property
    def device(self) -> str:
        """URN of the device."""
        return self.record.device

    @property
    def enrollment(self) -> bytes:
        """Its enrollment id, 32 bytes."""
        return self.record.enrollment


def verify_tpm_keys(ak: PublicArea, sk: PublicArea, certify: Attestation, nonce: bytes) -> None:
    """AK is a restricted key of a TPM, and vouches that SK was made in the same TPM.

    Args:
        ak: Attestation key.
        sk: Signing key.
        certify: TPM2_Certify of SK by AK.
        nonce: The enroller's challenge.

    Raises:
        EnrollmentRefused: A key's attributes, the signature, the challenge or the certified Name do not fit.
    """
    fault = attestation_key_fault(ak) or signing_key_fault(sk) or device_keys_fault(ak, sk)
    if fault is not None:
        raise EnrollmentRefused(fault)
    try:
        attest = tpmt.parse_attest(certify.attest)
        verify_attestation(ak, certify, attest, tpmt.ST_ATTEST_CERTIFY, "the certification of the signing key")
        verify_extra_data(attest, enroll_qualifying(nonce), "the certification of the signing key")
    except EvidenceInvalid as error:
        raise EnrollmentRefused(error.message.partition(": ")[2]) from error
    except FormatError as error:
        raise EnrollmentRefused(f"the certification of the signing key: {error.message}") from error
    if not isinstance(attest.info, Certify) or attest.info.name != sk.name:
        raise EnrollmentRefused("the attestation key certified another key than the signing key")


def verify_counter_base(ak: PublicArea, counter: Attestation, index: int, base: int, nonce: bytes) -> None:
    """AK certified, for this nonce, that the kit counter stood at the counter base.

    Args:
        ak: Attestation key, judged by verify_tpm_keys.
        counter: TPM2_NV_Certify of the kit counter by AK.
        index: NV handle of the kit counter.
        base: Value that the record or request names.
        nonce: The enroller's challenge.

    Raises:
        EnrollmentRefused: Another signer, challenge, NV index or value.
    """
    what = "the certification of the kit counter"
    try:
        attest = tpmt.parse_attest(counter.attest)
        verify_attestation(ak, counter, attest, tpmt.ST_ATTEST_NV, what)
        verify_extra_data(attest, enroll_qualifying(nonce), what)
        verify_counter(attest, index, base)
    except EvidenceInvalid as error:
        raise EnrollmentRefused(error.message.partition(": ")[2]) from error
    except FormatError as error:
        raise EnrollmentRefused(f"{what}: {error.message}") from error


def verify_factory_key(factory: FactoryKey, ak: PublicArea, nonce: bytes) -> None:
    """The factory key is a restricted key of a TPM, is the one in its certificate, and certified this AK.

    Args:
        factory: Initial attestation key.
        ak: Attestation key that it vouches for.
        nonce: The enroller's challenge.

    Raises:
        EnrollmentRefused: One of it is not so.
    """
    what = "the certification by the factory key"
    fault = attestation_key_fault(factory.public)
    if fault is not None:
        raise EnrollmentRefused(f"factory key: {fault}")
    try:
        if certificate_spki(factory.certificate) != factory.public.spki:
            raise EnrollmentRefused("the factory key and its certificate are different keys")
        attest = tpmt.parse_attest(factory.certify.attest)
        verify_attestation(factory.public, factory.certify, attest, tpmt.ST_ATTEST_CERTIFY, what)
        verify_extra_data(attest, vouch_qualifying(nonce), what)
    except EvidenceInvalid as error:
        raise EnrollmentRefused(error.message.partition(": ")[2]) from error
    except FormatError as error:
        raise EnrollmentRefused(f"{what}: {error.message}") from error
    if not isinstance(attest.info, Certify) or attest.info.name != ak.name:
        raise EnrollmentRefused("the factory key certified another key than the attestation key")


def verify_factory_certificate(certificate: bytes, policy: TrustPolicy, at: dt.datetime) -> Assurance:
    """The factory key's certificate leads to a maker of devices whom the policy trusts.

    Args:
        certificate: DER.
        policy: Its ``idevid-*.pem`` anchors count, and its deny list.
        at: Time of enrollment.

    Returns:
        What the maker's anchor vouches for: ``hardware`` or ``firmware``.

    Raises:
        EnrollmentRefused: It does not.
    """
    anchors: _Anchors = (("hardware", policy.idevid_hardware_anchors), ("firmware", policy.idevid_firmware_anchors))
    return _level_of(certificate, (), anchors, policy, at, "idevid", "factory key's certificate")


def verify_ek_certificate(
    certificate: bytes, intermediates: Sequence[bytes], policy: TrustPolicy, at: dt.datetime
) -> Assurance:
    """The endorsement key's certificate leads to a TPM manufacturer whom the policy trusts.

    Args:
        certificate: DER.
        intermediates: DER, from the TPM's NV or the manufacturer.
        policy: Its ``ek-*.pem`` anchors count, and its deny list.
        at: Time of enrollment.

    Returns:
        The level that the enroller gives: what the anchor vouches for, and no more than the manufacturer in the
        certificate's TCG attributes makes (verify.ek_attributes).

    Raises:
        EnrollmentRefused: It does not.
    """
    anchors: _Anchors = (("hardware", policy.ek_hardware_anchors), ("firmware", policy.ek_firmware_anchors))
    level = _level_of(certificate, intermediates, anchors, policy, at, "ek", "endorsement key certificate")
    try:
        return lower_level(level, level_of_manufacturer(tpm_manufacturer(certificate)))
    except FormatError as error:
        raise EnrollmentRefused(f"endorsement key certificate: {error.message}") from error


def _level_of(
    certificate: bytes,
    intermediates: Sequence[bytes],
    anchors: _Anchors,
    policy: TrustPolicy,
    at: dt.datetime,
    purpose: Purpose,
    what: str,
) -> Assurance:
    refused: EdgeprovError | None = None
    for level, trusted in anchors:
        try:
            identity = verify_chain(certificate, intermediates, trusted, at, purpose)
            policy.verify_not_denied(identity)
        except EdgeprovError as error:
            refused = refused if refused is not None and not trusted else error
        else:
            return level
    assert refused is not None  # noqa: S101 - there is an anchor list
    raise EnrollmentRefused(f"{what}: {refused.message}") from refused


def verify_device_record(
    manifest: Manifest,
    raw: bytes,
    signatures: Sequence[SignatureArtifact],
    policy: TrustPolicy,
    at: dt.datetime,
) -> VerifiedDevice:
    """Step 1. The enroller signed this record, its keys and certificates fit together, its assurance is accepted.

    Args:
        manifest: Of the device-record artifact.
        raw: Its layer.
        signatures: Found on it.
        policy: Whom to trust.
        at: Time at which the enroller's certificate is judged, where no timestamp proves a better one.

    Raises:
        SignatureInvalid, SubjectMismatch, SignerUntrusted: Nobody trusted vouches for the record.
        DigestMismatch: The layer is not the one that the manifest names.
        EvidenceInvalid: Step 1: what the record holds does not fit together.
        PolicyDenied: Assurance not accepted, or on the deny list.
    """
    signed = verify_kit_signature(
        manifest, signatures, policy, at, predicate_types=(DEVICE_PREDICATE,), purpose="enroller"
    )
    try:
        record = parse_device_record_artifact(manifest, raw)
        verify_tpm_keys(record.ak, record.sk, record.certify, record.nonce)
        verify_counter_base(record.ak, record.counter, record.counter_index, record.counter_base, record.nonce)
        if record.factory is not None:
            verify_factory_key(record.factory, record.ak, record.nonce)
    except (FormatError, EnrollmentRefused) as error:
        raise EvidenceInvalid(error.message, step=1) from error
    if signed.statement.predicate.get("device") != record.device:
        raise EvidenceInvalid("the enroller's statement names another device", step=1)
    sk_identity = verify_record_certificate(record, policy)
    policy.verify_assurance(record.assurance, record.device)
    # The enroller vouches for the time: an entry with a date is judged with each kit (step 2).
    policy.verify_device_allowed(record.device, record.enrollment, _moment(record.enrolled_at))
    shown = {"activated": record.ek_certificate, "vouched": record.factory}.get(record.proof)
    if shown is None and (record.assurance != "dev" or record.proof != "none"):
        raise EvidenceInvalid(
            f"assurance {record.assurance!r} without a proof by the endorsement key or a factory key", step=1
        )
    return VerifiedDevice(record=record, sk_identity=sk_identity, enroller=signed.identity)


def verify_record_certificate(record: DeviceRecord, policy: TrustPolicy) -> SignerIdentity:
    """The SK certificate of a record names its device, holds its SK, and was valid at the enrollment.

    Whether it was valid when a kit was signed is judged with the kit (step 2).

    Raises:
        EvidenceInvalid: Step 1: it names another device, or holds another key.
        SignerUntrusted: It leads to no device anchor.
        PolicyDenied: On the deny list.
    """
    if not record.certificates:
        raise EvidenceInvalid("the device record holds no certificate", step=1)
    if certificate_spki(record.certificates[0]) != record.sk.spki:
        raise EvidenceInvalid("the certificate holds another key than the certified signing key", step=1)
    at = _moment(record.enrolled_at)
    identity = verify_chain(record.certificates[0], record.certificates[1:], policy.device_anchors, at, "device")
    policy.verify_not_denied(identity, at)
    if identity.san != record.device:
        raise EvidenceInvalid(f"the certificate names {identity.san}, the record {record.device}", step=1)
    return identity


def _moment(text: str) -> dt.datetime:
    try:
        moment = parse_rfc3339(text)
    except FormatError as error:
        raise EvidenceInvalid(f"the time of enrollment: {error.message}", step=1) from error
    if not text.endswith("Z"):
        raise EvidenceInvalid(f"the time of enrollment is not in UTC: {text[:40]!r}", step=1)
    return moment
