# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Attacks by name: what someone would try, and what refuses it. THREATS.md says who can try what.

Each test builds the attack as the attacker would, with everything that he can have, and names step and error.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace

import pytest

from edgeprov._dataclass import replace as replace_part
from edgeprov.errors import (
    DigestMismatch,
    EvidenceInvalid,
    FormatError,
    Rollback,
    SignatureInvalid,
    SignerUntrusted,
    SubjectMismatch,
    VerificationError,
)
from edgeprov.formats import tpmt
from edgeprov.formats.bundle import build_signature_manifest
from edgeprov.formats.devicerecord import build_device_record, enroll_qualifying
from edgeprov.formats.digest import Digest
from edgeprov.formats.eventlog import Event, encode_event
from edgeprov.formats.in_toto import parse_statement
from edgeprov.formats.manifest import parse_index, parse_manifest
from edgeprov.formats.mediatypes import SLSA_PROVENANCE
from edgeprov.formats.statement import parse_seal_evidence
from edgeprov.formats.tpmt import Attestation, parse_public
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.head_check import verify_head
from edgeprov.verify.series import check_series, series_end, series_item
from edgeprov.verify.signature import SignatureArtifact, verify_model_signature
from tests.support import pki
from tests.support.softtpm import SoftTpm, public_area
from tests.support.world import sign_bundle

OTHER = Digest(hashlib.sha256(b"another model").hexdigest())
NONCE = b"auditor's nonce."


def refused(world, unit, evidence, error, step=None):
    with pytest.raises(VerificationError) as caught:
        verify_kit(evidence, unit.verified(), world.policy, pki.NOW)
    assert type(caught.value) is error, caught.value
    if step is not None:
        assert caught.value.step == step, caught.value


def items_of(world, unit, *kits):
    device = unit.verified()
    for kit in kits:
        yield series_item(verify_kit(kit.evidence(), device, world.policy, pki.NOW))


# -- models -----------------------------------------------------------------------------------------


def test_rollback_to_a_signed_but_revoked_model():
    """The old model's signature is good for ever; the floor in the TPM is what refuses it."""
    from types import SimpleNamespace

    from edgeprov.device.model_trust import verify_floor

    with pytest.raises(Rollback, match="below this device's floor 7"):
        verify_floor(SimpleNamespace(security_version=6), 7)
    verify_floor(SimpleNamespace(security_version=7), 7)


def test_registry_that_serves_another_manifest_for_a_digest(world):
    """A tag is never trusted, and what comes for a digest is hashed before it is parsed."""
    other = world.make_model("other", b"other")
    with pytest.raises(DigestMismatch):
        parse_manifest(other.raw, expected=world.model.digest)


def test_registry_that_serves_another_signed_model(world):
    """A good signature of the same publisher, of another model."""
    other = world.make_model("other", b"other")
    with pytest.raises(SubjectMismatch):
        verify_model_signature(world.model, [world.sign_model(other)], world.policy, pki.NOW)


def test_confused_media_types(world):
    """One document that is a manifest for one reader and an index for another."""
    both = json.loads(world.model.raw) | {"manifests": []}
    for parse in (parse_manifest, parse_index):
        with pytest.raises(FormatError):
            parse(json.dumps(both).encode())
    with pytest.raises(FormatError):
        parse_manifest(
            json.dumps(json.loads(world.model.raw) | {"mediaType": "application/vnd.oci.image.index.v1+json"}).encode()
        )


# -- kits -------------------------------------------------------------------------------------------


def test_replay_of_an_old_kit_under_a_new_number(world, unit):
    """Yesterday's evidence around today's kit."""
    old = unit.seal()
    evidence = parse_seal_evidence(parse_statement(old.statement))
    new = unit.seal(quote=lambda tpm, q: evidence.quote, counter=lambda tpm, q: evidence.counter)
    refused(world, unit, new.evidence(), EvidenceInvalid, 3)


def test_fork_of_the_series(world, unit):
    """Root attests two kits at one counter value. Each is good by itself; together they show."""
    first = unit.seal()
    before = unit.prev
    unit.prev = None
    twin = unit.seal(seq=unit.tpm.counter, records=3, segments=[replace_part(first.segments[0], ranges=())])
    unit.prev = before
    forks = check_series(items_of(world, unit, first, twin), 100).forks
    assert forks == (101, 102), "the number of the kits, and the segment that both seal"


def test_withheld_tail(world, unit):
    """The newest kits are not uploaded: nothing in the others shows it, the answer to a nonce does."""
    kits = [unit.seal() for _ in range(4)]
    shown = list(items_of(world, unit, *kits[:2]))
    assert check_series(shown, 100).whole
    head = verify_head(unit.head(NONCE), NONCE, unit.verified(), world.policy)
    assert check_series(shown, 100, head=series_end(head)).gaps == ((105, 108),)


def test_withheld_kit_in_the_middle(world, unit):
    kits = [unit.seal() for _ in range(4)]
    assert check_series(items_of(world, unit, kits[0], *kits[2:]), 100).gaps == ((103, 104),)


def test_swapped_kits(world, unit):
    """Two kits of one device exchange their signatures."""
    first, second = unit.seal(), unit.seal()
    refused(world, unit, first.evidence(signatures=second.signatures), SubjectMismatch)
    rehung = [sign_like(first, item) for item in second.signatures]
    refused(world, unit, first.evidence(signatures=rehung), SubjectMismatch)


def sign_like(kit, signature):
    """Another kit's bundle under a manifest that refers to this one: needs no key."""
    manifest = build_signature_manifest(kit.manifest.descriptor, signature.blob, SLSA_PROVENANCE, None)
    return SignatureArtifact(manifest=manifest, blob=signature.blob)


def test_stolen_disk_in_another_tpm(world, unit):
    """State, certificates and spool on other hardware: its TPM holds neither SK nor AK."""
    thief = SoftTpm("another TPM", counter=unit.tpm.counter)
    thief.pcrs = dict(unit.tpm.pcrs)
    thief.certificate_chain = unit.tpm.certificate_chain
    original, unit.tpm = unit.tpm, thief
    kit = unit.seal()
    unit.tpm = original
    refused(world, unit, kit.evidence(), SignatureInvalid)
    # Even with a signature begged from the original's SK, the attestations are of the wrong TPM.
    kit.signatures = [sign_bundle(kit.manifest.descriptor, kit.statement, original, SLSA_PROVENANCE)]
    refused(world, unit, kit.evidence(), EvidenceInvalid, 4)


def test_cloned_tpm_state(world, unit):
    """A software TPM copied with its keys: both go on counting, and the series forks."""
    kit = unit.seal()
    clone = world.enroll("unit-0001")
    clone.prev, clone.tpm.counter, clone.next_n = unit.prev, unit.tpm.counter, 50
    ours, theirs = unit.seal(), clone.seal(records=4)
    assert check_series(items_of(world, unit, kit, ours, theirs), 100).forks == (103, 104)


def test_forged_counter_index(world, unit):
    """The counter deleted, an ordinary index defined at its handle, any value written: indexName differs."""

    def forged(tpm, q):
        tpm.counter_attributes = 0x22020004
        result = tpm.certify_counter(q, value=101)
        tpm.counter_attributes = tpmt.COUNTER_ATTRIBUTES
        return result

    refused(world, unit, unit.seal(counter=forged).evidence(), EvidenceInvalid, 8)


def test_counter_deleted_and_defined_anew(world, unit):
    """A new counter starts above every value that an old one ever had: the gap shows."""
    first = unit.seal()
    unit.tpm.counter = 500
    second = unit.seal()
    assert check_series(items_of(world, unit, first, second), 100).gaps == ((103, 500),)


def test_unrestricted_key_posing_as_ak(world, unit):
    """An enroller is given a record whose AK signs anything; refused before any certificate, and by every verifier."""
    area = parse_public(public_area(unit.tpm.ak, tpmt.SK_ATTRIBUTES))
    unit.tpm.ak_attributes = tpmt.SK_ATTRIBUTES
    certify = unit.tpm.certify_sk(enroll_qualifying(unit.record.nonce))
    record = replace(unit.record, ak=area, certify=certify)
    unit.record_manifest, unit.record_blob = build_device_record(record)
    unit.record_signatures = [world.vouch(unit.record_manifest, record)]
    with pytest.raises(EvidenceInvalid, match="lack restricted") as caught:
        unit.verified()
    assert caught.value.step == 1


@pytest.mark.parametrize("pcr", [16, 23])
def test_reset_of_a_resettable_pcr(world, unit, pcr):
    """PCR 16 and 23 can be reset and extended with any history by root: a quote over them is refused."""
    unit.tpm.pcrs[pcr] = unit.tpm.pcrs[14]
    refused(world, unit, unit.seal(quote=lambda tpm, q: tpm.quote(q, pcrs=[pcr])).evidence(), EvidenceInvalid, 6)
    from edgeprov.errors import ConfigError
    from edgeprov.verify.policy import parse_policy

    with pytest.raises(ConfigError):
        parse_policy({"policy.toml": f"[device]\npcr = {pcr}\n".encode()})


def test_truncated_log(world, unit):
    """The activation of another model is cut off the end of the log; the PCR remembers it."""
    shorter = unit.log
    unit.measure(OTHER)
    segment = unit.open_segment()
    refused(world, unit, unit.seal(segments=[replace(segment, log=shorter)]).evidence(), EvidenceInvalid, 6)


def test_log_with_a_made_up_last_entry(world, unit):
    unit.measure(OTHER)
    lie = encode_event(Event(number=2, pcr=14, type="activate", slot="default", model=world.model.digest))
    segment = unit.open_segment()
    refused(world, unit, unit.seal(segments=[replace(segment, log=unit.log + lie)]).evidence(), EvidenceInvalid, 6)


@pytest.mark.parametrize(
    ("algorithm", "hash_algorithm"), [(0x0014, 0x000B), (0x0018, 0x0004), (0x0018, 0x000C), (0x0005, 0x000B)]
)
def test_mixed_up_algorithms(world, unit, algorithm, hash_algorithm):
    """The same signature announced as RSASSA, ECDSA with SHA-1, with SHA-384, or HMAC."""

    def relabel(tpm, q):
        good = tpm.quote(q)
        head = algorithm.to_bytes(2, "big") + hash_algorithm.to_bytes(2, "big")
        return Attestation(attest=good.attest, signature=head + good.signature[4:])

    refused(world, unit, unit.seal(quote=relabel).evidence(), EvidenceInvalid, 4)


@pytest.mark.parametrize("member", ["predicateType", "subject", "_type"])
def test_duplicate_json_keys_in_a_signed_statement(world, unit, member):
    """Two readers may take two values of one signed document: nobody may take any."""
    kit = unit.seal()
    value = json.dumps(json.loads(kit.statement)[member])
    double = kit.statement.replace(b"{", f'{{"{member}":{value},'.encode(), 1)
    kit.signatures = [sign_bundle(kit.manifest.descriptor, double, unit.tpm, SLSA_PROVENANCE)]
    refused(world, unit, kit.evidence(), SignatureInvalid)


def test_duplicate_json_keys_in_the_envelope(world, unit):
    kit = unit.seal()
    blob = kit.signatures[0].blob
    payload = base64.b64encode(b"{}")
    double = blob.replace(b'"dsseEnvelope":{', b'"dsseEnvelope":{"payload":"' + payload + b'",', 1)
    refused(
        world,
        unit,
        kit.evidence(signatures=[sign_like(kit, replace(kit.signatures[0], blob=double))]),
        SignatureInvalid,
    )


def test_kit_statement_that_endorses_the_model(world, unit):
    """A device adds the model's digest to its subjects and hangs the bundle on the model."""
    kit = unit.seal()
    value = json.loads(kit.statement)
    value["subject"].append({"digest": {"sha256": world.model.digest.hex}})
    bundle = sign_bundle(world.model.descriptor, json.dumps(value).encode(), unit.tpm, SLSA_PROVENANCE)
    with pytest.raises(SignerUntrusted):
        verify_model_signature(world.model, [bundle], world.policy, pki.NOW)
    one_ca = replace(world.policy, publisher_anchors=world.policy.device_anchors, roles=(("publisher", ("*",)),))
    with pytest.raises(SignerUntrusted, match="is a device"):
        verify_model_signature(world.model, [bundle], one_ca, pki.NOW)


def test_records_of_an_unmeasured_model_under_a_measured_one(world, unit):
    """Root runs model B and seals its records as A's: B's activation stands in the log after A's."""
    unit.measure(OTHER)
    refused(world, unit, unit.seal().evidence(), EvidenceInvalid, 7)


def test_flood_of_rubbish_signatures_does_not_block(world, unit):
    """Anyone can push referrers; the good one is found among them, within the bound."""
    kit = unit.seal()
    rubbish = [replace(kit.signatures[0], blob=b"{}")] * 60
    verify_kit(kit.evidence(signatures=[*rubbish, *kit.signatures]), unit.verified(), world.policy, pki.NOW)
