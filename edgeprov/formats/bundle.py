# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Sigstore bundles v0.3 with one DSSE envelope, and the manifest that hangs one on an artifact.

This is what ``cosign verify`` and ``cosign verify-attestation`` read. All three kinds of
verification material are read, because real signing tools write all three; we write the first
(certificate) and, in key mode, the third. The material is not covered by the signature: the caller
judges it.

Spec: sigstore protobuf-specs, sigstore_bundle.proto v0.3; FORMAT.md "Signatures".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.b64 import b64, get_b64
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.jsonx import JsonObject, encode_json, get_list, get_object, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    ANNOTATION_CREATED,
    BUNDLE_CONTENT,
    BUNDLE_PREDICATE_TYPE,
    IN_TOTO_PAYLOAD,
    SIGSTORE_BUNDLE,
)
from edgeprov.limits import LIMITS

BundleKind = Literal["certificate", "chain", "key"]

_MATERIAL = ("certificate", "x509CertificateChain", "publicKey")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A parsed bundle. ``certificates`` are DER, leaf first; ``timestamps`` are RFC 3161 responses in DER."""

    kind: BundleKind
    certificates: tuple[bytes, ...] = ()
    key_hint: str | None = None
    payload_type: str
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    timestamps: tuple[bytes, ...] = ()


def build_bundle(
    *,
    statement: bytes,
    signature_der: bytes,
    certificate: bytes | None = None,
    key_hint: bytes | None = None,
    timestamps: Sequence[bytes] = (),
) -> bytes:
    """Wrap a signed statement.

    Args:
        statement: The exact payload bytes that were signed (in-toto Statement).
        signature_der: ECDSA signature over the DSSE pre-authentication encoding.
        certificate: Leaf in DER (certificate mode).
        key_hint: SHA-256 of the SubjectPublicKeyInfo (key mode); exactly one of the two is given.
        timestamps: RFC 3161 responses over the signature bytes.
    """
    if (certificate is None) == (key_hint is None):
        raise FormatError("a bundle carries either a certificate or a key hint")
    material: JsonObject = {}
    if certificate is not None:
        material["certificate"] = {"rawBytes": b64(certificate)}
    elif key_hint is not None:
        material["publicKey"] = {"hint": b64(key_hint)}
    if timestamps:
        material["timestampVerificationData"] = {
            "rfc3161Timestamps": [{"signedTimestamp": b64(item)} for item in timestamps]
        }
    return encode_json(
        {
            "mediaType": SIGSTORE_BUNDLE,
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": b64(statement),
                "payloadType": IN_TOTO_PAYLOAD,
                "signatures": [{"sig": b64(signature_der)}],
            },
        }
    )


def parse_bundle(raw: bytes) -> Bundle:
    """Read a bundle.

    Raises:
        LimitError: Too long.
        FormatError: Not a bundle v0.3 with one DSSE signature over an in-toto statement.
    """
    obj = parse_json_object(raw, "bundle", max_bytes=LIMITS.signature_blob_bytes)
    if get_str(obj, "mediaType", "bundle") != SIGSTORE_BUNDLE:
        raise FormatError("not a sigstore bundle v0.3")
    material = get_object(obj, "verificationMaterial", "bundle")
    kind, certificates, hint = _parse_material(material)
    envelope = get_object(obj, "dsseEnvelope", "bundle")
    payload_type = get_str(envelope, "payloadType", "bundle")
    if payload_type != IN_TOTO_PAYLOAD:
        raise FormatError(f"bundle: payload type is {payload_type[:80]!r}, not {IN_TOTO_PAYLOAD}")
    signatures = get_list(envelope, "signatures", "bundle", maximum=LIMITS.signatures_per_artifact)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise FormatError("bundle does not hold exactly one signature")
    payload = get_b64(envelope, "payload", "bundle")
    if len(payload) > LIMITS.statement_bytes:
        raise LimitError(f"statement has {len(payload)} bytes, more than {LIMITS.statement_bytes}")
    return Bundle(
        kind=kind,
        certificates=certificates,
        key_hint=hint,
        payload_type=payload_type,
        payload=payload,
        signature=get_b64(signatures[0], "sig", "bundle"),
        timestamps=_parse_timestamps(material),
    )


def add_timestamp(raw: bytes, timestamp: bytes) -> bytes:
    """The same bundle with one more RFC 3161 response over its signature; needs no new signature.

    Raises:
        FormatError: Not a bundle.
    """
    parse_bundle(raw)
    obj = parse_json_object(raw, "bundle", max_bytes=LIMITS.signature_blob_bytes)
    material = obj["verificationMaterial"]
    data = material.get("timestampVerificationData") or {}
    items = [*(data.get("rfc3161Timestamps") or []), {"signedTimestamp": b64(timestamp)}]
    material["timestampVerificationData"] = {**data, "rfc3161Timestamps": items}
    return encode_json(obj)


def build_signature_manifest(subject: Descriptor, bundle: bytes, predicate_type: str, created: str | None) -> Manifest:
    """The manifest that refers a bundle to its subject, as cosign v3 writes it, with a small bundle inside.

    Args:
        subject: The signed artifact.
        bundle: The bundle.
        predicate_type: Of the statement inside; cosign filters by it.
        created: RFC 3339 time for the annotation, or None.
    """
    annotations = {BUNDLE_CONTENT: "dsse-envelope", BUNDLE_PREDICATE_TYPE: predicate_type}
    if created:
        annotations[ANNOTATION_CREATED] = created
    layer = describe(bundle, SIGSTORE_BUNDLE).with_data(bundle)
    return build_manifest(
        config=EMPTY_CONFIG, layers=[layer], artifact_type=SIGSTORE_BUNDLE, subject=subject, annotations=annotations
    )


def _parse_material(material: JsonObject) -> tuple[BundleKind, tuple[bytes, ...], str | None]:
    present = [name for name in _MATERIAL if material.get(name) is not None]
    if len(present) != 1:
        raise FormatError("bundle: verificationMaterial is not exactly one of certificate, chain and key")
    name = present[0]
    value = get_object(material, name, "bundle")
    if name == "publicKey":
        hint = value.get("hint", "")
        if not isinstance(hint, str):
            raise FormatError("bundle: key hint is not a string")
        return "key", (), hint
    if name == "certificate":
        return "certificate", (_certificate(value),), None
    chain = get_list(value, "certificates", "bundle", maximum=LIMITS.certificate_chain)
    if not chain:
        raise FormatError("bundle: the certificate chain is empty")
    return "chain", tuple(_certificate(item) for item in chain), None


def _certificate(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise FormatError("bundle: a certificate is not an object")
    der = get_b64(value, "rawBytes", "bundle certificate")
    if len(der) > LIMITS.certificate_bytes:
        raise LimitError(f"certificate has {len(der)} bytes, more than {LIMITS.certificate_bytes}")
    return der


def _parse_timestamps(material: JsonObject) -> tuple[bytes, ...]:
    data = material.get("timestampVerificationData")
    if data is None:
        return ()
    if not isinstance(data, dict):
        raise FormatError("bundle: timestampVerificationData is not an object")
    items = get_list(data, "rfc3161Timestamps", "bundle", maximum=8)
    return tuple(get_b64(item, "signedTimestamp", "bundle timestamp") for item in items if isinstance(item, dict))
