# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Enrollment: a device's request becomes a certificate for its signing key and a signed device record.

What is checked before anything is issued: the keys have the attributes of TPM keys, the attestation
key vouches for the signing key under the request's nonce, the certificate request is signed by that
key, and, where the TPM has an endorsement key certificate, its chain, and that the TPM answered a
credential made for exactly this attestation key. Without the latter the device is ``dev``, whatever
it says of itself.

Spec: TPM 2.0 Library Part 1, "Credential Protection"; FORMAT.md "Device record".
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edgeprov.errors import (
    EnrollmentRefused,
    EvidenceInvalid,
    FormatError,
    PolicyDenied,
    RegistryNotFound,
    SignerUntrusted,
    VerificationError,
)
from edgeprov.fleet.enrollment import credential
from edgeprov.fleet.enrollment.ca import issue_device_certificate, verify_csr
from edgeprov.fleet.registries.sources import Source, open_registry
from edgeprov.fleet.trust.signers import PemSigner, signature_artifact
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.devicerecord import (
    DeviceRecord,
    FactoryKey,
    build_device_record,
    enrollment_id,
    parse_assurance,
    parse_attestation,
    parse_device_record,
    parse_factory_key,
    record_tag,
)
from edgeprov.formats.digest import Digest
from edgeprov.formats.envelope import Signer
from edgeprov.formats.jsonx import JsonObject, get_int, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest
from edgeprov.formats.mediatypes import DEVICE_PREDICATE, EMPTY_BLOB, Assurance
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.formats.segment import device_serial
from edgeprov.formats.statement import encode_device_statement
from edgeprov.formats.tpmt import COUNTER_INDEX, Attestation, PublicArea, parse_public
from edgeprov.limits import LIMITS
from edgeprov.registry.push_order import push_signed
from edgeprov.verify.certificates import certificate_spki
from edgeprov.verify.enrollment import (
    verify_counter_base,
    verify_ek_certificate,
    verify_factory_certificate,
    verify_factory_key,
    verify_record_certificate,
    verify_tpm_keys,
)
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.x509path import verify_chain

REQUEST_TYPE: Final = "edgeprov.enrollment-request"
SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `edgeprov identity csr` wrote."""

    device: str
    csr: bytes = field(repr=False)
    ak: PublicArea
    sk: PublicArea
    nonce: bytes
    certify: Attestation = field(repr=False)
    counter: Attestation = field(repr=False)
    ek_certificate: bytes | None = field(repr=False)
    ek_public: bytes | None = field(repr=False)
    factory: FactoryKey | None = field(default=None, repr=False)
    assurance: Assurance
    counter_base: int
    counter_index: int

    @property
    def serial(self) -> str:
        """Serial number of the device."""
        return device_serial(self.device)

    @property
    def enrollment(self) -> bytes:
        """The enrollment id that this request asks for, 32 bytes."""
        return enrollment_id(self.ak.name, self.counter_base, self.nonce)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What was issued."""

    record: DeviceRecord
    manifest: Manifest
    signature: Manifest
    repo: str
    replaced: Digest | None
    """An earlier record of this device that the tag named before: kits under it stay verifiable."""


def parse_request(raw: bytes) -> Request:
    """Read a request file.

    Raises:
        FormatError: Not one.
    """
    what = "enrollment request"
    obj = parse_json_object(raw, what, max_bytes=LIMITS.device_record_bytes)
    if obj.get("type") != REQUEST_TYPE or get_int(obj, "v", what) != 1:
        raise FormatError("not an enrollment request", advice="Make one on the device: edgeprov identity csr -o FILE.")
    device = get_str(obj, "device", what)
    device_serial(device)
    try:
        nonce = bytes.fromhex(get_str(obj, "nonce", what))
    except ValueError as error:
        raise FormatError("enrollment request: 'nonce' is not hex") from error
    ek, ek_public = (_optional(obj, key, what) for key in ("ek", "ek_public"))
    return Request(
        device=device,
        csr=get_b64(obj, "csr", what),
        ak=parse_public(get_b64(obj, "ak", what)),
        sk=parse_public(get_b64(obj, "sk", what)),
        nonce=nonce,
        certify=parse_attestation(obj, "certify", what),
        counter=parse_attestation(obj, "counter", what),
        ek_certificate=ek,
        ek_public=ek_public,
        factory=parse_factory_key(obj, what),
        assurance=parse_assurance(get_str(obj, "assurance", what), what),
        counter_base=get_int(obj, "counter_base", what),
        counter_index=get_int(obj, "counter_index", what, maximum=2**32 - 1),
    )


def verify_request(request: Request, policy: TrustPolicy, now: dt.datetime, *, nonce: bytes | None = None) -> None:
    """Everything that can be checked without a second round.

    Args:
        request: From the device.
        policy: Its ``ek*.pem`` anchors and deny list count.
        now: The enroller's clock.
        nonce: The challenge that the vendor gave to `identity csr --nonce`, if any.

    Raises:
        EnrollmentRefused: The request proves nothing.
        PolicyDenied: A key is on the deny list, or the level is not accepted.
    """
    if nonce is not None and not hmac.compare_digest(nonce, request.nonce):
        raise EnrollmentRefused("the request answers another challenge than this one: it may be an old one")
    verify_tpm_keys(request.ak, request.sk, request.certify, request.nonce)
    verify_csr(request.csr, request.sk.spki, request.device, request.serial)
    if request.counter_index != COUNTER_INDEX:
        raise EnrollmentRefused(f"the kit counter is at 0x{request.counter_index:08x}, not at 0x{COUNTER_INDEX:08x}")
    verify_counter_base(request.ak, request.counter, request.counter_index, request.counter_base, request.nonce)
    for spki in (request.ak.spki, request.sk.spki):
        policy.verify_key_allowed(credential.sha256_hex(spki))
    policy.verify_assurance(request.assurance, request.device)
    if is_vouched(request, policy):
        assert request.factory is not None  # noqa: S101 - is_vouched says so
        verify_factory_key(request.factory, request.ak, request.nonce)
        verify_factory_certificate(request.factory.certificate, policy, now)
        return
    if request.assurance == "dev":
        return
    if request.ek_certificate is None:
        raise EnrollmentRefused(
            f"the device claims the assurance {request.assurance!r}, but its TPM has no endorsement key certificate",
            advice="Enroll it as `dev`, or read the certificate of its TPM from the manufacturer.",
        )
    verify_ek_certificate(request.ek_certificate, (), policy, now)


def is_vouched(request: Request, policy: TrustPolicy) -> bool:
    """Whether a factory key vouches for the device, in place of the credential round.

    Only where the trust folder has ``idevid*.pem``: a maker whom nobody trusts vouches for nothing. Then
    verify_request refuses whatever does not fit.
    """
    return request.factory is not None and bool(policy.idevid_anchors)


def make_challenge(request: Request, randomness: bytes) -> tuple[JsonObject, bytes]:
    """The credential challenge, which only the TPM with this EK and this AK can answer.

    Args:
        request: Checked by verify_request.
        randomness: At least 96 random bytes.

    Returns:
        The challenge file, and the secret to expect (keep it until the answer).

    Raises:
        EnrollmentRefused: The EK's certificate and its public area are different keys.
    """
    if request.ek_certificate is None or request.ek_public is None:
        raise EnrollmentRefused("the TPM has no endorsement key certificate to challenge")
    ek = credential.parse_ek_public(request.ek_public)
    if certificate_spki(request.ek_certificate) != ek.spki:
        raise EnrollmentRefused("the endorsement key and its certificate are different keys")
    secret = randomness[:SECRET_BYTES]
    blob, encrypted = credential.make_credential(ek, request.ak.name, secret, randomness[SECRET_BYTES:])
    return (
        {
            "type": "edgeprov.credential-challenge",
            "v": 1,
            "device": request.device,
            "blob": b64(blob),
            "secret": b64(encrypted),
        },
        secret,
    )


def verify_response(raw: bytes, secret: bytes) -> None:
    """The TPM's answer to a challenge.

    Raises:
        FormatError: Not an answer file.
        EnrollmentRefused: Not the secret.
    """
    what = "credential response"
    obj = parse_json_object(raw, what, max_bytes=LIMITS.config_file_bytes)
    if obj.get("type") != "edgeprov.credential-response":
        raise FormatError("not a credential response", advice="Make it on the device: edgeprov identity activate FILE.")
    if not hmac.compare_digest(get_b64(obj, "credential", what), secret):
        raise EnrollmentRefused("the TPM did not recover the secret: the attestation key is not in the certified TPM")


def enroll(
    request: Request, *, issuer: PemSigner | None = None, certificates: tuple[bytes, ...] = (), enroller: Signer,
    to: Source, policy: TrustPolicy, now: dt.datetime, activated: bool,
) -> Enrolled:  # fmt: skip
    """Issue the certificate, or take that of another CA; write, sign and push the device record.

    Args:
        request: Checked by verify_request.
        issuer: Issuing CA of devices; None when ``certificates`` are given.
        certificates: DER chain (leaf to root) that the vendor's own CA issued for this request's CSR.
        enroller: Key whose certificate names an enroller.
        to: Registry for the record, under ``devices``.
        policy: The record must verify under it, before it is pushed.
        now: The enroller's clock.
        activated: Whether the TPM answered a credential challenge.

    Raises:
        EnrollmentRefused: A device above ``dev`` without the credential's answer.
        PolicyDenied, SignerUntrusted: Nobody would accept this record: enroller or level are not in the trust policy.
        RegistryError: The push failed; nothing was issued that a later try would not issue again.
    """
    vouched = is_vouched(request, policy)
    if request.assurance != "dev" and not (activated or vouched):
        raise EnrollmentRefused("the TPM has not answered a credential challenge yet")
    if issuer is not None:
        leaf = issue_device_certificate(issuer, request.sk.spki, request.device, request.serial, now)
        certificates = (leaf, *issuer.certificate_chain)
    enrolled_at = rfc3339(now)
    record = DeviceRecord(
        device=request.device,
        ak=request.ak,
        sk=request.sk,
        certificates=certificates,
        certify=request.certify,
        counter=request.counter,
        nonce=request.nonce,
        ek_certificate=request.ek_certificate,
        assurance=request.assurance,
        counter_base=request.counter_base,
        counter_index=request.counter_index,
        enrolled_at=enrolled_at,
        proof="activated" if activated else "vouched" if vouched else "none",
        factory=request.factory if vouched else None,
    )
    identity = verify_chain(
        enroller.certificate_chain[0], enroller.certificate_chain[1:], policy.device_anchors, now, "enroller"
    )
    policy.verify_signer("enroller", identity)
    try:
        verify_record_certificate(record, policy)
    except (EvidenceInvalid, SignerUntrusted) as error:
        raise EnrollmentRefused(
            error.message, advice="The certificate must be issued for this very request."
        ) from error
    manifest, blob = build_device_record(record)
    statement = encode_device_statement(
        manifest.digest, device=request.device, enroller=identity.san, enrolled_at=enrolled_at
    )
    signature, bundle = signature_artifact(enroller, manifest.descriptor, statement, DEVICE_PREDICATE, enrolled_at)
    repo = f"{to.prefix}devices"
    registry = open_registry(to, create=True)
    before = registry.head_manifest(repo, request.serial)
    registry.push_blob(repo, EMPTY_CONFIG, EMPTY_BLOB)
    registry.push_blob(repo, manifest.layers[0], blob)
    # Under a name of its own as well: after another enrollment the old record still explains old kits.
    tags = (record_tag(request.serial, manifest.digest), request.serial)
    push_signed(registry, repo, manifest, [(signature, {signature.layers[0].digest: bundle})], tags)
    return Enrolled(
        record=record, manifest=manifest, signature=signature, repo=repo, replaced=before.digest if before else None
    )


def identity_file(record: DeviceRecord) -> JsonObject:
    """What `edgeprov identity install` takes."""
    return {
        "type": "edgeprov.identity",
        "v": 1,
        "device": record.device,
        "enrollment": record.enrollment.hex(),
        "bin": record.bin,
        "certificates": [b64(item) for item in record.certificates],
    }


def known_keys(source: Source) -> dict[str, str]:
    """AK Name (hex) to device URN of all records in a registry; empty where there is none yet.

    Unreadable records are passed over: they vouch for nothing.
    """
    registry = open_registry(source, create=True)
    repo = f"{source.prefix}devices"
    result: dict[str, str] = {}
    with contextlib.suppress(RegistryNotFound):
        for tag in registry.list_tags(repo):
            if "." in tag:
                continue
            try:
                manifest = registry.fetch_manifest(repo, tag)
                layer = manifest.layers[0]
                if layer.size > LIMITS.device_record_bytes:
                    continue
                record = parse_device_record(b"".join(registry.fetch_blob(repo, layer)))
            except (FormatError, VerificationError, RegistryNotFound, IndexError):
                continue
            result[record.ak.name.hex()] = record.device
    return result


def random_bytes() -> bytes:
    """Randomness for one challenge."""
    return os.urandom(96)


def verify_not_enrolled_elsewhere(request: Request, known: Mapping[str, str]) -> None:
    """One TPM is one device: its AK must not be enrolled under another serial.

    Args:
        request: The request.
        known: AK Name (hex) to device URN of all records that the enroller has.

    Raises:
        PolicyDenied: It is.
    """
    other = known.get(request.ak.name.hex())
    if other is not None and other != request.device:
        raise PolicyDenied(
            f"this TPM is enrolled as {other} already",
            advice="Deny-list the old record first if the device was renamed.",
        )


def _optional(obj: JsonObject, key: str, what: str) -> bytes | None:
    value = obj.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise FormatError(f"{what}: {key!r} is not text")
    return parse_b64(value, f"{what}: {key!r}")
