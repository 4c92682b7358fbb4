# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The ten steps: each accepts the honest kit, and each refuses with its own number."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from edgeprov._dataclass import replace as replace_part
from edgeprov.errors import (
    EvidenceInvalid,
    PolicyDenied,
    SignatureInvalid,
    SignerUntrusted,
    SubjectMismatch,
    VerificationError,
)
from edgeprov.formats import tpmt
from edgeprov.formats.datakit import SegmentEvidence
from edgeprov.formats.digest import Digest
from edgeprov.formats.eventlog import Event, encode_event
from edgeprov.formats.evidence_part import DeviceEvent
from edgeprov.formats.mediatypes import TOMBSTONE_PREDICATE
from edgeprov.formats.segment import parse_segment_header
from edgeprov.formats.standing import OpenSegment, Standing
from edgeprov.formats.tombstone import NumberEntry
from edgeprov.formats.tpmt import Attestation
from edgeprov.verify.deny import parse_deny
from edgeprov.verify.evidence import check_kit, verify_kit
from tests.support import pki
from tests.support.softtpm import SoftTpm, soft_key
from tests.support.world import Sealed, Unit, World, sign_bundle, sign_notation

EVENT = DeviceEvent(kind="activate", at_ns=1, mono_ns=1)
OTHER = Digest(hashlib.sha256(b"another model").hexdigest())


def judge(world, unit, sealed, *, policy=None, device=None, at=pki.NOW, **changes):
    evidence = sealed.evidence(**changes) if isinstance(sealed, Sealed) else sealed
    return verify_kit(evidence, device or unit.verified(), policy or world.policy, at)


def refused(world, unit, sealed, step, match, error=EvidenceInvalid, *, policy=None, **changes):
    """The kit is refused by this step and with this error, whether it is verified or reported."""
    device, policy = unit.verified(), policy or world.policy
    evidence = sealed.evidence(**changes)
    with pytest.raises(VerificationError, match=match) as caught:
        verify_kit(evidence, device, policy, pki.NOW)
    assert type(caught.value) is error
    assert getattr(caught.value, "step", step) == step
    failed = check_kit(evidence, device, policy, pki.NOW).failed
    assert (failed.number, failed.error, failed.exit_code) == (step, error.__name__, error.exit_code)


# -- accepted ---------------------------------------------------------------------------------------


def test_honest_kit_is_accepted_by_all_ten_steps(world: World, unit: Unit):
    sealed = unit.seal(notation=True)
    verdict = judge(world, unit, sealed)
    assert (verdict.seq, verdict.device, verdict.model) == (102, unit.urn, world.model.digest)
    assert (verdict.reset_count, verdict.assurance, verdict.kind) == (1, "dev", "kit")
    report = check_kit(sealed.evidence(), unit.verified(), world.policy, pki.NOW)
    assert report.verified
    assert [step.number for step in report.steps] == list(range(1, 11))


def test_kit_sealed_in_a_later_boot_with_another_model_is_judged_by_its_segments(world: World, unit: Unit):
    segment = unit.open_segment()
    rows_kit_model = world.model
    unit.reboot()
    unit.measure(OTHER)  # PCR 14 of the sealing boot holds another model only
    sealed = unit.seal(segments=[segment], model=rows_kit_model)
    verdict = judge(world, unit, sealed)
    assert (verdict.reset_count, verdict.model) == (2, world.model.digest)


def test_kit_with_segments_of_two_boots(world: World, unit: Unit):
    first = unit.open_segment()
    unit.reboot()
    unit.measure(world.model.digest)
    second = unit.open_segment()
    assert judge(world, unit, unit.seal(segments=[first, second])).reset_count == 2


def test_kit_of_labels_only_needs_no_segment(world: World, unit: Unit):
    from edgeprov.formats.label import Label

    label = Label(n=0, value=1, source="pathology", labelled_at_ns=1)
    assert judge(world, unit, unit.seal(records=0, labels=[label])).seq == 101


def test_tombstone_is_judged_by_the_same_steps(world: World, unit: Unit):
    unit.seal()
    verdict = judge(world, unit, unit.bury())
    assert (verdict.kind, verdict.seq) == ("tombstone", 104)


# -- step 1: device record --------------------------------------------------------------------------


def test_step_1_refuses_kit_of_another_device(world: World, unit: Unit):
    other = world.enroll("unit-0002")
    refused(world, unit, other.seal(), 1, "the kit names urn:edgeprov:device:unit-0002")


def test_step_1_refuses_assurance_that_the_policy_does_not_accept(world: World, unit: Unit):
    strict = replace(world.policy, assurance=frozenset({"hardware"}))
    refused(world, unit, unit.seal(), 1, "accepts: hardware", PolicyDenied, policy=strict)


def test_step_1_refuses_kit_of_another_enrollment(world: World, unit: Unit):
    """The same device and keys, enrolled again: the old record does not judge the new kits."""
    again = world.enroll("unit-0001", nonce=b"another nonce of the enroller")
    refused(world, unit, again.seal(), 1, "belongs to enrollment")
    with pytest.raises(EvidenceInvalid, match="belongs to enrollment"):
        judge(world, unit, again.bury())


# -- step 2: signature ------------------------------------------------------------------------------


def test_step_2_refuses_missing_signature(world: World, unit: Unit):
    refused(world, unit, unit.seal(), 2, "has no signature", SignatureInvalid, signatures=[])


def test_step_2_refuses_notation_alone_because_it_carries_no_evidence(world: World, unit: Unit):
    sealed = unit.seal()
    only = [sign_notation(sealed.manifest.descriptor, unit.tpm)]
    refused(world, unit, sealed, 2, "has no signature", SignatureInvalid, signatures=only)


def test_step_2_refuses_changed_manifest(world: World, unit: Unit):
    """One annotation of the manifest changed: the digest is another, the signature is of the old one."""
    from edgeprov.formats.datakit import parse_datakit
    from edgeprov.formats.manifest import parse_manifest

    sealed = unit.seal()
    raw = sealed.manifest.raw.replace(b'"dev.edgeprov.slot":"default"', b'"dev.edgeprov.slot":"defaulu"')
    forged = parse_datakit(parse_manifest(raw), sealed.config)
    refused(world, unit, sealed, 2, "hangs on another artifact", SubjectMismatch, kit=forged)


def test_step_2_refuses_signature_moved_to_another_kit(world: World, unit: Unit):
    first, second = unit.seal(), unit.seal()
    moved = sign_bundle(second.manifest.descriptor, first.statement, unit.tpm, "https://slsa.dev/provenance/v1")
    refused(world, unit, second, 2, "is about sha256", SubjectMismatch, signatures=[moved])


def test_step_2_refuses_untrusted_signer(world: World, unit: Unit):
    foreign = pki.device_certificate(pki.root("Other Root"), "unit-0001", unit.tpm.sk)
    signer = SoftTpm("unit-0001")
    signer.certificate_chain = foreign.certificate_chain
    refused(world, unit, unit.seal(signer=signer), 2, "leads to no device trust anchor", SignerUntrusted)


def test_step_2_refuses_publisher_as_signer_of_a_kit(world: World, unit: Unit):
    refused(world, unit, unit.seal(signer=world.publisher), 2, "leads to no device trust anchor", SignerUntrusted)


def test_step_2_refuses_another_enrolled_device_as_signer(world: World, unit: Unit):
    other = world.enroll("unit-0002")
    refused(world, unit, unit.seal(signer=other.tpm), 2, "was signed by .*unit-0002", SubjectMismatch)


def test_step_2_refuses_second_certificate_for_the_same_serial_with_another_key(world: World, unit: Unit):
    thief = SoftTpm("thief")
    thief.certificate_chain = pki.device_certificate(world.device_root, "unit-0001", thief.sk).certificate_chain
    refused(world, unit, unit.seal(signer=thief), 2, "with another key", SubjectMismatch)


def test_step_2_refuses_flipped_bit_in_the_signature(world: World, unit: Unit):
    sealed = unit.seal()
    wrong = soft_key("wrong")
    signer = SoftTpm("x")
    signer.sk, signer.certificate_chain = wrong, unit.tpm.certificate_chain
    forged = sign_bundle(sealed.manifest.descriptor, sealed.statement, signer, "https://slsa.dev/provenance/v1")
    refused(world, unit, sealed, 2, "does not fit", SignatureInvalid, signatures=[forged])


def test_step_2_refuses_statement_of_another_model(world: World, unit: Unit):
    refused(world, unit, unit.seal(claims={"model": OTHER}), 2, "same model, slot and device", SubjectMismatch)


def test_step_2_refuses_statement_that_claims_a_higher_assurance(world: World, unit: Unit):
    refused(world, unit, unit.seal(claims={"assurance": "hardware"}), 2, "claims 'hardware'", SubjectMismatch)


def test_step_2_refuses_tombstone_statement_on_a_kit(world: World, unit: Unit):
    sealed = unit.seal()
    text = sealed.statement.replace(b"https://slsa.dev/provenance/v1", TOMBSTONE_PREDICATE.encode())
    forged = sign_bundle(sealed.manifest.descriptor, text, unit.tpm, TOMBSTONE_PREDICATE)
    refused(world, unit, sealed, 2, "does not vouch", SubjectMismatch, signatures=[forged])


def test_step_2_refuses_device_on_the_deny_list(world: World, unit: Unit):
    denied = replace(
        world.policy, deny=parse_deny([{"type": "key", "value": hashlib.sha256(unit.tpm.public_key_spki).hexdigest()}])
    )
    refused(world, unit, unit.seal(), 2, "deny list", PolicyDenied, policy=denied)


def test_step_2_ignores_rubbish_beside_a_good_signature(world: World, unit: Unit):
    sealed = unit.seal()
    rubbish = replace(sealed.signatures[0], blob=b"{}")
    assert judge(world, unit, sealed, signatures=[rubbish, *sealed.signatures]).seq == sealed.kit.seq


# -- step 3: attestations are for this kit ----------------------------------------------------------


def test_step_3_refuses_replayed_quote(world: World, unit: Unit):
    old = unit.tpm.quote(unit.seal().digest.raw)
    refused(world, unit, unit.seal(quote=lambda tpm, q: old), 3, "the quote was made for")


def test_step_3_refuses_replayed_counter(world: World, unit: Unit):
    old = unit.tpm.certify_counter(bytes(32))
    refused(world, unit, unit.seal(counter=lambda tpm, q: old), 3, "the counter's certification was made for")


def test_step_3_refuses_quote_of_another_segment(world: World, unit: Unit):
    first, second = unit.open_segment(), unit.open_segment()
    mixed = SegmentEvidence(header=second.header, quote=first.quote, log=second.log)
    refused(world, unit, unit.seal(segments=[mixed]), 3, "the quote of segment 1 was made for")


def test_step_3_refuses_segment_without_quote(world: World, unit: Unit):
    segment = unit.open_segment()
    bare = SegmentEvidence(header=segment.header, quote=None, log=segment.log)
    refused(world, unit, unit.seal(segments=[bare]), 3, "without a quote")


# -- step 4: attestation key ------------------------------------------------------------------------


def test_step_4_refuses_quote_signed_by_another_key(world: World, unit: Unit):
    def forge(tpm, q):
        return tpm.sign_attest(tpm.quote(q).attest, key=soft_key("forger"))

    refused(world, unit, unit.seal(quote=forge), 4, "the quote's signature does not fit")


def test_step_4_refuses_hand_made_attestation_signed_by_the_unrestricted_key(world: World, unit: Unit):
    """The trap of facts: SK signs any bytes, also those of a forged TPMS_ATTEST."""

    def forge(tpm, q):
        return tpm.sign_attest(tpm.quote(q).attest, key=tpm.sk)

    refused(world, unit, unit.seal(quote=forge), 4, "does not fit")


def test_step_4_refuses_counter_attestation_in_the_place_of_the_quote(world: World, unit: Unit):
    refused(world, unit, unit.seal(quote=lambda tpm, q: tpm.certify_counter(q)), 4, "type 0x8014, not 0x8018")


def test_step_4_refuses_key_of_another_hierarchy(world: World, unit: Unit):
    """Another qualified Name: the clock values of such a key are obfuscated and prove nothing."""

    def forge(tpm, q):
        attest = tpm.quote(q).attest
        return tpm.sign_attest(attest[:8] + bytes(34) + attest[42:])

    refused(world, unit, unit.seal(quote=forge), 4, "names another signer")


def test_step_3_refuses_trailing_bytes_even_when_signed(world: World, unit: Unit):
    refused(
        world, unit, unit.seal(quote=lambda tpm, q: tpm.sign_attest(tpm.quote(q).attest + b"x")), 3, "bytes too many"
    )


def test_step_4_refuses_signature_of_another_algorithm(world: World, unit: Unit):
    def relabel(tpm, q):
        good = tpm.quote(q)
        return Attestation(attest=good.attest, signature=b"\x00\x14" + good.signature[2:])

    refused(world, unit, unit.seal(quote=relabel), 4, "not ECDSA with SHA-256")


# -- step 5: same boot ------------------------------------------------------------------------------


def test_step_5_refuses_quote_and_counter_of_two_boots(world: World, unit: Unit):
    def later(tpm, q):
        tpm.reset_count += 1
        return tpm.certify_counter(q)

    refused(world, unit, unit.seal(counter=later), 5, "same boot")


def test_step_5_refuses_segment_header_of_another_boot(world: World, unit: Unit):
    refused(world, unit, unit.seal(segments=[unit.open_segment(reset_count=7)]), 5, "another boot than its header")


def test_step_5_refuses_segment_from_the_future(world: World, unit: Unit):
    unit.tpm.reset_count = 9
    segment = unit.open_segment()
    unit.tpm.reset_count = 1
    refused(world, unit, unit.seal(segments=[segment]), 5, "after the sealing")


def test_step_5_refuses_segment_opened_after_the_sealing_in_one_boot(world: World, unit: Unit):
    unit.tpm.clock_ms += 1_000_000
    segment = unit.open_segment()
    unit.tpm.clock_ms -= 1_000_000
    refused(world, unit, unit.seal(segments=[segment]), 5, "opened after the sealing")


# -- step 6: PCR ------------------------------------------------------------------------------------


def test_step_6_refuses_wrong_pcr(world: World, unit: Unit):
    unit.tpm.pcrs[16] = bytes(32)
    refused(world, unit, unit.seal(quote=lambda tpm, q: tpm.quote(q, pcrs=[16])), 6, "not over the model PCR")


def test_step_6_takes_more_pcrs_than_it_asks_for(world: World, unit: Unit):
    unit.tpm.pcrs |= {0: bytes(32), 23: b"\1" * 32}
    assert judge(world, unit, unit.seal()).boot_sets == ()


def test_step_6_compares_the_values_beside_a_quote(world: World, unit: Unit):
    unit.tpm.pcrs[7] = bytes(32)
    model = unit.tpm.pcrs[14]
    for values, text in (
        ({14: model}, "but has values of PCR 14"),
        ({}, "but has values of PCR none"),
        ({4: bytes(32), 7: bytes(32), 14: model}, "but has values of PCR 4,7,14"),
        ({7: b"\1" * 32, 14: model}, "are not the quoted ones"),
    ):
        refused(world, unit, unit.seal(quote=lambda tpm, q, v=values: tpm.quote(q, values=v)), 6, text)


def test_step_6_takes_the_model_pcr_that_the_log_names_if_it_is_admitted(world: World, unit: Unit):
    several = replace(world.policy, pcrs=(12, 14))
    unit.tpm.pcrs[12] = b"\1" * 32  # somebody else's on this board
    sealed = unit.seal()
    judge(world, unit, sealed, policy=several)
    refused(world, unit, sealed, 6, "belongs to PCR 14, not 12 or 15", policy=replace(world.policy, pcrs=(12, 15)))


def test_step_6_refuses_wrong_bank(world: World, unit: Unit):
    def sha1(tpm, q):
        tpm.bank = 0x0004
        try:
            return tpm.quote(q, pcrs=[14])
        finally:
            tpm.bank = tpmt.ALG_SHA256

    refused(world, unit, unit.seal(quote=sha1), 6, "bank 0x0004")


def test_step_6_refuses_log_that_leads_to_another_value(world: World, unit: Unit):
    forged = encode_event(Event(number=0, pcr=14, type="activate", slot="default", model=OTHER))
    refused(world, unit, unit.seal(log=forged), 6, "event log leads to")


def test_step_6_refuses_truncated_log(world: World, unit: Unit):
    refused(world, unit, unit.seal(log=b""), 6, "event log leads to")


def test_step_6_refuses_log_of_another_pcr(world: World, unit: Unit):
    log = encode_event(Event(number=0, pcr=16, type="activate", slot="default", model=world.model.digest))
    refused(world, unit, unit.seal(log=log), 6, "belongs to PCR 16")


def test_step_6_with_boot_pcrs_in_the_policy(world: World, unit: Unit):
    golden = hashlib.sha256(b"boot loader").digest()
    unit.tpm.pcrs |= {4: golden, 7: b"\7" * 32}
    sealed = unit.seal()
    old, new = ("release-1", ((4, bytes(32)),)), ("release-2", ((4, golden), (7, b"\7" * 32)))
    verdict = judge(world, unit, sealed, policy=replace(world.policy, boot_sets=(old, new)))
    assert verdict.boot_sets == ("release-2",)
    refused(world, unit, sealed, 6, "PCR 4 match none", policy=replace(world.policy, boot_sets=(old,)))
    mixed = ("mixed", ((4, golden), (7, bytes(32))))
    refused(world, unit, sealed, 6, "PCR 4,7 match none", policy=replace(world.policy, boot_sets=(old, mixed)))
    more = ("more", ((0, bytes(32)), (4, golden)))
    refused(world, unit, sealed, 6, "asks for PCR 0 as well", policy=replace(world.policy, boot_sets=(more,)))


# -- step 7: measured model -------------------------------------------------------------------------


def test_step_7_refuses_model_that_was_never_measured(world: World, unit: Unit):
    never = world.make_model("other", b"never measured")
    refused(world, unit, unit.seal(model=never), 7, "had sha256:.* measured, not sha256:")


def test_step_7_refuses_model_that_was_replaced_before_the_segment(world: World, unit: Unit):
    unit.measure(OTHER)
    refused(world, unit, unit.seal(), 7, "measured, not")


def test_step_7_refuses_model_that_was_refused_in_the_end(world: World, unit: Unit):
    unit.measure(world.model.digest, kind="refused")
    refused(world, unit, unit.seal(), 7, "had no model measured")


def test_step_7_refuses_model_of_another_slot(world: World, unit: Unit):
    unit.reboot()
    unit.measure(world.model.digest, slot="left")
    refused(world, unit, unit.seal(), 7, "had no model measured")


def test_step_7_refuses_segment_of_another_model_than_the_kit(world: World, unit: Unit):
    unit.measure(OTHER)
    refused(world, unit, unit.seal(segments=[unit.open_segment(model=OTHER)]), 7, "of another model or slot")


def test_step_7_accepts_an_empty_segment_of_another_model_that_was_measured(world: World, unit: Unit):
    empty = unit.open_segment()
    unit.measure(OTHER, slot="left")
    other = unit.open_segment(model=OTHER, slot="left")
    assert judge(world, unit, unit.seal(segments=[empty, other, unit.open_segment()])).seq == 104
    never = unit.open_segment(model=OTHER)
    refused(world, unit, unit.seal(segments=[never, unit.open_segment()]), 7, "measured, not")


@pytest.mark.parametrize("change", [{"device": "urn:edgeprov:device:unit-0002"}, {"enrollment": bytes(32)}])
def test_step_7_refuses_segment_of_another_device_or_enrollment(world: World, unit: Unit, change):
    refused(world, unit, unit.seal(segments=[unit.open_segment(**change)]), 7, "another device or enrollment")


def test_step_7_refuses_records_without_segment(world: World, unit: Unit):
    sealed = unit.seal()
    refused(world, unit, sealed, 7, "no segment vouches", segments=())


# -- step 8: counter --------------------------------------------------------------------------------


def test_step_8_refuses_another_number_than_the_counter_shows(world: World, unit: Unit):
    refused(world, unit, unit.seal(counter=lambda tpm, q: tpm.certify_counter(q, value=999)), 8, "stood at 999")


def test_step_8_refuses_ordinary_index_posing_as_the_counter(world: World, unit: Unit):
    def forge(tpm, q):
        tpm.counter_attributes = 0x22060004  # no counter type
        try:
            return tpm.certify_counter(q)
        finally:
            tpm.counter_attributes = tpmt.COUNTER_ATTRIBUTES

    refused(world, unit, unit.seal(counter=forge), 8, "not the written counter")


def test_step_8_refuses_another_index(world: World, unit: Unit):
    def forge(tpm, q):
        tpm.counter_index += 1
        try:
            return tpm.certify_counter(q)
        finally:
            tpm.counter_index -= 1

    refused(world, unit, unit.seal(counter=forge), 8, "not the written counter")


def test_step_8_refuses_part_of_the_counter(world: World, unit: Unit):
    refused(world, unit, unit.seal(counter=lambda tpm, q: tpm.certify_counter(q, offset=4)), 8, "as a whole")


# -- step 9: place in the series --------------------------------------------------------------------


def test_step_9_refuses_number_from_before_the_enrollment(world: World):
    late = world.enroll("unit-0003", counter_base=500)
    refused(world, late, late.seal(), 9, "before the enrollment")


def test_step_9_refuses_the_number_of_the_base(world: World, unit: Unit):
    refused(world, unit, unit.seal(records=0, events=[EVENT], seq=100), 9, "before the enrollment")


def test_step_9_refuses_first_kit_with_predecessor(world: World, unit: Unit):
    refused(world, unit, unit.seal(records=0, events=[EVENT], prev=OTHER), 9, "names an item before it")


@pytest.mark.parametrize("number", [99, 100, 102, 103])
def test_step_9_refuses_a_segment_number_outside_of_base_and_kit(world: World, unit: Unit, number: int):
    segment = unit.open_segment(number=number)
    unit.tpm.counter = 101
    refused(world, unit, unit.seal(segments=[segment]), 9, "is not above 100 and below 102")


def test_step_9_refuses_segments_out_of_order(world: World, unit: Unit):
    first, second = unit.open_segment(), unit.open_segment()
    refused(world, unit, unit.seal(segments=[second, first]), 9, "out of order or taken twice")


def test_step_9_refuses_a_number_taken_twice_unless_it_is_shared(world: World, unit: Unit):
    first, shared = unit.open_segment(), unit.open_segment(shared=True)
    assert judge(world, unit, unit.seal(records=[2, 3], segments=[first, shared])).seq == 102
    first = unit.open_segment()
    again = unit.open_segment(number=103)
    refused(world, unit, unit.seal(records=[2, 3], segments=[first, again]), 9, "out of order or taken twice")


def test_step_9_refuses_headers_that_name_the_same_one_before(world: World, unit: Unit):
    first = unit.open_segment()
    second, third = unit.open_segment(), unit.open_segment(prev=parse_segment_header(first.header).sha256)
    refused(world, unit, unit.seal(segments=[first, second, third]), 9, "not opened in this order")


def test_step_9_refuses_a_later_segment_that_names_none_before_it(world: World, unit: Unit):
    unit.seal()
    first, second = unit.open_segment(), unit.open_segment(prev=None)
    refused(world, unit, unit.seal(segments=[first, second]), 9, "not opened in this order")


@pytest.mark.parametrize("ranges", [((0, 3),), ((0, 5),), ((1, 5),), ((0, 3), (5, 5)), ((0, 1), (3, 4)), ()])
def test_step_9_refuses_other_records_than_the_manifest_counts(world: World, unit: Unit, ranges):
    sealed = unit.seal()
    changed = replace_part(sealed.segments[0], ranges=ranges)
    refused(world, unit, sealed, 9, "the segments name", segments=(changed,))


@pytest.mark.parametrize("number", [100, 102, 103])
def test_step_9_refuses_an_open_segment_with_a_number_outside_of_base_and_kit(world: World, unit: Unit, number: int):
    listed = OpenSegment(number=number, header=bytes(32), slot="left")
    standing = Standing(at_ns=1, newest=bytes(32), open=(listed,))
    refused(world, unit, unit.seal(standing=standing), 9, "is not above 100 and below 102")
    assert judge(world, unit, unit.seal(standing=replace_part(standing, open=(replace_part(listed, number=101),))))


def test_step_9_refuses_an_item_that_lists_a_segment_as_open_which_it_ends(world: World, unit: Unit):
    segment = unit.open_segment()
    listed = OpenSegment(number=101, header=parse_segment_header(segment.header).sha256, slot=unit.slot)
    standing = Standing(at_ns=1, newest=listed.header, open=(listed,))
    refused(world, unit, unit.seal(segments=[segment], standing=standing), 9, "by the item that ends it")
    lost = NumberEntry(number=101, reason="damaged", header=listed.header)
    with pytest.raises(EvidenceInvalid, match="by the item that ends it"):
        judge(world, unit, unit.bury(numbers=[lost], standing=standing))


@pytest.mark.parametrize("number", [7, 100])
def test_step_9_refuses_a_tombstone_for_a_number_from_before_the_enrollment(world: World, unit: Unit, number: int):
    unit.seal()
    with pytest.raises(EvidenceInvalid, match="from before the enrollment"):
        judge(world, unit, unit.bury(numbers=[NumberEntry(number=number, reason="unknown")]))


# -- step 10: firmware ------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [{1}, {0x20240126, 0x20240124}])
def test_step_10_refuses_firmware_that_is_not_listed(world: World, unit: Unit, allowed):
    policy = replace(world.policy, firmware=frozenset(allowed))
    refused(world, unit, unit.seal(), 10, "not on the allow list", policy=policy)


def test_step_10_accepts_listed_firmware(world: World, unit: Unit):
    policy = replace(world.policy, firmware=frozenset({unit.tpm.firmware_version}))
    assert judge(world, unit, unit.seal(), policy=policy).firmware_version == unit.tpm.firmware_version
