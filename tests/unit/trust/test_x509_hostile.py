# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Hostile certificates: each is refused with one line and one of two errors, in every place of a chain.

Each malformed certificate here is signed well: nothing but the malformed part may be the reason.
"""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import random
import subprocess
import sys
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edgeprov.errors import EdgeprovError, FormatError, SignerUntrusted
from edgeprov.limits import LIMITS
from edgeprov.verify import certificates, x509path
from edgeprov.verify.certificates import certificate_facts, certificate_spki, issuer_and_serial, parse_pem_certificates
from edgeprov.verify.policy import parse_policy
from edgeprov.verify.x509path import verify_anchor, verify_chain
from tests.support import pki

PURPOSES = ("publisher", "device", "enroller", "roster", "collector", "importer", "timestamp", "ek", "idevid")
ROOT, SUB, LEAF = (pki.soft_key(name) for name in ("hostile root", "hostile sub", "hostile leaf"))
URI = x509.UniformResourceIdentifier("https://acme.example/ci")


def name(*values: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in values])


def issue(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey, *,
    ca: bool, serial: int = 77, extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> bytes:  # fmt: skip
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), serial, pki.START, pki.FOREVER)
    usage = pki.key_usage(key_cert_sign=True) if ca else pki.key_usage(digital_signature=True)
    for extension, critical in (
        (x509.BasicConstraints(ca=ca, path_length=None), True),
        (usage, True),
        (x509.SubjectAlternativeName([URI]), False),
        *extra,
    ):
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, SHA256()).public_bytes(Encoding.DER)


def patched(der: bytes, signer: ec.EllipticCurvePrivateKey, old: bytes, new: bytes) -> bytes:
    """Replace bytes of the signed part by as many others, and sign it again."""
    tbs = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    assert tbs.count(old) >= 1, (old.hex(), tbs.hex())
    assert len(old) == len(new)
    return pki.signed_certificate(tbs.replace(old, new), signer)


VICTIM = b"VICTIMS"
EXTRA = (
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), False),
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.5"), b"\5\0"), False),
    (x509.SubjectKeyIdentifier(b"KEYIDENTIFIER"), False),
)
_POINT = LEAF.public_key().public_numbers()
P256_OID, UNKNOWN_CURVE = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030163")
# Each changes a subject, an extension or the key of a certificate that is good without it.
PATCHES = {
    "version 1": (b"\xa0\3\2\1\2", b"\xa0\3\2\1\0"),
    "version 2": (b"\xa0\3\2\1\2", b"\xa0\3\2\1\1"),
    "version 4": (b"\xa0\3\2\1\2", b"\xa0\3\2\1\3"),
    "version -1": (b"\xa0\3\2\1\2", b"\xa0\3\2\1\xff"),
    "serial number 0": (b"\2\1\x4d", b"\2\1\0"),
    "negative serial number": (b"\2\1\x4d", b"\2\1\x81"),
    "no end of time": (b"99991231235959Z", b"99991331235959Z"),
    "year 0": (b"99991231235959Z", b"00001231235959Z"),
    "basic constraints of an odd boolean": (b"\6\3\x55\x1d\x13\1\1\xff\4", b"\6\3\x55\x1d\x13\1\1\x7f\4"),
    "key usage is no bit string": (b"\4\4\3\2", b"\4\4\4\2"),
    "key usage cut short": (b"\4\4\3\2", b"\4\4\3\7"),
    "extension twice": (b"\6\3\x2a\3\5", b"\6\3\x2a\3\4"),
    "key identifier is no octet string": (b"\4\x0f\4\rKEY", b"\4\x0f\5\rKEY"),
    "name with a BIT STRING": (b"\x0c\7VICTIMS", b"\3\7\0ICTIMS"),
    "name of an unknown string type": (b"\x0c\7VICTIMS", b"\5\7VICTIMS"),
    "name is not UTF-8": (b"\x0c\7VICTIMS", b"\x0c\7\xfcICTIMS"),
    "name is half a BMPString": (b"\x0c\7VICTIMS", b"\x1e\7VICTIMS"),
    "name is another T61String": (b"\x0c\7VICTIMS", b"\x14\7\xfcICTIMS"),
    "alternative name is not ASCII": (b"\x86\x17https", b"\x86\x17http\xfc"),
    "alternative name of an X.400 address": (b"\x86\x17https", b"\xa3\x17https"),
    "alternative name of an EDI party": (b"\x86\x17https", b"\xa5\x17https"),
    "alternative name of an odd IP address": (b"\x86\x17https", b"\x87\x17https"),
    "alternative name of an odd OID": (b"\x86\x17https", b"\x88\x17\x80ttps"),
}  # fmt: skip
KEY_PATCHES = {
    "key of an unknown curve": (P256_OID, UNKNOWN_CURVE),
    "key of an unknown kind": (bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0263")),
    "key is no point": (b"\4" + _POINT.x.to_bytes(32, "big"), b"\4" + bytes(31) + b"\5"),
}


@cache
def root() -> bytes:
    return issue(name("Root"), ROOT, name("Root"), ROOT, ca=True)


def leaf_below(issuer: x509.Name, signer: ec.EllipticCurvePrivateKey) -> bytes:
    return issue(name("leaf"), pki.soft_key("innocent"), issuer, signer, ca=False)


def victim(*, ca: bool) -> bytes:
    return issue(name(VICTIM.decode()), LEAF, name("Root"), ROOT, ca=ca, extra=EXTRA)


def refusal(*arguments: object) -> EdgeprovError:
    with pytest.raises((FormatError, SignerUntrusted)) as caught:
        verify_chain(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("what", [*PATCHES, *KEY_PATCHES])
def test_malformed_leaf(what: str, purpose: str) -> None:
    refusal(patched(victim(ca=False), ROOT, *(PATCHES | KEY_PATCHES)[what]), (), (root(),), pki.NOW, purpose)


@pytest.mark.parametrize("what", [*PATCHES, *KEY_PATCHES])
def test_malformed_intermediate_is_refused_and_has_no_effect_where_it_is_not_needed(what: str) -> None:
    bad = patched(victim(ca=True), ROOT, *(PATCHES | KEY_PATCHES)[what])
    refusal(leaf_below(name(VICTIM.decode()), LEAF), (bad,), (root(),), pki.NOW, "publisher")
    direct = leaf_below(name("Root"), ROOT)
    assert verify_chain(direct, (bad,), (root(),), pki.NOW, "publisher").san == URI.value


@pytest.mark.parametrize("what", [*PATCHES, *KEY_PATCHES])
def test_malformed_anchor(what: str) -> None:
    bad = patched(victim(ca=True), ROOT, *(PATCHES | KEY_PATCHES)[what])
    with pytest.raises((FormatError, SignerUntrusted)):
        verify_anchor(bad, "anchor")
    refusal(leaf_below(name(VICTIM.decode()), LEAF), (), (bad,), pki.NOW, "publisher")


@pytest.mark.parametrize("what", PATCHES)
def test_other_readers_of_a_malformed_certificate(what: str) -> None:
    bad = patched(victim(ca=False), ROOT, *PATCHES[what])
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bad) + b"-----END CERTIFICATE-----\n"
    for read in (certificate_spki, certificate_facts, issuer_and_serial, lambda der: verify_anchor(der, "x")):
        with pytest.raises((FormatError, SignerUntrusted)):
            read(bad)
    with pytest.raises((FormatError, SignerUntrusted)):
        for der in parse_pem_certificates(pem, "x"):
            certificate_spki(der)
    with pytest.raises(EdgeprovError):
        parse_policy({"publisher.pem": pem, "policy.toml": b""})


@pytest.mark.parametrize("what", [item for item in PATCHES if item.startswith("name ")])
def test_a_stranger_with_a_malformed_issuer(what: str) -> None:
    """Whoever may push can send this: nobody whom we trust signed it."""
    stranger = issue(name("stranger"), LEAF, name(VICTIM.decode()), SUB, ca=False)
    refusal(patched(stranger, SUB, *PATCHES[what]), (), (root(),), pki.NOW, "publisher")


def test_the_victim_is_good_without_a_patch() -> None:
    assert verify_chain(victim(ca=False), (), (root(),), pki.NOW, "publisher").san == URI.value
    below = leaf_below(name(VICTIM.decode()), LEAF)
    assert verify_chain(below, (victim(ca=True),), (root(),), pki.NOW, "publisher").san == URI.value
    again = patched(victim(ca=False), ROOT, VICTIM, VICTIM)
    assert verify_chain(again, (), (root(),), pki.NOW, "publisher").san == URI.value


def test_serial_number_of_twenty_octets_at_most() -> None:
    largest = (1 << 159) - 1  # a positive number of 20 octets in DER
    leaf = issue(name("leaf"), LEAF, name("Root"), ROOT, ca=False, serial=largest)
    assert verify_chain(leaf, (), (root(),), pki.NOW, "publisher").serial == f"{largest:x}"
    tbs = x509.load_der_x509_certificate(victim(ca=False)).tbs_certificate_bytes
    longer = tbs[tbs.index(b"\xa0\3\2\1\2") :].replace(b"\2\1\x4d", b"\2\x15" + b"\1" * 21, 1)
    refused = refusal(pki.signed_certificate(pki.wrap(0x30, longer), ROOT), (), (root(),), pki.NOW, "publisher")
    assert "serial number" in str(refused) or "not an X.509 certificate" in str(refused)


def test_a_long_certificate_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "parse_certificate", lambda _: pytest.fail("parsed"))
    assert "bytes" in str(refusal(bytes(LIMITS.certificate_bytes + 1), (), (root(),), pki.NOW, "publisher"))


def test_a_long_name_makes_a_short_line() -> None:
    long = name(*("x" * 60 for _ in range(60)))
    stranger = issue(long, LEAF, long, SUB, ca=False)
    assert len(stranger) > 8_000
    assert "leads to no publisher" in str(refusal(stranger, (), (root(),), pki.NOW, "publisher"))


@pytest.mark.parametrize(("critical", "text"), [(True, "critical extension 2.5.29.30"), (False, "name constraints")])
def test_name_constraints_refuse_critical_or_not(critical: bool, text: str) -> None:
    limit = x509.NameConstraints([x509.DNSName("acme.example")], None)
    sub = issue(name("Sub"), SUB, name("Root"), ROOT, ca=True, extra=((limit, critical),))
    assert text in str(refusal(leaf_below(name("Sub"), SUB), (sub,), (root(),), pki.NOW, "publisher"))


@pytest.mark.parametrize("anchors", [0, 1, 2])
def test_cas_that_issued_each_other_cost_one_signature_for_each_pair(anchors: int) -> None:
    """Five CAs of one name and one key: 326 paths. Without an anchor they are all dead ends."""
    ring = [issue(name("Ring"), SUB, name("Ring"), SUB, ca=True, serial=serial) for serial in range(1, 6)]
    roots = [issue(name("Ring"), SUB, name("Ring"), SUB, ca=True, serial=100 + serial) for serial in range(anchors)]
    x509path._is_issued_by.cache_clear()
    leaf = leaf_below(name("Ring"), SUB)
    trusted = (*roots, root())
    if anchors:
        assert verify_chain(leaf, ring, trusted, pki.NOW, "publisher").san == URI.value
        assert len(x509path._judge_paths(leaf, tuple(ring), trusted, "publisher")) == 1
    else:
        assert "leads to no" in str(refusal(leaf, ring, trusted, pki.NOW, "publisher"))
    assert x509path._is_issued_by.cache_info().misses <= (1 + len(ring)) * (len(ring) + len(trusted))
    assert "more than 5" in str(refusal(leaf, [*ring, ring[0]], trusted, pki.NOW, "publisher"))


def test_a_renewed_ca_of_the_same_key_in_any_order() -> None:
    """Old and new root stand side by side in the trust folder; the time decides which one counts."""
    key, who = pki.soft_key("renewed"), name("Renewed")

    def of(start: int, end: int, serial: int) -> bytes:
        times = (dt.datetime(start, 1, 1, tzinfo=dt.UTC), dt.datetime(end, 1, 1, tzinfo=dt.UTC))
        builder = x509.CertificateBuilder(who, who, key.public_key(), serial, *times)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        return (
            builder.add_extension(pki.key_usage(key_cert_sign=True), True)
            .sign(key, SHA256())
            .public_bytes(Encoding.DER)
        )

    old, new = of(2020, 2025, 1), of(2024, 2030, 2)
    leaf = leaf_below(who, key)
    for anchors in itertools.permutations((old, new)):
        for year, serial in ((2024, None), (2026, "2"), (2029, "2")):
            identity = verify_chain(leaf, (), anchors, dt.datetime(year, 6, 1, tzinfo=dt.UTC), "publisher")
            assert serial in (None, identity.issuers[0][0])
        expired = refusal(leaf, (), anchors, dt.datetime(2031, 1, 1, tzinfo=dt.UTC), "publisher")
        assert "has expired: valid 2024-01-01T00:00:00Z to 2030-01-01T00:00:00Z" in str(expired)


@pytest.mark.parametrize("seed", range(3))
def test_every_byte_changed(seed: int) -> None:
    """No changed leaf is accepted, no changed CA helps, and nothing but our own errors comes out."""
    rng = random.Random(seed)
    below = leaf_below(name(VICTIM.decode()), LEAF)
    for der, leaf in ((victim(ca=False), None), (victim(ca=True), below)):
        for position in range(len(der)):
            changed = bytearray(der)
            changed[position] ^= 1 << rng.randrange(8)
            bad = bytes(changed)
            if leaf is None:
                refusal(bad, (), (root(),), pki.NOW, "publisher")
            else:
                refusal(leaf, (bad,), (root(),), pki.NOW, "publisher")
                refusal(leaf, (), (root(), bad), pki.NOW, "device")


def test_a_refused_certificate_prints_nothing() -> None:
    bad = patched(victim(ca=False), ROOT, *PATCHES["negative serial number"])
    code = (
        "import sys; from edgeprov.verify.certificates import certificate_spki\n"
        "try: certificate_spki(bytes.fromhex(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    child = subprocess.run([sys.executable, "-W", "always", "-c", code, bad.hex()], capture_output=True, text=True)
    assert (child.stdout.split()[0], child.stderr) == ("FormatError", "")
    assert "serial number" in child.stdout
