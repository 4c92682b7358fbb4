# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""An endorsement key (EK) in software: its certificate, and TPM2_ActivateCredential.

Spec: TPM 2.0 Library, Part 1, 24 and C.6.4; Part 3, TPM2_ActivateCredential.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509 import ObjectIdentifier

from edgeprov.formats import tpmt
from tests.support import pki
from tests.support.softtpm import soft_key

_USAGE = ObjectIdentifier("2.23.133.8.1")
INFINEON = "49465800"


def tcg_names(manufacturer: str) -> list[x509.GeneralName]:
    """The TPM attributes of an EK certificate; ``manufacturer`` is a TCG vendor id in hex."""
    values = (("2.23.133.2.1", f"id:{manufacturer}"), ("2.23.133.2.2", "SLB9672"), ("2.23.133.2.3", "id:0F15"))
    return [x509.DirectoryName(x509.Name([x509.NameAttribute(ObjectIdentifier(key), value) for key, value in values]))]


class SoftEk:
    """An EK on P-256 with AES-128, as the TCG template L-2 makes it."""

    def __init__(self, seed: str, maker: pki.Issued, *, manufacturer: str | None = INFINEON) -> None:
        self.key = soft_key(seed + "/ek")
        san = tcg_names(manufacturer) if manufacturer else []
        self.certificate = maker.issue(
            pki.name(f"EK {seed}"), self.key, usage=pki.key_usage(key_agreement=True), eku=[_USAGE], san=san
        ).der

    @property
    def public(self) -> bytes:
        """TPMT_PUBLIC."""
        attributes = tpmt.FIXED_TPM | tpmt.FIXED_PARENT | tpmt.SENSITIVE_DATA_ORIGIN | tpmt.RESTRICTED | tpmt.DECRYPT
        numbers = self.key.public_key().public_numbers()
        return (
            struct.pack(">HHIH", tpmt.ALG_ECC, tpmt.ALG_SHA256, attributes, 32)
            + bytes(32)
            + struct.pack(">HHHHHH", 0x0006, 128, 0x0043, tpmt.ALG_NULL, tpmt.ECC_NIST_P256, tpmt.ALG_NULL)
            + struct.pack(">H32sH32s", 32, numbers.x.to_bytes(32, "big"), 32, numbers.y.to_bytes(32, "big"))
        )

    def activate(self, blob: bytes, secret: bytes, ak_name: bytes) -> bytes:
        """What the TPM with this EK and an AK of this Name returns; raises where the credential is for another."""
        point = ec.EllipticCurvePublicNumbers(
            int.from_bytes(secret[2:34], "big"), int.from_bytes(secret[36:68], "big"), ec.SECP256R1()
        )
        shared = self.key.exchange(ec.ECDH(), point.public_key())
        mine = self.key.public_key().public_numbers().x.to_bytes(32, "big")
        seed = hashlib.sha256(struct.pack(">I", 1) + shared + b"IDENTITY\0" + secret[2:34] + mine).digest()
        size = int.from_bytes(blob[:2], "big")
        mac, encrypted = blob[2 : 2 + size], blob[2 + size :]
        key = _kdfa(seed, b"INTEGRITY", b"", 256)
        if not hmac.compare_digest(hmac.digest(key, encrypted + ak_name, "sha256"), mac):
            raise ValueError("the credential is for another EK or AK")
        # CFB by hand: its ready-made mode warns that it moves.
        block = Cipher(algorithms.AES(_kdfa(seed, b"STORAGE", ak_name, 128)), modes.ECB()).encryptor()
        before, plain = bytes(16), b""
        for start in range(0, len(encrypted), 16):
            part = encrypted[start : start + 16]
            plain += bytes(a ^ b for a, b in zip(part, block.update(before), strict=False))
            before = part
        return plain[2 : 2 + int.from_bytes(plain[:2], "big")]


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    message = struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", bits)
    return hmac.digest(key, message, "sha256")[: bits // 8]
