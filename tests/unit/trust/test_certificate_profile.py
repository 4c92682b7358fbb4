# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The reader of plain certificates against cryptography.x509: it may pass on, but never read something else.

The oracle is the complete path (verify.x509path). What the plain way accepts, the oracle must accept, with the same
identity; what the oracle accepts of our own CA's making, the plain way should not pass on (or the boot check is slow).
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from edgeprov.errors import EdgeprovError, FormatError
from edgeprov.formats.certificate import parse_certificate
from edgeprov.verify import certificates, x509path
from tests.support import pki

KEYS = [ec.derive_private_key(number + 7, ec.SECP256R1()) for number in range(4)]
LARGE = ec.derive_private_key(99, ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
PURPOSES = ("publisher", "device", "enroller")


def name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


CA = name((NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Acme"), (NameOID.COMMON_NAME, "Root"))


def issue(
    subject: x509.Name,
    key: object,
    issuer: x509.Name,
    signer: object,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    *,
    algorithm: object = None,
    days: tuple[int, int] = (0, 4000),
    serial: int = 77,
) -> bytes:
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, serial_number=serial)
    builder = builder.public_key(key.public_key()).not_valid_before(start + dt.timedelta(days=days[0]))
    builder = builder.not_valid_after(start + dt.timedelta(days=days[1]))
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(signer, algorithm or SHA256()).public_bytes(Encoding.DER)


CA_EXTENSIONS = [(x509.BasicConstraints(ca=True, path_length=None), True), (pki.key_usage(key_cert_sign=True), True)]
ROOT = issue(CA, KEYS[0], CA, KEYS[0], CA_EXTENSIONS)

text = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789 .-_@:/*'()?=&äß€,+;#<>\"\\", min_size=1, max_size=20)
oids = st.sampled_from(
    [NameOID.COUNTRY_NAME, NameOID.STATE_OR_PROVINCE_NAME, NameOID.LOCALITY_NAME, NameOID.ORGANIZATION_NAME,
     NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER, NameOID.TITLE, NameOID.EMAIL_ADDRESS,
     NameOID.DOMAIN_COMPONENT, NameOID.STREET_ADDRESS, NameOID.USER_ID]
)  # fmt: skip
names = st.lists(
    st.tuples(oids, text).map(lambda pair: (pair[0], "DE") if pair[0] == NameOID.COUNTRY_NAME else pair),
    min_size=1,
    max_size=5,
).map(lambda parts: name(*parts))
urns = st.sampled_from(
    [
        "urn:edgeprov:device:unit-1",
        "urn:edgeprov:enroller:line1",
        "https://acme.example/ci",
        "urn:edgeprov:device:",
        "x",
    ]
)
alternatives = st.lists(
    st.one_of(
        urns.map(x509.UniformResourceIdentifier),
        st.sampled_from(["ci@acme.example", "a@b"]).map(x509.RFC822Name),
        st.just(x509.DNSName("acme.example")),
    ),
    min_size=1,
    max_size=2,
)


@st.composite
def usages(draw: st.DrawFn) -> x509.KeyUsage:
    bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
    )
    return (
        pki.key_usage(**{bit: draw(st.sampled_from([False, False, True])) for bit in bits})
        if draw(st.booleans())
        else pki.key_usage(digital_signature=True)
    )


@st.composite
def extension_lists(draw: st.DrawFn) -> list[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = []
    sometimes = lambda: draw(st.integers(0, 3)) > 0  # noqa: E731
    if sometimes():
        usage = draw(usages())
        if any(
            getattr(usage, bit)
            for bit in (
                "digital_signature",
                "key_cert_sign",
                "crl_sign",
                "key_agreement",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
            )
        ):
            found.append((usage, draw(st.booleans()) or sometimes()))
    if sometimes():
        found.append((x509.SubjectAlternativeName(draw(alternatives)), draw(st.booleans())))
    if draw(st.booleans()):
        ca = draw(st.integers(0, 5)) == 0
        found.append(
            (
                x509.BasicConstraints(ca=ca, path_length=draw(st.sampled_from([None, 0, 1])) if ca else None),
                draw(st.booleans()),
            )
        )
    if draw(st.booleans()):
        uses = draw(
            st.lists(
                st.sampled_from([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.CLIENT_AUTH]),
                min_size=1,
                max_size=2,
                unique=True,
            )
        )
        found.append((x509.ExtendedKeyUsage(uses), draw(st.booleans())))
    if draw(st.booleans()):
        found.append((x509.SubjectKeyIdentifier.from_public_key(KEYS[1].public_key()), False))
    if draw(st.booleans()):
        found.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(KEYS[0].public_key()), False))
    if draw(st.integers(0, 9)) == 0:
        found.append((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), draw(st.booleans())))
    return found


def outcome(way, *arguments):
    try:
        return way(*arguments)
    except EdgeprovError as error:
        return type(error)


def compare(leaf: bytes, intermediates: tuple[bytes, ...], anchors: tuple[bytes, ...]) -> int:
    """How many purposes the plain way accepted; each as the oracle does."""
    accepted = 0
    for purpose in PURPOSES:
        plain = certificates._plain_path(leaf, intermediates, anchors, purpose)
        if plain is not None:
            assert plain == outcome(x509path.find_path, leaf, intermediates, anchors, purpose)
            accepted += 1
    return accepted


@settings(max_examples=300, deadline=None)
@given(
    names, extension_lists(), st.sampled_from([SHA256(), SHA384(), SHA512()]), st.sampled_from([KEYS[1], KEYS[1], LARGE, RSA]),
    st.integers(1, 2**158), st.tuples(st.integers(0, 12000), st.integers(12001, 90000)),
)  # fmt: skip
def test_leaves_of_any_shape(subject, extensions, algorithm, key, serial, days) -> None:
    try:
        leaf = issue(subject, key, CA, KEYS[0], extensions, algorithm=algorithm, serial=serial, days=days)
    except ValueError:
        reject()  # a name that the library does not write
    compare(leaf, (), (ROOT,))
    certificate = certificates._plain(leaf)
    if certificate is not None:
        assert certificate.subject_text == x509.load_der_x509_certificate(leaf).subject.rfc4514_string()
        assert certificate.spki == x509path.certificate_spki(leaf)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([None, 0, 1, 2]), st.sampled_from([True, True, True, False]), st.sampled_from([True, True, False])), max_size=3),
    st.booleans(), st.randoms(use_true_random=False),
)  # fmt: skip
def test_paths_of_any_length(levels, stray, rng) -> None:
    issuer, signer, above = CA, KEYS[0], []
    for number, (length, ca, signs) in enumerate(levels):
        subject = name((NameOID.COMMON_NAME, f"Sub {number}"))
        usage = pki.key_usage(key_cert_sign=True) if signs else pki.key_usage(crl_sign=True)
        extensions = [(x509.BasicConstraints(ca=ca, path_length=length if ca else None), True), (usage, True)]
        above.append(issue(subject, KEYS[1 + number], issuer, signer, extensions))
        issuer, signer = subject, KEYS[1 + number]
    leaf = issue(
        name((NameOID.COMMON_NAME, "leaf")), LARGE, issuer, signer, [(pki.key_usage(digital_signature=True), True)]
    )
    if stray:
        above.append(ROOT)
    rng.shuffle(above)
    assert compare(leaf, tuple(above), (ROOT,)) == int(
        isinstance(outcome(x509path.find_path, leaf, tuple(above), (ROOT,), "publisher"), certificates.SignerIdentity)
    )


def test_our_own_certificates_are_all_plain() -> None:
    root = pki.root("Acme")
    for leaf in (pki.publisher_certificate(root), pki.enroller_certificate(root)):
        assert (
            compare(
                leaf.certificate_chain[0],
                tuple(leaf.certificate_chain[1:]),
                (root.certificate.public_bytes(Encoding.DER),),
            )
            == 1
        )


@pytest.mark.parametrize("seed", range(4))
def test_every_byte_changed(seed: int) -> None:
    """A changed certificate is never plain and good; what it then says is what x509 reads, where both read it."""
    extensions = [
        (pki.key_usage(digital_signature=True), True),
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier("https://acme.example/ci")]), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.SubjectKeyIdentifier.from_public_key(KEYS[1].public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(KEYS[0].public_key()), False),
    ]
    good = issue(
        name((NameOID.ORGANIZATION_NAME, "Acme"), (NameOID.COMMON_NAME, "CI")), KEYS[1], CA, KEYS[0], extensions
    )
    assert compare(good, (), (ROOT,)) == 1
    rng = random.Random(seed)
    read = 0
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << rng.randrange(8)
        try:
            plain = parse_certificate(bytes(changed))
        except FormatError:
            continue
        read += 1
        other = x509.load_der_x509_certificate(bytes(changed))
        assert plain.subject_text == other.subject.rfc4514_string()
        assert plain.serial == other.serial_number
        assert (plain.not_before, plain.not_after) == (other.not_valid_before_utc, other.not_valid_after_utc)
        assert plain.signed == other.tbs_certificate_bytes
        assert plain.signature == other.signature
        found = {item.oid.dotted_string: item for item in other.extensions}
        assert set(found) <= {"2.5.29.19", "2.5.29.15", "2.5.29.17", "2.5.29.37", "2.5.29.14", "2.5.29.35"}
        usage = found["2.5.29.15"].value if "2.5.29.15" in found else None
        assert bool((plain.usage or 0) & 1) == bool(usage and usage.digital_signature)
        assert bool((plain.usage or 0) & 32) == bool(usage and usage.key_cert_sign)
        basic = found.get("2.5.29.19")
        assert plain.ca == bool(basic and basic.value.ca)
        assert compare(bytes(changed), (), (ROOT,)) == 0
    assert read > 100


def test_sha1_and_other_keys_are_left_to_the_complete_path() -> None:
    plain = [(pki.key_usage(digital_signature=True), True)]
    subject = name((NameOID.COMMON_NAME, "x"))
    with pytest.raises(FormatError):
        parse_certificate(issue(subject, RSA, CA, KEYS[0], plain))
    for algorithm in (SHA1(),):
        try:
            leaf = issue(subject, KEYS[1], CA, KEYS[0], plain, algorithm=algorithm)
        except Exception:
            continue  # a library that no longer signs with it
        with pytest.raises(FormatError):
            parse_certificate(leaf)


def test_the_boot_check_of_a_plain_signer_loads_no_x509() -> None:
    import json
    import subprocess
    import sys

    body = (
        "import sys, json, datetime as dt\n"
        "from edgeprov.verify.certificates import parse_pem_certificates, verify_anchor, verify_chain\n"
        "leaf, root = (bytes.fromhex(text) for text in json.loads(sys.argv[1]))\n"
        "verify_anchor(root, 'root')\n"
        "print(verify_chain(leaf, (), (root,), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 'publisher').san)\n"
        "assert 'cryptography.x509' not in sys.modules\n"
        "assert 'cryptography.hazmat.primitives.serialization' not in sys.modules\n"
    )
    leaf = issue(
        name((NameOID.COMMON_NAME, "CI")), KEYS[1], CA, KEYS[0], [(pki.key_usage(digital_signature=True), True)]
    )
    done = subprocess.run(
        [sys.executable, "-c", body, json.dumps([leaf.hex(), ROOT.hex()])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "x509.subject:CN=CI"
