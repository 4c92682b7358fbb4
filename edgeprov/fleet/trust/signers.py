# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Signing with a key in a PEM file or behind a command: publishers, enrollers, collectors; and wrapping the result.

Every signer follows formats.envelope.Signer, as a device's TPM does: only digests cross the seam.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from edgeprov.errors import ConfigError, EdgeprovError, FormatError
from edgeprov.formats.bundle import build_bundle, build_signature_manifest
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.ecdsa import encode_ecdsa_der
from edgeprov.formats.envelope import Signer, pae_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import IN_TOTO_PAYLOAD
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes
from edgeprov.verify.certificates import certificate_spki, parse_pem_certificates
from edgeprov.verify.public_keys import verify_ecdsa

_SIGN_S = 120.0  # a person may have to touch the token
_RAW_BYTES = 64


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


@dataclass(frozen=True, slots=True)
class CommandSigner:
    """A key that stays where it is: in a PKCS#11 token, a TPM, an HSM or a cloud service, behind a command.

    The command gets the 32 bytes to sign on stdin and writes an ECDSA P-256 signature to stdout, in DER
    or as r || s, as ``pkcs11-tool --sign``, ``tpm2_sign -f plain`` and ``openssl pkeyutl -sign`` do. What comes
    back is verified with the certificate's key before it is used.
    """

    command: tuple[str, ...]
    certificate_chain: tuple[bytes, ...] = field(repr=False)

    @property
    def public_key_spki(self) -> bytes:
        """SubjectPublicKeyInfo in DER, from the certificate."""
        return certificate_spki(self.certificate_chain[0])

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA over 32 bytes of SHA-256, DER.

        Raises:
            ConfigError: The command failed, or signed with another key.
        """
        name = self.command[0]
        try:
            done = subprocess.run(self.command, input=digest, capture_output=True, timeout=_SIGN_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"the signing command {name} cannot be run: {error}") from error
        if done.returncode != 0:
            reason = done.stderr.decode(errors="replace").strip().splitlines()
            raise ConfigError(f"the signing command {name} failed: {reason[-1] if reason else done.returncode}")
        raw = done.stdout
        if len(raw) == _RAW_BYTES:
            raw = encode_ecdsa_der(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        try:
            verify_ecdsa(self.public_key_spki, raw, digest, f"what {name} wrote")
        except EdgeprovError as error:
            raise ConfigError(f"{error.message}; is it the key of the certificate?") from error
        return raw


def load_command_signer(command: str, certificate: Path) -> CommandSigner:
    """A signer behind a command.

    Args:
        command: As typed in a shell; split like one, but run without one.
        certificate: PEM chain of its key, leaf first.

    Raises:
        ConfigError: No command, or not a certificate chain.
        NotStored: No such file.
    """
    try:
        parts = tuple(shlex.split(command))
    except ValueError as error:
        raise ConfigError(f"the signing command cannot be split: {error}") from error
    if not parts:
        raise ConfigError("the signing command is empty")
    raw = load_bytes(certificate, max_bytes=LIMITS.trust_file_bytes, what=str(certificate))
    try:
        return CommandSigner(parts, parse_pem_certificates(raw, str(certificate)))
    except FormatError as error:
        raise ConfigError(error.message) from error


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
    return build_signature_manifest(subject, blob, predicate_type, created), blob
