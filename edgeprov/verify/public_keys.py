# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Public keys and signatures: which algorithms are accepted, and the verification itself.

One scheme per kind of key, so that algorithms cannot be mixed up: P-256 signs SHA-256, P-384 signs
SHA-384 (cosign v2 in key mode: SHA-256), Ed25519 signs the message. Devices have P-256 only.
Of verify, this module and those of certificates (certificates, certificate_rules, x509path) import ``cryptography``.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from edgeprov.errors import FormatError, SignatureInvalid
from edgeprov.formats.ecdsa import encode_ecdsa_der, encode_p256_spki

PublicKey = ec.EllipticCurvePublicKey | Ed25519PublicKey

_SHA256 = ec.ECDSA(Prehashed(SHA256()))
_SHA384 = ec.ECDSA(Prehashed(SHA384()))
_COORDINATES = 64
_HASHES = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}


@lru_cache(maxsize=8_192)
def load_key(spki: bytes) -> PublicKey:
    """Decode a SubjectPublicKeyInfo.

    Raises:
        FormatError: Not a key, a point off the curve, or an algorithm that is not accepted.
    """
    try:
        return _accepted(load_der_public_key(spki))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError("not a usable public key") from error


def load_pem_key(pem: bytes) -> bytes:
    """Read a PEM public key and return its SubjectPublicKeyInfo (DER).

    Raises:
        FormatError: As load_key.
    """
    try:
        key = _accepted(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError("not a usable public key") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def verify_ecdsa(key: bytes, signature_der: bytes, digest: bytes, what: str = "signature") -> None:
    """Verify a P-256 signature over a SHA-256 digest.

    Args:
        key: SubjectPublicKeyInfo in DER, or the 64 bytes x || y of the point.
        signature_der: Ecdsa-Sig-Value.
        digest: 32 bytes.
        what: Named in the error.

    Raises:
        SignatureInvalid: It does not fit.
        FormatError: Not a P-256 key.
    """
    spki = encode_p256_spki(key[:32], key[32:]) if len(key) == _COORDINATES else key
    public = load_key(spki)
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.key_size != 256:
        raise FormatError(f"{what}: the key is not ECDSA P-256")
    try:
        public.verify(signature_der, digest, _SHA256)
    except (InvalidSignature, ValueError) as error:
        raise SignatureInvalid(f"{what} does not fit the signed bytes") from error


def verify_message(key: bytes, signature: bytes, message: bytes, what: str = "signature") -> None:
    """Verify a publisher's signature in the encoding of cosign: DER for ECDSA, plain for Ed25519.

    Args:
        key: SubjectPublicKeyInfo in DER.
        signature: As found in a bundle or annotation.
        message: The signed bytes.
        what: Named in the error.

    Raises:
        SignatureInvalid: It does not fit.
        FormatError: A key that is not accepted.
    """
    public = load_key(key)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        try:
            public.verify(signature, message)
        except InvalidSignature as error:
            raise SignatureInvalid(f"{what} does not fit the signed bytes") from error
        return
    if public.key_size == 256:
        verify_ecdsa(key, signature, hashlib.sha256(message).digest(), what)
        return
    for digest, algorithm in ((hashlib.sha384(message).digest(), _SHA384), (hashlib.sha256(message).digest(), _SHA256)):
        try:
            public.verify(signature, digest, algorithm)
        except (InvalidSignature, ValueError):
            continue
        return
    raise SignatureInvalid(f"{what} does not fit the signed bytes")


def verify_jws(key: bytes, algorithm: str, signature: bytes, message: bytes) -> None:
    """Verify a JWS signature (r || s).

    Args:
        key: SubjectPublicKeyInfo in DER.
        algorithm: ES256 or ES384; the key must be of that curve.
        signature: 64 or 96 bytes.
        message: The JWS signing input.

    Raises:
        SignatureInvalid: It does not fit, or algorithm and key do not belong together.
    """
    public = load_key(key)
    size = {"ES256": 32, "ES384": 48}.get(algorithm, 0)
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.key_size != 8 * size:
        raise SignatureInvalid(f"notation signature: {algorithm[:20]} does not belong to the key in the certificate")
    if len(signature) != 2 * size:
        raise SignatureInvalid(f"notation signature has {len(signature)} bytes, not {2 * size}")
    r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    if size == 32:
        digest, scheme = hashlib.sha256(message).digest(), _SHA256
    else:
        digest, scheme = hashlib.sha384(message).digest(), _SHA384
    try:
        public.verify(encode_ecdsa_der(r, s), digest, scheme)
    except (InvalidSignature, ValueError) as error:
        raise SignatureInvalid("notation signature does not fit the signed bytes") from error


def verify_cms(key: bytes, signature: bytes, message: bytes, hash_name: str, what: str) -> None:
    """Verify a CMS signature of a timestamp authority: ECDSA, or RSA PKCS #1 v1.5 with at least 2048 bits.

    Args:
        key: SubjectPublicKeyInfo in DER.
        signature: As in the SignerInfo.
        message: DER of the signed attributes.
        hash_name: ``sha256``, ``sha384`` or ``sha512``.
        what: Named in the error.

    Raises:
        SignatureInvalid: It does not fit, or the key is of another kind.
    """
    algorithm = _HASHES[hash_name]
    try:
        public = load_der_public_key(key)
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, message, ec.ECDSA(algorithm))
            return
        if isinstance(public, rsa.RSAPublicKey) and public.key_size >= 2048:
            public.verify(signature, message, padding.PKCS1v15(), algorithm)
            return
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise SignatureInvalid(f"{what}'s signature does not fit") from error
    raise SignatureInvalid(f"{what} is signed with a kind of key that is not accepted")


def _accepted(key: object) -> PublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, Ed25519PublicKey):
        return key
    raise FormatError("public key is not ECDSA P-256, ECDSA P-384 or Ed25519")
