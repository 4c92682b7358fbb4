# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Accepted cases, and those of steps 1 and 2: device record and statement signature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

from edgeprov._dataclass import replace as replace_part
from edgeprov.formats import tpmt
from edgeprov.formats.descriptor import describe, encode_descriptor
from edgeprov.formats.devicerecord import build_device_record, encode_attestation, enroll_qualifying, enrollment_id
from edgeprov.formats.digest import Digest
from edgeprov.formats.evidence_part import DeviceEvent
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest
from edgeprov.formats.mediatypes import DEVICE_RECORD, SLSA_PROVENANCE, TOMBSTONE_PREDICATE
from edgeprov.formats.standing import OpenSegment, Standing, Stop
from edgeprov.formats.tpmt import parse_public
from edgeprov.verify.signature import SignatureArtifact
from tests.support import pki
from tests.support.factory import factory_key, maker_root
from tests.support.softtpm import SoftTpm, public_area, soft_key
from tests.support.world import Sealed, edited_manifest, sign_bundle, sign_notation
from tests.vectors.make import document, edited, make_world

OTHER = Digest(hashlib.sha256(b"another model").hexdigest())
Case = tuple[str, str, dict, dict]


def case(name: str, comment: str, doc: dict, **more: object) -> Case:
    return name, comment, doc, more


class Stage:
    """A fresh world for one case, so that cases do not depend on their order."""

    def __init__(self, serial: str = "unit-0001") -> None:
        self.world = make_world()
        self.unit = self.world.enroll(serial)

    def seal(self, **options: object) -> Sealed:
        return self.unit.seal(**options)  # type: ignore[arg-type]

    def doc(self, sealed: Sealed | None = None, **options: object) -> dict:
        return document(self.unit, sealed or self.seal(), **options)  # type: ignore[arg-type]


def accepted() -> Iterator[Case]:
    s = Stage()
    yield case("plain", "one kit of five records, certificate bundle; first record", s.doc())
    s = Stage()
    yield case("notation-beside", "bundle and notation JWS side by side", s.doc(s.seal(notation=True)))
    s = Stage()
    s.seal()
    yield case(
        "second-kit", "a later kit names the one before; last of 13 records", s.doc(s.seal(records=13), index=12)
    )
    s = Stage()
    segment = s.unit.open_segment()
    s.unit.reboot()
    s.unit.measure(OTHER)
    yield case(
        "sealed-in-later-boot",
        "the sealing boot measured another model: the segment's own quote counts",
        s.doc(s.seal(segments=[segment])),
    )
    s = Stage()
    first = s.unit.open_segment()
    s.unit.reboot()
    s.unit.measure(s.world.model.digest)
    second = s.unit.open_segment()
    yield case(
        "two-segments", "segments of two boots with records", s.doc(s.seal(records=[2, 3], segments=[first, second]))
    )
    s = Stage()
    s.unit.measure(OTHER, slot="left")
    empty = s.unit.open_segment(model=OTHER, slot="left")
    shared = s.unit.open_segment(shared=True)
    yield case(
        "empty-segment-of-another-model",
        "a segment of another slot and model without records, and one that shares its number",
        s.doc(s.seal(segments=[empty, shared])),
    )
    s = Stage()
    workers = [
        replace_part(s.unit.open_segment(), ranges=((0, 1), (4, 4))),
        replace_part(s.unit.open_segment(), ranges=((2, 3),), unused=((5, 7),)),
    ]
    yield case(
        "workers",
        "two segments of one slot whose numbers interleave: the last record of the first one",
        s.doc(s.seal(segments=workers, order=(0, 1, 4, 2, 3)), index=2),
    )
    s = Stage()
    left = OpenSegment(
        number=101,
        header=hashlib.sha256(b"left").digest(),
        slot="left",
        first=0,
        last=9,
        leaf=bytes(32),
        least_ns=5,
        greatest_ns=5,
    )
    standing = Standing(
        at_ns=9,
        floor_ns=3,
        doubt=True,
        newest=left.header,
        open=(left, replace_part(left, header=b"\xff" * 32, flags=1)),
        stops=(Stop(slot="left", header=left.header, after=9, resumed=42, bound_ms=1000, at_ns=8),),
    )
    odd = DeviceEvent(kind="of-a-later-version", at_ns=1, mono_ns=2, flags=1, details={"x": [1, {"y": b"z"}]})
    s.unit.tpm.increment_counter()
    yield case(
        "open-segments",
        "open segments that share a number, an unclean stop, and an event of an unknown kind",
        s.doc(s.seal(standing=standing, events=[odd])),
    )
    s = Stage()
    s.unit.measure(OTHER, slot="left")
    s.unit.measure(OTHER)
    s.unit.measure(s.world.model.digest)
    yield case(
        "several-models", "other models and slots were measured before; the last activation of the slot counts", s.doc()
    )
    s = Stage()
    sealed = s.seal()
    rubbish = SignatureArtifact(manifest=sealed.signatures[0].manifest, blob=b"{}")
    sealed.signatures.insert(0, rubbish)
    yield case("rubbish-beside", "an unreadable signature beside a good one does not block", s.doc(sealed))
    s = Stage()

    def without_data(manifest: dict) -> None:
        for item in (manifest["config"], *manifest["layers"]):
            item.pop("data", None)

    yield case("without-data", "nothing stands in the kit's descriptors", s.doc(s.seal(edit=without_data)))
    s = Stage()
    subject = encode_descriptor(s.world.model.descriptor)
    yield case(
        "subject-model", "the kit's OCI subject is its model", s.doc(s.seal(edit=lambda m: m.update(subject=subject)))
    )
    s = Stage()
    golden = hashlib.sha256(b"boot loader").digest()
    s.unit.tpm.pcrs[4] = golden
    yield case("boot-pcr", "the policy asks for PCR 4 as well, and the quotes cover it", s.doc(), trust="boot-pcr")
    s = Stage()
    s.unit.tpm.pcrs |= {0: bytes(32), 4: bytes.fromhex(golden.hex()[::-1]), 7: b"\7" * 32, 23: b"\1" * 32}
    yield case("boot-pcr-of-another-release", "the second named set fits; more is quoted", s.doc(), trust="boot-pcr")
    s = Stage()
    s.unit.tpm.pcrs |= {0: bytes(32), 7: b"\7" * 32}
    yield case("more-pcrs", "quotes cover more PCRs than the policy asks for", s.doc())
    s = Stage()
    yield case("another-board", "the policy admits PCR 12 as well; this board has 14", s.doc(), trust="two-boards")
    s = Stage()
    key = factory_key(s.unit.record.ak.raw, s.unit.record.nonce, maker_root())
    yield case("factory-key", "a factory key (IAK) in the same TPM vouches for AK", vouched(s, factory=key))
    s = Stage()
    again = {"replaces": hashlib.sha256(b"an ended enrollment").digest(), "bin": "07"}
    yield case(
        "enrolled-again", "the record names the enrollment that ended, and a bin", vouched(s, proof="none", **again)
    )
    s = Stage()
    yield case(
        "denied-by-another-type", "deny entries of other types with the kit's digest", s.doc(), trust="others-denied"
    )
    s = Stage()
    yield case("firmware-listed", "the policy lists TPM firmware, and this one is on it", s.doc(), trust="firmware")


def vouched(s: Stage, **changes: object) -> dict:
    """A proof whose record is vouched for by a factory key."""
    record = replace(s.unit.record, **{"proof": "vouched", **changes})  # type: ignore[arg-type]
    s.unit.record_manifest, s.unit.record_blob = build_device_record(record)
    s.unit.record_signatures = [s.world.vouch(s.unit.record_manifest, record)]
    return s.doc()


def factory_keys() -> Iterator[Case]:
    def key(s: Stage, ak: bytes | None = None, nonce: bytes | None = None, **options: object):
        return factory_key(ak or s.unit.record.ak.raw, nonce or s.unit.record.nonce, maker_root(), **options)

    s = Stage()
    other = SoftTpm("another").ak_public
    yield case(
        "factory-key-of-another-ak", "the factory key certified another AK", vouched(s, factory=key(s, ak=other))
    )
    s = Stage()
    yield case(
        "factory-key-replayed",
        "the factory key's words were made for another nonce",
        vouched(s, factory=key(s, nonce=b"yesterday's nonce")),
    )
    s = Stage()
    yield case(
        "factory-key-unrestricted",
        "an unrestricted key (an IDevID) poses as factory key",
        vouched(s, factory=key(s, attributes=tpmt.SK_ATTRIBUTES)),
    )
    s = Stage()
    yield case(
        "factory-key-certificate",
        "the certificate is of another key",
        vouched(s, factory=key(s, certified=SoftTpm("another").ak.public_key())),
    )
    s = Stage()
    good = key(s)
    yield case(
        "factory-key-forged",
        "another key signed for the factory key",
        vouched(s, factory=replace(good, certify=SoftTpm("another").sign_attest(good.certify.attest))),
    )
    yield case("vouched-without-key", "the record says vouched and holds no factory key", vouched(Stage()))
    yield case(
        "activated-without-ek",
        "the record says activated and holds no EK certificate",
        vouched(Stage(), proof="activated"),
    )


def rewritten(s: Stage, edit: Callable[[dict], object]) -> dict:
    """A proof whose record's JSON was edited and vouched for anew."""
    value = json.loads(s.unit.record_blob)
    edit(value)
    blob = encode_json(value)
    notes = s.unit.record_manifest.annotations
    layer = describe(blob, DEVICE_RECORD)
    s.unit.record_manifest = build_manifest(
        config=EMPTY_CONFIG, layers=[layer], artifact_type=DEVICE_RECORD, annotations=notes
    )
    s.unit.record_blob = blob
    s.unit.record_signatures = [s.world.vouch(s.unit.record_manifest, s.unit.record)]
    return s.doc()


def enrollments() -> Iterator[Case]:
    """Enrollment id, certified counter base, and what the enroller adds."""

    def refused(name: str, comment: str, edit: Callable[[Stage], Callable[[dict], object]]) -> Case:
        s = Stage()
        return case(name, comment, rewritten(s, edit(s)))

    def sets(**values: object) -> Callable[[Stage], Callable[[dict], object]]:
        return lambda _s: lambda record: record.update(values)

    def counter(make: Callable[[SoftTpm, bytes], tpmt.Attestation]) -> Callable[[Stage], Callable[[dict], object]]:
        def edit(s: Stage) -> Callable[[dict], object]:
            words = make(s.unit.tpm, enroll_qualifying(s.unit.record.nonce))
            return lambda record: record.update(counter=encode_attestation(words))

        return edit

    def other_index(tpm: SoftTpm, qualifying: bytes) -> tpmt.Attestation:
        tpm.counter_index = 0x01800200
        words = tpm.certify_counter(qualifying)
        tpm.counter_index = tpmt.COUNTER_INDEX
        return words

    def raised(s: Stage) -> Callable[[dict], object]:
        record = s.unit.record
        claimed = enrollment_id(record.ak.name, 150, record.nonce).hex()
        return lambda value: value.update(counter_base=150, enrollment=claimed)

    yield refused("enrollment-of-another", "the id is made up", sets(enrollment="ab" * 32))
    yield refused("enrollment-missing", "the record has no id", lambda _s: lambda value: value.pop("enrollment"))
    yield refused(
        "enrollment-upper-case",
        "the id in capitals",
        lambda _s: lambda value: value.update(enrollment=value["enrollment"].upper()),
    )
    yield refused("counter-base-claimed", "a base that the TPM never showed hides 50 kits", raised)
    yield refused(
        "counter-base-replayed",
        "the counter was certified for another nonce",
        counter(lambda tpm, _q: tpm.certify_counter(bytes(32))),
    )
    yield refused(
        "counter-base-forged",
        "another TPM certified its own counter",
        counter(lambda _tpm, q: SoftTpm("another").certify_counter(q)),
    )
    yield refused("counter-base-of-another-index", "another counter of this TPM", counter(other_index))
    yield refused(
        "counter-base-is-a-certify",
        "the certification of SK in its place",
        counter(lambda tpm, q: tpm.certify_sk(q)),
    )
    yield refused("counter-base-missing", "nothing certified", lambda _s: lambda value: value.pop("counter"))
    yield refused(
        "replaces-itself",
        "the record replaces its own enrollment",
        lambda _s: lambda value: value.update(replaces=value["enrollment"]),
    )
    yield refused("replaces-no-id", "the record replaces something that is no id", sets(replaces="ward-1"))
    yield refused("bin-with-slash", "a bin that leaves its folder", sets(bin="../b"))
    yield refused("bin-upper-case", "a bin that no repository name can hold", sets(bin="B1"))


def roles_and_denials() -> Iterator[tuple[int, Case]]:
    """Each role signs only what is its own, and deny entries count by their type."""
    for role in ("roster", "importer"):
        s = Stage()
        s.unit.record_signatures = [s.world.vouch(s.unit.record_manifest, s.unit.record, signer=getattr(s.world, role))]
        yield 1, case(f"record-signed-by-{role}", f"the {role}'s certificate vouches for a device", s.doc())
    yield 1, case("device-denied-by-name", "a deny entry names the device", Stage().doc(), trust="device-denied")
    yield (
        1,
        case(
            "device-denied-by-enrollment", "a deny entry names the enrollment", Stage().doc(), trust="enrollment-denied"
        ),
    )
    yield (
        1,
        case(
            "certificate-denied",
            "a deny entry has the certificate's fingerprint as openssl prints it",
            Stage().doc(),
            trust="certificate-denied",
        ),
    )
    yield 2, case("kit-denied", "a deny entry names the kit", Stage().doc(), trust="kit-denied")
    yield (
        2,
        case(
            "kit-denied-from-a-later-day",
            "a deny entry of a later day: only a timestamp could prove that the kit is older",
            Stage().doc(),
            trust="kit-denied-from",
        ),
    )
    yield 2, case("model-denied", "a deny entry names the model", Stage().doc(), trust="model-denied")


def step_1() -> Iterator[Case]:
    s = Stage()
    again = s.world.enroll("unit-0001", nonce=b"another nonce of the enroller")
    new, old = document(again, again.seal()), s.doc()
    yield case(
        "kit-of-another-enrollment",
        "the device and its keys are the same, the enrollment is another",
        edited(new, lambda d: d.update(device=old["device"])),
    )
    yield case(
        "kit-of-an-ended-enrollment",
        "a kit from before, under the record of the enrollment that followed",
        edited(old, lambda d: d.update(device=new["device"])),
    )

    def with_record(comment_name: str, comment: str, **changes: object) -> Case:
        s = Stage()
        tpm = s.unit.tpm
        values = {key: value(s) if callable(value) else value for key, value in changes.items()}
        record = replace(s.unit.record, **values)  # type: ignore[arg-type]
        s.unit.record_manifest, s.unit.record_blob = build_device_record(record)
        s.unit.record_signatures = [s.world.vouch(s.unit.record_manifest, record)]
        assert tpm is s.unit.tpm
        return case(comment_name, comment, s.doc())

    s = Stage()
    other = s.world.enroll("unit-0002")
    yield case(
        "kit-of-another-device",
        "the record is of another device than the kit",
        edited(s.doc(), lambda d: d.update(device=document(other, other.seal())["device"])),
    )
    s = Stage()
    s.unit.record_signatures = []
    yield case("record-unsigned", "nobody vouches for the device record", s.doc())
    s = Stage()
    s.unit.record_signatures = [s.world.vouch(s.unit.record_manifest, s.unit.record, signer=s.unit.tpm)]
    yield case("record-self-signed", "the device vouches for itself", s.doc())
    s = Stage()
    foreign = pki.enroller_certificate(pki.root("Foreign"))
    s.unit.record_signatures = [s.world.vouch(s.unit.record_manifest, s.unit.record, signer=foreign)]
    yield case("record-foreign-enroller", "an enroller of another CA", s.doc())
    s = Stage()
    other = s.world.enroll("unit-0002")
    s.unit.record_signatures = other.record_signatures
    yield case("record-signature-moved", "the enroller's signature is of another record", s.doc())
    s = Stage()
    s.unit.record_blob = s.unit.record_blob.replace(b'"counter_base":100', b'"counter_base":105')
    yield case("record-changed", "one member changed: the layer's digest is another", s.doc())
    yield case(
        "enroller-not-listed", "the policy lists no enroller of this name", Stage().doc(), trust="other-enrollers"
    )
    yield case("device-denied", "the device's key is on the deny list", Stage().doc(), trust="denied")
    yield case(
        "assurance-not-accepted", "a software TPM where the policy asks for hardware", Stage().doc(), trust="hardware"
    )
    yield with_record(
        "assurance-without-proof", "hardware claimed without EK certificate and proof", assurance="hardware"
    )
    yield with_record(
        "ak-unrestricted",
        "an unrestricted key poses as AK: it would sign a forged attestation",
        ak=lambda s: parse_public(public_area(s.unit.tpm.ak, tpmt.SK_ATTRIBUTES)),
    )
    yield with_record(
        "ak-not-fixed",
        "AK that the TPM did not make",
        ak=lambda s: parse_public(public_area(s.unit.tpm.ak, tpmt.AK_ATTRIBUTES & ~tpmt.SENSITIVE_DATA_ORIGIN)),
    )
    yield with_record(
        "ak-decrypts",
        "AK that may also decrypt",
        ak=lambda s: parse_public(public_area(s.unit.tpm.ak, tpmt.AK_ATTRIBUTES | tpmt.DECRYPT)),
    )
    yield with_record(
        "sk-software",
        "a software key was loaded and certified: its attributes show it",
        sk=lambda s: parse_public(public_area(s.unit.tpm.sk, 0x40440)),
    )
    yield with_record(
        "sk-restricted", "SK is restricted", sk=lambda s: parse_public(public_area(s.unit.tpm.sk, tpmt.AK_ATTRIBUTES))
    )
    yield with_record(
        "ak-counts-failures",
        "AK without noDA: some power cuts would lock the TPM",
        ak=lambda s: parse_public(public_area(s.unit.tpm.ak, tpmt.AK_ATTRIBUTES & ~tpmt.NO_DA)),
    )
    yield with_record(
        "sk-counts-failures",
        "SK without noDA",
        sk=lambda s: parse_public(public_area(s.unit.tpm.sk, tpmt.SK_ATTRIBUTES & ~tpmt.NO_DA)),
    )
    yield with_record(
        "ak-without-any-guard",
        "AK with neither userWithAuth nor a policy",
        ak=lambda s: parse_public(public_area(s.unit.tpm.ak, tpmt.AK_ATTRIBUTES & ~tpmt.USER_WITH_AUTH)),
    )
    yield with_record(
        "ak-policy-is-optional",
        "AK with a policy, but its authValue does as well",
        ak=lambda s: parse_public(public_area(s.unit.tpm.ak, tpmt.AK_ATTRIBUTES, auth_policy=bytes(32))),
    )
    yield with_record(
        "sk-policy-of-sha1",
        "SK with a policy of 20 bytes",
        sk=lambda s: parse_public(
            public_area(s.unit.tpm.sk, tpmt.SK_ATTRIBUTES & ~tpmt.USER_WITH_AUTH, auth_policy=bytes(20))
        ),
    )
    yield with_record("certify-replayed", "certification made for another nonce", nonce=bytes(32))
    yield with_record(
        "certify-without-label",
        "certification over the bare nonce",
        certify=lambda s: s.unit.tpm.certify_sk(s.unit.record.nonce),
    )
    yield with_record(
        "certify-of-another-key",
        "AK certified another key",
        certify=lambda s: s.unit.tpm.certify_sk(enroll_qualifying(s.unit.record.nonce), public=SoftTpm("x").sk_public),
    )
    yield with_record(
        "certify-by-another-ak",
        "another TPM's AK certified SK",
        certify=lambda s: SoftTpm("x").certify_sk(enroll_qualifying(s.unit.record.nonce), public=s.unit.tpm.sk_public),
    )
    yield with_record(
        "certify-forged",
        "certification signed by a software key",
        certify=lambda s: s.unit.tpm.sign_attest(s.unit.record.certify.attest, key=soft_key("forger")),
    )
    yield with_record(
        "certify-is-a-quote",
        "a quote in the place of the certification",
        certify=lambda s: s.unit.tpm.quote(enroll_qualifying(s.unit.record.nonce)),
    )
    yield with_record(
        "certificate-of-another-key",
        "the certificate holds another key than SK",
        certificates=lambda s: (
            pki.device_certificate(s.world.device_root, "unit-0001", soft_key("y")).certificate_chain
        ),
    )
    yield with_record(
        "certificate-of-another-serial",
        "the certificate names another device",
        certificates=lambda s: (
            pki.device_certificate(s.world.device_root, "unit-0009", s.unit.tpm.sk).certificate_chain
        ),
    )
    yield with_record(
        "certificate-foreign",
        "the certificate is of another CA",
        certificates=lambda s: (
            pki.device_certificate(pki.root("Foreign"), "unit-0001", s.unit.tpm.sk).certificate_chain
        ),
    )
    yield with_record(
        "certificate-client-auth",
        "the certificate is for TLS clients only",
        certificates=lambda s: (
            pki.device_certificate(
                s.world.device_root, "unit-0001", s.unit.tpm.sk, eku=[pki.ExtendedKeyUsageOID.CLIENT_AUTH]
            ).certificate_chain
        ),
    )


def step_2() -> Iterator[Case]:
    def signed(name: str, comment: str, make, **more: object) -> Case:
        s = Stage()
        sealed = s.seal()
        sealed.signatures = make(s, sealed)
        return case(name, comment, s.doc(sealed), **more)

    def sign(s: Stage, sealed: Sealed, statement: bytes, signer=None, kind: str = SLSA_PROVENANCE, subject=None):
        return [sign_bundle(subject or sealed.manifest.descriptor, statement, signer or s.unit.tpm, kind)]

    def json_edit(statement: bytes, edit) -> bytes:
        value = json.loads(statement)
        edit(value)
        return json.dumps(value).encode()

    yield signed("unsigned", "no signature at all", lambda s, k: [])

    def lying_data(manifest: dict) -> None:
        manifest["layers"][0]["data"] = "e30="

    yield signed(
        "bundle-data",
        "other bytes than the bundle stand in its descriptor",
        lambda s, k: [
            SignatureArtifact(manifest=edited_manifest(item.manifest, lying_data), blob=item.blob)
            for item in k.signatures
        ],
    )
    yield signed(
        "notation-only", "a JWS carries no evidence", lambda s, k: [sign_notation(k.manifest.descriptor, s.unit.tpm)]
    )
    yield signed(
        "statement-of-another-kit", "signature moved from another kit", lambda s, k: sign(s, k, s.seal().statement)
    )
    yield signed(
        "referrer-of-another-kit",
        "the signature's manifest names another subject",
        lambda s, k: sign(s, k, k.statement, subject=s.seal().manifest.descriptor),
    )
    yield signed(
        "tombstone-statement",
        "a tombstone's statement on a kit",
        lambda s, k: sign(
            s, k, k.statement.replace(SLSA_PROVENANCE.encode(), TOMBSTONE_PREDICATE.encode()), kind=TOMBSTONE_PREDICATE
        ),
    )
    yield signed(
        "model-statement", "cosign's own statement on a kit", lambda s, k: [s.world.sign_model(k.manifest, s.unit.tpm)]
    )
    yield signed(
        "signed-by-publisher",
        "the model publisher signs a kit",
        lambda s, k: sign(s, k, k.statement, s.world.publisher),
    )
    yield signed(
        "signed-by-another-device",
        "another enrolled device signs",
        lambda s, k: sign(s, k, k.statement, s.world.enroll("unit-0002").tpm),
    )
    yield signed(
        "signed-by-enroller", "the enroller signs a kit", lambda s, k: sign(s, k, k.statement, s.world.enroller)
    )

    def with_subject(s: Stage, k: Sealed, other: str):
        return sign(s, k, json_edit(k.statement, lambda value: value["subject"].append({"digest": {"sha256": other}})))

    yield signed("two-kits", "one statement over two kits", lambda s, k: with_subject(s, k, s.seal().digest.hex))
    yield signed(
        "model-as-subject",
        "the statement over the kit also names its model as subject",
        lambda s, k: with_subject(s, k, s.world.model.digest.hex),
    )

    def thief(s: Stage, k: Sealed):
        tpm = SoftTpm("thief")
        tpm.certificate_chain = pki.device_certificate(s.world.device_root, "unit-0001", tpm.sk).certificate_chain
        return sign(s, k, k.statement, tpm)

    yield signed("second-certificate", "same serial, other key", thief)

    def wrong_key(s: Stage, k: Sealed):
        tpm = SoftTpm("wrong")
        tpm.certificate_chain = s.unit.tpm.certificate_chain
        return sign(s, k, k.statement, tpm)

    yield signed("signature-does-not-fit", "signed with another key than the certificate's", wrong_key)
    yield signed(
        "duplicate-keys",
        "duplicate JSON key in the signed statement",
        lambda s, k: sign(s, k, k.statement.replace(b'{"_type"', b'{"predicateType":"x","_type"', 1)),
    )
    yield signed(
        "other-build-type",
        "a SLSA provenance that is not ours",
        lambda s, k: sign(
            s,
            k,
            json_edit(
                k.statement, lambda v: v["predicate"]["buildDefinition"].update(buildType="https://example.com/build")
            ),
        ),
    )
    yield signed(
        "model-in-parameters-only",
        "externalParameters name another model than resolvedDependencies",
        lambda s, k: sign(
            s,
            k,
            json_edit(
                k.statement, lambda v: v["predicate"]["buildDefinition"]["externalParameters"].update(model=str(OTHER))
            ),
        ),
    )
    yield signed(
        "no-quote-byproduct",
        "the statement carries no quote",
        lambda s, k: sign(s, k, json_edit(k.statement, lambda v: v["predicate"]["runDetails"]["byproducts"].pop(0))),
    )
    yield signed(
        "two-quotes",
        "the statement carries two quotes",
        lambda s, k: sign(
            s,
            k,
            json_edit(
                k.statement,
                lambda v: v["predicate"]["runDetails"]["byproducts"].append(
                    v["predicate"]["runDetails"]["byproducts"][0]
                ),
            ),
        ),
    )
    s = Stage()
    yield case(
        "claims-another-model", "statement and manifest name different models", s.doc(s.seal(claims={"model": OTHER}))
    )
    s = Stage()
    yield case(
        "claims-another-slot", "statement and manifest name different slots", s.doc(s.seal(claims={"slot": "left"}))
    )
    s = Stage()
    yield case(
        "claims-higher-assurance",
        "the statement claims hardware, enrolled is dev",
        s.doc(s.seal(claims={"assurance": "hardware"})),
    )

    def changed_manifest(d: dict) -> None:
        import base64

        raw = base64.b64decode(d["kit"]["manifest"])
        d["kit"]["manifest"] = base64.b64encode(
            raw.replace(b'"dev.edgeprov.seq":"102"', b'"dev.edgeprov.seq":"103"')
        ).decode()

    yield case("manifest-changed", "one digit of an annotation changed", edited(Stage().doc(), changed_manifest))
