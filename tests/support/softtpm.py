# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A TPM's outputs without a TPM: the same structures, signed by software keys.

For tests of verifiers and for generators of many kits; the real thing is tested against swtpm. Every
knob that an attacker could turn is an attribute. Keys come from a seed and signatures are
deterministic, so the same calls give the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgeprov.formats import tpmt
from edgeprov.formats.tpmt import Attestation

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# cryptography before 43, the oldest that edgeprov takes, cannot: verifiers are tested with it, bytes then differ.
DETERMINISTIC = hasattr(ec.ECDSA, "deterministic_signing")


def soft_key(seed: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key that is always the same for one seed. Public: never use it for anything real."""
    number = int.from_bytes(hashlib.sha512(b"edgeprov test key " + seed.encode()).digest(), "big")
    return ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP256R1())


def sign_der(key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """Deterministic ECDSA (RFC 6979) over a SHA-256 digest, DER."""
    options = {"deterministic_signing": True} if DETERMINISTIC else {}
    return key.sign(digest, ec.ECDSA(Prehashed(SHA256()), **options))


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_area(
    key: ec.EllipticCurvePrivateKey, attributes: int, *, scheme: int = tpmt.ALG_ECDSA, auth_policy: bytes = b""
) -> bytes:
    """TPMT_PUBLIC of a P-256 signing key."""
    numbers = key.public_key().public_numbers()
    return (
        struct.pack(">HHIH", tpmt.ALG_ECC, tpmt.ALG_SHA256, attributes, len(auth_policy))
        + auth_policy
        + struct.pack(">HHHHH", tpmt.ALG_NULL, scheme, tpmt.ALG_SHA256, tpmt.ECC_NIST_P256, tpmt.ALG_NULL)
        + struct.pack(">H32sH32s", 32, numbers.x.to_bytes(32, "big"), 32, numbers.y.to_bytes(32, "big"))
    )


def encode_signature(r: int, s: int) -> bytes:
    """The TPMT_SIGNATURE of an ECDSA signature with SHA-256."""
    head = struct.pack(">HH", tpmt.ALG_ECDSA, tpmt.ALG_SHA256)
    return head + struct.pack(">H32sH32s", 32, r.to_bytes(32, "big"), 32, s.to_bytes(32, "big"))


class SoftTpm:
    """What edgeprov asks of a TPM: the methods of edgeprov.tpm.device.Tpm that make evidence, and a Signer."""

    assurance = "dev"

    def __init__(self, seed: str, *, counter: int = 100, pcr: int = 14) -> None:
        self.seed = seed
        self.ak = soft_key(seed + "/ak")
        self.sk = soft_key(seed + "/sk")
        self.ak_attributes = tpmt.AK_ATTRIBUTES
        self.sk_attributes = tpmt.SK_ATTRIBUTES
        self.counter = counter
        self.counter_index = tpmt.COUNTER_INDEX
        self.counter_attributes = tpmt.COUNTER_ATTRIBUTES
        self.pcrs: dict[int, bytes] = {pcr: bytes(32)}
        self.pcr = pcr
        self.bank = tpmt.ALG_SHA256
        self.clock_ms = 60_000
        self.reset_count = 1
        self.restart_count = 0
        self.safe = True
        self.firmware_version = 0x20240125
        self.magic = tpmt.MAGIC
        self.certificate_chain: tuple[bytes, ...] = ()

    # -- keys -----------------------------------------------------------------------------------
    @property
    def ak_public(self) -> bytes:
        return public_area(self.ak, self.ak_attributes)

    @property
    def sk_public(self) -> bytes:
        return public_area(self.sk, self.sk_attributes)

    @property
    def public_key_spki(self) -> bytes:
        return spki(self.sk)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_der(self.sk, digest)

    # -- state ----------------------------------------------------------------------------------
    def reboot(self) -> None:
        self.pcrs = {pcr: bytes(32) for pcr in self.pcrs}
        self.reset_count += 1
        self.clock_ms += 5_000

    def pcr_event(self, data: bytes) -> None:
        self.pcrs[self.pcr] = hashlib.sha256(self.pcrs[self.pcr] + hashlib.sha256(data).digest()).digest()

    def read_pcr(self) -> bytes:
        return self.pcrs[self.pcr]

    def increment_counter(self) -> int:
        self.counter += 1
        return self.counter

    def read_counter(self) -> int:
        return self.counter

    # -- attestations ---------------------------------------------------------------------------
    def quote(
        self,
        qualifying: bytes,
        *,
        pcrs: Sequence[int] | None = None,
        model_pcr: bytes | None = None,
        values: dict[int, bytes] | None = None,
    ) -> Attestation:
        """Quote ``pcrs`` (default: all of `pcrs`); ``values`` replaces what stands beside the quote."""
        del model_pcr  # only spares a real TPM a command
        chosen = sorted(self.pcrs if pcrs is None else pcrs)
        bitmap = sum(1 << pcr for pcr in chosen).to_bytes(3, "little")
        digest = hashlib.sha256(b"".join(self.pcrs[pcr] for pcr in chosen)).digest()
        body = struct.pack(">IHB", 1, self.bank, 3) + bitmap + _sized(digest)
        beside = {pcr: self.pcrs[pcr] for pcr in chosen} if values is None else values
        quoted = self._attest(tpmt.ST_ATTEST_QUOTE, qualifying, body)
        return Attestation(attest=quoted.attest, signature=quoted.signature, pcrs=tuple(beside.items()))

    def certify_counter(
        self, qualifying: bytes, *, value: int | None = None, contents: bytes | None = None, offset: int = 0
    ) -> Attestation:
        name = tpmt.nv_name(self.counter_index, self.counter_attributes)
        data = contents if contents is not None else (self.counter if value is None else value).to_bytes(8, "big")
        return self._attest(tpmt.ST_ATTEST_NV, qualifying, _sized(name) + struct.pack(">H", offset) + _sized(data))

    def certify_sk(self, qualifying: bytes, *, public: bytes | None = None) -> Attestation:
        name = tpmt.name_of(public if public is not None else self.sk_public)
        return self._attest(tpmt.ST_ATTEST_CERTIFY, qualifying, _sized(name) + _sized(_qualified(name)))

    def sign_attest(self, attest: bytes, *, key: ec.EllipticCurvePrivateKey | None = None) -> Attestation:
        """Sign any bytes as the AK would sign its own: what a forger with a software key does."""
        r, s = decode_dss_signature(sign_der(key or self.ak, hashlib.sha256(attest).digest()))
        return Attestation(attest=attest, signature=encode_signature(r, s))

    def _attest(self, kind: int, qualifying: bytes, body: bytes) -> Attestation:
        self.clock_ms += 7
        head = (
            struct.pack(">IH", self.magic, kind) + _sized(_qualified(tpmt.name_of(self.ak_public))) + _sized(qualifying)
        )
        clock = struct.pack(
            ">QIIBQ", self.clock_ms, self.reset_count, self.restart_count, self.safe, self.firmware_version
        )
        return self.sign_attest(head + clock + body)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _qualified(name: bytes) -> bytes:
    return tpmt.name_of(struct.pack(">I", 0x4000000B) + name)  # a primary of the endorsement hierarchy
