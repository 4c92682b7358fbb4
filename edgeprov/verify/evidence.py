# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The ten steps by which one kit or tombstone is judged, offline, in the order of FORMAT.md.

Step 1 (the device record) is done once per device by verify.enrollment; the other nine are here, one
function each. Nothing is trusted because it was found beside the kit: every value that a step uses
was bound by an earlier one.

Spec: FORMAT.md "Verification".
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import EdgeprovError, EvidenceInvalid, SubjectMismatch, VerificationError
from edgeprov.formats import tpmt
from edgeprov.formats.digest import Digest
from edgeprov.formats.eventlog import Event, active_model
from edgeprov.formats.in_toto import Statement
from edgeprov.formats.mediatypes import SLSA_PROVENANCE, TOMBSTONE_PREDICATE
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.formats.standing import Standing
from edgeprov.formats.statement import KitProvenance, SealEvidence, invocation_id, parse_provenance, parse_seal_evidence
from edgeprov.formats.tombstone import NumberEntry
from edgeprov.formats.tpmt import Attest
from edgeprov.verify.attestation import (
    attestation_key_fault,
    verify_attestation,
    verify_counter,
    verify_extra_data,
)
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.kit_evidence import Kind, KitEvidence
from edgeprov.verify.measured_boot import verify_pcrs
from edgeprov.verify.place import (
    verify_own_number,
    verify_record_numbers,
    verify_segment_numbers,
    verify_standing,
)
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.report import STEP_NAMES, Report, Step
from edgeprov.verify.signature import verify_kit_signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What all ten steps together prove of a kit.

    Attributes:
        digest: Of the kit or tombstone.
        reset_count: Boot in which it was sealed.
        clock_ms: TPM clock at sealing, in milliseconds; comparable within one reset_count.
        safe: False when that clock may have been set back by a power loss.
        signed_before: Time proved by a trusted timestamp over the signature, or None.
        boot_sets: Names of the policy's sets of boot PCRs that the quotes match; empty where the policy has none.
        opened_clock_ms: TPM clock when its first segment with a record was opened, or None: its records are younger.
        headers: Headers of its segments, in the order of its records.
        standing: Segments that were open, and unclean stops that no kit carried before.
        numbers: Earlier counter values that a tombstone names.
    """

    digest: Digest
    device: str
    enrollment: bytes
    model: Digest
    slot: str
    seq: int
    prev: Digest | None
    kind: Kind
    assurance: str
    reset_count: int
    restart_count: int
    clock_ms: int
    safe: bool
    firmware_version: int
    signed_before: dt.datetime | None
    opened_clock_ms: int | None = None
    boot_sets: tuple[str, ...] = ()
    headers: tuple[SegmentHeader, ...] = field(default=(), repr=False)
    standing: Standing = field(repr=False)
    numbers: tuple[NumberEntry, ...] = ()
    statement: Statement = field(repr=False)


def verify_kit(evidence: KitEvidence, device: VerifiedDevice, policy: TrustPolicy, at: dt.datetime) -> Verdict:
    """All ten steps.

    Args:
        evidence: Of one kit or tombstone.
        device: Its device, after step 1.
        policy: Whom and what to trust.
        at: Time at which certificates are judged where no timestamp proves a better one.

    Raises:
        SignatureInvalid, SubjectMismatch, SignerUntrusted: Step 2.
        EvidenceInvalid: Another step; ``step`` is its number.
        PolicyDenied: Assurance, deny list or TPM firmware.
    """
    work = _Work(evidence, device, policy, at)
    for number, step in enumerate(_STEPS, 1):
        _run(work, number, step)
    return work.verdict()


def check_kit(evidence: KitEvidence, device: VerifiedDevice, policy: TrustPolicy, at: dt.datetime) -> Report:
    """As verify_kit, but tells the verdict of each step instead of raising; steps after a failure are skipped."""
    work = _Work(evidence, device, policy, at)
    steps: list[Step] = []
    failed = False
    for number, (name, step) in enumerate(zip(STEP_NAMES, _STEPS, strict=True), 1):
        if failed:
            steps.append(Step(number=number, name=name, verdict="skipped"))
            continue
        try:
            _run(work, number, step)
        except EdgeprovError as error:
            failed = True
            steps.append(failed_step(number, error))
        else:
            steps.append(Step(number=number, name=name, verdict="ok"))
    return Report(kit=str(evidence.digest), device=evidence.device, steps=tuple(steps))


def failed_step(number: int, error: EdgeprovError) -> Step:
    """The step of a report that an error stands for."""
    return Step(
        number=number,
        name=STEP_NAMES[number - 1],
        verdict="failed",
        detail=error.message,
        error=type(error).__name__,
        exit_code=error.exit_code,
    )


class _Work:
    """What the steps hand on to each other."""

    __slots__ = (
        "at", "boot_sets", "claims", "counter", "device", "events", "evidence", "headers", "policy", "quote", "seal",
        "segment_quotes", "signed_before", "statement",
    )  # fmt: skip

    claims: KitProvenance
    seal: SealEvidence
    statement: Statement
    quote: Attest
    counter: Attest
    headers: tuple[SegmentHeader, ...]
    segment_quotes: tuple[Attest, ...]
    events: tuple[tuple[Event, ...], ...]
    boot_sets: tuple[str, ...]
    signed_before: dt.datetime | None

    def __init__(self, evidence: KitEvidence, device: VerifiedDevice, policy: TrustPolicy, at: dt.datetime) -> None:
        self.evidence = evidence
        self.device = device
        self.policy = policy
        self.at = at

    def verdict(self) -> Verdict:
        evidence = self.evidence
        return Verdict(
            digest=evidence.digest,
            device=evidence.device,
            enrollment=evidence.enrollment,
            model=evidence.model,
            slot=evidence.slot,
            seq=evidence.seq,
            prev=evidence.prev,
            kind=evidence.kind,
            assurance=self.device.record.assurance,
            reset_count=self.quote.reset_count,
            restart_count=self.quote.restart_count,
            clock_ms=self.quote.clock_ms,
            safe=self.quote.safe,
            firmware_version=self.quote.firmware_version,
            signed_before=self.signed_before,
            opened_clock_ms=self._opened_clock_ms(),
            boot_sets=self.boot_sets,
            headers=self.headers,
            standing=evidence.standing,
            numbers=evidence.numbers,
            statement=self.statement,
        )

    def _opened_clock_ms(self) -> int | None:
        pairs = zip(self.evidence.segments, self.segment_quotes, strict=True)
        return next((quote.clock_ms for segment, quote in pairs if segment.ranges), None)


def _run(work: _Work, number: int, step: Callable[[_Work], None]) -> None:
    try:
        step(work)
    except VerificationError:
        raise
    except EdgeprovError as error:  # a malformed piece of evidence is refused by the step that needs it
        raise EvidenceInvalid(error.message, step=number) from error


def _step_1_device(work: _Work) -> None:
    if work.evidence.device != work.device.device:
        raise EvidenceInvalid(f"the kit names {work.evidence.device}, the record {work.device.device}", step=1)
    if work.evidence.enrollment != work.device.enrollment:
        raise EvidenceInvalid(
            f"the kit belongs to enrollment {work.evidence.enrollment.hex()}, the record to "
            f"{work.device.enrollment.hex()}",
            step=1,
        )
    work.policy.verify_assurance(work.device.record.assurance, work.device.device)


def _step_2_signature(work: _Work) -> None:
    evidence, record = work.evidence, work.device.record
    signed = verify_kit_signature(
        evidence.manifest,
        evidence.signatures,
        work.policy,
        work.at,
        intermediates=record.certificates[1:],
        predicate_types=(SLSA_PROVENANCE if evidence.kind == "kit" else TOMBSTONE_PREDICATE,),
    )
    if signed.identity.spki != record.sk.spki or signed.identity.san != record.device:
        raise SubjectMismatch(f"the kit of {record.device} was signed by {signed.identity.san} with another key")
    claims = parse_provenance(signed.statement)
    if (claims.model, claims.slot, claims.device) != (evidence.model, evidence.slot, evidence.device):
        raise SubjectMismatch("statement and kit do not name the same model, slot and device")
    if claims.assurance != record.assurance:
        raise SubjectMismatch(f"the statement claims {claims.assurance[:20]!r}, enrolled is {record.assurance!r}")
    work.policy.verify_kit_allowed(evidence.digest, signed.signed_before)
    work.policy.verify_model_allowed(evidence.model, signed.signed_before)
    work.policy.verify_device_allowed(record.device, record.enrollment, signed.signed_before)
    work.claims = claims
    work.statement = signed.statement
    work.signed_before = signed.signed_before
    work.seal = parse_seal_evidence(signed.statement)


def _step_3_binding(work: _Work) -> None:
    digest = work.evidence.digest.raw
    work.quote = tpmt.parse_attest(work.seal.quote.attest)
    work.counter = tpmt.parse_attest(work.seal.counter.attest)
    verify_extra_data(work.quote, digest, "the quote")
    verify_extra_data(work.counter, digest, "the counter's certification")
    headers, quotes = [], []
    for number, segment in enumerate(work.evidence.segments, 1):
        if segment.quote is None:
            raise EvidenceInvalid(f"segment {number} was opened without a quote", step=3)
        header = parse_segment_header(segment.header)
        quote = tpmt.parse_attest(segment.quote.attest)
        verify_extra_data(quote, header.sha256, f"the quote of segment {number}")
        headers.append(header)
        quotes.append(quote)
    work.headers, work.segment_quotes = tuple(headers), tuple(quotes)


def _step_4_key(work: _Work) -> None:
    ak = work.device.record.ak
    fault = attestation_key_fault(ak)
    if fault is not None:
        raise EvidenceInvalid(fault, step=4)
    verify_attestation(ak, work.seal.quote, work.quote, tpmt.ST_ATTEST_QUOTE, "the quote")
    verify_attestation(ak, work.seal.counter, work.counter, tpmt.ST_ATTEST_NV, "the counter's certification")
    for number, (segment, quote) in enumerate(zip(work.evidence.segments, work.segment_quotes, strict=True), 1):
        if segment.quote is not None:
            verify_attestation(ak, segment.quote, quote, tpmt.ST_ATTEST_QUOTE, f"the quote of segment {number}")


def _step_5_boot(work: _Work) -> None:
    quote, counter = work.quote, work.counter
    boot = (quote.reset_count, quote.restart_count)
    if boot != (counter.reset_count, counter.restart_count):
        raise EvidenceInvalid("quote and counter were not attested in the same boot", step=5)
    invocation = invocation_id(quote.reset_count, work.evidence.seq)
    if work.claims.invocation != invocation:
        raise EvidenceInvalid(f"the statement does not name the invocation {invocation}", step=5)
    for number, (header, opened) in enumerate(zip(work.headers, work.segment_quotes, strict=True), 1):
        if (header.reset_count, header.restart_count) != (opened.reset_count, opened.restart_count):
            raise EvidenceInvalid(f"segment {number} was quoted in another boot than its header names", step=5)
        if (opened.reset_count, opened.restart_count) > boot:
            raise EvidenceInvalid(f"segment {number} belongs to a boot after the sealing", step=5)
        if opened.reset_count == quote.reset_count and opened.clock_ms > quote.clock_ms:
            raise EvidenceInvalid(f"segment {number} was opened after the sealing", step=5)


def _step_6_pcr(work: _Work) -> None:
    boots = [verify_pcrs(work.seal.quote, work.quote, work.seal.log, work.policy, "the quote")]
    for number, (segment, quote) in enumerate(zip(work.evidence.segments, work.segment_quotes, strict=True), 1):
        if segment.quote is not None:
            what = f"the quote of segment {number}"
            boots.append(verify_pcrs(segment.quote, quote, segment.log, work.policy, what))
    work.events = tuple(boot.events for boot in boots[1:])
    work.boot_sets = tuple(sorted({boot.boot_set for boot in boots if boot.boot_set is not None}))


def _step_7_model(work: _Work) -> None:
    evidence = work.evidence
    if evidence.records and not work.headers:
        raise EvidenceInvalid("the kit holds records, but no segment vouches for the model behind them", step=7)
    for number, (segment, header, events) in enumerate(
        zip(evidence.segments, work.headers, work.events, strict=True), 1
    ):
        if (header.device, header.enrollment) != (evidence.device, evidence.enrollment):
            raise EvidenceInvalid(f"segment {number} is of another device or enrollment than the kit", step=7)
        if segment.ranges and (header.model, header.slot) != (evidence.model, evidence.slot):
            raise EvidenceInvalid(f"segment {number} has records of another model or slot than the kit", step=7)
        active = active_model(events, header.slot)
        if active != header.model:
            raise EvidenceInvalid(
                f"segment {number}: slot {header.slot!r} had {active or 'no model'} measured, not {header.model}",
                step=7,
            )


def _step_8_counter(work: _Work) -> None:
    verify_counter(work.counter, work.device.record.counter_index, work.evidence.seq)


def _step_9_place(work: _Work) -> None:
    # What one item shows by itself; verify.series joins the items of a device.
    evidence, base = work.evidence, work.device.record.counter_base
    verify_own_number(evidence.seq, base, has_prev=evidence.prev is not None)
    verify_segment_numbers(work.headers, base, evidence.seq)
    verify_record_numbers(evidence.segments, evidence.records, evidence.first, evidence.last)
    for entry in evidence.numbers:
        if entry.number <= base:
            raise EvidenceInvalid(f"the tombstone names {entry.number}, from before the enrollment at {base}", step=9)
    ended = [header.sha256 for header in work.headers] + [item.header for item in evidence.numbers if item.header]
    verify_standing(evidence.standing, base, evidence.seq, ended)


def _step_10_firmware(work: _Work) -> None:
    allowed = work.policy.firmware
    if allowed and work.quote.firmware_version not in allowed:
        raise EvidenceInvalid(f"TPM firmware 0x{work.quote.firmware_version:x} is not on the allow list", step=10)


_STEPS: Final[tuple[Callable[[_Work], None], ...]] = (
    _step_1_device,
    _step_2_signature,
    _step_3_binding,
    _step_4_key,
    _step_5_boot,
    _step_6_pcr,
    _step_7_model,
    _step_8_counter,
    _step_9_place,
    _step_10_firmware,
)
