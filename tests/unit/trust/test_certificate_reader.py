# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Hold the product's reader of certificates against ``cryptography.x509``: it accepts less, never more, and reads the same.

The one exception is by design: values of extensions that no rule reads are not looked into (STRANGE names them).
"""

from __future__ import annotations

import datetime as dt
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from edgeprov.errors import FormatError
from edgeprov.formats.certificate import HANDLED_EXTENSIONS, Certificate, _read_extensions, parse_certificate
from edgeprov.formats.der import Der
from edgeprov.formats.distinguished_name import name_text
from edgeprov.formats.subject_key import parse_subject_key
from edgeprov.verify.certificates import certificate_facts, load_certificate, parse_pem_certificates
from edgeprov.verify.public_keys import is_signed_by, load_subject_key
from tests.support import pki
from tests.support.world import World

ROOT = Path(__file__).resolve().parents[3]
REFUSED = (
    ValueError, TypeError, LookupError, OverflowError, Warning, AssertionError, UnsupportedAlgorithm,
    x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
KEY = pki.soft_key("reader")
RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS = {
    "p256": KEY,
    "p384": ec.derive_private_key(7, ec.SECP384R1()),
    "p521": ec.derive_private_key(7, ec.SECP521R1()),
    "brainpool": ec.derive_private_key(7, ec.BrainpoolP256R1()),
    "rsa": RSA_KEY,
    "ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
}
USAGE = pki.key_usage(digital_signature=True)
EXTENSIONS: dict[str, tuple[x509.ExtensionType, ...]] = {
    "none": (),
    "usual": (x509.BasicConstraints(ca=False, path_length=None), USAGE),
    "ca": (x509.BasicConstraints(ca=True, path_length=3), pki.key_usage(key_cert_sign=True, crl_sign=True)),
    "uses": (x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.3"), x509.ObjectIdentifier("2.5.29.37.0")]),),
    "names": (
        x509.SubjectAlternativeName([
            x509.UniformResourceIdentifier("urn:edgeprov:device:unit-1"),
            x509.RFC822Name("a@acme.example"),
            x509.DNSName("acme.example"),
            x509.DirectoryName(x509.Name([x509.NameAttribute(x509.ObjectIdentifier("2.23.133.2.1"), "id:49465800")])),
            x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
            x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x0c\1x"),
        ]),
    ),
    "identifiers": (
        x509.SubjectKeyIdentifier(b"KEYIDENTIFIER"),
        x509.AuthorityKeyIdentifier(b"ID", [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))], 77),
    ),
    "agreement": (pki.key_usage(key_agreement=True, decipher_only=True),),
    "strange": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"no DER"),),
}  # fmt: skip
NAMES = {
    "usual": [[(NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "ACME"), (NameOID.COMMON_NAME, "unit 1")]],
    "empty": [],
    "escapes": [[(NameOID.COMMON_NAME, '# a,b+c"d\\e<f>g;h\0i=j ')], [(NameOID.COMMON_NAME, " x ")], [(NameOID.COMMON_NAME, " ")]],
    "letters": [[(NameOID.ORGANIZATION_NAME, "Größe 数据 🙂")], [(NameOID.DOMAIN_COMPONENT, "acme"), (NameOID.USER_ID, "u")]],
    "unknown": [[(x509.ObjectIdentifier("1.2.840.113549.1.9.2"), "odd"), (NameOID.SERIAL_NUMBER, "0042")]],
}  # fmt: skip


def name(kind: str) -> x509.Name:
    return x509.Name(
        [
            x509.RelativeDistinguishedName([x509.NameAttribute(oid, value) for oid, value in part])
            for part in NAMES[kind]
        ]
    )


def made(
    key: str = "p256", extensions: str = "usual", subject: str = "usual", *, signer: str = "p256", critical: bool = False,
    start: dt.datetime = pki.START, serial: int = 77, hash_=SHA256, pss: padding.PSS | None = None,
) -> bytes:  # fmt: skip
    builder = x509.CertificateBuilder(name("usual"), name(subject), KEYS[key].public_key(), serial, start, pki.FOREVER)
    for extension in EXTENSIONS[extensions]:
        builder = builder.add_extension(extension, critical)
    algorithm = None if signer == "ed25519" else hash_()
    return builder.sign(KEYS[signer], algorithm, rsa_padding=pss).public_bytes(Encoding.DER)


def library(der: bytes) -> x509.Certificate:
    """All parts that ours reads; raises one of REFUSED. A warning of the library is a refusal by a later version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        certificate = x509.load_der_x509_certificate(der)
        assert certificate.serial_number is not None
        certificate.not_valid_before_utc, certificate.not_valid_after_utc, list(certificate.extensions)
        certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
        return certificate


def same(der: bytes, ours: Certificate) -> None:
    theirs = library(der)
    assert ours.tbs == theirs.tbs_certificate_bytes
    assert ours.signature == theirs.signature
    assert ours.serial_number == theirs.serial_number
    assert (ours.not_before, ours.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    for decoded, raw, other in (
        (ours.subject, ours.subject_der, theirs.subject), (ours.issuer, ours.issuer_der, theirs.issuer),
    ):  # fmt: skip
        assert name_text(decoded) == other.rfc4514_string()
        assert raw == other.public_bytes()
        assert [(kind, value) for part in decoded for kind, value in part] == [
            (item.oid.dotted_string, item.value) for item in other
        ]
    assert ours.extensions == {item.oid.dotted_string: item.critical for item in theirs.extensions}
    for item in theirs.extensions:
        value = item.value
        if isinstance(value, x509.BasicConstraints):
            constraints = ours.basic_constraints
            assert constraints is not None
            assert (constraints.ca, constraints.path_length) == (value.ca, value.path_length)
        elif isinstance(value, x509.KeyUsage):
            assert ours.key_usage == {word for word in USAGE_WORDS if usage_bit(value, word)}
        elif isinstance(value, x509.ExtendedKeyUsage):
            assert ours.extended_key_usage == tuple(use.dotted_string for use in value)
        elif isinstance(value, x509.SubjectAlternativeName):
            assert [text for kind, text in ours.alternative_names if kind == "uri"] == value.get_values_for_type(
                x509.UniformResourceIdentifier
            )
            assert [text for kind, text in ours.alternative_names if kind == "email"] == value.get_values_for_type(
                x509.RFC822Name
            )
            assert [name_text(found) for kind, found in ours.alternative_names if kind == "directory"] == [
                found.rfc4514_string() for found in value.get_values_for_type(x509.DirectoryName)
            ]


USAGE_WORDS = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def usage_bit(value: x509.KeyUsage, word: str) -> bool:
    return bool(getattr(value, "_" + word))


def same_key(ours: Certificate, theirs: x509.Certificate) -> None:
    """Where our reader takes the key, so does the library, and it is the same one in the same encoding."""
    try:
        loaded = load_subject_key(parse_subject_key(ours.spki))
    except FormatError:
        return
    key = theirs.public_key()
    assert loaded == key
    assert key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == ours.spki


@pytest.mark.parametrize("extensions", EXTENSIONS)
@pytest.mark.parametrize("critical", [False, True])
def test_extensions_are_read_as_by_the_library(extensions: str, critical: bool) -> None:
    der = made(extensions=extensions, critical=critical)
    same(der, parse_certificate(der))


@pytest.mark.parametrize("subject", NAMES)
def test_names_are_read_as_by_the_library(subject: str) -> None:
    der = made(subject=subject)
    same(der, parse_certificate(der))


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_read_as_by_the_library(key: str) -> None:
    der = made(key)
    ours = parse_certificate(der)
    same_key(ours, library(der))
    load_subject_key(parse_subject_key(ours.spki))  # and none is passed over


@pytest.mark.parametrize("year", [1950, 1999, 2000, 2049, 2050, 9998])
def test_times_are_read_as_by_the_library(year: int) -> None:
    der = made(start=dt.datetime(year, 2, 28, 23, 59, 58, tzinfo=dt.UTC))
    same(der, parse_certificate(der))


SIGNED: dict[str, Callable[[], bytes]] = {
    **{f"{key} {h.name}": lambda key=key, h=h: made(signer=key, hash_=h)
       for key in ("p256", "p384", "p521", "brainpool", "rsa") for h in (SHA256, SHA384, SHA512)},
    **{f"pss {h.name}": lambda h=h: made(signer="rsa", hash_=h, pss=padding.PSS(padding.MGF1(h()), h.digest_size))
       for h in (SHA256, SHA384, SHA512)},
}  # fmt: skip


@pytest.mark.parametrize("kind", SIGNED)
def test_signatures_are_verified_and_a_changed_bit_is_seen(kind: str) -> None:
    ours = parse_certificate(SIGNED[kind]())
    spki = KEYS[kind.split(maxsplit=1)[0].replace("pss", "rsa")].public_key()
    issuer = parse_subject_key(spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert ours.algorithm is not None
    assert is_signed_by(issuer, ours.algorithm, ours.signature, ours.tbs)
    assert not is_signed_by(issuer, ours.algorithm, ours.signature, ours.tbs[:-1] + bytes([ours.tbs[-1] ^ 1]))
    for other in KEYS.values():
        raw = other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if raw != spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
            assert not is_signed_by(parse_subject_key(raw), ours.algorithm, ours.signature, ours.tbs)


def test_an_unsafe_or_unknown_signature_algorithm_is_none() -> None:
    assert parse_certificate(made(signer="ed25519")).algorithm is None
    der = made(signer="rsa")
    assert (
        parse_certificate(
            der.replace(bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105"))
        ).algorithm
        is None
    )


def known_certificates() -> list[bytes]:
    """Every certificate that lies in the tree, by its encoding."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*")):
        if path.is_file() and path.stat().st_size < 2_000_000 and path.suffix in (".pem", ".crt", ".cer", ".der"):
            raw = path.read_bytes()
            if b"BEGIN CERTIFICATE" in raw:
                found += parse_pem_certificates(raw, str(path))
            elif raw[:1] == b"\x30":
                found.append(raw)
    return found


def test_known_certificates_are_read_as_by_the_library() -> None:
    world = World()
    seeds = [
        der
        for data in world.policy_files.values()
        if b"BEGIN CERT" in data
        for der in parse_pem_certificates(data, "x")
    ]
    seeds += known_certificates()
    assert len(seeds) > 8
    for der in seeds:
        try:
            ours = load_certificate(der)
        except FormatError:
            continue
        same(der, ours)
        same_key(ours, library(der))


def test_the_text_of_the_export_is_that_of_the_library() -> None:
    der = made()
    assert certificate_facts(der).pem == library(der).public_bytes(Encoding.PEM)
    assert parse_pem_certificates(b"text\n" + certificate_facts(der).pem * 2, "x") == (der, der)


def mutants(der: bytes, rng: random.Random, count: int) -> list[bytes]:
    """Changed bits, bytes, lengths; cut, doubled and moved pieces."""
    result = []
    for _ in range(count):
        data = bytearray(der)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            place = rng.randrange(len(data))
            what = rng.randrange(6)
            if what == 0:
                data[place] ^= 1 << rng.randrange(8)
            elif what == 1:
                data[place] = rng.choice(
                    (0, 1, 2, 3, 4, 5, 6, 0x0C, 0x13, 0x16, 0x17, 0x18, 0x30, 0x31, 0x7F, 0x80, 0x81, 0xA0, 0xA3, 0xFF)
                )
            elif what == 2:
                data[place] = (data[place] + rng.choice((-1, 1))) % 256
            elif what == 3 and len(data) > 40:
                del data[place : place + rng.randrange(1, 4)]
            elif what == 4:
                data[place:place] = data[place : place + rng.randrange(1, 6)]
            else:
                data[place : place + 2] = rng.randbytes(2)
        result.append(bytes(data))
    return result


STRANGE = frozenset(
    getattr(ExtensionOID, item).dotted_string for item in dir(ExtensionOID) if item.isupper()
) - HANDLED_EXTENSIONS  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_no_changed_certificate_is_accepted_that_the_library_refuses(seed: int) -> None:
    """And what both accept, both read alike. Half of the changes keep the outer lengths right, so they reach deep."""
    rng = random.Random(seed)
    seeds = [
        *(made(extensions=item) for item in EXTENSIONS), *(made(subject=item) for item in NAMES),
        *(made(key) for key in KEYS), made(signer="rsa", pss=padding.PSS(padding.MGF1(SHA256()), 32)),
        made(start=dt.datetime(2055, 1, 1, tzinfo=dt.UTC)), made(serial=(1 << 159) - 1),
    ]  # fmt: skip
    accepted = refused = 0
    for der in seeds:
        tbs = parse_certificate(der).tbs
        inner = tbs[4:] if tbs[1] == 0x82 else tbs[3:]
        changed = mutants(der, rng, 120)
        changed += [pki.signed_certificate(pki.wrap(0x30, item), KEY) for item in mutants(inner, rng, 120)]
        for item in changed:
            try:
                ours = load_certificate(item)
            except FormatError:
                refused += 1
                continue
            accepted += 1
            try:
                theirs = library(item)
            except REFUSED as error:
                if STRANGE.isdisjoint(ours.extensions):
                    pytest.fail(f"the library refuses ({error!r}): {item.hex()}")
                continue
            same(item, ours)
            same_key(ours, theirs)
    assert accepted > 500, (accepted, refused)
    assert refused > 500, (accepted, refused)


@pytest.mark.parametrize(
    "length", [b"\x81\x05", b"\x82\x00\x05", b"\x82\x00\x80", b"\x83\x00\x01\x00", b"\x80", b"\x84\x00\x00\x00\x05"]
)
def test_a_length_in_another_form_than_the_shortest_is_refused(length: bytes) -> None:
    with pytest.raises(FormatError):
        Der(b"\x04" + length + bytes(256)).take(4)


def test_an_extension_twice_is_refused() -> None:
    tbs = parse_certificate(made(extensions="strange")).tbs
    item = pki.wrap(0x30, bytes.fromhex("06032a0304") + pki.wrap(0x04, b"no DER"))
    assert item in tbs
    with pytest.raises(FormatError):
        _read_extensions(Der(item + item), {}, {})
