# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""X.509 paths of any kind, by ``cryptography.x509``: what verify.certificates does not read by itself.

Every refusal comes from here. Strict and small: every certificate above the leaf is a CA with
keyCertSign, every signature uses SHA-256 or stronger, an unknown critical extension refuses. Loaded
when needed: importing it costs more than the rest of a boot check.

Spec: RFC 5280, section 6.1 (without policies and name constraints, which are refused when critical).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, SignerUntrusted
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX, ENROLLER_URN_PREFIX
from edgeprov.limits import LIMITS
from edgeprov.verify.signer_identity import Purpose, SignerIdentity

_ARTICLE = {"device": "a device", "enroller": "an enroller"}
_T = TypeVar("_T", bound=x509.ExtensionType)
_HASHES = (SHA256, SHA384, SHA512)
_HANDLED = frozenset(
    (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    )
)
_EK_USAGE = ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
_SUBJECT_KEYS = {
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.SERIAL_NUMBER: "SERIALNUMBER",
    NameOID.COMMON_NAME: "CN",
}


def parse_pem_certificates(pem: bytes, what: str) -> tuple[bytes, ...]:
    """All certificates of a PEM file, as DER.

    Raises:
        FormatError: Not PEM certificates.
    """
    try:
        return tuple(item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as error:
        raise FormatError(f"{what} is not a PEM certificate") from error


def verify_anchor(der: bytes, what: str) -> None:
    """A trust anchor must be a CA.

    Raises:
        FormatError: Not a certificate.
        SignerUntrusted: Not a CA certificate.
    """
    _verify_ca(_load(der), 0, what)


def certificate_spki(der: bytes) -> bytes:
    """The SubjectPublicKeyInfo (DER) of a certificate."""
    return _spki(_load(der))


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What a trust file of another tool must say of a certificate."""

    der: bytes = field(repr=False)
    pem: bytes = field(repr=False)
    subject: str
    organization: str
    common_name: str
    not_before: dt.datetime
    self_issued: bool


def certificate_facts(der: bytes) -> CertificateFacts:
    """Read a certificate for export; judges nothing."""
    certificate = _load(der)

    def first(oid: ObjectIdentifier) -> str:
        values = certificate.subject.get_attributes_for_oid(oid)
        return str(values[0].value) if values else ""

    return CertificateFacts(
        der=der,
        pem=certificate.public_bytes(Encoding.PEM),
        subject=certificate.subject.rfc4514_string(),
        organization=first(NameOID.ORGANIZATION_NAME),
        common_name=first(NameOID.COMMON_NAME),
        not_before=_not_before(certificate),
        self_issued=certificate.subject == certificate.issuer,
    )


def anchor_chain(der: bytes, anchors: Sequence[bytes]) -> tuple[bytes, ...]:
    """An anchor and the anchors above it, up to the topmost that is at hand."""
    chain = [der]
    while (
        above := next((item for item in anchors if item not in chain and _is_issuer(chain[-1], item)), None)
    ) is not None:
        chain.append(above)
    return tuple(chain)


def _is_issuer(der: bytes, issuer: bytes) -> bool:
    return _issued_by(_load(der), _load(issuer))


def find_path(
    leaf: bytes, intermediates: tuple[bytes, ...], anchors: tuple[bytes, ...], purpose: Purpose
) -> SignerIdentity:
    """Find a path from a leaf to an anchor and judge everything but its time.

    Raises:
        FormatError: Not certificates.
        SignerUntrusted: No path to an anchor, or the path does not serve the purpose.
    """
    if len(intermediates) > LIMITS.certificate_chain:
        raise SignerUntrusted(f"certificate chain has more than {LIMITS.certificate_chain} certificates")
    certificate = _load(leaf)
    trusted = [_load(der) for der in anchors]
    if any(certificate == anchor for anchor in trusted):
        raise SignerUntrusted("the signer's certificate is itself a trust anchor")
    path = _search(certificate, [_load(der) for der in intermediates], trusted)
    if path is None:
        raise SignerUntrusted(
            f"certificate {_name(certificate)!r}, issued by {certificate.issuer.rfc4514_string()!r}, "
            f"leads to no {purpose} trust anchor"
        )
    for below, issuer in enumerate(path[1:]):
        _verify_ca(issuer, below, f"CA certificate {_name(issuer)!r}")
    _verify_extensions(certificate)
    _verify_usage(certificate, purpose)
    return SignerIdentity(
        san=_identity_name(certificate, purpose),
        subject=certificate.subject.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        spki=_spki(certificate),
        not_before=max(_not_before(item) for item in path),
        not_after=min(_not_after(item) for item in path),
        rdns=tuple((_SUBJECT_KEYS.get(rdn.oid, rdn.oid.dotted_string), str(rdn.value)) for rdn in certificate.subject),
        issuers=tuple((f"{item.serial_number:x}", hashlib.sha256(_spki(item)).hexdigest()) for item in path[1:]),
    )


def _search(
    certificate: x509.Certificate, candidates: list[x509.Certificate], anchors: list[x509.Certificate]
) -> list[x509.Certificate] | None:
    for anchor in anchors:
        if _issued_by(certificate, anchor):
            return [certificate, anchor]
    for candidate in candidates:
        if _issued_by(certificate, candidate):
            rest = _search(candidate, [item for item in candidates if item is not candidate], anchors)
            if rest is not None:
                return [certificate, *rest]
    return None


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        if not isinstance(certificate.signature_hash_algorithm, _HASHES):
            return False
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _verify_ca(certificate: x509.Certificate, below: int, what: str) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        raise SignerUntrusted(f"{what} is not a CA")
    if constraints.value.path_length is not None and below > constraints.value.path_length:
        raise SignerUntrusted(f"{what} allows no {below} CA certificates below it")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        raise SignerUntrusted(f"{what} may not sign certificates")
    key = _public_key(certificate)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        raise SignerUntrusted(f"{what} has an RSA key of less than 2048 bits")
    _verify_extensions(certificate)


def _public_key(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(f"certificate {_name(certificate)!r} has an unusable key") from error


def _verify_extensions(certificate: x509.Certificate) -> None:
    try:
        critical = [item.oid for item in certificate.extensions if item.critical]
    except (ValueError, x509.DuplicateExtension) as error:
        raise FormatError(f"certificate {_name(certificate)!r} has malformed extensions") from error
    unknown = [oid.dotted_string for oid in critical if oid not in _HANDLED]
    if unknown:
        raise SignerUntrusted(f"certificate {_name(certificate)!r} has the unknown critical extension {unknown[0]}")


def _verify_usage(certificate: x509.Certificate, purpose: Purpose) -> None:
    name = _name(certificate)
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise SignerUntrusted(f"certificate {name!r} is a CA, not a {purpose}")
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    uses = None if extended is None else list(extended.value)
    if purpose == "ek":
        if uses is not None and _EK_USAGE not in uses:
            raise SignerUntrusted(f"certificate {name!r} is not for an endorsement key")
        return
    usage = _extension(certificate, x509.KeyUsage)
    if purpose == "idevid":  # makers differ in all but this; the chain and the key decide
        if usage is None or not usage.value.digital_signature or usage.value.key_cert_sign:
            raise SignerUntrusted(f"certificate {name!r} is not for a signing key")
        return
    if usage is None or not usage.critical or not usage.value.digital_signature:
        raise SignerUntrusted(f"certificate {name!r} lacks a critical key usage with digitalSignature")
    if usage.value.key_cert_sign:
        raise SignerUntrusted(f"certificate {name!r} may sign certificates: not a {purpose}'s")
    if purpose == "timestamp":
        if extended is None or not extended.critical or uses != [ExtendedKeyUsageOID.TIME_STAMPING]:
            raise SignerUntrusted(f"certificate {name!r} is not for timestamps only")
        return
    if uses is not None and ExtendedKeyUsageOID.CODE_SIGNING not in uses:
        raise SignerUntrusted(f"certificate {name!r} is for other uses than signing artifacts")
    if purpose in ("device", "enroller"):
        key = _public_key(certificate)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise SignerUntrusted(f"certificate {name!r}: a {purpose} key is ECDSA P-256")


def _identity_name(certificate: x509.Certificate, purpose: Purpose) -> str:
    if purpose in ("timestamp", "ek", "idevid"):
        return certificate.subject.rfc4514_string()
    extension = _extension(certificate, x509.SubjectAlternativeName)
    names: list[str] = []
    if extension is not None:
        names += extension.value.get_values_for_type(x509.UniformResourceIdentifier)
        names += extension.value.get_values_for_type(x509.RFC822Name)
    if len(names) > 1:
        raise SignerUntrusted(f"certificate {_name(certificate)!r} has more than one name")
    name = names[0] if names else ""
    if purpose == "publisher":
        if name.startswith((DEVICE_URN_PREFIX, ENROLLER_URN_PREFIX)):
            raise SignerUntrusted(f"{name} is a device or an enroller, not a publisher")
        return name or "x509.subject:" + certificate.subject.rfc4514_string()
    prefix = DEVICE_URN_PREFIX if purpose == "device" else ENROLLER_URN_PREFIX
    if not name.startswith(prefix) or len(name) == len(prefix):
        raise SignerUntrusted(f"certificate {_name(certificate)!r} does not name {_ARTICLE[purpose]}")
    return name


@lru_cache(maxsize=16_384)
def _load(der: bytes) -> x509.Certificate:
    if len(der) > LIMITS.certificate_bytes:
        raise FormatError(f"certificate has {len(der)} bytes, more than {LIMITS.certificate_bytes}")
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise FormatError("not an X.509 certificate") from error


def _extension(certificate: x509.Certificate, kind: type[_T]) -> x509.Extension[_T] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, UnicodeError) as error:
        raise FormatError(f"certificate {_name(certificate)!r} has malformed extensions") from error


def _spki(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(f"certificate {_name(certificate)!r} holds no usable key") from error


def _name(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string()[:120]
    except ValueError:
        return "?"


def _not_before(certificate: x509.Certificate) -> dt.datetime:
    return certificate.not_valid_before_utc


def _not_after(certificate: x509.Certificate) -> dt.datetime:
    return certificate.not_valid_after_utc
