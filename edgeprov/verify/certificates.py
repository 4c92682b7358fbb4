# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Read X.509 certificates from hostile bytes, by the strict reader of formats. Judges nothing: x509path does.

Spec: RFC 5280 section 4; RFC 4514 for the text of names; RFC 7468 for PEM.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.certificate import Certificate, parse_certificate
from edgeprov.formats.distinguished_name import COMMON_NAME, ORGANIZATION, name_text, name_values
from edgeprov.formats.pem import encode_pem, parse_pem
from edgeprov.formats.subject_key import SubjectKey
from edgeprov.limits import LIMITS
from edgeprov.verify.public_keys import load_subject_key

_SERIAL_BITS: Final = 160  # RFC 5280 section 4.1.2.2: positive, at most 20 octets


@lru_cache(maxsize=16_384)
def load_certificate(der: bytes) -> Certificate:
    """Decode a certificate. Whether its key is a point of the curve is looked at by key_of.

    Raises:
        FormatError: Too long, not a certificate, or a part of it is malformed.
    """
    if len(der) > LIMITS.certificate_bytes:
        raise FormatError(f"certificate has {len(der)} bytes, more than {LIMITS.certificate_bytes}")
    try:
        certificate = parse_certificate(der)
    except FormatError as error:
        raise FormatError(f"not an X.509 certificate: {error.message}") from error
    if not 0 < certificate.serial_number < 1 << _SERIAL_BITS:
        raise FormatError(
            f"certificate {subject_of(certificate)!r} has a serial number that is not positive or too long"
        )
    return certificate


def parse_pem_certificates(pem: bytes, what: str) -> tuple[bytes, ...]:
    """Decode all certificates of a PEM file to DER. Text and other blocks beside them are passed over.

    Raises:
        FormatError: None, or one that is damaged.
    """
    try:
        ders = parse_pem(pem, "CERTIFICATE")
        for der in ders:
            load_certificate(der)
    except FormatError as error:
        raise FormatError(f"{what} is not a PEM certificate: {error.message}") from error
    return ders


def certificate_spki(der: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo (DER) of a certificate.

    Raises:
        FormatError: Not a certificate, or of a kind of key that is not known.
    """
    return spki_of(load_certificate(der))


def issuer_and_serial(der: bytes) -> tuple[bytes, int]:
    """Return the issuer's name (DER) and the serial number, by which CMS identifies a certificate.

    Raises:
        FormatError: Not a certificate.
    """
    certificate = load_certificate(der)
    return certificate.issuer_der, certificate.serial_number


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """Facts of a certificate that trust files of other tools ask for."""

    der: bytes = field(repr=False)
    pem: bytes = field(repr=False)
    subject: str
    organization: str
    common_name: str
    not_before: dt.datetime
    self_issued: bool


def certificate_facts(der: bytes) -> CertificateFacts:
    """Read a certificate for export.

    Raises:
        FormatError: Not a certificate.
    """
    certificate = load_certificate(der)

    def first(kind: str) -> str:
        return next(iter(name_values(certificate.subject, kind)), "")

    return CertificateFacts(
        der=der,
        pem=encode_pem(der, "CERTIFICATE"),
        subject=name_text(certificate.subject),
        organization=first(ORGANIZATION),
        common_name=first(COMMON_NAME),
        not_before=certificate.not_before,
        self_issued=certificate.subject_der == certificate.issuer_der,
    )


# -- for a certificate that load_certificate returned -------------------------------------------------


def subject_of(certificate: Certificate) -> str:
    """Return the subject for an error message: RFC 4514 text, at most 120 characters."""
    return name_text(certificate.subject)[:120]


def key_of(certificate: Certificate) -> SubjectKey:
    """Return the public key; a point is on its curve.

    Raises:
        FormatError: Of a kind that is not known, or not a key.
    """
    try:
        load_subject_key(certificate.key)
    except FormatError as error:
        raise FormatError(f"certificate {subject_of(certificate)!r} holds no usable key: {error.message}") from error
    return certificate.key


def spki_of(certificate: Certificate) -> bytes:
    """Return the SubjectPublicKeyInfo (DER).

    Raises:
        FormatError: As key_of.
    """
    key_of(certificate)
    return certificate.spki
