# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Structures of signatures and evidence: round trips, exact bytes, and what their readers refuse."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprov.errors import EdgeprovError, FormatError, LimitError
from edgeprov.formats import packing, tpmt
from edgeprov.formats.b64 import parse_b64, parse_b64url
from edgeprov.formats.bundle import build_bundle, parse_bundle
from edgeprov.formats.digest import Digest
from edgeprov.formats.ecdsa import encode_ecdsa_der, encode_ecdsa_raw, parse_ecdsa_der
from edgeprov.formats.envelope import Signer, pae
from edgeprov.formats.eventlog import Event, active_model, encode_event, event_data, parse_event_log, replay
from edgeprov.formats.head import parse_head
from edgeprov.formats.in_toto import encode_model_statement, parse_statement
from edgeprov.formats.jsonx import parse_json
from edgeprov.formats.jws import parse_jws
from edgeprov.formats.mediatypes import IN_TOTO_PAYLOAD
from edgeprov.formats.statement import (
    SealedKit,
    SealEvidence,
    encode_kit_statement,
    parse_provenance,
    parse_seal_evidence,
)
from edgeprov.formats.tpmt import Attestation, parse_attest, parse_public, parse_signature
from tests.support.softtpm import SoftTpm, encode_signature, public_area, soft_key, spki
from tests.support.world import sign_notation

A = Digest("a" * 64)
B = Digest("b" * 64)


# -- DSSE and in-toto -------------------------------------------------------------------------------


def test_pae_is_the_example_of_the_dsse_specification():
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_model_statement_is_what_cosign_writes():
    assert json.loads(encode_model_statement(A)) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": "a" * 64}}],
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "predicate": {},
    }


def sealed(number: int) -> SealedKit:
    def attestation(name: str) -> Attestation:
        return Attestation(attest=f"{name} {number}".encode(), signature=b"s")

    evidence = SealEvidence(quote=attestation("quote"), counter=attestation("counter"), log=b"log")
    return SealedKit(digest=Digest(f"{number:064x}"), seq=number, reset_count=4, evidence=evidence)


def kit_statement(kit: SealedKit) -> bytes:
    return encode_kit_statement(
        kit,
        model=A,
        slot="default",
        device="urn:edgeprov:device:x",
        assurance="dev",
        version="1",
        started_on="s",
        finished_on="f",
    )


def test_kit_statement_round_trip():
    statement = parse_statement(kit_statement(sealed(7)))
    claims = parse_provenance(statement)
    assert (claims.model, claims.slot, claims.invocation, claims.assurance) == (A, "default", "4.7", "dev")
    assert parse_seal_evidence(statement) == sealed(7).evidence
    names = [item["name"] for item in statement.predicate["runDetails"]["byproducts"]]
    assert names == ["tpm-quote", "tpm-counter", "event-log"]
    assert A not in statement.subjects  # a subject match is an endorsement


def test_statement_of_a_kit_has_one_subject():
    raw = change(kit_statement(sealed(7)), lambda d: d["subject"].append(d["subject"][0]))
    with pytest.raises(FormatError, match="2 subjects"):
        parse_provenance(parse_statement(raw))


def change(raw: bytes, edit) -> bytes:
    document = json.loads(raw)
    edit(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda d: d.update(subject=[]),
        lambda d: d.update(subject=[{"digest": {"sha512": "0" * 128}}]),
        lambda d: d.update(subject=[{"digest": {"sha256": "A" * 64}}]),
        lambda d: d.update(predicate=[]),
        lambda d: d.pop("predicateType"),
    ],
)
def test_statement_refuses(edit):
    with pytest.raises(FormatError):
        parse_statement(change(kit_statement(sealed(1)), edit))


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p["buildDefinition"].update(buildType="https://example.com/other"),
        lambda p: p["buildDefinition"]["resolvedDependencies"].append(
            {"name": "model", "digest": {"sha256": "c" * 64}}
        ),
        lambda p: p["buildDefinition"].update(resolvedDependencies=[]),
        lambda p: p["buildDefinition"]["externalParameters"].update(model="sha256:" + "c" * 64),
        lambda p: p["runDetails"].pop("builder"),
        lambda p: p["buildDefinition"].pop("internalParameters"),
    ],
)
def test_provenance_refuses(edit):
    raw = change(kit_statement(sealed(1)), lambda d: edit(d["predicate"]))
    with pytest.raises(FormatError):
        parse_provenance(parse_statement(raw))


@pytest.mark.parametrize(
    "edit",
    [
        lambda items: items.pop(0),
        lambda items: items.append(items[0]),
        lambda items: items[1].update(mediaType="application/octet-stream"),
        lambda items: items[0].update(content="!"),
        lambda items: items[0].update(content=base64.b64encode(packing.pack([b"a"])).decode()),
        lambda items: items[0].update(content=base64.b64encode(packing.pack(["a", b"b"])).decode()),
    ],
)
def test_evidence_in_statement_refuses(edit):
    raw = change(kit_statement(sealed(1)), lambda d: edit(d["predicate"]["runDetails"]["byproducts"]))
    statement = parse_statement(raw)
    with pytest.raises(EdgeprovError):
        parse_seal_evidence(statement)


# -- bundle -----------------------------------------------------------------------------------------


def test_bundle_needs_exactly_one_kind_of_signer():
    for options in ({}, {"certificate": b"c", "key_hint": b"k"}):
        with pytest.raises(FormatError):
            build_bundle(statement=b"{}", signature_der=b"s", **options)


def test_bundle_round_trip_with_timestamps():
    raw = build_bundle(statement=b"{}", signature_der=b"sig", certificate=b"cert", timestamps=[b"t1", b"t2"])
    bundle = parse_bundle(raw)
    assert (bundle.kind, bundle.certificates, bundle.payload, bundle.signature) == (
        "certificate",
        (b"cert",),
        b"{}",
        b"sig",
    )
    assert (bundle.payload_type, bundle.timestamps) == (IN_TOTO_PAYLOAD, (b"t1", b"t2"))
    assert parse_bundle(build_bundle(statement=b"{}", signature_der=b"s", key_hint=b"h")).kind == "key"


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
        lambda d: d["verificationMaterial"].update(publicKey={"hint": ""}),
        lambda d: d["verificationMaterial"].pop("certificate"),
        lambda d: d["verificationMaterial"].update(certificate={"rawBytes": 5}),
        lambda d: d["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}),
        lambda d: d["dsseEnvelope"].update(signatures=[]),
        lambda d: d["dsseEnvelope"].update(payloadType="text/plain"),
        lambda d: d["dsseEnvelope"].update(payload="e30"),  # no padding
        lambda d: d.update(messageSignature=d.pop("dsseEnvelope")),
    ],
)
def test_bundle_refuses(edit):
    good = build_bundle(statement=b"{}", signature_der=b"sig", certificate=b"cert")
    with pytest.raises(FormatError):
        parse_bundle(change(good, edit))


def test_bundle_of_duplicate_keys_or_excess_is_refused():
    good = build_bundle(statement=b"{}", signature_der=b"sig", certificate=b"cert")
    with pytest.raises(FormatError, match="twice"):
        parse_bundle(good.replace(b'{"dsseEnvelope"', b'{"mediaType":"x","dsseEnvelope"'))
    with pytest.raises(LimitError):
        parse_bundle(b" " * (1 << 20) + good)


# -- notation ---------------------------------------------------------------------------------------


def jws_edit(raw: bytes, edit) -> bytes:
    def inner(document):
        header = json.loads(base64.urlsafe_b64decode(document["protected"] + "=="))
        edit(document, header)
        document["protected"] = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()

    return change(raw, inner)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d, h: h.update(alg="RS256"),
        lambda d, h: h.update(cty="text/plain"),
        lambda d, h: h.update(crit=["io.cncf.notary.signingScheme", "unknown"]),
        lambda d, h: h.update(crit=[]),
        lambda d, h: h.update({"io.cncf.notary.signingScheme": "notary.x509.signingAuthority"}),
        lambda d, h: d["header"].update(x5c=[]),
        lambda d, h: d["header"].update(x5c=["?"]),
        lambda d, h: d.update(signatures=[]),
        lambda d, h: d.update(payload=d["payload"] + "="),
    ],
)
def test_jws_refuses(world, edit):
    good = sign_notation(world.model.descriptor, world.publisher).blob
    assert parse_jws(good).algorithm == "ES256"
    with pytest.raises(FormatError):
        parse_jws(jws_edit(good, edit))


def test_signers_follow_the_protocol(world):
    assert isinstance(world.publisher, Signer)
    assert isinstance(SoftTpm("x"), Signer)


# -- base64, ECDSA ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["QQ", "QQ=", "QR==", "Q Q=", "QQ==\n", "-_==", "é"])
def test_base64_has_one_spelling(text):
    with pytest.raises(FormatError):
        parse_b64(text, "x")


@pytest.mark.parametrize("text", ["QQ==", "QR", "+/", "Q", "é"])
def test_base64url_has_one_spelling(text):
    with pytest.raises(FormatError):
        parse_b64url(text, "x")


@given(st.integers(1, 2**256 - 1), st.integers(1, 2**256 - 1))
def test_ecdsa_der_round_trip(r, s):
    der = encode_ecdsa_der(r, s)
    assert parse_ecdsa_der(der) == (r, s)
    assert encode_ecdsa_raw(der) == r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert parse_signature(encode_signature(r, s)) == (r, s)


@pytest.mark.parametrize(
    "der",
    ["", "30", "3006020101020101ff", "300702020001020101", "3006020100020101", "3006028101020101", "30060201ff020101"],
)
def test_ecdsa_der_refuses_other_spellings(der):
    with pytest.raises(FormatError):
        parse_ecdsa_der(bytes.fromhex(der))


# -- TPM structures ---------------------------------------------------------------------------------


def test_spki_and_name_of_a_public_area():
    key = soft_key("k")
    area = parse_public(public_area(key, tpmt.AK_ATTRIBUTES))
    assert area.spki == spki(key)
    assert area.name == b"\x00\x0b" + hashlib.sha256(area.raw).digest()
    assert hex(tpmt.AK_ATTRIBUTES), hex(tpmt.SK_ATTRIBUTES) == ("0x50472", "0x40472")


def test_nv_name_is_over_the_14_bytes_of_the_counter():
    raw = bytes.fromhex("01800100000b220600140000 0008".replace(" ", ""))
    assert len(raw) == 14
    assert tpmt.nv_name() == b"\x00\x0b" + hashlib.sha256(raw).digest()


def structures():
    tpm = SoftTpm("t")
    return [tpm.quote(bytes(32)).attest, tpm.certify_counter(bytes(32)).attest, tpm.certify_sk(bytes(32)).attest]


@pytest.mark.parametrize("number", range(3))
def test_attest_cut_anywhere_or_prolonged_is_refused(number):
    raw = structures()[number]
    assert parse_attest(raw).raw == raw
    for end in range(len(raw)):
        with pytest.raises(FormatError):
            parse_attest(raw[:end])
    with pytest.raises(FormatError, match="too many"):
        parse_attest(raw + b"\0")
    with pytest.raises(LimitError):
        parse_attest(raw + bytes(4096))


@pytest.mark.parametrize(
    ("position", "byte", "match"), [(0, 0xFE, "TPM_GENERATED"), (5, 0x19, "type 0x8019"), (5, 0xFF, "does not use")]
)
def test_attest_of_another_kind_is_refused(position, byte, match):
    raw = bytearray(structures()[0])
    raw[position] = byte
    with pytest.raises(FormatError, match=match):
        parse_attest(bytes(raw))


@pytest.mark.parametrize("position", [1, 3, 11, 13, 15, 17, 19])
def test_public_area_of_another_algorithm_is_refused(position):
    raw = bytearray(public_area(soft_key("k"), tpmt.AK_ATTRIBUTES))
    raw[position] ^= 0x01
    with pytest.raises(FormatError):
        parse_public(bytes(raw))


def test_signature_of_another_algorithm_is_refused():
    good = encode_signature(5, 6)
    for position in (1, 3):
        raw = bytearray(good)
        raw[position] ^= 1
        with pytest.raises(FormatError, match="not ECDSA"):
            parse_signature(bytes(raw))
    for raw in (good + b"\0", good[:-1], b""):
        with pytest.raises(FormatError):
            parse_signature(raw)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_a_format_error(raw):
    for reader in (
        parse_attest,
        parse_signature,
        parse_public,
        parse_event_log,
        parse_bundle,
        parse_jws,
        parse_statement,
        parse_head,
    ):
        with contextlib.suppress(FormatError):
            reader(raw)


# -- event log --------------------------------------------------------------------------------------


def events(*items) -> tuple[Event, ...]:
    return tuple(
        Event(number=number, pcr=14, type=kind, slot=slot, model=model)
        for number, (kind, slot, model) in enumerate(items)
    )


def test_measured_bytes_are_fixed():
    assert event_data("activate", "default", A) == b"edgeprov.activate\x00default\x00" + b"\xaa" * 32


def test_replay_is_what_the_tpm_does():
    log = events(("activate", "default", A), ("refused", "left", B))
    first = hashlib.sha256(bytes(32) + hashlib.sha256(log[0].data).digest()).digest()
    assert replay(log[:1]) == first
    assert replay(log) == hashlib.sha256(first + hashlib.sha256(log[1].data).digest()).digest()
    assert parse_event_log(b"".join(map(encode_event, log))) == log
    assert parse_event_log(b"") == ()


def test_active_model_is_the_last_activation_of_the_slot():
    log = events(
        ("activate", "default", A), ("activate", "left", B), ("activate", "default", B), ("refused", "left", B)
    )
    assert active_model(log, "default") == B
    assert active_model(log, "left") is None
    assert active_model(log, "right") is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda e: e.update(recnum=1),
        lambda e: e.update(content_type="systemd"),
        lambda e: e["content"].update(type="deactivate"),
        lambda e: e["content"].update(slot="a\0b"),
        lambda e: e["content"].update(slot=""),
        lambda e: e["content"].update(model="sha256:" + "c" * 64),  # the digest is then not that of the content
        lambda e: e.update(digests=[]),
        lambda e: e["digests"].append(dict(e["digests"][0])),
        lambda e: e.update(pcr=24),
    ],
)
def test_event_log_refuses(edit):
    raw = encode_event(events(("activate", "default", A))[0])
    with pytest.raises(FormatError):
        parse_event_log(b"\x1e" + change(raw[1:], edit) + b"\n")


def test_event_log_refuses_broken_framing():
    raw = b"".join(map(encode_event, events(("activate", "default", A), ("activate", "default", B))))
    for broken in (raw[:-1], raw[1:], raw.replace(b"\n\x1e", b"\x1e"), raw + b"\x1e", raw[len(raw) // 2 :]):
        with pytest.raises(FormatError):
            parse_event_log(broken)


# -- JSON depth -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "ok"),
    [
        (b"[" * 32 + b"]" * 32, True),
        (b"[" * 33 + b"]" * 33, False),
        (json.dumps({"text": '{"[' * 100 + '"' * 7}).encode(), True),
        (b'{"a":' * 40 + b"1" + b"}" * 40, False),
        (b'["' + b'"' * 100_000, None),
    ],
)
def test_json_depth_is_bounded_and_linear(raw, ok):
    if ok:
        parse_json(raw, "x")
        return
    with pytest.raises(FormatError if ok is None else LimitError):
        parse_json(raw, "x")
