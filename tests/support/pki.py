# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Certificate authorities for tests: every shape of certificate, right and wrong, from seeded keys."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.softtpm import DETERMINISTIC, sign_der, soft_key, spki

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
FOREVER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_DIGITAL_SIGNATURE = {"digital_signature": True}
_CA_USAGE = {"key_cert_sign": True, "crl_sign": True}


def key_usage(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names})


def name(common: str, *, serial: str | None = None) -> x509.Name:
    parts = [
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.STATE_OR_PROVINCE_NAME, "BY"),
        (NameOID.ORGANIZATION_NAME, "Acme Medical"),
    ]
    if serial:
        parts.append((NameOID.SERIAL_NUMBER, serial))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in (*parts, (NameOID.COMMON_NAME, common))])


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and the chain above it: a Signer."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def certificate_chain(self) -> tuple[bytes, ...]:
        return (self.der, *(item.public_bytes(Encoding.DER) for item in self.above))

    @property
    def public_key_spki(self) -> bytes:
        return spki(self.key)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_der(self.key, digest)

    def issue(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey | None = None,
        *,
        public_key: ec.EllipticCurvePublicKey | None = None,
        san: Sequence[x509.GeneralName] = (),
        ca: bool = False,
        path_length: int | None = None,
        usage: x509.KeyUsage | None = None,
        usage_critical: bool = True,
        eku: Sequence[x509.ObjectIdentifier] = (),
        eku_critical: bool = False,
        start: dt.datetime = START,
        end: dt.datetime = FOREVER,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Issued:
        key = key or soft_key(subject.rfc4514_string())
        certificate = _build(
            subject,
            public_key or key.public_key(),
            self.certificate.subject,
            self.key,
            san,
            ca,
            path_length,
            usage,
            usage_critical,
            eku,
            eku_critical,
            start,
            end,
            extra,
        )
        return Issued(certificate, key, (self.certificate, *self.above))


def root(common: str, *, start: dt.datetime = START, end: dt.datetime = FOREVER, seed: str | None = None) -> Issued:
    key = soft_key(seed or "root " + common)
    subject = name(common)
    certificate = _build(subject, key.public_key(), subject, key, (), True, None, None, True, (), False, start, end, ())
    return Issued(certificate, key)


def device_certificate(issuer: Issued, serial: str, sk: ec.EllipticCurvePrivateKey, **options: object) -> Issued:
    """The SK certificate in the shape that cosign and notation accept."""
    options.setdefault("san", [x509.UniformResourceIdentifier(f"urn:edgeprov:device:{serial}")])
    return issuer.issue(name(f"device {serial}", serial=serial), sk, **options)  # type: ignore[arg-type]


def enroller_certificate(issuer: Issued, who: str = "line1", **options: object) -> Issued:
    options.setdefault("san", [x509.UniformResourceIdentifier(f"urn:edgeprov:enroller:{who}")])
    return issuer.issue(name(f"enroller {who}"), **options)  # type: ignore[arg-type]


def role_certificate(issuer: Issued, role: str, who: str = "desk", **options: object) -> Issued:
    """The certificate of a roster signer, an importer or a collector."""
    options.setdefault("san", [x509.UniformResourceIdentifier(f"urn:edgeprov:{role}:{who}")])
    return issuer.issue(name(f"{role} {who}"), **options)  # type: ignore[arg-type]


def publisher_certificate(issuer: Issued, identity: str = "https://acme.example/models", **options: object) -> Issued:
    options.setdefault("san", [x509.UniformResourceIdentifier(identity)])
    options.setdefault("eku", [ExtendedKeyUsageOID.CODE_SIGNING])
    return issuer.issue(name("model publisher"), **options)  # type: ignore[arg-type]


def signed_certificate(tbs: bytes, signer: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate (DER) of any bytes in the place of its signed part, for what no library writes."""
    signature = signer.sign(tbs, ec.ECDSA(SHA256()))
    return wrap(0x30, tbs + _ECDSA_WITH_SHA256 + wrap(0x03, b"\0" + signature))


def wrap(tag: int, body: bytes) -> bytes:
    """One DER element."""
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def _build(
    subject,
    public_key,
    issuer,
    issuer_key,
    san,
    ca,
    path_length,
    usage,
    usage_critical,
    eku,
    eku_critical,
    start,
    end,
    extra,
):
    seed = f"{subject.rfc4514_string()} {start} {end} {san} {eku}".encode()
    serial = int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") | 1
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(usage or key_usage(**(_CA_USAGE if ca else _DIGITAL_SIGNATURE)), critical=usage_critical)
    )
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(san)), critical=False)
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(eku)), critical=eku_critical)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    options = {"ecdsa_deterministic": True} if DETERMINISTIC else {}
    return builder.sign(issuer_key, SHA256(), **options)
