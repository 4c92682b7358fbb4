# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Read X.509 certificates from hostile bytes, by ``cryptography.x509``. Judges nothing: verify.x509path does.

The library parses lazily and raises many kinds of exceptions at first use. ``load_certificate`` therefore
reads names, times, serial number and extensions at once, so that only the key can fail later.

Spec: RFC 5280 section 4; RFC 4514 for the text of names.
"""

from __future__ import annotations

import datetime as dt
import re
import warnings
from functools import lru_cache
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID, ObjectIdentifier

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.limits import LIMITS

# The library warns of some malformed certificates that a later version refuses. A warning of several lines
# helps nobody here: what matters is refused below with an error.
warnings.filterwarnings("ignore", category=CryptographyDeprecationWarning, module=re.escape(__name__))

UNREADABLE: Final = (  # KeyError and TypeError: string types that some versions of the library do not know
    ValueError, TypeError, LookupError, OverflowError, Warning, UnsupportedAlgorithm,
    x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
_SERIAL_BITS: Final = 160  # RFC 5280 section 4.1.2.2: positive, at most 20 octets
_T = TypeVar("_T", bound=x509.ExtensionType)


@lru_cache(maxsize=16_384)
def load_certificate(der: bytes) -> x509.Certificate:
    """Decode a certificate. Names, times, serial number and extensions of the result are readable without errors.

    Raises:
        FormatError: Too long, not a certificate, or a part of it is malformed.
    """
    if len(der) > LIMITS.certificate_bytes:
        raise FormatError(f"certificate has {len(der)} bytes, more than {LIMITS.certificate_bytes}")
    try:
        certificate = x509.load_der_x509_certificate(der)
        serial = certificate.serial_number
        certificate.not_valid_before_utc, certificate.not_valid_after_utc  # noqa: B018
        name = certificate.subject.rfc4514_string()[:120]
        certificate.issuer.rfc4514_string()
    except UNREADABLE as error:
        raise FormatError("not an X.509 certificate") from error
    try:
        list(certificate.extensions)
    except UNREADABLE as error:
        raise FormatError(f"certificate {name!r} has malformed extensions") from error
    if not 0 < serial < 1 << _SERIAL_BITS:
        raise FormatError(f"certificate {name!r} has a serial number that is not positive or too long")
    return certificate


def parse_pem_certificates(pem: bytes, what: str) -> tuple[bytes, ...]:
    """Decode all certificates of a PEM file to DER.

    Raises:
        FormatError: Not PEM certificates.
    """
    try:
        return tuple(item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(pem))
    except UNREADABLE as error:
        raise FormatError(f"{what} is not a PEM certificate") from error


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
    return certificate.issuer.public_bytes(), certificate.serial_number


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

    def first(oid: ObjectIdentifier) -> str:
        values = certificate.subject.get_attributes_for_oid(oid)
        return str(values[0].value) if values else ""

    return CertificateFacts(
        der=der,
        pem=certificate.public_bytes(Encoding.PEM),
        subject=certificate.subject.rfc4514_string(),
        organization=first(NameOID.ORGANIZATION_NAME),
        common_name=first(NameOID.COMMON_NAME),
        not_before=certificate.not_valid_before_utc,
        self_issued=certificate.subject == certificate.issuer,
    )


# -- for a certificate that load_certificate returned -------------------------------------------------


def subject_of(certificate: x509.Certificate) -> str:
    """Return the subject for an error message: RFC 4514 text, at most 120 characters."""
    return certificate.subject.rfc4514_string()[:120]


def extension_of(certificate: x509.Certificate, kind: type[_T]) -> x509.Extension[_T] | None:
    """Return an extension, or None where the certificate has none of this kind."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def key_of(certificate: x509.Certificate) -> object:
    """Return the public key.

    Raises:
        FormatError: Of a kind that is not known, or not a key.
    """
    try:
        return certificate.public_key()
    except UNREADABLE as error:
        raise FormatError(f"certificate {subject_of(certificate)!r} holds no usable key") from error


def spki_of(certificate: x509.Certificate) -> bytes:
    """Return the SubjectPublicKeyInfo (DER).

    Raises:
        FormatError: As key_of.
    """
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except UNREADABLE as error:
        raise FormatError(f"certificate {subject_of(certificate)!r} holds no usable key") from error
