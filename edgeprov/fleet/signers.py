# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Signing with a key in a PEM file: publishers, enrollers and collectors; and hanging the result on an artifact.

A key in an HSM or a cloud service fits the same seam: formats.envelope.Signer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from edgeprov.errors import ConfigError, FormatError
from edgeprov.formats.bundle import build_bundle, build_signature_manifest
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.envelope import Signer, pae_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import IN_TOTO_PAYLOAD, SIGSTORE_BUNDLE
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes
from edgeprov.verify.certificates import certificate_spki, parse_pem_certificates


@dataclass(frozen=True, slots=True)
class PemSigner:
    """A P-256 key in memory, with the certificates that name its owner (none in key mode)."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate_chain: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def public_key_spki(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA over 32 bytes of SHA-256, DER."""
        return self.key.sign(digest, ec.ECDSA(Prehashed(SHA256())))


def load_signer(key: Path, certificate: Path | None = None) -> PemSigner:
    """Read a private key and, if given, its certificate chain (leaf first).

    Raises:
        ConfigError: Not an unencrypted P-256 key, or the first certificate belongs to another key.
        NotStored: No such file.
    """
    try:
        private = load_pem_private_key(load_bytes(key, max_bytes=LIMITS.trust_file_bytes, what=str(key)), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{key} is not an unencrypted PEM private key", advice="Give an ECDSA P-256 key.") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ConfigError(f"{key} is not an ECDSA P-256 key", advice="Signatures of edgeprov are ECDSA P-256.")
    if certificate is None:
        return PemSigner(private)
    raw = load_bytes(certificate, max_bytes=LIMITS.trust_file_bytes, what=str(certificate))
    try:
        chain = parse_pem_certificates(raw, str(certificate))
    except FormatError as error:
        raise ConfigError(error.message) from error
    signer = PemSigner(private, chain)
    if certificate_spki(chain[0]) != signer.public_key_spki:
        raise ConfigError(f"the first certificate of {certificate} does not belong to the key {key}")
    return signer


def sign_statement(signer: Signer, statement: bytes) -> bytes:
    """A sigstore bundle around a statement: certificate mode where the signer has one, else key mode."""
    signature = signer.sign_digest(pae_digest(IN_TOTO_PAYLOAD, statement))
    chain = signer.certificate_chain
    if chain:
        return build_bundle(statement=statement, signature_der=signature, certificate=chain[0])
    hint = hashlib.sha256(signer.public_key_spki).digest()
    return build_bundle(statement=statement, signature_der=signature, key_hint=hint)


def signature_artifact(
    signer: Signer, subject: Descriptor, statement: bytes, predicate_type: str, created: str | None
) -> tuple[Manifest, bytes]:
    """Sign, and wrap as the referrer that cosign looks for; returns its manifest and its blob."""
    blob = sign_statement(signer, statement)
    return build_signature_manifest(subject, describe(blob, SIGSTORE_BUNDLE), predicate_type, created), blob
