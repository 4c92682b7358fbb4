# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""SubjectPublicKeyInfo: which kind of key, and its numbers. Whether a point lies on its curve is not looked at here.

Spec: RFC 5480 section 2 (ECDSA), RFC 8017 appendix A.1 (RSA), RFC 8410 section 4 (Ed25519). Only the one encoding
that these ask for is read: a named curve, an uncompressed point, NULL beside RSA.
"""

from __future__ import annotations

from typing import Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.der import NULL, SEQUENCE, whole_der

_EC: Final = bytes.fromhex("2a8648ce3d0201")
_RSA: Final = bytes.fromhex("2a864886f70d010101")
_ED25519: Final = bytes.fromhex("2b6570")
_CURVES: Final = {
    bytes.fromhex("2a8648ce3d030101"): ("secp192r1", 192),
    bytes.fromhex("2b81040021"): ("secp224r1", 224),
    bytes.fromhex("2a8648ce3d030107"): ("secp256r1", 256),
    bytes.fromhex("2b81040022"): ("secp384r1", 384),
    bytes.fromhex("2b81040023"): ("secp521r1", 521),
    bytes.fromhex("2b2403030208010107"): ("brainpoolP256r1", 256),
    bytes.fromhex("2b240303020801010b"): ("brainpoolP384r1", 384),
    bytes.fromhex("2b240303020801010d"): ("brainpoolP512r1", 512),
}
_RSA_BITS: Final = range(1024, 8193)  # what a signature costs grows with the size


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectKey:
    """A public key.

    Attributes:
        kind: ``ec``, ``rsa`` or ``ed25519``.
        bits: Size of the curve or of the modulus.
        curve: Name of the curve as OpenSSL writes it; empty where there is none.
        point: Uncompressed point (0x04 and both coordinates), or the 32 bytes of Ed25519.
        modulus: Of RSA, else 0.
        exponent: Of RSA, else 0.
    """

    kind: str
    bits: int
    curve: str = ""
    point: bytes = field(default=b"", repr=False)
    modulus: int = field(default=0, repr=False)
    exponent: int = 0


def parse_subject_key(spki: bytes) -> SubjectKey:
    """Decode a SubjectPublicKeyInfo.

    Raises:
        FormatError: Not one, or a kind of key, curve or encoding that is not read.
    """
    info = whole_der(spki)
    algorithm = info.enter(SEQUENCE)
    kind, bits = algorithm.oid(), info.bits()
    info.end()
    if kind == _EC:
        curve = algorithm.oid()
        algorithm.end()
        name, size = _CURVES.get(curve, ("", 0))
        if not size:
            raise FormatError("public key is on a curve that is not read")
        if len(bits) != 1 + 2 * ((size + 7) // 8) or bits[0] != 4:
            raise FormatError("public key is not an uncompressed point of its curve")
        return SubjectKey(kind="ec", bits=size, curve=name, point=bits)
    if kind == _RSA:
        if algorithm.take(NULL):
            raise FormatError("parameters of an RSA key are not NULL")
        algorithm.end()
        numbers = whole_der(bits)
        modulus, exponent = numbers.integer(), numbers.integer()
        numbers.end()
        size = modulus.bit_length()
        if modulus <= 0 or size not in _RSA_BITS or not modulus & 1 or not (3 <= exponent < 1 << 64 and exponent & 1):
            raise FormatError("RSA key has numbers that are not accepted")
        return SubjectKey(kind="rsa", bits=size, modulus=modulus, exponent=exponent)
    algorithm.end()
    if kind == _ED25519 and len(bits) == 32:
        return SubjectKey(kind="ed25519", bits=256, point=bits)
    raise FormatError("public key is of a kind that is not read")
