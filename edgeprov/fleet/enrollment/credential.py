# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TPM2_MakeCredential in software: a secret that only the TPM with this EK and this AK can read.

The enroller sends it; a device that returns the secret has shown that the key in the TPM maker's
certificate and the AK are in one chip.

Spec: TPM 2.0 Library, Part 1, 24 (credential protection), 11.4.10 (KDFa, KDFe), B.10.4 and C.6.4
(secret sharing by RSA-OAEP and ECDH); Part 2, 12.2.4 (TPMT_PUBLIC).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgeprov.errors import FormatError
from edgeprov.formats.tpmt import DECRYPT, FIXED_PARENT, FIXED_TPM, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN, TpmReader

_RSA: Final = 0x0001
_ECC: Final = 0x0023
_AES: Final = 0x0006
_CFB: Final = 0x0043
_NULL: Final = 0x0010
_HASHES: Final = {0x000B: "sha256", 0x000C: "sha384"}
_CURVES: Final[dict[int, ec.EllipticCurve]] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1()}
_ORDERS: Final = {  # SEC 2, 2.4.2 and 2.5.1
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
}
_RSA_BITS: Final = 2048
_BLOCK: Final = 16
_RANDOMNESS: Final = 64
_EK_ATTRIBUTES: Final = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT


@dataclass(frozen=True, slots=True, kw_only=True)
class EndorsementPublic:
    """Public area of an EK: RSA 2048, NIST P-256 or NIST P-384, with AES in CFB mode.

    Attributes:
        key: The public key.
        hash_name: Name algorithm, for hashlib.
        symmetric_bits: AES key length.
    """

    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    hash_name: str
    symmetric_bits: int

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def parse_ek_public(raw: bytes) -> EndorsementPublic:
    """Read the TPMT_PUBLIC of an EK.

    Raises:
        FormatError: No EK of a known kind: another algorithm, or not a restricted decryption key of a TPM.
    """
    reader = TpmReader(raw, "EK public area")
    kind, hash_algorithm, attributes = reader.uint(2), reader.uint(2), reader.uint(4)
    reader.sized()  # the policy is the TPM's business
    symmetric, bits, mode, scheme = (reader.uint(2) for _ in range(4))
    if attributes & _EK_ATTRIBUTES != _EK_ATTRIBUTES or attributes & SIGN:
        raise FormatError("EK public area: not a restricted decryption key that was born in a TPM")
    if hash_algorithm not in _HASHES or (symmetric, mode, scheme) != (_AES, _CFB, _NULL) or bits not in (128, 256):
        raise FormatError("EK public area: algorithms that edgeprov does not know")
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    try:
        if kind == _RSA:
            reader.take(2)  # key bits: the modulus tells
            exponent = reader.uint(4) or 65537
            key = rsa.RSAPublicNumbers(exponent, int.from_bytes(reader.sized(), "big")).public_key()
            if key.key_size != _RSA_BITS:
                raise FormatError(f"EK public area: RSA of {key.key_size} bits, not {_RSA_BITS}")
        elif kind == _ECC and (curve := _CURVES.get(reader.uint(2))) is not None and reader.uint(2) == _NULL:
            x, y = int.from_bytes(reader.sized(), "big"), int.from_bytes(reader.sized(), "big")
            key = ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
        else:
            raise FormatError("EK public area: neither RSA nor NIST P-256 nor P-384")
    except ValueError as error:
        raise FormatError("EK public area: not a public key") from error
    reader.end()
    return EndorsementPublic(key=key, hash_name=_HASHES[hash_algorithm], symmetric_bits=bits)


def sha256_hex(data: bytes) -> str:
    """SHA-256 as hex digits, as deny lists name keys."""
    return hashlib.sha256(data).hexdigest()


def make_credential(
    public: EndorsementPublic, ak_name: bytes, credential: bytes, randomness: bytes
) -> tuple[bytes, bytes]:
    """Wrap a credential for one EK and one AK.

    Args:
        public: The EK.
        ak_name: TPM Name of the AK (34 bytes).
        credential: What the TPM shall return; at most as long as the EK's hash.
        randomness: 64 secret random bytes, never used before.

    Returns:
        TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, both without their lengths.
    """
    if len(randomness) < _RANDOMNESS:
        raise ValueError("make_credential needs 64 random bytes")
    size = hashlib.new(public.hash_name).digest_size
    if isinstance(public.key, rsa.RSAPublicKey):
        seed = randomness[:size]
        algorithm = hashes.SHA256() if public.hash_name == "sha256" else hashes.SHA384()
        oaep = padding.OAEP(mgf=padding.MGF1(algorithm), algorithm=algorithm, label=b"IDENTITY\0")
        secret = public.key.encrypt(seed, oaep)
    else:
        seed, secret = _share_by_ecdh(public.hash_name, public.key, randomness)
    key = _kdfa(public.hash_name, seed, b"STORAGE", ak_name, public.symmetric_bits)
    encrypted = _encrypt_cfb(key, _sized(credential))
    mac_key = _kdfa(public.hash_name, seed, b"INTEGRITY", b"", size * 8)
    mac = hmac.digest(mac_key, encrypted + ak_name, public.hash_name)
    return _sized(mac) + encrypted, secret


def _share_by_ecdh(hash_name: str, key: ec.EllipticCurvePublicKey, randomness: bytes) -> tuple[bytes, bytes]:
    # 512 random bits leave a bias below 2**-128 when reduced to a scalar of either curve.
    scalar = int.from_bytes(randomness, "big") % (_ORDERS[key.curve.name] - 1) + 1
    ephemeral = ec.derive_private_key(scalar, key.curve)
    size = (key.curve.key_size + 7) // 8
    mine, theirs = ephemeral.public_key().public_numbers(), key.public_numbers()
    x, y = mine.x.to_bytes(size, "big"), mine.y.to_bytes(size, "big")
    shared = ephemeral.exchange(ec.ECDH(), key)
    material = struct.pack(">I", 1) + shared + b"IDENTITY\0" + x + theirs.x.to_bytes(size, "big")  # KDFe
    return hashlib.new(hash_name, material).digest(), _sized(x) + _sized(y)


def _kdfa(hash_name: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    # One round is enough: no key here is longer than the hash.
    message = struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", bits)
    return hmac.digest(key, message, hash_name)[: bits // 8]


def _encrypt_cfb(key: bytes, plain: bytes) -> bytes:
    # CFB by hand over single blocks: the ready-made mode is on its way out of `cryptography`.
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - a building block of CFB
    before, done = bytes(_BLOCK), b""
    for start in range(0, len(plain), _BLOCK):
        stream = block.update(before)
        before = bytes(a ^ b for a, b in zip(plain[start : start + _BLOCK], stream, strict=False))
        done += before
    return done


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
