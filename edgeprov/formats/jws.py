# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Notation signatures in JWS: payload, protected header, envelope, and both manifest styles.

We write the legacy manifest style (media type in ``config``), the only one that every notation reads
from an OCI layout.

Spec: Notary Project specifications 1.1, signature-envelope-jws.md and signature-specification.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.b64 import b64, b64url, parse_b64, parse_b64url
from edgeprov.formats.descriptor import Descriptor, describe, encode_descriptor, parse_descriptor
from edgeprov.formats.ecdsa import encode_ecdsa_raw
from edgeprov.formats.jsonx import JsonObject, encode_json, get_list, get_object, get_str, parse_json_object
from edgeprov.formats.manifest import Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    ANNOTATION_CREATED,
    EMPTY_BLOB,
    NOTATION_PAYLOAD,
    NOTATION_SIGNATURE,
    NOTATION_THUMBPRINT,
)
from edgeprov.limits import LIMITS

SCHEME: Final = "io.cncf.notary.signingScheme"
SCHEME_X509: Final = "notary.x509"
SIGNING_TIME: Final = "io.cncf.notary.signingTime"
EXPIRY: Final = "io.cncf.notary.expiry"
AGENT: Final = "io.cncf.notary.signingAgent"
TIMESTAMP: Final = "io.cncf.notary.timestampSignature"
NOTATION_CONFIG: Final = describe(EMPTY_BLOB, NOTATION_SIGNATURE)
"""Config descriptor of the legacy manifest style; its blob is ``{}``."""

_MEMBERS = frozenset(("payload", "protected", "header", "signature"))
_CRITICAL = frozenset((SCHEME, EXPIRY))
_HASHES = {"ES256": 256, "ES384": 384}


@dataclass(frozen=True, slots=True, kw_only=True)
class Jws:
    """A parsed envelope. ``certificates`` are DER, leaf first, root last; ``signature`` is r || s."""

    algorithm: str
    target: Descriptor
    certificates: tuple[bytes, ...]
    signature: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    expiry: str | None = None
    timestamp: bytes | None = field(default=None, repr=False)


def encode_notation_payload(subject: Descriptor) -> bytes:
    """The JSON that names the signed artifact."""
    bare = Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size)
    return encode_json({"targetArtifact": encode_descriptor(bare)})


def encode_notation_protected(signing_time: str) -> bytes:
    """The protected header for ES256.

    Args:
        signing_time: RFC 3339 UTC; required by the specification and trusted by nobody.
    """
    return encode_json(
        {
            "alg": "ES256",
            "cty": NOTATION_PAYLOAD,
            "crit": [SCHEME],
            SCHEME: SCHEME_X509,
            SIGNING_TIME: signing_time,
        }
    )


def signing_input(protected: bytes, payload: bytes) -> bytes:
    """The bytes that the signature covers: base64url(protected) . base64url(payload)."""
    return f"{b64url(protected)}.{b64url(payload)}".encode()


def encode_jws(
    *,
    payload: bytes,
    protected: bytes,
    signature_der: bytes,
    certificates: Sequence[bytes],
    agent: str,
) -> bytes:
    """The envelope.

    Args:
        payload: From encode_notation_payload.
        protected: From encode_notation_protected.
        signature_der: ECDSA P-256 signature over signing_input(protected, payload).
        certificates: DER, leaf first, root last (notation wants the root).
        agent: Name and version of the signing program.
    """
    header: JsonObject = {"x5c": [b64(item) for item in certificates], AGENT: agent}
    return encode_json(
        {
            "payload": b64url(payload),
            "protected": b64url(protected),
            "header": header,
            "signature": b64url(encode_ecdsa_raw(signature_der)),
        }
    )


def add_jws_timestamp(raw: bytes, token: bytes) -> bytes:
    """The same envelope with an RFC 3161 token over its raw signature, in the unprotected header.

    Raises:
        FormatError: Not a notation JWS.
    """
    parse_jws(raw)
    obj = parse_json_object(raw, "JWS", max_bytes=LIMITS.signature_blob_bytes)
    obj["header"][TIMESTAMP] = b64(token)
    return encode_json(obj)


def parse_jws(raw: bytes) -> Jws:
    """Read an envelope.

    Raises:
        LimitError: Too long.
        FormatError: Not a notation JWS, an algorithm other than ES256 and ES384, or a critical
            header that we do not understand.
    """
    obj = parse_json_object(raw, "JWS", max_bytes=LIMITS.signature_blob_bytes)
    if not _MEMBERS.issuperset(obj):
        raise FormatError("JWS has members that a notation signature must not have")
    protected_text, payload_text = get_str(obj, "protected", "JWS"), get_str(obj, "payload", "JWS")
    protected = parse_json_object(parse_b64url(protected_text, "JWS header"), "JWS header")
    algorithm = get_str(protected, "alg", "JWS header")
    if algorithm not in _HASHES:
        raise FormatError(f"JWS algorithm {algorithm[:20]!r} is not ES256 or ES384")
    if get_str(protected, "cty", "JWS header") != NOTATION_PAYLOAD:
        raise FormatError("JWS does not hold a notation payload")
    critical = get_list(protected, "crit", "JWS header", maximum=16)
    if SCHEME not in critical or not all(isinstance(name, str) and name in _CRITICAL for name in critical):
        raise FormatError("JWS has a critical header that is not understood, or no signing scheme")
    if protected.get(SCHEME) != SCHEME_X509:
        raise FormatError("JWS signing scheme is not notary.x509")
    expiry = protected.get(EXPIRY)
    if expiry is not None and not isinstance(expiry, str):
        raise FormatError("JWS expiry is not a string")
    header = get_object(obj, "header", "JWS")
    payload = parse_json_object(parse_b64url(payload_text, "JWS payload"), "JWS payload")
    return Jws(
        algorithm=algorithm,
        target=parse_descriptor(payload.get("targetArtifact"), "JWS target"),
        certificates=_parse_x5c(header),
        signature=parse_b64url(get_str(obj, "signature", "JWS"), "JWS signature"),
        signing_input=f"{protected_text}.{payload_text}".encode(),
        expiry=expiry,
        timestamp=_parse_timestamp(header),
    )


def build_notation_manifest(
    subject: Descriptor, blob: Descriptor, certificates: Sequence[bytes], created: str | None
) -> Manifest:
    """The manifest that refers a JWS to its subject, legacy style. Its config blob is ``{}`` (NOTATION_CONFIG).

    Args:
        subject: The signed artifact.
        blob: Descriptor of the JWS.
        certificates: DER, as in the JWS.
        created: RFC 3339 time for the annotation, or None.
    """
    thumbprints = json.dumps([hashlib.sha256(item).hexdigest() for item in certificates])
    annotations = {NOTATION_THUMBPRINT: thumbprints}
    if created:
        annotations[ANNOTATION_CREATED] = created
    return build_manifest(config=NOTATION_CONFIG, layers=[blob], subject=subject, annotations=annotations)


def _parse_x5c(header: JsonObject) -> tuple[bytes, ...]:
    items = get_list(header, "x5c", "JWS", maximum=LIMITS.certificate_chain)
    if not items:
        raise FormatError("JWS carries no certificate")
    chain = []
    for item in items:
        if not isinstance(item, str):
            raise FormatError("JWS: a certificate is not a string")
        der = parse_b64(item, "JWS certificate")
        if len(der) > LIMITS.certificate_bytes:
            raise LimitError(f"certificate has {len(der)} bytes, more than {LIMITS.certificate_bytes}")
        chain.append(der)
    return tuple(chain)


def _parse_timestamp(header: JsonObject) -> bytes | None:
    value = header.get(TIMESTAMP)
    if value is None:
        return None
    if not isinstance(value, str):
        raise FormatError("JWS timestamp is not a string")
    return parse_b64(value, "JWS timestamp")
