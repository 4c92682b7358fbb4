# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Enrollment requests of devices with software TPMs, as `edgeprov identity csr` writes them."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edgeprov.formats.b64 import b64
from edgeprov.formats.devicerecord import encode_attestation, enroll_qualifying
from tests.support.endorsement import SoftEk
from tests.support.softtpm import SoftTpm

NONCE = bytes(range(16))


def csr(key: ec.EllipticCurvePrivateKey, serial: str, *names: str) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if names:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(item) for item in names])
        builder = builder.add_extension(san, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def request(
    tpm: SoftTpm, serial: str = "ward-1", *, nonce: bytes | None = None, ek: SoftEk | None = None, **changes: object
) -> dict:
    """A request; the nonce is another one for each TPM, and ``NONCE`` for the TPM of ward-1."""
    nonce = nonce or (NONCE if tpm.seed == "ward-1" else hashlib.sha256(tpm.seed.encode()).digest()[:16])
    certify, counter = tpm.certify_sk(enroll_qualifying(nonce)), tpm.certify_counter(enroll_qualifying(nonce))
    return {
        "type": "edgeprov.enrollment-request", "v": 1, "device": f"urn:edgeprov:device:{serial}", "csr": b64(csr(tpm.sk, serial)),
        "ak": b64(tpm.ak_public), "sk": b64(tpm.sk_public), "nonce": nonce.hex(),
        "certify": encode_attestation(certify), "counter": encode_attestation(counter),
        "ek": None if ek is None else b64(ek.certificate), "ek_public": None if ek is None else b64(ek.public),
        "counter_base": tpm.counter, "counter_index": 0x01800100,
    } | changes  # fmt: skip
