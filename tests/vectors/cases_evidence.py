# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Cases of steps 1 to 10: a device, its kit, and one thing that is not as it should be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

from edgeprov.formats import tpmt
from edgeprov.formats.datakit import SegmentEvidence, encode_evidence
from edgeprov.formats.devicerecord import build_device_record, enrol_qualifying
from edgeprov.formats.digest import Digest
from edgeprov.formats.eventlog import Event, encode_event
from edgeprov.formats.mediatypes import SLSA_PROVENANCE, TOMBSTONE_PREDICATE
from edgeprov.formats.tpmt import Attestation, parse_public
from edgeprov.verify.signature import SignatureArtifact
from tests.support import pki
from tests.support.softtpm import SoftTpm, public_area, soft_key
from tests.support.world import Sealed, sign_bundle, sign_notation
from tests.vectors.make import b64, document, edited, make_world

OTHER = Digest(hashlib.sha256(b"another model").hexdigest())
Case = tuple[str, str, dict, dict]


def case(name: str, comment: str, doc: dict, **more: object) -> Case:
    return name, comment, doc, more


class Stage:
    """A fresh world for one case, so that cases do not depend on their order."""

    def __init__(self, serial: str = "unit-0001") -> None:
        self.world = make_world()
        self.unit = self.world.enrol(serial)

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
    yield case("two-segments", "segments of two boots, chained", s.doc(s.seal(segments=[first, s.unit.open_segment()])))
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
    golden = hashlib.sha256(b"boot loader").digest()
    s.unit.tpm.pcrs[4] = golden
    yield case("boot-pcr", "the policy asks for PCR 4 as well, and the quotes cover it", s.doc(), trust="boot-pcr")
    s = Stage()
    yield case("firmware-listed", "the policy lists TPM firmware, and this one is on it", s.doc(), trust="firmware")


def step_1() -> Iterator[Case]:
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
    other = s.world.enrol("unit-0002")
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
    other = s.world.enrol("unit-0002")
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
    yield with_record("certify-replayed", "certification made for another nonce", nonce=bytes(32))
    yield with_record(
        "certify-without-label",
        "certification over the bare nonce",
        certify=lambda s: s.unit.tpm.certify_sk(s.unit.record.nonce),
    )
    yield with_record(
        "certify-of-another-key",
        "AK certified another key",
        certify=lambda s: s.unit.tpm.certify_sk(enrol_qualifying(s.unit.record.nonce), public=SoftTpm("x").sk_public),
    )
    yield with_record(
        "certify-by-another-ak",
        "another TPM's AK certified SK",
        certify=lambda s: SoftTpm("x").certify_sk(enrol_qualifying(s.unit.record.nonce), public=s.unit.tpm.sk_public),
    )
    yield with_record(
        "certify-forged",
        "certification signed by a software key",
        certify=lambda s: s.unit.tpm.sign_attest(s.unit.record.certify.attest, key=soft_key("forger")),
    )
    yield with_record(
        "certify-is-a-quote",
        "a quote in the place of the certification",
        certify=lambda s: s.unit.tpm.quote(enrol_qualifying(s.unit.record.nonce)),
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
        lambda s, k: sign(s, k, k.statement, s.world.enrol("unit-0002").tpm),
    )
    yield signed(
        "signed-by-enroller", "the enroller signs a kit", lambda s, k: sign(s, k, k.statement, s.world.enroller)
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
            raw.replace(b'"dev.edgeprov.seq":"101"', b'"dev.edgeprov.seq":"102"')
        ).decode()

    yield case("manifest-changed", "one digit of an annotation changed", edited(Stage().doc(), changed_manifest))


def step_3() -> Iterator[Case]:
    def at(name: str, comment: str, **options: object) -> Case:
        s = Stage()
        return case(
            name,
            comment,
            s.doc(s.seal(**{key: value(s) if key == "segments" else value for key, value in options.items()})),
        )  # type: ignore[operator]

    s = Stage()
    old = s.unit.tpm.quote(s.seal().digest.raw)
    yield case("quote-replayed", "the quote of an earlier kit", s.doc(s.seal(quote=lambda tpm, q: old)))
    s = Stage()
    old_counter = s.unit.tpm.certify_counter(s.seal().digest.raw)
    yield case(
        "counter-replayed",
        "the counter's certification of an earlier kit",
        s.doc(s.seal(counter=lambda tpm, q: old_counter)),
    )
    s = Stage()
    first, second = s.unit.open_segment(), s.unit.open_segment(first=1)
    mixed = SegmentEvidence(header=second.header, quote=first.quote, log=second.log)
    yield case("segment-quote-replayed", "the quote of another segment", s.doc(s.seal(segments=[mixed])))
    s = Stage()
    segment = s.unit.open_segment()
    yield case(
        "segment-without-quote",
        "the TPM did not answer when the segment was opened",
        s.doc(s.seal(segments=[replace(segment, quote=None)])),
    )
    yield at("quote-of-nothing", "a quote without qualifying data", quote=lambda tpm, q: tpm.quote(b""))
    yield at(
        "quote-with-trailing-bytes",
        "bytes behind the structure, signed all the same",
        quote=lambda tpm, q: tpm.sign_attest(tpm.quote(q).attest + b"x"),
    )
    yield at("quote-cut-short", "one byte too few", quote=lambda tpm, q: tpm.sign_attest(tpm.quote(q).attest[:-1]))

    def no_magic(tpm: SoftTpm, q: bytes) -> Attestation:
        return tpm.sign_attest(b"\xfe" + tpm.quote(q).attest[1:])

    yield at("quote-without-magic", "not generated by a TPM", quote=no_magic)


def step_4() -> Iterator[Case]:
    def at(name: str, comment: str, **options: object) -> Case:
        s = Stage()
        return case(name, comment, s.doc(s.seal(**options)))

    yield at(
        "quote-forged",
        "signed by a software key",
        quote=lambda tpm, q: tpm.sign_attest(tpm.quote(q).attest, key=soft_key("forger")),
    )
    yield at(
        "quote-signed-by-sk",
        "hand-made TPMS_ATTEST signed by the unrestricted SK",
        quote=lambda tpm, q: tpm.sign_attest(tpm.quote(q).attest, key=tpm.sk),
    )
    yield at(
        "counter-forged",
        "signed by a software key",
        counter=lambda tpm, q: tpm.sign_attest(tpm.certify_counter(q).attest, key=soft_key("forger")),
    )
    yield at("counter-in-place-of-quote", "an attestation of another type", quote=lambda tpm, q: tpm.certify_counter(q))
    yield at("quote-in-place-of-counter", "an attestation of another type", counter=lambda tpm, q: tpm.quote(q))
    yield at(
        "other-hierarchy",
        "another qualified Name: clock values of such a key are obfuscated",
        quote=lambda tpm, q: tpm.sign_attest(tpm.quote(q).attest[:8] + bytes(34) + tpm.quote(q).attest[42:]),
    )
    yield at(
        "other-algorithm",
        "signature marked as RSASSA",
        quote=lambda tpm, q: replace(tpm.quote(q), signature=b"\x00\x14" + tpm.quote(q).signature[2:]),
    )
    yield at(
        "stolen-disk",
        "another TPM attests for this device",
        quote=lambda tpm, q: _other_tpm(tpm).quote(q),
        counter=lambda tpm, q: _other_tpm(tpm).certify_counter(q),
    )
    s = Stage()
    segment = s.unit.open_segment()
    forged = s.unit.tpm.sign_attest(segment.quote.attest, key=soft_key("forger"))  # type: ignore[union-attr]
    yield case(
        "segment-quote-forged", "signed by a software key", s.doc(s.seal(segments=[replace(segment, quote=forged)]))
    )


def _other_tpm(tpm: SoftTpm) -> SoftTpm:
    other = SoftTpm("another TPM")
    other.pcrs, other.counter = tpm.pcrs, tpm.counter
    return other


def step_5() -> Iterator[Case]:
    def later(tpm: SoftTpm, q: bytes) -> Attestation:
        tpm.reset_count += 1
        return tpm.certify_counter(q)

    def resumed(tpm: SoftTpm, q: bytes) -> Attestation:
        tpm.restart_count += 1
        return tpm.certify_counter(q)

    s = Stage()
    yield case("two-boots", "quote and counter of different boots", s.doc(s.seal(counter=later)))
    s = Stage()
    yield case("two-resumes", "a suspend between quote and counter", s.doc(s.seal(counter=resumed)))
    s = Stage()
    yield case(
        "segment-header-of-another-boot",
        "the header names another resetCount than its quote",
        s.doc(s.seal(segments=[s.unit.open_segment(reset_count=7)])),
    )
    s = Stage()
    s.unit.tpm.reset_count = 9
    segment = s.unit.open_segment()
    s.unit.tpm.reset_count = 1
    yield case("segment-of-a-later-boot", "records from after the sealing", s.doc(s.seal(segments=[segment])))
    s = Stage()
    s.unit.tpm.clock_ms += 1_000_000
    segment = s.unit.open_segment()
    s.unit.tpm.clock_ms -= 1_000_000
    yield case("segment-after-the-sealing", "same boot, later clock", s.doc(s.seal(segments=[segment])))


def step_6() -> Iterator[Case]:
    def at(name: str, comment: str, prepare=None, **options: object) -> Case:
        s = Stage()
        if prepare:
            prepare(s)
        trust = options.pop("trust", None)
        more = {} if trust is None else {"trust": trust}
        return case(name, comment, s.doc(s.seal(**options)), **more)

    def pcr(number: int):
        def prepare(s: Stage) -> None:
            s.unit.tpm.pcrs[number] = bytes(32)

        return prepare

    def sha1(tpm: SoftTpm, q: bytes) -> Attestation:
        tpm.bank = 0x0004
        result = tpm.quote(q, pcrs=[14])
        tpm.bank = tpmt.ALG_SHA256
        return result

    only = {"quote": lambda tpm, q: tpm.quote(q, pcrs=[16])}
    yield at("resettable-pcr", "PCR 16 quoted, which anyone can reset", pcr(16), **only)
    yield at("extra-pcr", "PCR 14 and 23 quoted", pcr(23), quote=lambda tpm, q: tpm.quote(q, pcrs=[14, 23]))
    yield at("no-pcr", "nothing quoted", quote=lambda tpm, q: tpm.quote(q, pcrs=[]))
    yield at("sha1-bank", "the SHA-1 bank quoted", quote=sha1)
    forged = encode_event(Event(number=0, pcr=14, type="activate", slot="default", model=OTHER))
    yield at("log-of-another-model", "the log does not lead to the PCR", log=forged)
    yield at(
        "log-truncated",
        "the log without its last entry",
        lambda s: s.unit.measure(OTHER, slot="left"),
        log=_first_entry(),
    )
    yield at("log-empty", "no log", log=b"")
    good = _first_entry()
    yield at(
        "log-digest-changed",
        "an entry whose digest is not that of its content",
        log=good.replace(b'"slot":"default"', b'"slot":"defaulu"'),
    )
    yield at("log-of-another-pcr", "entries of PCR 16", log=good.replace(b'"pcr":14', b'"pcr":16'))
    yield at("log-renumbered", "recnum does not count from 0", log=good.replace(b'"recnum":0', b'"recnum":1'))
    yield at("log-unframed", "no record separator", log=good[1:])
    yield at("boot-pcr-missing", "the policy asks for PCR 4 as well", trust="boot-pcr")
    yield at("boot-pcr-wrong", "PCR 4 has another value", pcr(4), trust="boot-pcr")
    s = Stage()
    segment = s.unit.open_segment()
    yield case(
        "segment-log-empty",
        "the segment's log does not lead to its quote",
        s.doc(s.seal(segments=[replace(segment, log=b"")])),
    )


def _first_entry() -> bytes:
    return encode_event(Event(number=0, pcr=14, type="activate", slot="default", model=make_world().model.digest))


def step_7() -> Iterator[Case]:
    s = Stage()
    never = s.world.make_model("other", b"never measured")
    yield case("never-measured", "the kit's model was never measured", s.doc(s.seal(model=never), model=never))
    s = Stage()
    s.unit.measure(OTHER)
    yield case("replaced-before", "another model was activated after it", s.doc())
    s = Stage()
    s.unit.measure(s.world.model.digest, kind="refused")
    yield case("refused-in-the-end", "the model was refused after its activation", s.doc())
    s = Stage()
    s.unit.reboot()
    s.unit.measure(s.world.model.digest, slot="left")
    yield case("measured-in-another-slot", "measured, but in another slot", s.doc())
    s = Stage()
    s.unit.measure(OTHER)
    yield case(
        "segment-of-another-model",
        "a segment of another model in this kit",
        s.doc(s.seal(segments=[s.unit.open_segment(model=OTHER)])),
    )
    s = Stage()
    yield case(
        "segment-of-another-device",
        "a segment whose header names another device",
        s.doc(s.seal(segments=[s.unit.open_segment(device="urn:edgeprov:device:unit-0002")])),
    )
    s = Stage()
    doc = s.doc()
    yield case(
        "no-segments", "records without a segment", edited(doc, lambda d: d.update(evidence=b64(encode_evidence([]))))
    )


def step_8() -> Iterator[Case]:
    def forge(**changes: int):
        def make(tpm: SoftTpm, q: bytes) -> Attestation:
            before = {name: getattr(tpm, name) for name in changes}
            for name, value in changes.items():
                setattr(tpm, name, value)
            result = tpm.certify_counter(q)
            for name, value in before.items():
                setattr(tpm, name, value)
            return result

        return make

    for name, comment, counter in (
        ("another-value", "the counter stood elsewhere", lambda tpm, q: tpm.certify_counter(q, value=999)),
        ("ordinary-index", "an ordinary index at the counter's handle", forge(counter_attributes=0x22060004)),
        ("not-written", "attributes without WRITTEN", forge(counter_attributes=0x02060014)),
        ("another-index", "another counter of this TPM", forge(counter_index=0x01800101)),
        ("offset", "a part of the counter", lambda tpm, q: tpm.certify_counter(q, offset=4)),
        ("four-bytes", "four bytes only", lambda tpm, q: tpm.certify_counter(q, contents=bytes(3) + b"\x65")),
    ):
        s = Stage()
        yield case(name, comment, s.doc(s.seal(counter=counter)))


def step_9() -> Iterator[Case]:
    world = make_world()
    unit = world.enrol("unit-0001", counter_base=500)
    yield case("before-the-enrolment", "a number at or below counter_base", document(unit, unit.seal()))
    s = Stage()
    yield case(
        "number-of-the-base", "a kit sealed without raising the counter after the enrolment", s.doc(s.seal(seq=100))
    )
    s = Stage()
    yield case("first-with-predecessor", "the first kit names one before it", s.doc(s.seal(prev=OTHER)))
    s = Stage()
    s.seal()
    yield case("later-without-predecessor", "a later kit names none", s.doc(s.seal(prev=None)))
    s = Stage()
    first, second = s.unit.open_segment(), s.unit.open_segment(prev=bytes(32))
    yield case("segments-not-chained", "a segment in between is missing", s.doc(s.seal(segments=[first, second])))
    s = Stage()
    first, second = s.unit.open_segment(first=0), s.unit.open_segment(first=3)
    third = s.unit.open_segment(first=2)
    yield case(
        "segments-fall", "a segment begins before the one before it", s.doc(s.seal(segments=[first, second, third]))
    )
    s = Stage()
    yield case(
        "records-before-segment",
        "the kit's first record lies before its first segment",
        s.doc(s.seal(segments=[s.unit.open_segment(first=3)])),
    )
    s = Stage()
    first, second = s.unit.open_segment(), s.unit.open_segment(first=9)
    yield case(
        "segment-after-records",
        "the last segment begins after the last record",
        s.doc(s.seal(segments=[first, second])),
    )


def step_10() -> Iterator[Case]:
    for name, version in (("firmware-not-listed", 1), ("firmware-next-version", 0x20240126)):
        s = Stage()
        s.unit.tpm.firmware_version = version
        yield case(name, "the policy lists TPM firmware, and this one is not on it", s.doc(), trust="firmware")


def all_evidence() -> Iterator[tuple[int, Case]]:
    yield from ((0, item) for item in accepted())
    for number, group in enumerate(
        (step_1, step_2, step_3, step_4, step_5, step_6, step_7, step_8, step_9, step_10), 1
    ):
        yield from ((number, item) for item in group())
