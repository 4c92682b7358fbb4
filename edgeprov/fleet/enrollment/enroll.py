# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Enrollment: a device's request becomes a certificate for its signing key and a signed device record.

The steps before are in decision.py (what the request proves), enroller_state.py (challenges, nonces) and
known_devices.py (one TPM is one device).

Spec: FORMAT.md "Device record".
"""

from __future__ import annotations

import datetime as dt
import hmac
from dataclasses import dataclass

from edgeprov.errors import EnrollmentRefused, EvidenceInvalid, FormatError, SignerUntrusted
from edgeprov.fleet.enrollment.ca import issue_device_certificate
from edgeprov.fleet.enrollment.decision import Decision
from edgeprov.fleet.enrollment.known_devices import Place, key_tags
from edgeprov.fleet.enrollment.request import Request
from edgeprov.fleet.trust.signers import PemSigner, signature_artifact
from edgeprov.formats.b64 import b64, get_b64
from edgeprov.formats.devicerecord import DeviceRecord, build_device_record, record_tag
from edgeprov.formats.digest import Digest
from edgeprov.formats.envelope import Signer
from edgeprov.formats.jsonx import JsonObject, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, encode_index
from edgeprov.formats.mediatypes import DEVICE_PREDICATE, EMPTY_BLOB
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.formats.signature_manifest import signature_tag
from edgeprov.formats.statement import encode_device_statement
from edgeprov.limits import LIMITS
from edgeprov.registry.base import Registry, fallback_tag
from edgeprov.verify.enrollment import verify_record_certificate
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.x509path import verify_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Enroller:
    """Who issues and vouches, and where records go.

    Attributes:
        issuer: Issuing CA of devices; None where another CA issued the certificate.
        signer: Key whose certificate names an enroller.
        policy: A record must verify under it, before it is pushed.
        registry: For records.
        repo: ``devices``, with the registry's prefix.
    """

    issuer: PemSigner | None
    signer: Signer
    policy: TrustPolicy
    registry: Registry
    repo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What was issued."""

    record: DeviceRecord
    manifest: Manifest
    signature: Manifest
    tags: tuple[str, ...]


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
    request: Request, decision: Decision, place: Place, enroller: Enroller, now: dt.datetime, *,
    bin_: str | None = None, certificates: tuple[bytes, ...] = (),
) -> Enrolled:  # fmt: skip
    """Issue the certificate, or take that of another CA; write, sign and push the device record.

    Args:
        request: From the device.
        decision: Of decide(); where it says ``activated``, the TPM answered.
        place: Of KnownDevices.place().
        enroller: Who vouches.
        now: The enroller's clock.
        bin_: For the device's repository; a renewal keeps the old one.
        certificates: DER chain (leaf to root) that the vendor's own CA issued for this request's CSR.

    Raises:
        EnrollmentRefused: The certificate is not for this request.
        PolicyDenied, SignerUntrusted: Nobody would accept this record: enroller or level are not in the trust policy.
        RegistryError: The push failed; nothing was issued that a later try would not issue again.
    """
    policy, issuer, signer = enroller.policy, enroller.issuer, enroller.signer
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
        ek_certificate=request.ek_certificate if decision.proof == "activated" else None,
        assurance=decision.assurance,
        counter_base=request.counter_base,
        counter_index=request.counter_index,
        enrolled_at=enrolled_at,
        proof=decision.proof,
        factory=request.factory if decision.proof == "vouched" else None,
        replaces=place.replaces,
        bin=bin_ if place.renewed is None else place.renewed.bin,
    )
    identity = verify_chain(
        signer.certificate_chain[0], signer.certificate_chain[1:], policy.device_anchors, now, "enroller"
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
    signature, bundle = signature_artifact(signer, manifest.descriptor, statement, DEVICE_PREDICATE, enrolled_at)
    tags = (record_tag(request.serial, manifest.digest), *key_tags(record), request.serial)
    _push(enroller.registry, enroller.repo, manifest, blob, signature, bundle, tags)
    return Enrolled(record=record, manifest=manifest, signature=signature, tags=tags)


def push_empty_config(registry: Registry, repo: str) -> None:
    """The config blob that all records share: once for any number of them.

    Raises:
        RegistryError: The push failed.
    """
    registry.push_blob(repo, EMPTY_CONFIG, EMPTY_BLOB)


def _push(
    registry: Registry, repo: str, manifest: Manifest, blob: bytes, signature: Manifest, bundle: bytes,
    tags: tuple[str, ...],
) -> None:  # fmt: skip
    """Blobs; record by digest, signature; fallback index; last the tags, that of the serial after all others.

    The signature is new, and so is all that names it: nothing is asked of the registry.
    """
    blobs: tuple[tuple[Manifest, bytes], ...] = ((manifest, blob), (signature, bundle))
    for holder, data in blobs:
        registry.push_blob(repo, holder.layers[0], data, fresh=True)
    registry.push_manifest(repo, manifest)
    if not registry.push_manifest(repo, signature, tag=signature_tag(tags[0], 1)):
        entry = signature.descriptor.with_annotations(signature.annotations)
        registry.push_index(repo, encode_index([entry]), tag=fallback_tag(manifest.digest))
    for tag in tags:
        registry.push_manifest(repo, manifest, tag=tag)


def identity_file(record: DeviceRecord, manifest: Digest) -> JsonObject:
    """What `edgeprov identity install` takes."""
    return {
        "type": "edgeprov.identity",
        "v": 1,
        "device": record.device,
        "enrollment": record.enrollment.hex(),
        "assurance": record.assurance,
        "bin": record.bin,
        "record": str(manifest),
        "certificates": [b64(item) for item in record.certificates],
    }
