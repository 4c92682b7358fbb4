# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Enrollment: what a real request gets, and every lie refused before anything is issued."""

from __future__ import annotations

import base64
import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edgeprov.errors import EnrollmentRefused
from edgeprov.fleet.enrollment import enroll
from edgeprov.fleet.registries.sources import ArtifactReader, parse_source
from edgeprov.fleet.trust.folder import load_trust
from edgeprov.formats.devicerecord import encode_attestation, encode_factory_key, enroll_qualifying
from edgeprov.verify.enrollment import verify_device_record
from tests.support import pki
from tests.support.factory import factory_key, maker_root
from tests.support.fleet import fleet
from tests.support.softtpm import SoftTpm

NONCE = bytes(range(16))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def csr(key: ec.EllipticCurvePrivateKey, serial: str, *names: str) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if names:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(item) for item in names])
        builder = builder.add_extension(san, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def request(tpm: SoftTpm, serial: str = "ward-1", **changes: object) -> dict:
    certify, counter = tpm.certify_sk(enroll_qualifying(NONCE)), tpm.certify_counter(enroll_qualifying(NONCE))
    return {
        "type": "edgeprov.enrollment-request", "v": 1, "device": f"urn:edgeprov:device:{serial}", "csr": b64(csr(tpm.sk, serial)),
        "ak": b64(tpm.ak_public), "sk": b64(tpm.sk_public), "nonce": NONCE.hex(),
        "certify": encode_attestation(certify), "counter": encode_attestation(counter), "ek": None, "ek_public": None,
        "assurance": "dev", "counter_base": 100, "counter_index": 0x01800100,
    } | changes  # fmt: skip


class Site:
    def __init__(self, root: Path) -> None:
        self.root = root
        assert fleet("ca", "init", root / "ca", "--name", "Acme Medical").code == 0

    def enroll(self, document: dict, *argv: object):
        (self.root / "request.json").write_text(json.dumps(document))
        return fleet(
            "enroll", self.root / "request.json", "--to", f"oci:{self.root}/registry", "--ca", self.root / "ca", "-o",
            self.root / "identity.json", "--json", *argv,
        )  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_device_gets_the_certificate_that_cosign_and_notation_accept(site: Site):
    tpm = SoftTpm("ward-1")
    run = site.enroll(request(tpm))
    assert run.code == 0, run.err
    identity = json.loads((site.root / "identity.json").read_text())
    chain = [x509.load_der_x509_certificate(base64.b64decode(item)) for item in identity["certificates"]]
    leaf = chain[0]
    assert len(chain) == 3
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:edgeprov:device:ward-1"]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.key_agreement
    held = {attribute.oid for attribute in leaf.subject}
    assert {NameOID.COUNTRY_NAME, NameOID.STATE_OR_PROVINCE_NAME, NameOID.ORGANIZATION_NAME} <= held
    assert leaf.not_valid_after_utc.year == 9999
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints)


def test_every_serial_number_of_the_grammar_can_be_enrolled(site: Site):
    for serial in ("SN_0001", "0", "a-_b", "A" * 48):
        run = site.enroll(request(SoftTpm(serial), serial))
        assert run.code == 0, run.err


def test_the_record_verifies_from_the_registry_alone(site: Site):
    tpm = SoftTpm("ward-1")
    item = site.enroll(request(tpm)).last("enrolled")
    reader = ArtifactReader(parse_source(f"oci:{site.root}/registry"))
    manifest = reader.registry.fetch_manifest("devices", "ward-1")
    assert str(manifest.digest) == item["record"]
    layer = reader.blob("devices", manifest.layers[0], max_bytes=10**6)
    policy = load_trust(site.root / "ca" / "trust.d").policy
    device = verify_device_record(
        manifest, layer, reader.signatures("devices", manifest.digest), policy, dt.datetime.now(dt.UTC)
    )
    assert device.record.counter_base == 100
    assert device.enroller.san == "urn:edgeprov:enroller:acme-medical"


def test_a_second_enrollment_keeps_the_first_record(site: Site):
    first = site.enroll(request(SoftTpm("one"))).last("enrolled")
    second = site.enroll(request(SoftTpm("two"))).last("enrolled")
    assert second["replaced"] == first["record"]
    tags = ArtifactReader(parse_source(f"oci:{site.root}/registry")).registry.list_tags("devices")
    records = {f"ward-1.{item['record'][7:23]}" for item in (first, second)}
    assert set(tags) == {"ward-1", *records, *(f"{tag}.s1" for tag in records)}


def lies() -> dict[str, tuple[dict, int]]:
    tpm, other = SoftTpm("ward-1"), SoftTpm("other")
    good = request(tpm)
    forged = tpm.certify_sk(enroll_qualifying(b"another nonce!!!"))
    by_other = other.certify_sk(enroll_qualifying(NONCE), public=tpm.sk_public)
    restricted = SoftTpm("ward-1")
    restricted.sk_attributes = restricted.ak_attributes
    unrestricted = SoftTpm("ward-1")
    unrestricted.ak_attributes = unrestricted.sk_attributes

    def certified(attestation):
        return encode_attestation(attestation)

    return {
        "certified under another nonce": (good | {"certify": certified(forged)}, 18),
        "certified by another TPM": (good | {"certify": certified(by_other)}, 18),
        "certified another key": (
            good | {"certify": certified(tpm.certify_sk(enroll_qualifying(NONCE), public=other.sk_public))},
            18,
        ),
        "a signing key from elsewhere": (good | {"sk": b64(other.sk_public)}, 18),
        "a request for another key": (good | {"csr": b64(csr(other.sk, "ward-1"))}, 18),
        "a request for another serial": (good | {"csr": b64(csr(tpm.sk, "ward-2"))}, 18),
        "a request for another name": (good | {"csr": b64(csr(tpm.sk, "ward-1", "urn:edgeprov:device:ward-2"))}, 18),
        "a request for two names": (
            good | {"csr": b64(csr(tpm.sk, "ward-1", "urn:edgeprov:device:ward-1", "urn:edgeprov:enroller:x"))},
            18,
        ),
        "a garbled request": (good | {"csr": b64(b"garbage")}, 18),
        "a restricted signing key": (request(restricted), 18),
        "an unrestricted attestation key": (request(unrestricted), 18),
        "a base that the counter never had": (good | {"counter_base": 150}, 18),
        "a counter certified under another nonce": (
            good | {"counter": certified(tpm.certify_counter(enroll_qualifying(b"another nonce!!!")))},
            18,
        ),
        "another TPM's counter": (good | {"counter": certified(other.certify_counter(enroll_qualifying(NONCE)))}, 18),
        "another counter": (good | {"counter_index": 0x01800200}, 18),
        "hardware without EK certificate": (good | {"assurance": "hardware"}, 19),
        "a name that is no serial": (good | {"device": "urn:edgeprov:device:a.b"}, 4),
        "another document": (good | {"type": "edgeprov.identity"}, 4),
        "another version": (good | {"v": 2}, 4),
        "no nonce": ({key: value for key, value in good.items() if key != "nonce"}, 4),
    }


@pytest.mark.parametrize("lie", lies())
def test_lies_are_refused_and_nothing_is_issued(site: Site, lie: str):
    document, code = lies()[lie]
    run = site.enroll(document)
    assert run.code == code, (lie, run.out)
    assert not (site.root / "identity.json").exists()
    assert not (site.root / "registry" / "index.json").exists() or not ArtifactReader(
        parse_source(f"oci:{site.root}/registry")
    ).registry.list_tags("devices")


def test_an_old_request_does_not_answer_a_fresh_nonce(site: Site):
    assert site.enroll(request(SoftTpm("ward-1")), "--nonce", "ff" * 16).code == 18
    assert site.enroll(request(SoftTpm("ward-1")), "--nonce", NONCE.hex()).code == 0
    assert site.enroll(request(SoftTpm("ward-1")), "--nonce", "zz").code == 2


def test_hardware_needs_an_endorsement_certificate(site: Site):
    policy = site.root / "ca" / "trust.d" / "policy.toml"
    policy.write_text(policy.read_text().replace('"dev"', '"hardware"'))
    run = site.enroll(request(SoftTpm("ward-1"), assurance="hardware"))
    assert run.code == 18
    assert "endorsement key certificate" in run.last("error")["message"]
    assert site.enroll(request(SoftTpm("ward-1"))).code == 19  # and `dev` is not accepted there


def vouched(
    tpm: SoftTpm, issuer: pki.Issued, *, ak: bytes | None = None, nonce: bytes = NONCE, **options: object
) -> dict:
    """A request with a factory key; no EK, as on a TPM whose maker put none in."""
    return request(tpm, iak=encode_factory_key(factory_key(ak or tpm.ak_public, nonce, issuer, **options)))


def trust_maker(site: Site, *levels: str) -> pki.Issued:
    root = maker_root()
    (site.root / "ca" / "trust.d" / "idevid.pem").write_bytes(root.pem)
    policy = site.root / "ca" / "trust.d" / "policy.toml"
    policy.write_text(policy.read_text().replace('"dev"', ", ".join(f'"{level}"' for level in levels)))
    return root


@pytest.mark.parametrize("level", ["dev", "firmware", "hardware"])
def test_a_factory_key_vouches_in_one_round(site: Site, level: str):
    root = trust_maker(site, level)
    run = site.enroll(vouched(SoftTpm("ward-1"), root) | {"assurance": level}, "--nonce", NONCE.hex())
    assert run.code == 0, run.out
    reader = ArtifactReader(parse_source(f"oci:{site.root}/registry"))
    manifest = reader.registry.fetch_manifest("devices", "ward-1")
    layer = reader.blob("devices", manifest.layers[0], max_bytes=10**6)
    policy = load_trust(site.root / "ca" / "trust.d").policy
    device = verify_device_record(
        manifest, layer, reader.signatures("devices", manifest.digest), policy, dt.datetime.now(dt.UTC)
    )
    assert (device.record.assurance, device.record.proof) == (level, "vouched")
    assert device.record.factory is not None


def bad_factory_keys() -> dict[str, dict]:
    tpm, root = SoftTpm("ward-1"), maker_root()
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return {
        "of a maker nobody trusts": vouched(tpm, pki.root("Another Maker")),
        "expired": vouched(tpm, root, start=start, end=start + dt.timedelta(days=1)),
        "a CA certificate": vouched(tpm, root, ca=True),
        "certificate of another key": vouched(tpm, root, certified=SoftTpm("x").ak.public_key()),
        "unrestricted": vouched(tpm, root, attributes=SoftTpm("x").sk_attributes),
        "certified another AK": vouched(tpm, root, ak=SoftTpm("x").ak_public),
        "replayed under a new nonce": vouched(tpm, root, nonce=b"an older nonce.."),
    }


@pytest.mark.parametrize("fault", bad_factory_keys())
@pytest.mark.parametrize("level", ["dev", "hardware"])
def test_a_bad_factory_key_is_refused(site: Site, fault: str, level: str):
    trust_maker(site, level)
    run = site.enroll(bad_factory_keys()[fault] | {"assurance": level})
    assert run.code == 18, (fault, run.out)
    assert "factory key" in run.last("error")["message"]
    assert not (site.root / "identity.json").exists()


def test_a_factory_key_of_no_trusted_maker_vouches_for_nothing(site: Site):
    """Without idevid*.pem it is passed over: `dev` is enrolled as without one, `hardware` still needs the EK."""
    document = vouched(SoftTpm("ward-1"), maker_root())
    assert site.enroll(document).code == 0
    policy = site.root / "ca" / "trust.d" / "policy.toml"
    policy.write_text(policy.read_text().replace('"dev"', '"hardware"'))
    run = site.enroll(document | {"assurance": "hardware"})
    assert run.code == 18
    assert "endorsement key certificate" in run.last("error")["message"]


def test_a_malformed_factory_key_is_no_request(site: Site):
    good = vouched(SoftTpm("ward-1"), trust_maker(site, "dev"))
    for change in ({"public": "AAAA"}, {"certificate": 5}, {"certify": None}, {"certificate": "!"}):
        assert site.enroll(good | {"iak": good["iak"] | change}).code == 4, change


def test_one_tpm_is_one_device(site: Site):
    tpm = SoftTpm("ward-1")
    assert site.enroll(request(tpm)).code == 0
    run = site.enroll(request(tpm, "ward-2"))
    assert run.code == 19
    assert "enrolled as urn:edgeprov:device:ward-1" in run.last("error")["message"]


def test_denied_keys_are_not_enrolled_again(site: Site):
    tpm = SoftTpm("ward-1")
    policy = site.root / "ca" / "trust.d" / "policy.toml"
    import hashlib

    key = hashlib.sha256(tpm.public_key_spki).hexdigest()
    policy.write_text(policy.read_text() + f'[[deny]]\ntype = "key"\nvalue = "{key}"\n')
    assert site.enroll(request(tpm)).code == 19


def test_a_wrong_answer_to_the_challenge_is_refused():
    good = json.dumps({"type": "edgeprov.credential-response", "v": 1, "credential": b64(bytes(32))}).encode()
    enroll.verify_response(good, bytes(32))
    with pytest.raises(EnrollmentRefused, match="did not recover"):
        enroll.verify_response(good, bytes(31) + b"\1")
    with pytest.raises(EnrollmentRefused, match="no endorsement key certificate"):
        enroll.make_challenge(enroll.parse_request(json.dumps(request(SoftTpm("a"))).encode()), bytes(96))
