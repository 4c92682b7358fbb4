# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Ask two judges about certificate chains: verify.x509path and cryptography.x509.verification.

The second judge is PolicyBuilder with the rules of FORMAT.md "Certificates" for a single certificate; search,
names, signatures, validity and path lengths are the library's own. The judges must agree, except where INTENDED
says why not. It cannot speak about chains of TPM makers and timestamp authorities; those have tests of their own.
"""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.hashes import SHA224, SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprov.errors import EdgeprovError
from edgeprov.limits import LIMITS
from edgeprov.verify import certificate_rules, x509path
from edgeprov.verify.certificates import load_certificate, subject_of
from tests.support import pki

pytestmark = pytest.mark.skipif(
    not hasattr(verification, "ExtensionPolicy"), reason="cryptography before version 45 has no ExtensionPolicy"
)

YEAR = dt.timedelta(days=365)
NAMES = {
    "publisher": "https://acme.example/ci",
    "device": "urn:edgeprov:device:unit-1",
    "enroller": "urn:edgeprov:enroller:line1",
}
MAKERS: dict[str, Callable[[], object]] = {
    "p192": lambda: ec.derive_private_key(5, ec.SECP192R1()),
    "p384": lambda: ec.derive_private_key(5, ec.SECP384R1()),
    "brainpool": lambda: ec.derive_private_key(5, ec.BrainpoolP256R1()),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "dsa": lambda: dsa.generate_private_key(1024),
}


@cache
def key_named(name: str) -> object:
    return MAKERS[name]() if name in MAKERS else pki.soft_key(name)


@dataclass(frozen=True)
class Cert:
    """A certificate to be made. ``usage`` holds names of bits; None leaves the extension out."""

    subject: str
    issuer: str
    key: str
    signer: str
    ca: bool | None = True
    path_length: int | None = None
    usage: tuple[str, ...] | None = ("key_cert_sign",)
    usage_critical: bool = True
    eku: tuple[x509.ObjectIdentifier, ...] = ()
    names: tuple[str, ...] = ()
    start: dt.datetime = pki.NOW - YEAR
    end: dt.datetime = pki.NOW + YEAR
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    algorithm: type = SHA256

    @property
    def der(self) -> bytes:
        return made(self).public_bytes(Encoding.DER)


@cache
def made(cert: Cert) -> x509.Certificate:
    name = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])  # noqa: E731
    builder = x509.CertificateBuilder(
        name(cert.issuer), name(cert.subject), key_named(cert.key).public_key(), 77, cert.start, cert.end
    )
    extensions = list(cert.extra)
    if cert.ca is not None:
        extensions.append((x509.BasicConstraints(ca=cert.ca, path_length=cert.path_length if cert.ca else None), True))
    if cert.usage is not None:
        extensions.append((pki.key_usage(**dict.fromkeys(cert.usage, True)), cert.usage_critical))
    if cert.eku:
        extensions.append((x509.ExtendedKeyUsage(cert.eku), False))
    if cert.names:
        extensions.append((x509.SubjectAlternativeName(map(x509.UniformResourceIdentifier, cert.names)), False))
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(key_named(cert.signer), cert.algorithm())


@dataclass
class Case:
    """``bag`` holds the CAs between leaf and root, the nearest to the root first, until something changes it."""

    purpose: str
    leaf: Cert
    bag: list[Cert]
    anchors: list[Cert]
    rng: random.Random
    faults: list[str] = field(default_factory=list)

    def change_ca(self, place: int | None = None, **changes: object) -> None:
        """Change one of the CAs, the anchor among them."""
        place = self.rng.randrange(len(self.bag) + 1) if place is None else place
        if place == len(self.bag):
            self.anchors[0] = replace(self.anchors[0], **changes)
        else:
            self.bag[place] = replace(self.bag[place], **changes)


def good_case(purpose: str, depth: int, rng: random.Random) -> Case:
    root = Cert("CA 0", "CA 0", "key 0", "key 0")
    bag = [Cert(f"CA {n}", f"CA {n - 1}", f"key {n}", f"key {n - 1}") for n in range(1, depth + 1)]
    leaf = Cert(
        "leaf", f"CA {depth}", "leaf", f"key {depth}", ca=False, usage=("digital_signature",), names=(NAMES[purpose],)
    )
    return Case(purpose, leaf, bag, [root], rng)


# -- faults, and what is none ------------------------------------------------------------------------

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
PAST = {"start": pki.NOW - 3 * YEAR, "end": pki.NOW - YEAR}
FUTURE = {"start": pki.NOW + YEAR, "end": pki.NOW + 3 * YEAR}
LEAF = {
    "leaf expired": PAST,
    "leaf not valid yet": FUTURE,
    "leaf for servers": {"eku": (ExtendedKeyUsageOID.SERVER_AUTH,)},
    "leaf for code": {"eku": (ExtendedKeyUsageOID.CODE_SIGNING,)},
    "leaf without key usage": {"usage": None},
    "leaf without digitalSignature": {"usage": ("key_agreement",)},
    "leaf with keyCertSign": {"usage": ("digital_signature", "key_cert_sign")},
    "leaf with uncritical key usage": {"usage_critical": False},
    "leaf is a CA": {"ca": True},
    "leaf without basic constraints": {"ca": None},
    "leaf of two names": {"names": ("https://a.example", "https://b.example")},
    "leaf names a device": {"names": (NAMES["device"],)},
    "leaf names a publisher": {"names": (NAMES["publisher"],)},
    "leaf names a device without serial number": {"names": ("urn:edgeprov:device:",)},
    "leaf without name": {"names": ()},
    "leaf with unknown critical extension": {"extra": ((UNKNOWN, True),)},
    "leaf with unknown extension": {"extra": ((UNKNOWN, False),)},
    "leaf self-signed": {"issuer": "leaf", "signer": "leaf"},
    "leaf signed by another key": {"signer": "key of nobody"},
    "leaf of another issuer": {"issuer": "CA of nobody"},
    "leaf signed with SHA-224": {"algorithm": SHA224},
    "leaf with P-384": {"key": "p384"},
    "leaf with RSA": {"key": "rsa2048"},
}
CA_LEVEL = {
    "CA expired": PAST,
    "CA not valid yet": FUTURE,
    "CA is none": {"ca": False},
    "CA without basic constraints": {"ca": None},
    "CA without key usage": {"usage": None},
    "CA without keyCertSign": {"usage": ("crl_sign",)},
    "CA with uncritical key usage": {"usage_critical": False},
    "CA with unknown critical extension": {"extra": ((UNKNOWN, True),)},
    "CA with name constraints": {"extra": ((x509.NameConstraints([x509.DNSName("a.example")], None), True),)},
    "CA with uncritical name constraints": {"extra": ((x509.NameConstraints(None, [x509.DNSName("a.example")]), False),)},
    "CA signed by another key": {"signer": "key of nobody"},
    "CA of another issuer": {"issuer": "CA of nobody"},
    "CA signed with SHA-224": {"algorithm": SHA224},
    "CA of path length 0": {"path_length": 0},
    "CA of path length 1": {"path_length": 1},
}  # fmt: skip
KEYS = {f"CA with the key {name}": name for name in MAKERS}


def weaken_key(case: Case, key: str) -> None:
    """Give the CA above the leaf another kind of key."""
    case.leaf = replace(case.leaf, signer=key)
    changes = {"key": key} if case.bag else {"key": key, "signer": key}
    case.change_ca(len(case.bag) - 1 if case.bag else 0, **changes)


def cross(case: Case, **changes: object) -> None:
    """Certify the CA above the leaf by a second root; the second certificate comes first."""
    last = case.bag[-1] if case.bag else case.anchors[0]
    other = Cert("other root", "other root", "other root", "other root")
    case.bag.insert(0, replace(last, issuer="other root", signer="other root", **changes))
    case.anchors.insert(0, other)


def only_the_cross_path(case: Case) -> None:
    cross(case)
    case.anchors.pop()


def renew_anchor(case: Case, **changes: object) -> None:
    case.anchors.insert(0, replace(case.anchors[0], **changes))


def loop(case: Case) -> None:
    """Two CAs with the leaf's issuer's name and key, which issued each other."""
    last = case.bag[-1] if case.bag else case.anchors[0]
    case.bag.insert(0, replace(last, issuer="loop", signer="loop"))
    case.bag.insert(0, Cert("loop", last.subject, "loop", last.key))


def self_issued(case: Case) -> None:
    """A CA that changed its key: it signed its new certificate with the old one."""
    above = case.bag[-1] if case.bag else case.anchors[0]
    case.bag.append(replace(above, issuer=above.subject, key="new key", signer=above.key))
    case.leaf = replace(case.leaf, signer="new key")


def missing(case: Case) -> None:
    if case.bag:
        case.bag.pop(case.rng.randrange(len(case.bag)))
    else:
        case.anchors.pop()


STRUCTURE: dict[str, Callable[[Case], object]] = {
    "unordered": lambda case: case.rng.shuffle(case.bag),
    "junk": lambda case: case.bag.insert(0, Cert("junk", "junk", "junk", "junk")),
    "junk of the same name": lambda case: case.bag.insert(0, Cert(case.leaf.issuer, "junk", "junk", "junk")),
    "six junk": lambda case: case.bag.extend(Cert(f"junk {n}", "junk", "junk", "junk") for n in range(6)),
    "anchor in the bag": lambda case: case.bag.insert(0, case.anchors[0]),
    "leaf in the bag": lambda case: case.bag.insert(0, case.leaf),
    "twice in the bag": lambda case: case.bag.extend(case.bag[:1]),
    "leaf is an anchor": lambda case: case.anchors.append(case.leaf),
    "CA missing": missing,
    "another anchor": lambda case: case.anchors.insert(0, Cert("CA 0", "CA 0", "other", "other")),
    "no anchor": lambda case: case.anchors.clear(),
    "intermediate is the anchor": lambda case: case.anchors.__setitem__(0, (case.bag or case.anchors)[0]),
    "cross-signed": cross,
    "cross-signed, only the second": only_the_cross_path,
    "cross-signed, the second expired": lambda case: cross(case, **PAST),
    "cross-signed, the second no CA": lambda case: cross(case, ca=False),
    "anchor renewed": lambda case: renew_anchor(case, **PAST),
    "anchor renewed ahead": lambda case: renew_anchor(case, **FUTURE),
    "loop": loop,
    "self-issued": self_issued,
}
FAULTS: dict[str, Callable[[Case], object]] = {
    **{name: lambda case, c=c: setattr(case, "leaf", replace(case.leaf, **c)) for name, c in LEAF.items()},
    **{name: lambda case, c=c: case.change_ca(**c) if case.anchors else None for name, c in CA_LEVEL.items()},
    **{name: lambda case, key=key: weaken_key(case, key) if case.anchors else None for name, key in KEYS.items()},
    **{name: lambda case, way=way: way(case) if case.anchors else None for name, way in STRUCTURE.items()},
}

HARMLESS = {
    "leaf for code", "leaf without basic constraints", "leaf without name", "leaf with unknown extension",
    "leaf with P-384", "leaf with RSA", "CA with uncritical key usage", "CA of path length 1",
    "CA with the key p384", "CA with the key rsa2048", "unordered", "junk", "junk of the same name", "six junk",
    "anchor in the bag", "leaf in the bag", "twice in the bag", "leaf is an anchor", "another anchor",
    "intermediate is the anchor", "cross-signed", "cross-signed, the second expired", "cross-signed, the second no CA",
    "cross-signed, only the second", "anchor renewed", "anchor renewed ahead", "loop", "self-issued",
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A case in which only ``refuser`` refuses, and why that is right."""

    refuser: str
    applies: Callable[[Case], bool]
    reason: str


INTENDED = {
    "an anchor signs no artifacts": Difference(
        "first",
        lambda case: case.leaf in case.anchors,
        "The library takes any certificate of its store as trusted. Our anchors are CAs: FORMAT.md wants a path.",
    ),
    "at most five certificates above the leaf": Difference(
        "first",
        lambda case: len(case.bag) > LIMITS.certificate_chain,
        "A bound of work and of stored evidence (FORMAT.md, limits). The library bounds signatures instead.",
    ),
    "curves that the web does not use": Difference(
        "second",
        lambda case: any(item.key == "brainpool" for item in (*case.bag, *case.anchors)),
        "A private CA may have any key of 128 bits of security, as PKIs of health care do with brainpoolP256r1.",
    ),
}


# -- the judges --------------------------------------------------------------------------------------


def first_judge(case: Case) -> str:
    """Return "" for yes, else the reason."""
    try:
        x509path.verify_chain(
            case.leaf.der, [item.der for item in case.bag], [item.der for item in case.anchors], pki.NOW, case.purpose
        )
    except EdgeprovError as error:
        return str(error)
    return ""


def need(truth: object, what: str) -> None:
    if not truth:
        raise ValueError(what)


def second_judge(case: Case) -> str:
    """Return "" for yes, else the reason."""

    def ca_usage(_policy, _certificate, usage) -> None:
        need(usage.key_cert_sign, "keyCertSign")

    def leaf_usage(_policy, _certificate, usage) -> None:
        need(usage.digital_signature and not usage.key_cert_sign, "usage of the leaf")

    def leaf_constraints(_policy, _certificate, constraints) -> None:
        need(constraints is None or not constraints.ca, "the leaf is a CA")

    def leaf_uses(_policy, _certificate, uses) -> None:
        need(uses is None or ExtendedKeyUsageOID.CODE_SIGNING in uses, "extended key usage")

    def leaf_names(_policy, certificate, alternative) -> None:
        names = [item.value for item in alternative or ()]
        need(len(names) <= 1, "names")
        name = names[0] if names else ""
        if case.purpose == "publisher":
            need(not name.startswith("urn:edgeprov:"), "name")
        else:
            prefix = f"urn:edgeprov:{case.purpose}:"
            need(name.startswith(prefix) and name != prefix, "name")
            need(getattr(getattr(certificate.public_key(), "curve", None), "name", "") == "secp256r1", "key")

    anyway, critical = verification.Criticality.AGNOSTIC, verification.Criticality.CRITICAL
    nothing = verification.ExtensionPolicy.permit_all().require_not_present(x509.NameConstraints)
    above = nothing.require_present(x509.BasicConstraints, anyway, None)
    above = above.require_present(x509.KeyUsage, anyway, ca_usage)
    leaf = nothing.require_present(x509.KeyUsage, critical, leaf_usage)
    leaf = leaf.may_be_present(x509.BasicConstraints, anyway, leaf_constraints)
    leaf = leaf.may_be_present(x509.ExtendedKeyUsage, anyway, leaf_uses)
    leaf = leaf.may_be_present(x509.SubjectAlternativeName, anyway, leaf_names)
    if not case.anchors:
        return "no anchor"  # Store takes no empty list
    builder = verification.PolicyBuilder().store(verification.Store([made(item) for item in case.anchors]))
    verifier = builder.time(pki.NOW).extension_policies(ca_policy=above, ee_policy=leaf).build_client_verifier()
    try:
        verifier.verify(made(case.leaf), [made(item) for item in case.bag])
    except verification.VerificationError as error:
        return str(error)
    return ""


def disagreement(case: Case) -> str:
    first, second = first_judge(case), second_judge(case)
    if bool(first) == bool(second):
        return ""
    refuser = "first" if first else "second"
    if any(item.refuser == refuser and item.applies(case) for item in INTENDED.values()):
        return ""
    return f"{case.purpose}, {len(case.bag)} in the bag, {case.faults}: first says {first!r}, second says {second!r}"


def changed(case: Case, faults: list[str]) -> Case:
    for fault in faults:
        FAULTS[fault](case)
        case.faults.append(fault)
    return case


def single_faults(seeds: int = 3) -> list[str]:
    """Each fault alone, at each depth, for each purpose and some places: what the judges disagree about."""
    return [
        found
        for purpose in NAMES
        for depth in range(4)
        for fault in FAULTS
        for seed in range(seeds)
        if (found := disagreement(changed(good_case(purpose, depth, random.Random(seed)), [fault])))
    ]


@pytest.mark.parametrize("purpose", NAMES)
@pytest.mark.parametrize("depth", range(6))
def test_both_accept_a_good_chain(purpose: str, depth: int) -> None:
    case = good_case(purpose, depth, random.Random(1))
    assert (first_judge(case), second_judge(case)) == ("", "")


def test_both_judge_each_single_fault_alike() -> None:
    assert single_faults() == []


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(NAMES)),
    st.integers(0, 5),
    st.lists(st.sampled_from(sorted(FAULTS)), min_size=2, max_size=4),
    st.integers(0, 1_000),
)
def test_both_judge_several_faults_alike(purpose: str, depth: int, faults: list[str], seed: int) -> None:
    assert disagreement(changed(good_case(purpose, depth, random.Random(seed)), faults)) == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_counts_in_the_one_way_that_its_name_says(fault: str) -> None:
    """The second judge alone must tell harmless changes from faults, or both could be blind."""
    purpose = "device" if fault == "leaf names a publisher" else "publisher"
    refused = bool(second_judge(changed(good_case(purpose, 2, random.Random(1)), [fault])))
    assert refused == (fault not in HARMLESS)


@pytest.mark.parametrize("name", INTENDED)
def test_each_intended_difference_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(INTENDED, name)
    assert single_faults(seeds=1)


def _names_only(certificate: bytes, issuer: bytes) -> bool:
    return load_certificate(certificate).issuer_der == load_certificate(issuer).subject_der


def _no_time(leaf, intermediates, anchors, _at, purpose):
    return x509path._judge_paths(leaf, tuple(intermediates), tuple(anchors), purpose)[0]


def _first_path(search, certificate, candidates, below=0, find=x509path._PathSearch.find):
    return itertools.islice(find(search, certificate, candidates, below), 1)


@pytest.mark.parametrize(
    ("owner", "name", "weak"),
    [
        (x509path, "verify_ca", lambda *_: None),
        (x509path, "verify_leaf", lambda certificate, _: subject_of(certificate)),
        (x509path, "_is_issued_by", _names_only),
        (x509path, "verify_chain", _no_time),
        (x509path._PathSearch, "find", _first_path),
        (certificate_rules, "_verify_extensions", lambda *_: None),
    ],
)
def test_a_weakened_judge_is_found_out(owner, name: str, weak: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, name, weak)
    x509path._judge_paths.cache_clear()
    try:
        assert single_faults(seeds=1)
    finally:
        x509path._judge_paths.cache_clear()
