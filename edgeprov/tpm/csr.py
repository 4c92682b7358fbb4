# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A certificate signing request for the SK, signed by the TPM.

Spec: RFC 2986; FORMAT.md "Certificates".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID

from edgeprov.errors import TpmError

if TYPE_CHECKING:
    from edgeprov.tpm.device import Tpm


class TpmPrivateKey(ec.EllipticCurvePrivateKey):
    """What `cryptography` takes for a P-256 private key; the private part never leaves the TPM."""

    def __init__(self, spki: bytes, sign_digest: Callable[[bytes], bytes]) -> None:
        """Hold the public part and the way to sign."""
        key = load_der_public_key(spki)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TpmError("the TPM's SK is not an EC key")
        self._public = key
        self._sign = sign_digest

    @property
    def curve(self) -> ec.EllipticCurve:
        """NIST P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """256 bits."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public part."""
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign with ECDSA and SHA-256, in DER.

        Raises:
            TpmError: Another algorithm, or the TPM refused.
        """
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, utils.Prehashed) and len(data) == SHA256.digest_size:
            return self._sign(bytes(data))
        if not isinstance(algorithm, SHA256):
            raise TpmError("the TPM's SK signs SHA-256 digests only")
        return self._sign(hashlib.sha256(data).digest())

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:  # noqa: ARG002
        """Not possible with a signing key."""
        raise TpmError("the TPM's SK only signs")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Not possible: the number is in the TPM."""
        raise TpmError("the private key cannot leave the TPM")

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002, ARG002
        """Not possible: the number is in the TPM."""
        raise TpmError("the private key cannot leave the TPM")

    def __copy__(self) -> TpmPrivateKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TpmPrivateKey:
        return self


def create_csr(tpm: Tpm, *, common_name: str, uri: str) -> bytes:
    """A request in DER for the device's SK, with ``uri`` as its one subject alternative name.

    Args:
        tpm: The TPM with an identity.
        common_name: The device's serial.
        uri: ``urn:edgeprov:device:<serial>``.

    Raises:
        IdentityError: No identity in this TPM.
        TpmError: The TPM refused.
    """
    key = TpmPrivateKey(tpm.public_key_spki, tpm.sign_digest)

    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    )
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)
