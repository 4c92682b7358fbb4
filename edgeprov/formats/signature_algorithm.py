# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""AlgorithmIdentifier of the signature of a certificate.

Spec: RFC 5758 (ECDSA), RFC 4055 (RSA, RSASSA-PSS).
"""

from __future__ import annotations

from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.der import NULL, OID, SEQUENCE, Der

_ECDSA: Final = bytes.fromhex("2a8648ce3d0403")  # and 2, 3, 4 for the hash
_RSA: Final = bytes.fromhex("2a864886f70d0101")  # and 0b, 0c, 0d
_NAMES: Final = {
    **{_ECDSA + bytes((2 + place,)): ("ec", name) for place, name in enumerate(("sha256", "sha384", "sha512"))},
    **{_RSA + bytes((0x0B + place,)): ("rsa", name) for place, name in enumerate(("sha256", "sha384", "sha512"))},
}
_PSS: Final = _RSA + b"\x0a"
_MGF1: Final = _RSA + b"\x08"
HASHES: Final = {
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}
_HASH, _MASK, _SALT = 0xA0, 0xA1, 0xA2


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """How something is signed: kind of key (``ec`` or ``rsa``), hash, and the salt's length for RSASSA-PSS."""

    key: str
    hash_name: str
    pss_salt: int | None = None


def parse_signature_algorithm(der: bytes) -> SignatureAlgorithm | None:
    """Decode an AlgorithmIdentifier.

    Returns:
        None for an algorithm that is not read, SHA-1 and Ed25519 among them.

    Raises:
        FormatError: Malformed.
    """
    body = Der(der).enter(SEQUENCE)
    name = body.oid()
    if name == _PSS:
        return _pss(body)
    if name not in _NAMES:
        return None
    key, hash_name = _NAMES[name]
    if key == "rsa" and body.tag == NULL:
        _null(body)
    body.end()
    return SignatureAlgorithm(key, hash_name)


def _pss(body: Der) -> SignatureAlgorithm | None:
    parameters = body.enter(SEQUENCE)
    body.end()
    if parameters.tag != _HASH:
        return None  # the default is SHA-1
    hash_name = _hash(parameters.explicit(_HASH, SEQUENCE))
    mask = parameters.explicit(_MASK, SEQUENCE)
    if mask.take(OID) != _MGF1 or _hash(mask.enter(SEQUENCE)) != hash_name or not hash_name:
        return None
    mask.end()
    tagged = parameters.enter(_SALT)
    salt = tagged.integer()
    tagged.end()
    parameters.end()  # the trailer has its default, which DER leaves out
    return SignatureAlgorithm("rsa", hash_name, salt) if 0 <= salt <= 64 else None


def _hash(body: Der) -> str:
    name = HASHES.get(body.oid(), "")
    if body.tag == NULL:
        _null(body)
    body.end()
    return name


def _null(body: Der) -> None:
    if body.take(NULL):
        raise FormatError("DER null is not empty")
