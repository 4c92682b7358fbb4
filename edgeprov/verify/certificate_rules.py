# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for a single certificate: as a CA above others, for its use, and for the name that it gives to a signer.

Spec: RFC 5280 sections 4.2 and 6.1.4; FORMAT.md "Certificates"; TCG EK Credential Profile section 3.2.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier

from edgeprov.errors import SignerUntrusted
from edgeprov.formats.mediatypes import ROLE_URN_PREFIXES
from edgeprov.verify.certificates import extension_of, key_of, subject_of
from edgeprov.verify.signer_identity import Purpose

_ARTICLE: Final = {
    "device": "a device",
    "enroller": "an enroller",
    "roster": "a roster signer",
    "collector": "a collector",
    "importer": "an importer",
}
_HANDLED: Final = frozenset(
    (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    )
)
_EK_USAGE: Final = ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate


def verify_ca(certificate: x509.Certificate, below: int, what: str) -> None:
    """Check that a certificate may issue others.

    Args:
        certificate: From load_certificate.
        below: Number of CA certificates between it and the leaf.
        what: Named in the error.

    Raises:
        FormatError: It holds no usable key.
        SignerUntrusted: Not a CA, not at this place of a path, or with a weak key.
    """
    constraints = extension_of(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        raise SignerUntrusted(f"{what} is not a CA")
    if constraints.value.path_length is not None and below > constraints.value.path_length:
        raise SignerUntrusted(f"{what} allows no {below} CA certificates below it")
    usage = extension_of(certificate, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        raise SignerUntrusted(f"{what} may not sign certificates")
    key = key_of(certificate)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        raise SignerUntrusted(f"{what} has an RSA key of less than 2048 bits")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < 256:
        raise SignerUntrusted(f"{what} has an ECDSA key of less than 256 bits")
    if isinstance(key, dsa.DSAPublicKey):
        raise SignerUntrusted(f"{what} has a DSA key")
    _verify_extensions(certificate)


def verify_leaf(certificate: x509.Certificate, purpose: Purpose) -> str:
    """Check that a certificate serves a purpose.

    Returns:
        The name that stands for the signer (SignerIdentity.san).

    Raises:
        FormatError: It holds no usable key.
        SignerUntrusted: It is for another use, or does not name what the purpose asks for.
    """
    _verify_extensions(certificate)
    _verify_usage(certificate, purpose)
    return _identity_name(certificate, purpose)


def _verify_extensions(certificate: x509.Certificate) -> None:
    for item in certificate.extensions:
        if item.critical and item.oid not in _HANDLED:
            raise SignerUntrusted(
                f"certificate {subject_of(certificate)!r} has the unknown critical extension {item.oid.dotted_string}"
            )
        if item.oid == ExtensionOID.NAME_CONSTRAINTS:  # critical or not: the CA's owner limited it
            raise SignerUntrusted(f"certificate {subject_of(certificate)!r} has name constraints, which are not judged")


def _verify_usage(certificate: x509.Certificate, purpose: Purpose) -> None:
    name = subject_of(certificate)
    constraints = extension_of(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise SignerUntrusted(f"certificate {name!r} is a CA, not a {purpose}")
    extended = extension_of(certificate, x509.ExtendedKeyUsage)
    uses = None if extended is None else list(extended.value)
    if purpose == "ek":
        if uses is not None and _EK_USAGE not in uses:
            raise SignerUntrusted(f"certificate {name!r} is not for an endorsement key")
        return
    usage = extension_of(certificate, x509.KeyUsage)
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
    if purpose in ("device", "enroller", "roster", "importer"):
        key = key_of(certificate)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise SignerUntrusted(f"certificate {name!r}: a {purpose} key is ECDSA P-256")


def _identity_name(certificate: x509.Certificate, purpose: Purpose) -> str:
    if purpose in ("timestamp", "ek", "idevid"):
        return certificate.subject.rfc4514_string()
    extension = extension_of(certificate, x509.SubjectAlternativeName)
    names: list[str] = []
    if extension is not None:
        names += extension.value.get_values_for_type(x509.UniformResourceIdentifier)
        names += extension.value.get_values_for_type(x509.RFC822Name)
    if len(names) > 1:
        raise SignerUntrusted(f"certificate {subject_of(certificate)!r} has more than one name")
    name = names[0] if names else ""
    if purpose == "publisher":
        for role, prefix in ROLE_URN_PREFIXES.items():
            if name.startswith(prefix):
                raise SignerUntrusted(f"{name} is {_ARTICLE[role]}, not a publisher")
        return name or "x509.subject:" + certificate.subject.rfc4514_string()
    prefix = ROLE_URN_PREFIXES[purpose]
    if not name.startswith(prefix) or len(name) == len(prefix):
        raise SignerUntrusted(f"certificate {subject_of(certificate)!r} does not name {_ARTICLE[purpose]}")
    return name
