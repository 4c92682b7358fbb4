# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for a single certificate: as a CA above others, for its use, and for the name that it gives to a signer.

Spec: RFC 5280 sections 4.2 and 6.1.4; FORMAT.md "Certificates"; TCG EK Credential Profile section 3.2.
"""

from __future__ import annotations

from typing import Final

from edgeprov.errors import SignerUntrusted
from edgeprov.formats.certificate import (
    EXTENDED_KEY_USAGE,
    HANDLED_EXTENSIONS,
    KEY_USAGE,
    NAME_CONSTRAINTS,
    Certificate,
)
from edgeprov.formats.distinguished_name import name_text
from edgeprov.formats.mediatypes import ROLE_URN_PREFIXES
from edgeprov.verify.certificates import key_of, subject_of
from edgeprov.verify.signer_identity import Purpose

_ARTICLE: Final = {
    "device": "a device",
    "enroller": "an enroller",
    "roster": "a roster signer",
    "collector": "a collector",
    "importer": "an importer",
}
_EK_USE: Final = "2.23.133.8.1"  # tcg-kp-EKCertificate
_CODE_SIGNING: Final = "1.3.6.1.5.5.7.3.3"
_TIME_STAMPING: Final = "1.3.6.1.5.5.7.3.8"


def verify_ca(certificate: Certificate, below: int, what: str) -> None:
    """Check that a certificate may issue others.

    Args:
        certificate: From load_certificate.
        below: Number of CA certificates between it and the leaf.
        what: Named in the error.

    Raises:
        FormatError: It holds no usable key.
        SignerUntrusted: Not a CA, not at this place of a path, or with a weak key.
    """
    constraints = certificate.basic_constraints
    if constraints is None or not constraints.ca:
        raise SignerUntrusted(f"{what} is not a CA")
    if constraints.path_length is not None and below > constraints.path_length:
        raise SignerUntrusted(f"{what} allows no {below} CA certificates below it")
    if "key_cert_sign" not in (certificate.key_usage or ()):
        raise SignerUntrusted(f"{what} may not sign certificates")
    key = key_of(certificate)
    if key.kind == "rsa" and key.bits < 2048:
        raise SignerUntrusted(f"{what} has an RSA key of less than 2048 bits")
    if key.kind == "ec" and key.bits < 256:
        raise SignerUntrusted(f"{what} has an ECDSA key of less than 256 bits")
    _verify_extensions(certificate)


def verify_leaf(certificate: Certificate, purpose: Purpose) -> str:
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


def _verify_extensions(certificate: Certificate) -> None:
    for name, critical in certificate.extensions.items():
        if critical and name not in HANDLED_EXTENSIONS:
            raise SignerUntrusted(f"certificate {subject_of(certificate)!r} has the unknown critical extension {name}")
        if name == NAME_CONSTRAINTS:  # critical or not: the CA's owner limited it
            raise SignerUntrusted(f"certificate {subject_of(certificate)!r} has name constraints, which are not judged")


def _verify_usage(certificate: Certificate, purpose: Purpose) -> None:
    name = subject_of(certificate)
    constraints, usage = certificate.basic_constraints, certificate.key_usage
    uses = certificate.extended_key_usage
    if constraints is not None and constraints.ca:
        raise SignerUntrusted(f"certificate {name!r} is a CA, not a {purpose}")
    if purpose == "ek":
        if uses is not None and _EK_USE not in uses:
            raise SignerUntrusted(f"certificate {name!r} is not for an endorsement key")
        return
    if purpose == "idevid":  # makers differ in all but this; the chain and the key decide
        if usage is None or "digital_signature" not in usage or "key_cert_sign" in usage:
            raise SignerUntrusted(f"certificate {name!r} is not for a signing key")
        return
    if usage is None or not certificate.extensions[KEY_USAGE] or "digital_signature" not in usage:
        raise SignerUntrusted(f"certificate {name!r} lacks a critical key usage with digitalSignature")
    if "key_cert_sign" in usage:
        raise SignerUntrusted(f"certificate {name!r} may sign certificates: not a {purpose}'s")
    if purpose == "timestamp":
        if uses != (_TIME_STAMPING,) or not certificate.extensions[EXTENDED_KEY_USAGE]:
            raise SignerUntrusted(f"certificate {name!r} is not for timestamps only")
        return
    if uses is not None and _CODE_SIGNING not in uses:
        raise SignerUntrusted(f"certificate {name!r} is for other uses than signing artifacts")
    if purpose in ("device", "enroller", "roster", "importer") and key_of(certificate).curve != "secp256r1":
        raise SignerUntrusted(f"certificate {name!r}: a {purpose} key is ECDSA P-256")


def _identity_name(certificate: Certificate, purpose: Purpose) -> str:
    if purpose in ("timestamp", "ek", "idevid"):
        return name_text(certificate.subject)
    names = [str(value) for kind, value in certificate.alternative_names if kind in ("uri", "email")]
    if len(names) > 1:
        raise SignerUntrusted(f"certificate {subject_of(certificate)!r} has more than one name")
    name = names[0] if names else ""
    if purpose == "publisher":
        for role, prefix in ROLE_URN_PREFIXES.items():
            if name.startswith(prefix):
                raise SignerUntrusted(f"{name} is {_ARTICLE[role]}, not a publisher")
        return name or "x509.subject:" + name_text(certificate.subject)
    prefix = ROLE_URN_PREFIXES[purpose]
    if not name.startswith(prefix) or len(name) == len(prefix):
        raise SignerUntrusted(f"certificate {subject_of(certificate)!r} does not name {_ARTICLE[purpose]}")
    return name
