# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A small vendor PKI: two roots that never vouch for each other's leaves.

The publisher root signs model publishers and collectors of training data; the device root signs
devices and enrollers. A vendor with a PKI of its own issues the same shapes there: the shapes are
what cosign and notation accept (subject C, ST, O; one SAN URI; keyUsage digitalSignature only and
critical; no CRL or OCSP address).

Spec: FORMAT.md "Certificates"; RFC 5280.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeprov.errors import ConfigError, EnrollmentRefused, FormatError, UsageError
from edgeprov.fleet.trust.signers import PemSigner, load_signer
from edgeprov.formats.mediatypes import ROLE_URN_PREFIXES
from edgeprov.formats.pem import encode_pem
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, make_dirs, save_bytes
from edgeprov.verify.certificates import parse_pem_certificates

FOREVER: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
"""Certificates of devices and CAs do not expire (802.1AR habit): revocation is the deny list."""

_BACKDATE: Final = dt.timedelta(hours=1)
_NAME: Final = re.compile(r"[\w .,&'-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """Who stands in the subject of every certificate. notation demands C, ST and O."""

    organisation: str
    country: str = "DE"
    state: str = "BY"

    def name(self, common: str) -> x509.Name:
        """A distinguished name."""
        parts = [
            (NameOID.COUNTRY_NAME, self.country),
            (NameOID.STATE_OR_PROVINCE_NAME, self.state),
            (NameOID.ORGANIZATION_NAME, self.organisation),
        ]
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in (*parts, (NameOID.COMMON_NAME, common))])


def init_ca(folder: Path, vendor: Vendor, *, now: dt.datetime, assurance: str = "dev") -> None:
    """Make both CAs, a signer for each role, and the trust folders for devices and auditors.

    Args:
        folder: Must not hold a CA yet. Keys are written with mode 0600.
        vendor: Name in the subjects.
        now: Start of validity.
        assurance: Level that the trust policy accepts: ``dev``, ``firmware`` or ``hardware``.

    Raises:
        UsageError: A CA lies there already, or a name is unusable.
        StoreError: The folder cannot be written.
    """
    if (folder / "device").exists() or (folder / "publisher").exists():
        raise UsageError(f"{folder} holds a CA already", advice="Name another folder; a CA is never overwritten.")
    if not _NAME.fullmatch(vendor.organisation) or not re.fullmatch(r"[A-Z]{2}", vendor.country) or not vendor.state:
        raise UsageError(
            "the vendor's name is unusable", advice="Country is two capital letters; name up to 64 letters."
        )
    slug = re.sub(r"[^a-z0-9]+", "-", vendor.organisation.lower()).strip("-") or "vendor"
    publisher_uri, collector_uri = f"urn:edgeprov:publisher:{slug}", ROLE_URN_PREFIXES["collector"] + slug
    maker = _Maker(vendor, now - _BACKDATE)
    publishers = maker.root("Model publisher root CA")
    publisher_issuing = maker.issuing("Model publisher issuing CA", publishers)
    devices = maker.root("Device root CA")
    device_issuing = maker.issuing("Device issuing CA", devices)
    uris = {role: ROLE_URN_PREFIXES[role] + slug for role in ("enroller", "roster", "importer")}
    pairs = {
        "publisher/root": publishers,
        "publisher/issuing": publisher_issuing,
        "publisher/publisher": maker.leaf("Model publisher", publisher_issuing, publisher_uri),
        "collector/collector": maker.leaf("Data collector", publisher_issuing, collector_uri),
        "device/root": devices,
        "device/issuing": device_issuing,
        **{f"device/{role}": maker.leaf(role.capitalize(), device_issuing, uri) for role, uri in uris.items()},
    }
    for name, signer in pairs.items():
        make_dirs((folder / name).parent)
        save_bytes(folder / f"{name}.key", _private_pem(signer.key))
        save_bytes(folder / f"{name}.pem", pem_chain(signer.certificate_chain), mode=0o644)
    publisher_pem = pem_chain(publisher_issuing.certificate_chain)
    device_pem = pem_chain(device_issuing.certificate_chain)
    # A device judges models and receipts only: no enroller has a role there, and no assurance is accepted.
    device_policy = f'[roles]\npublisher = ["{publisher_uri}"]\nimporter = ["{uris["importer"]}"]\n'
    names = {"publisher": publisher_uri, "collector": collector_uri, **uris}
    lines = "".join(f'{role} = ["{uri}"]\n' for role, uri in names.items())
    fleet_policy = f'[roles]\n{lines}\n[device]\nassurance = ["{assurance}"]\n'
    for name, policy in {"device-trust.d": device_policy, "trust.d": fleet_policy}.items():
        make_dirs(folder / name, 0o755)
        save_bytes(folder / name / "publisher.pem", publisher_pem, mode=0o644)
        save_bytes(folder / name / "device.pem", device_pem, mode=0o644)
        save_bytes(folder / name / "policy.toml", policy.encode(), mode=0o644)


def load_role(folder: Path, role: str) -> PemSigner:
    """One of the keys that init_ca wrote: that of a role, or ``issuing``, the CA of devices.

    Raises:
        NotStored: The folder holds no such key.
        ConfigError: The files are not a key and its chain.
    """
    base = folder / (role if role in ("publisher", "collector") else "device") / role
    return load_signer(base.with_suffix(".key"), base.with_suffix(".pem"))


def load_chain(path: Path) -> tuple[bytes, ...]:
    """A certificate chain (PEM, leaf first) as DER.

    Raises:
        NotStored: No such file.
        ConfigError: Not PEM certificates.
    """
    raw = load_bytes(path, max_bytes=LIMITS.trust_file_bytes, what=str(path))
    try:
        return parse_pem_certificates(raw, str(path))
    except FormatError as error:
        raise ConfigError(error.message) from error


def verify_csr(csr_der: bytes, spki: bytes, device: str, serial: str) -> None:
    """A certificate request is signed by the key that it holds, the device's SK, and asks for this device's name.

    Args:
        csr_der: PKCS #10 in DER.
        spki: SubjectPublicKeyInfo of the SK.
        device: URN; no other name may stand in the request.
        serial: Serial number, the request's common name. A vendor's CA issues what the CSR says.

    Raises:
        EnrollmentRefused: It is not.
    """
    try:
        csr = x509.load_der_x509_csr(csr_der)
        if not csr.is_signature_valid:
            raise EnrollmentRefused("the certificate request is not signed by its own key")
        holds = csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        common = [item.value for item in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        names = [item.value for item in csr.extensions if isinstance(item.value, x509.SubjectAlternativeName)]
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.DuplicateExtension) as error:
        raise EnrollmentRefused("the certificate request is malformed") from error
    if holds != spki:
        raise EnrollmentRefused("the certificate request holds another key than the signing key of the TPM")
    asked = [name for item in names for name in item]
    if common != [serial] or any(name != x509.UniformResourceIdentifier(device) for name in asked):
        raise EnrollmentRefused(f"the certificate request asks for another name than {device}")


def issue_device_certificate(issuer: PemSigner, spki: bytes, device: str, serial: str, now: dt.datetime) -> bytes:
    """The SK certificate, in the shape that cosign and notation accept. The subject's C, ST, O are the issuer's.

    Args:
        issuer: The issuing CA's key and chain.
        spki: SubjectPublicKeyInfo of the SK.
        device: URN; becomes the one SAN.
        serial: Serial number of the device.
        now: Start of validity.

    Returns:
        DER.
    """
    above = x509.load_der_x509_certificate(issuer.certificate_chain[0])
    kept = [
        attribute
        for oid in (NameOID.COUNTRY_NAME, NameOID.STATE_OR_PROVINCE_NAME, NameOID.ORGANIZATION_NAME)
        for attribute in above.subject.get_attributes_for_oid(oid)
    ]
    # No serialNumber attribute: a PrintableString has no "_", which serial numbers of devices may have.
    subject = x509.Name([*kept, x509.NameAttribute(NameOID.COMMON_NAME, f"device {serial}")])
    key = load_der_public_key(spki)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EnrollmentRefused("the signing key is not an ECDSA key")
    builder = _builder(subject, above.subject, key, now - _BACKDATE)
    builder = _end_entity(builder, device, above)
    return builder.sign(issuer.key, SHA256()).public_bytes(Encoding.DER)


def pem_chain(chain: tuple[bytes, ...]) -> bytes:
    """Certificates as one PEM file, in order."""
    return b"".join(encode_pem(der, "CERTIFICATE") for der in chain)


class _Maker:
    def __init__(self, vendor: Vendor, start: dt.datetime) -> None:
        self.vendor = vendor
        self.start = start

    def root(self, common: str) -> PemSigner:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = self.vendor.name(f"{self.vendor.organisation} {common}"[:64])
        builder = _authority(_builder(subject, subject, key.public_key(), self.start), key.public_key(), 1)
        return PemSigner(key, (builder.sign(key, SHA256()).public_bytes(Encoding.DER),))

    def issuing(self, common: str, above: PemSigner) -> PemSigner:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.load_der_x509_certificate(above.certificate_chain[0])
        subject = self.vendor.name(f"{self.vendor.organisation} {common}"[:64])
        builder = _authority(_builder(subject, issuer.subject, key.public_key(), self.start), above.key.public_key(), 0)
        return PemSigner(key, (builder.sign(above.key, SHA256()).public_bytes(Encoding.DER), *above.certificate_chain))

    def leaf(self, common: str, above: PemSigner, uri: str) -> PemSigner:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.load_der_x509_certificate(above.certificate_chain[0])
        builder = _builder(self.vendor.name(common), issuer.subject, key.public_key(), self.start)
        certificate = _end_entity(builder, uri, issuer).sign(above.key, SHA256())
        return PemSigner(key, (certificate.public_bytes(Encoding.DER), *above.certificate_chain))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(FOREVER)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority(
    builder: x509.CertificateBuilder, issuer_key: ec.EllipticCurvePublicKey, path_length: int
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _end_entity(builder: x509.CertificateBuilder, uri: str, issuer: x509.Certificate) -> x509.CertificateBuilder:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
