# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Certificates of a private CA: publishers, devices, enrollers, timestamp authorities, EKs.

Two implementations, one judge. The plain certificates that nearly every signer has are read by
formats.certificate, and a path of them that is good in every respect is accepted here, with the same
rules in the same order as in x509path. Whatever is not plain, or not good, goes to x509path: it
refuses, or accepts what is unusual. So the fast way can accept, and never refuse. A boot check thus
does without ``cryptography.x509``, whose import costs as much as everything else in it.

Time is an argument, because a device's clock may be wrong: path and usage are judged once (and
cached), validity at each given time.

Spec: RFC 5280, section 6.1.
"""

from __future__ import annotations

import binascii
import datetime as dt
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from edgeprov.errors import FormatError, SignatureInvalid, SignerUntrusted
from edgeprov.formats.certificate import Certificate, parse_certificate
from edgeprov.formats.ecdsa import P256_PREFIX
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX, ENROLLER_URN_PREFIX
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.limits import LIMITS
from edgeprov.verify.public_keys import load_key, verify_certificate_signature
from edgeprov.verify.signer_identity import Purpose, SignerIdentity

_DIGITAL_SIGNATURE: Final = 1 << 0
_KEY_CERT_SIGN: Final = 1 << 5
_CODE_SIGNING: Final = "1.3.6.1.5.5.7.3.3"
_SERIAL_NUMBER: Final = "2.5.4.5"
_SUBJECT_KEYS: Final = {
    "2.5.4.6": "C", "2.5.4.8": "ST", "2.5.4.7": "L", "2.5.4.10": "O", "2.5.4.11": "OU",
    _SERIAL_NUMBER: "SERIALNUMBER", "2.5.4.3": "CN",
}  # fmt: skip
_PEM: Final = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----"


def parse_pem_certificates(pem: bytes, what: str) -> tuple[bytes, ...]:
    """All certificates of a PEM file, as DER.

    Raises:
        FormatError: Not PEM certificates.
    """
    plain = _plain_pem(pem)
    if plain is not None:
        return (plain,)
    from edgeprov.verify import x509path

    return x509path.parse_pem_certificates(pem, what)


def verify_anchor(der: bytes, what: str) -> None:
    """A trust anchor must be a CA.

    Raises:
        FormatError: Not a certificate.
        SignerUntrusted: Not a CA certificate.
    """
    certificate = _plain(der)
    if certificate is None or not _is_ca(certificate, 0):
        from edgeprov.verify import x509path

        x509path.verify_anchor(der, what)


def certificate_spki(der: bytes) -> bytes:
    """The SubjectPublicKeyInfo (DER) of a certificate.

    Raises:
        FormatError: Not a certificate.
    """
    certificate = _plain(der)
    if certificate is not None:
        return certificate.spki
    from edgeprov.verify import x509path

    return x509path.certificate_spki(der)


def verify_chain(
    leaf: bytes, intermediates: Sequence[bytes], anchors: Sequence[bytes], at: dt.datetime, purpose: Purpose
) -> SignerIdentity:
    """Find a path from a leaf to an anchor and judge it.

    Args:
        leaf: DER of the signer's certificate.
        intermediates: DER, in any order; may hold the root, which counts only if it is an anchor.
        anchors: DER of the trusted CA certificates for this purpose.
        at: The time at which the whole path must be valid (with time zone).
        purpose: What the leaf is used for; decides key usage, extended key usage and name.

    Raises:
        FormatError: Not certificates.
        SignerUntrusted: No path to an anchor, or the path does not serve the purpose or the time.
    """
    identity = _path(leaf, tuple(intermediates), tuple(anchors), purpose)
    if not identity.not_before <= at <= identity.not_after:
        state = "is not valid yet" if at < identity.not_before else "has expired"
        raise SignerUntrusted(
            f"certificate of {identity.san} {state}: valid {_day(identity.not_before)} to {_day(identity.not_after)}, "
            f"judged at {_day(at)}",
            advice="Judge it at a proved time (a timestamp), or get the artifact signed again.",
        )
    return identity


@lru_cache(maxsize=8_192)
def _path(
    leaf: bytes, intermediates: tuple[bytes, ...], anchors: tuple[bytes, ...], purpose: Purpose
) -> SignerIdentity:
    identity = _plain_path(leaf, intermediates, anchors, purpose)
    if identity is not None:
        return identity
    from edgeprov.verify import x509path

    return x509path.find_path(leaf, intermediates, anchors, purpose)


# -- plain certificates: accept, or leave it to x509path --------------------------------------------


def _plain_path(
    leaf: bytes, intermediates: tuple[bytes, ...], anchors: tuple[bytes, ...], purpose: Purpose
) -> SignerIdentity | None:
    if purpose in ("timestamp", "ek", "idevid") or len(intermediates) > LIMITS.certificate_chain or leaf in anchors:
        return None
    certificate = _plain(leaf)
    above = [_plain(der) for der in intermediates]
    trusted = [_plain(der) for der in anchors]
    if certificate is None or None in above or None in trusted:
        return None  # which path is found must not depend on who looks for it
    path = _search(certificate, [item for item in above if item], [item for item in trusted if item])
    if path is None or not all(_is_ca(issuer, below) for below, issuer in enumerate(path[1:])):
        return None
    name = _signer_name(certificate, purpose)
    if name is None:
        return None
    return SignerIdentity(
        san=name,
        subject=certificate.subject_text,
        serial=f"{certificate.serial:x}",
        spki=certificate.spki,
        not_before=max(item.not_before for item in path),
        not_after=min(item.not_after for item in path),
        rdns=tuple((_SUBJECT_KEYS.get(oid, oid), value) for oid, value in certificate.subject),
        issuers=tuple((f"{item.serial:x}", hashlib.sha256(item.spki).hexdigest()) for item in path[1:]),
    )


def _search(
    certificate: Certificate, candidates: list[Certificate], anchors: list[Certificate]
) -> list[Certificate] | None:
    for anchor in anchors:
        if _issued_by(certificate, anchor):
            return [certificate, anchor]
    for candidate in candidates:
        if _issued_by(certificate, candidate):
            rest = _search(candidate, [item for item in candidates if item is not candidate], anchors)
            if rest is not None:
                return [certificate, *rest]
    return None


def _issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        verify_certificate_signature(issuer.spki, certificate.signature, certificate.signed, certificate.hash_name)
    except SignatureInvalid:
        return False
    return True


def _is_ca(certificate: Certificate, below: int) -> bool:
    if not certificate.ca or (certificate.path_length is not None and below > certificate.path_length):
        return False
    return certificate.usage is not None and bool(certificate.usage & _KEY_CERT_SIGN)


def _signer_name(certificate: Certificate, purpose: Purpose) -> str | None:
    """The name of a leaf that may sign artifacts for this purpose, else None."""
    usage = certificate.usage
    if certificate.ca or usage is None or not certificate.usage_critical:
        return None
    if not usage & _DIGITAL_SIGNATURE or usage & _KEY_CERT_SIGN:
        return None
    if certificate.extended is not None and _CODE_SIGNING not in certificate.extended:
        return None
    if len(certificate.names) > 1:
        return None
    name = certificate.names[0] if certificate.names else ""
    if purpose == "publisher":
        if name.startswith((DEVICE_URN_PREFIX, ENROLLER_URN_PREFIX)):
            return None
        return name or "x509.subject:" + certificate.subject_text
    prefix = DEVICE_URN_PREFIX if purpose == "device" else ENROLLER_URN_PREFIX
    if not name.startswith(prefix) or len(name) == len(prefix) or not certificate.spki.startswith(P256_PREFIX):
        return None
    return name


@lru_cache(maxsize=16_384)
def _plain(der: bytes) -> Certificate | None:
    if len(der) > LIMITS.certificate_bytes:
        return None
    try:
        certificate = parse_certificate(der)
        load_key(certificate.spki)  # a point off the curve is no key
    except FormatError:
        return None
    return certificate


def _plain_pem(pem: bytes) -> bytes | None:
    """DER of the one plain certificate in plain PEM, else None."""
    begin, end = _PEM
    body = pem.removesuffix(b"\n")
    if not body.startswith(begin) or not body.endswith(end):
        return None
    try:
        der = binascii.a2b_base64(body[len(begin) : -len(end)].replace(b"\n", b""), strict_mode=True)
    except binascii.Error:
        return None
    return None if _plain(der) is None else der


def _day(moment: dt.datetime) -> str:
    return rfc3339(moment)
