# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Enrollment: what a real request gets, and every lie refused before anything is issued."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from edgeprov.fleet.enrollment.enroller_state import EnrollerState
from edgeprov.fleet.registries.sources import ArtifactReader, parse_source
from edgeprov.fleet.trust.folder import load_trust
from edgeprov.formats.devicerecord import DeviceRecord, encode_attestation, encode_factory_key, enroll_qualifying
from edgeprov.formats.tpmt import name_of
from edgeprov.verify.enrollment import verify_device_record
from tests.support import pki
from tests.support.endorsement import SoftEk
from tests.support.factory import factory_key, maker_root
from tests.support.fleet import fleet, push_device
from tests.support.requests import NONCE, csr, request
from tests.support.softtpm import SoftTpm
from tests.support.world import World


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Site:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "stick").mkdir()
        assert fleet("ca", "init", root / "ca", "--name", "Acme Medical").code == 0

    def enroll(self, document: dict, *argv: object):
        (self.root / "request.json").write_text(json.dumps(document))
        return fleet(
            "enroll", self.root / "request.json", "--to", f"oci:{self.root}/registry", "--ca", self.root / "ca", "-o",
            self.root / "stick" / "identity.json", "--json", *argv,
        )  # fmt: skip

    def respond(self, ek: SoftEk, tpm: SoftTpm, *, credential: bytes | None = None) -> Path:
        """The device's answer to the challenge on the stick."""
        challenge = json.loads((self.root / "stick" / "identity.json").read_text())
        assert challenge["type"] == "edgeprov.credential-challenge"
        if credential is None:
            blob, secret = (base64.b64decode(challenge[key]) for key in ("blob", "secret"))
            credential = ek.activate(blob, secret, name_of(tpm.ak_public))
        answer = {"type": "edgeprov.credential-response", "v": 1, "credential": b64(credential)}
        path = self.root / "response.json"
        path.write_text(json.dumps(answer))
        return path

    def trust_ek(self, maker: pki.Issued, *levels: str, kind: str = "ek-hardware") -> None:
        (self.root / "ca" / "trust.d" / f"{kind}.pem").write_bytes(maker.pem)
        policy = self.root / "ca" / "trust.d" / "policy.toml"
        policy.write_text(policy.read_text().replace('"dev"', ", ".join(f'"{level}"' for level in levels)))

    def record(self) -> DeviceRecord:
        """What an auditor finds in the registry for ward-1."""
        reader = ArtifactReader(parse_source(f"oci:{self.root}/registry"))
        manifest = reader.registry.fetch_manifest("devices", "ward-1")
        layer = reader.blob("devices", manifest.layers[0], max_bytes=10**6)
        policy = load_trust(self.root / "ca" / "trust.d").policy
        signatures = reader.signatures("devices", manifest.digest)
        return verify_device_record(manifest, layer, signatures, policy, dt.datetime.now(dt.UTC)).record


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_device_gets_the_certificate_that_cosign_and_notation_accept(site: Site):
    tpm = SoftTpm("ward-1")
    run = site.enroll(request(tpm))
    assert run.code == 0, run.err
    identity = json.loads((site.root / "stick" / "identity.json").read_text())
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


def test_a_serial_that_another_tpm_holds_needs_replace(site: Site):
    first = site.enroll(request(SoftTpm("one"))).last("enrolled")
    refused = site.enroll(request(SoftTpm("two")))
    assert refused.code == 19
    assert "another TPM is enrolled as urn:edgeprov:device:ward-1" in refused.last("error")["message"]
    assert "--replace" in refused.last("error")["advice"]
    second = site.enroll(request(SoftTpm("two")), "--replace").last("enrolled")
    assert (second["replaced"], second["replaces"]) == (first["enrollment"], None)
    tags = ArtifactReader(parse_source(f"oci:{site.root}/registry")).registry.list_tags("devices")
    named = {f"ak.{name_of(SoftTpm(seed).ak_public)[2:].hex()}" for seed in ("one", "two")}
    kept = {f"ward-1.{item['record'][7:23]}" for item in (first, second)}
    assert {tag for tag in tags if not tag.endswith(".s1")} == {"ward-1"} | kept | named


def test_a_renewal_keeps_the_enrollment_and_an_emptied_state_does_not(site: Site):
    tpm = SoftTpm("ward-1")
    first = site.enroll(request(tpm), "--bins", "4").last("enrolled")
    again = site.enroll(request(tpm), "--bins", "4").last("enrolled")
    assert (again["enrollment"], again["renewed"], again["bin"]) == (first["enrollment"], True, first["bin"])
    assert again["record"] != first["record"]
    tpm.counter = 150
    anew = site.enroll(request(tpm, nonce=b"another nonce...")).last("enrolled")
    assert (anew["renewed"], anew["replaces"]) == (False, first["enrollment"])
    assert anew["enrollment"] != first["enrollment"]
    assert site.record().replaces == bytes.fromhex(first["enrollment"])
    tpm.counter = 120  # below the base of the enrollment that it would replace
    assert site.enroll(request(tpm, nonce=b"a third nonce...")).code == 18


def test_bins_are_given_in_turn(site: Site):
    found = []
    for number in range(5):
        item = site.enroll(request(SoftTpm(f"n{number}"), f"unit-{number}"), "--bins", "3").last("enrolled")
        assert json.loads((site.root / "stick" / "identity.json").read_text())["bin"] == item["bin"]
        found.append(item["bin"])
    assert found == ["0", "1", "2", "0", "1"]
    assert EnrollerState(site.root / "other").next_bin(100) == "00"


def test_a_nonce_is_for_one_enrollment(site: Site):
    assert site.enroll(request(SoftTpm("one"), "unit-1", nonce=NONCE)).code == 0
    run = site.enroll(request(SoftTpm("two"), "unit-2", nonce=NONCE))
    assert run.code == 18
    assert "nonce was used" in run.last("error")["message"]
    tpm = SoftTpm("one")
    tpm.counter = 101
    assert site.enroll(request(tpm, "unit-1", nonce=NONCE)).code == 18  # the same TPM after its state was emptied
    assert site.enroll(request(SoftTpm("one"), "unit-1", nonce=NONCE)).code == 0  # a renewal repeats it


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
    assert not (site.root / "stick" / "identity.json").exists()
    assert not (site.root / "registry" / "index.json").exists() or not ArtifactReader(
        parse_source(f"oci:{site.root}/registry")
    ).registry.list_tags("devices")


def test_an_old_request_does_not_answer_a_fresh_nonce(site: Site):
    assert site.enroll(request(SoftTpm("ward-1")), "--nonce", "ff" * 16).code == 18
    assert site.enroll(request(SoftTpm("ward-1")), "--nonce", NONCE.hex()).code == 0
    assert site.enroll(request(SoftTpm("ward-1")), "--nonce", "zz").code == 2


def test_hardware_needs_an_endorsement_certificate(site: Site):
    site.trust_ek(pki.root("TPM Maker"), "hardware")
    run = site.enroll(request(SoftTpm("ward-1"), assurance="hardware"))  # what a request says of itself counts nothing
    assert run.code == 18
    assert "endorsement key certificate" in run.last("error")["message"]
    stranger = SoftEk("ward-1", pki.root("Another Maker"))
    run = site.enroll(request(SoftTpm("ward-1"), ek=stranger))
    assert run.code == 18
    assert "no ek trust anchor" in run.last("error")["message"]
    assert not (site.root / "stick" / "identity.json").exists()


@pytest.mark.parametrize(
    ("kind", "manufacturer", "level"),
    [("ek-hardware", "49465800", "hardware"), ("ek-firmware", "49465800", "firmware"), ("ek-hardware", "494E5443", "firmware"),
     ("ek-hardware", "00001014", "dev")],
)  # fmt: skip
def test_the_enroller_decides_the_level(site: Site, kind: str, manufacturer: str, level: str):
    maker, tpm = pki.root("TPM Maker"), SoftTpm("ward-1")
    site.trust_ek(maker, "dev", "firmware", "hardware", kind=kind)
    ek = SoftEk("ward-1", maker, manufacturer=manufacturer)
    document = request(tpm, ek=ek, assurance="hardware")
    assert site.enroll(document).code == 100
    run = site.enroll(document, "--response", site.respond(ek, tpm))
    assert run.code == 0, run.err
    record = site.record()
    assert (record.assurance, record.proof) == (level, "activated")
    assert record.ek_certificate == ek.certificate
    assert json.loads((site.root / "stick" / "identity.json").read_text())["assurance"] == level


def challenged(site: Site) -> tuple[SoftTpm, SoftEk, dict]:
    """A request that waits for the TPM's answer."""
    maker, tpm = pki.root("TPM Maker"), SoftTpm("ward-1")
    site.trust_ek(maker, "hardware")
    ek = SoftEk("ward-1", maker)
    document = request(tpm, ek=ek)
    assert site.enroll(document).code == 100
    return tpm, ek, document


def test_the_secret_of_a_challenge_never_leaves_the_enroller(site: Site):
    tpm, ek, _ = challenged(site)
    answer = json.loads(site.respond(ek, tpm).read_text())["credential"]
    on_stick = b"".join(path.read_bytes() for path in (site.root / "stick").rglob("*") if path.is_file())
    assert answer.encode() not in on_stick
    assert base64.b64decode(answer) not in on_stick
    (kept,) = (site.root / "ca" / "enrollments" / "challenges").iterdir()
    assert json.loads(kept.read_text())["secret"] == answer
    assert (kept.stat().st_mode & 0o077, (site.root / "ca" / "enrollments").stat().st_mode & 0o077) == (0, 0)
    run = site.enroll(request(tpm, ek=ek), "--state", site.root / "stick")
    assert run.code == 2
    assert "--state" in run.last("error")["advice"]


@pytest.mark.parametrize("swapped", ["attestation key", "signing key", "endorsement key", "nonce", "serial", "counter"])
def test_a_swapped_request_does_not_get_the_answer_of_another(site: Site, swapped: str):
    """The genuine TPM answers for its own request; the request that is shown with the answer is another one."""
    tpm, ek, _ = challenged(site)
    response = site.respond(ek, tpm)
    serial, nonce, other = "ward-1", None, SoftTpm("ward-1")
    if swapped == "attestation key":
        other.ak = SoftTpm("software").ak
    elif swapped == "signing key":
        other.sk = SoftTpm("software").sk
    elif swapped == "endorsement key":
        ek = SoftEk("another", pki.root("TPM Maker"))
    elif swapped == "nonce":
        nonce = b"another nonce..."
    elif swapped == "serial":
        serial = "ward-2"
    else:
        other.counter = 150
    run = site.enroll(request(other, serial, nonce=nonce, ek=ek), "--response", response)
    assert run.code == 18
    assert "no challenge waits for this very request" in run.last("error")["message"]
    assert not (site.root / "registry" / "blobs").exists() or not site_tags(site)


def site_tags(site: Site) -> tuple[str, ...]:
    return ArtifactReader(parse_source(f"oci:{site.root}/registry")).registry.list_tags("devices")


def test_a_challenge_takes_one_answer(site: Site):
    tpm, ek, document = challenged(site)
    good = json.loads(site.respond(ek, tpm).read_text())["credential"]
    run = site.enroll(document, "--response", site.respond(ek, tpm, credential=bytes(32)))
    assert run.code == 18
    assert "did not recover" in run.last("error")["message"]
    late = site.enroll(document, "--response", site.respond(ek, tpm, credential=base64.b64decode(good)))
    assert late.code == 18, "after a wrong answer the right one is late"
    assert site.enroll(document).code == 100
    response = site.respond(ek, tpm)
    assert site.enroll(document, "--response", response).code == 0
    assert site.enroll(document, "--response", response).code == 18, "the same answer again"


def test_an_expired_challenge_is_refused_and_swept(site: Site, monkeypatch: pytest.MonkeyPatch):
    tpm, ek, document = challenged(site)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=61)
    monkeypatch.setattr("edgeprov.cli.fleet.common.now", lambda: later)
    run = site.enroll(document, "--response", site.respond(ek, tpm))
    assert run.code == 18
    assert "expired" in run.last("error")["message"]
    assert site.enroll(document).code == 100
    other = SoftEk("other", pki.root("TPM Maker"))
    assert site.enroll(request(SoftTpm("other"), "ward-2", ek=other)).code == 100
    waiting = site.root / "ca" / "enrollments" / "challenges"
    assert len(list(waiting.iterdir())) == 2
    monkeypatch.setattr("edgeprov.cli.fleet.common.now", lambda: later + dt.timedelta(minutes=61))
    assert site.enroll(request(SoftTpm("third"), "ward-3", ek=SoftEk("third", pki.root("TPM Maker")))).code == 100
    assert len(list(waiting.iterdir())) == 1


def test_one_endorsement_key_is_one_active_device(site: Site):
    """Another template gives another AK in the same TPM; its EK tells."""
    tpm, ek, document = challenged(site)
    assert site.enroll(document, "--response", site.respond(ek, tpm)).code == 0
    twin = SoftTpm("twin")
    run = site.enroll(request(twin, "ward-2", ek=ek))
    assert run.code == 19
    assert "enrolled as urn:edgeprov:device:ward-1" in run.last("error")["message"]
    # Under its own serial it is an enrollment anew, on the same TPM.
    document = request(twin, "ward-1", ek=ek)
    assert site.enroll(document).code == 100
    item = site.enroll(document, "--response", site.respond(ek, twin)).last("enrolled")
    assert item["replaces"] == item["replaced"] != item["enrollment"]


def test_a_stranger_with_push_rights_stops_nobody(site: Site):
    """A tag that leads to rubbish, or to a record that no enroller signed, is no conflict."""
    from edgeprov.store.layout_registry import LayoutRegistry

    tpm = SoftTpm("ward-1")
    world = World()
    registry = LayoutRegistry(site.root / "registry", create=True)
    unit = world.enroll("ward-9", tpm=SoftTpm("ward-1"))
    push_device(registry, unit)
    for tag in ("ward-1", f"ak.{name_of(tpm.ak_public)[2:].hex()}"):
        registry.push_manifest("devices", unit.record_manifest, tag=tag)
    assert site.enroll(request(tpm)).code == 0


def vouched(
    tpm: SoftTpm, issuer: pki.Issued, *, ak: bytes | None = None, nonce: bytes = NONCE, **options: object
) -> dict:
    """A request with a factory key; no EK, as on a TPM whose maker put none in."""
    return request(tpm, nonce=NONCE, iak=encode_factory_key(factory_key(ak or tpm.ak_public, nonce, issuer, **options)))


def trust_maker(site: Site, level: str) -> pki.Issued:
    root = maker_root()
    site.trust_ek(root, level, kind=f"idevid-{level if level != 'dev' else 'firmware'}")
    return root


@pytest.mark.parametrize("level", ["firmware", "hardware"])
def test_a_factory_key_vouches_in_one_round(site: Site, level: str):
    root = trust_maker(site, level)
    run = site.enroll(vouched(SoftTpm("ward-1"), root), "--nonce", NONCE.hex())
    assert run.code == 0, run.out
    record = site.record()
    assert (record.assurance, record.proof) == (level, "vouched")
    assert record.factory is not None


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
@pytest.mark.parametrize("level", ["firmware", "hardware"])
def test_a_bad_factory_key_is_refused(site: Site, fault: str, level: str):
    trust_maker(site, level)
    run = site.enroll(bad_factory_keys()[fault])
    assert run.code == 18, (fault, run.out)
    assert "factory key" in run.last("error")["message"]
    assert not (site.root / "stick" / "identity.json").exists()


def test_a_factory_key_of_no_trusted_maker_vouches_for_nothing(site: Site):
    """Without idevid*.pem it is passed over: `dev` is enrolled as without one, `hardware` still needs the EK."""
    document = vouched(SoftTpm("ward-1"), maker_root())
    assert site.enroll(document).code == 0
    policy = site.root / "ca" / "trust.d" / "policy.toml"
    policy.write_text(policy.read_text().replace('"dev"', '"hardware"'))
    run = site.enroll(document)
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


def test_a_rename_is_a_new_record_of_the_same_enrollment(site: Site):
    tpm = SoftTpm("ward-1")
    first = site.enroll(request(tpm), "--bins", "4").last("enrolled")
    assert site.enroll(request(SoftTpm("ward-3"), "ward-3")).code == 0
    taken = site.enroll(request(tpm, "ward-3"), "--rename")
    assert (taken.code, "another TPM is enrolled" in taken.last("error")["message"]) == (19, True)
    renamed = site.enroll(request(tpm, "ward-2"), "--rename", "--bins", "4").last("enrolled")
    assert renamed["device"] == "urn:edgeprov:device:ward-2"
    assert (renamed["enrollment"], renamed["bin"], renamed["replaces"]) == (first["enrollment"], first["bin"], None)
    assert site.record().device == "urn:edgeprov:device:ward-1", "the old record judges the old kits"


@pytest.mark.parametrize("by", ["name", "enrollment"])
def test_the_tpm_of_a_denied_device_does_not_come_back_under_another_name(site: Site, by: str):
    tpm = SoftTpm("ward-1")
    item = site.enroll(request(tpm)).last("enrolled")
    policy = site.root / "ca" / "trust.d" / "policy.toml"
    value = item["device"] if by == "name" else item["enrollment"]
    policy.write_text(policy.read_text() + f'[[deny]]\ntype = "device"\nvalue = "{value}"\n')
    tpm.counter = 120
    for serial in ("ward-1", "ward-2"):
        run = site.enroll(request(tpm, serial, nonce=b"another nonce..."))
        assert run.code == 19, run.out
        assert "deny list" in run.last("error")["message"]


def test_denied_keys_are_not_enrolled_again(site: Site):
    tpm = SoftTpm("ward-1")
    policy = site.root / "ca" / "trust.d" / "policy.toml"

    key = hashlib.sha256(tpm.public_key_spki).hexdigest()
    policy.write_text(policy.read_text() + f'[[deny]]\ntype = "key"\nvalue = "{key}"\n')
    assert site.enroll(request(tpm)).code == 19


def enroll_folder(site: Site, *argv: object):
    return fleet(
        "enroll", site.root / "requests", "--to", f"oci:{site.root}/registry", "--ca", site.root / "ca", "-o",
        site.root / "answers", "--json", *argv,
    )  # fmt: skip


def test_a_folder_of_requests_is_enrolled_in_one_run(site: Site):
    (site.root / "requests").mkdir()
    for number in range(12):
        document = request(SoftTpm(f"n{number}"), f"unit-{number:02}")
        (site.root / "requests" / f"unit-{number:02}.json").write_text(json.dumps(document))
    # The TPM of unit-03 once more under another name, a nonce that is used, and a file that is no request.
    twin = request(SoftTpm("n3"), "unit-97", nonce=b"a nonce of its own")
    for name, text in {
        "unit-97": json.dumps(twin), "unit-98": json.dumps(request(SoftTpm("x"), "unit-98", nonce=hashlib.sha256(b"n5").digest()[:16])),
        "unit-99": "{}",
    }.items():  # fmt: skip
        (site.root / "requests" / f"{name}.json").write_text(text)
    run = enroll_folder(site, "--bins", "4")
    refused = {Path(item["file"]).stem: item["why"] for item in run.items if item["type"] == "refused"}
    assert set(refused) == {"unit-97", "unit-98", "unit-99"}
    assert "enrolled as urn:edgeprov:device:unit-03" in refused["unit-97"]
    assert "nonce was used" in refused["unit-98"]
    assert run.code == 19, "of the first that is refused"
    answers = sorted(path.name for path in (site.root / "answers").iterdir())
    assert answers == [f"unit-{number:02}.identity.json" for number in range(12)]
    bins = [json.loads((site.root / "answers" / name).read_text())["bin"] for name in answers]
    assert bins == [str(number % 4) for number in range(12)]
    assert enroll_folder(site).code == 19
    tags = site_tags(site)
    assert {f"unit-{number:02}" for number in range(12)} <= set(tags)
    assert "unit-97" not in tags


def test_a_folder_with_challenges_takes_two_runs(site: Site):
    maker = pki.root("TPM Maker")
    site.trust_ek(maker, "hardware")
    devices = {f"unit-{number}": SoftTpm(f"n{number}") for number in range(3)}
    eks = {serial: SoftEk(serial, maker) for serial in devices}
    (site.root / "requests").mkdir()
    (site.root / "responses").mkdir()
    for serial, tpm in devices.items():
        (site.root / "requests" / f"{serial}.json").write_text(json.dumps(request(tpm, serial, ek=eks[serial])))
    assert enroll_folder(site).code == 100
    for serial, tpm in devices.items():
        challenge = json.loads((site.root / "answers" / f"{serial}.challenge.json").read_text())
        blob, secret = (base64.b64decode(challenge[key]) for key in ("blob", "secret"))
        credential = bytes(32) if serial == "unit-1" else eks[serial].activate(blob, secret, name_of(tpm.ak_public))
        answer = {"type": "edgeprov.credential-response", "v": 1, "credential": b64(credential)}
        (site.root / "responses" / f"{serial}.response.json").write_text(json.dumps(answer))
    run = enroll_folder(site, "--response", site.root / "responses")
    assert run.code == 18
    enrolled = {item["device"]: item["assurance"] for item in run.items if item["type"] == "enrolled"}
    assert enrolled == {f"urn:edgeprov:device:unit-{number}": "hardware" for number in (0, 2)}
