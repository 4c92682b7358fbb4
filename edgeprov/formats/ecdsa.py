# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The encodings of ECDSA keys and signatures: DER of X.509, and the fixed-length form of JOSE.

Spec: RFC 3279 section 2.2.3 (Ecdsa-Sig-Value); RFC 5480 section 2 (SubjectPublicKeyInfo); RFC 7518 section 3.4 (JOSE).
"""

from __future__ import annotations

from typing import Final

from edgeprov.errors import FormatError

_P256_PREFIX: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""SubjectPublicKeyInfo up to the coordinates of an uncompressed point."""

_DER_BYTES: Final = 144  # P-521 would need 139; what is longer is no signature


def encode_p256_spki(x: bytes, y: bytes) -> bytes:
    """SubjectPublicKeyInfo (DER, 91 bytes) of a P-256 point given by two 32-byte coordinates.

    Spec: RFC 5480, section 2.
    """
    return _P256_PREFIX + x + y


def encode_ecdsa_der(r: int, s: int) -> bytes:
    """Ecdsa-Sig-Value in DER.

    Spec: RFC 3279, section 2.2.3.
    """
    body = _der_integer(r) + _der_integer(s)
    head = bytes((0x30, len(body))) if len(body) < 0x80 else bytes((0x30, 0x81, len(body)))
    return head + body


def parse_ecdsa_der(der: bytes) -> tuple[int, int]:
    """Read an Ecdsa-Sig-Value; only the one DER encoding of two positive integers is accepted.

    Raises:
        FormatError: Anything else.
    """
    if len(der) > _DER_BYTES:
        raise FormatError(f"ECDSA signature of {len(der)} bytes")
    try:
        start = 3 if der[1] == 0x81 else 2
        r_end = start + 2 + der[start + 1]
        r = int.from_bytes(der[start + 2 : r_end], "big")
        s = int.from_bytes(der[r_end + 2 : r_end + 2 + der[r_end + 1]], "big")
    except IndexError:
        raise FormatError("ECDSA signature is cut short") from None
    if r <= 0 or s <= 0 or encode_ecdsa_der(r, s) != der:
        raise FormatError("ECDSA signature is not DER")
    return r, s


def encode_ecdsa_raw(der: bytes, size: int = 32) -> bytes:
    """The fixed-length form r || s that JOSE uses, each ``size`` bytes.

    Raises:
        FormatError: Not a DER signature of this size.
    """
    r, s = parse_ecdsa_der(der)
    if max(r, s).bit_length() > 8 * size:
        raise FormatError(f"ECDSA signature does not fit {size} bytes")
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _der_integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "big")  # a leading zero where the top bit is set
    return bytes((2, len(data))) + data
