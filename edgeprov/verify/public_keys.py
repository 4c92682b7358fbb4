# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Public keys and signatures: which algorithms are accepted, and the verification itself.

One scheme per kind of key, so that algorithms cannot be mixed up: P-256 signs SHA-256, P-384 signs
SHA-384 (cosign v2 in key mode: SHA-256), Ed25519 signs the message. Devices have P-256 only.
Of verify, this module alone imports ``cryptography``, and of it the primitives: RSA and Ed25519 where they are used.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from edgeprov.errors import FormatError, SignatureInvalid
from edgeprov.formats.ecdsa import encode_ecdsa_der, encode_p256_spki
from edgeprov.formats.pem import parse_pem
from edgeprov.formats.signature_algorithm import SignatureAlgorithm
from edgeprov.formats.subject_key import SubjectKey, parse_subject_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    PublicKey = ec.EllipticCurvePublicKey | Ed25519PublicKey


class _Ecdsa(ec.ECDSA):
    """The scheme for verifying alone: the library's own constructor loads all of its backend, to look at signing."""

    def __init__(self, algorithm: HashAlgorithm) -> None:
        self._algorithm = Prehashed(algorithm)
        self._deterministic_signing = False


_HASHES: Final[dict[str, HashAlgorithm]] = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
_ECDSA: Final = {name: _Ecdsa(algorithm) for name, algorithm in _HASHES.items()}
_SHA256, _SHA384 = _ECDSA["sha256"], _ECDSA["sha384"]
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "secp192r1": ec.SECP192R1,
    "secp224r1": ec.SECP224R1,
    "secp256r1": ec.SECP256R1,
    "secp384r1": ec.SECP384R1,
    "secp521r1": ec.SECP521R1,
    "brainpoolP256r1": ec.BrainpoolP256R1,
    "brainpoolP384r1": ec.BrainpoolP384R1,
    "brainpoolP512r1": ec.BrainpoolP512R1,
}
_COORDINATES = 64


@lru_cache(maxsize=8_192)
def load_key(spki: bytes) -> PublicKey:
    """Decode a SubjectPublicKeyInfo.

    Raises:
        FormatError: Not a key, a point off the curve, or an algorithm that is not accepted.
    """
    try:
        key = parse_subject_key(spki)
    except FormatError as error:
        raise FormatError(f"not a usable public key: {error.message}") from error
    if key.kind != "ed25519" and key.curve not in ("secp256r1", "secp384r1"):
        raise FormatError("public key is not ECDSA P-256, ECDSA P-384 or Ed25519")
    loaded: PublicKey = load_subject_key(key)
    return loaded


@lru_cache(maxsize=8_192)
def load_subject_key(key: SubjectKey) -> Any:
    """Turn a public key into the library's.

    Raises:
        FormatError: A point off the curve, or a key that the library does not take.
    """
    try:
        if key.kind == "ec":
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[key.curve](), key.point)
        if key.kind == "rsa":
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

            return RSAPublicNumbers(key.exponent, key.modulus).public_key()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(key.point)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError("not a usable public key") from error


def load_pem_key(pem: bytes) -> bytes:
    """Read a PEM public key and return its SubjectPublicKeyInfo (DER).

    Raises:
        FormatError: As load_key.
    """
    try:
        (spki,) = parse_pem(pem, "PUBLIC KEY")
    except (FormatError, ValueError) as error:
        raise FormatError("not a usable public key") from error
    load_key(spki)
    return spki


def is_signed_by(key: SubjectKey, algorithm: SignatureAlgorithm, signature: bytes, message: bytes) -> bool:
    """Verify the signature of a certificate.

    Args:
        key: Of the issuer.
        algorithm: As the certificate names it.
        signature: Ecdsa-Sig-Value, or the number of RSA.
        message: The signed part.

    Raises:
        FormatError: As load_subject_key.
    """
    if key.kind != algorithm.key:
        return False
    public = load_subject_key(key)
    try:
        if key.kind == "ec":
            digest = hashlib.new(algorithm.hash_name, message).digest()
            public.verify(signature, digest, _ECDSA[algorithm.hash_name])
        else:
            _verify_rsa(public, algorithm, signature, message)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


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
    try:
        public = parse_subject_key(key)
        if public.kind == "ec" or (public.kind == "rsa" and public.bits >= 2048):
            if is_signed_by(public, SignatureAlgorithm(public.kind, hash_name), signature, message):
                return
            raise SignatureInvalid(f"{what}'s signature does not fit")
    except FormatError as error:
        raise SignatureInvalid(f"{what}'s signature does not fit") from error
    raise SignatureInvalid(f"{what} is signed with a kind of key that is not accepted")


def _verify_rsa(public: rsa.RSAPublicKey, algorithm: SignatureAlgorithm, signature: bytes, message: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric import padding

    chosen = _HASHES[algorithm.hash_name]
    if algorithm.pss_salt is None:
        public.verify(signature, message, padding.PKCS1v15(), chosen)
    else:
        public.verify(signature, message, padding.PSS(padding.MGF1(chosen), algorithm.pss_salt), chosen)
