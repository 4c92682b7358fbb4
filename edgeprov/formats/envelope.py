# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""DSSE: the bytes that a signature over a typed payload covers, and the seam to whoever holds the key.

Spec: DSSE v1, protocol.md (secure-systems-lab/dsse).
"""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable


@runtime_checkable
class Signer(Protocol):
    """A key that signs digests: in a TPM, in a PKCS#11 token, or in a PEM file.

    Only digests cross this seam, because that is all that a TPM key needs to see.
    """

    @property
    def certificate_chain(self) -> tuple[bytes, ...]:
        """DER certificates, leaf first, root last; empty in key mode."""

    @property
    def public_key_spki(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes of SHA-256; returns an ECDSA signature in DER."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: what is signed.

    Args:
        payload_type: Media type of the payload.
        payload: The exact payload bytes, not base64.
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def pae_digest(payload_type: str, payload: bytes) -> bytes:
    """SHA-256 of the pre-authentication encoding (32 bytes): what a Signer is given."""
    return hashlib.sha256(pae(payload_type, payload)).digest()
