# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Judge a proof offline: the ten steps on its kit, the record's place in the kit, and the model's publisher.

Spec: FORMAT.md "Proof".
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import EdgeprovError, EvidenceInvalid, FormatError, SubjectMismatch
from edgeprov.formats.datakit import EVIDENCE_PATH, KitSummary, parse_datakit_annotations, parse_evidence
from edgeprov.formats.manifest import Manifest, parse_manifest
from edgeprov.formats.mediatypes import FILEPATH, KIT_ARTIFACT
from edgeprov.formats.merkle import verify_inclusion
from edgeprov.formats.proof import Proof, ProofArtifact
from edgeprov.formats.record import Record, parse_record
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.formats.shapes import verify_shapes
from edgeprov.verify.enrollment import VerifiedDevice, verify_device_record
from edgeprov.verify.evidence import Verdict, check_kit, failed_step, verify_kit
from edgeprov.verify.kit_evidence import KitEvidence
from edgeprov.verify.place import nth_record
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.report import STEP_NAMES, Report, Step
from edgeprov.verify.signature import SignatureArtifact, verify_model_signature
from edgeprov.verify.signer_identity import SignerIdentity

STEP_RECORD, STEP_MODEL = 11, 12
_NAMES = {STEP_RECORD: "record in the kit", STEP_MODEL: "model's publisher"}
Unpack = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedResult:
    """What a proof proves: this record, by this model, on this device."""

    record: Record
    segment: SegmentHeader
    kit: KitSummary
    verdict: Verdict
    device: VerifiedDevice
    publisher: SignerIdentity
    model: Manifest = field(repr=False)


def verify_proof(proof: Proof, policy: TrustPolicy, at: dt.datetime, unpack: Unpack) -> ProvedResult:
    """All steps.

    Args:
        proof: Parsed file.
        policy: Whom and what to trust.
        at: Time at which certificates are judged where no timestamp proves a better one.
        unpack: Gives the evidence part's plain bytes from the layer's bytes (tar and zstd).

    Raises:
        FormatError: A manifest or the evidence in it is malformed.
        VerificationError: A step refuses; the errors are those of verify_kit and verify_model_signature.
    """
    manifest, summary, evidence = _kit_of(proof)
    device = _device_of(proof, policy, at)
    verdict = verify_kit(evidence, device, policy, at)
    record, header = _record_of(proof, manifest, summary, evidence, unpack)
    model = parse_manifest(proof.model.manifest)
    return ProvedResult(
        record=record,
        segment=header,
        kit=summary,
        verdict=verdict,
        device=device,
        publisher=_publisher_of(proof, model, summary, policy, at),
        model=model,
    )


def check_proof(proof: Proof, policy: TrustPolicy, at: dt.datetime, unpack: Unpack) -> Report:
    """As verify_proof, but tells the verdict of each step: 1 to 10 on the kit, 11 the record, 12 the model."""
    manifest, summary, evidence = _kit_of(proof)
    try:
        device = _device_of(proof, policy, at)
    except EdgeprovError as error:
        steps = [failed_step(1, error)]
        steps += [Step(number=n, name=name, verdict="skipped") for n, name in enumerate(STEP_NAMES, 1) if n > 1]
    else:
        steps = list(check_kit(evidence, device, policy, at).steps)
    steps.append(_step(STEP_RECORD, lambda: _record_of(proof, manifest, summary, evidence, unpack)))
    steps.append(
        _step(STEP_MODEL, lambda: _publisher_of(proof, parse_manifest(proof.model.manifest), summary, policy, at))
    )
    return Report(kit=str(manifest.digest), device=summary.device, steps=tuple(steps))


def _kit_of(proof: Proof) -> tuple[Manifest, KitSummary, KitEvidence]:
    manifest = parse_manifest(proof.kit.manifest)
    if manifest.artifact_type != KIT_ARTIFACT:
        raise FormatError("the proof's kit is not a data kit")
    summary = parse_datakit_annotations(manifest.annotations, manifest.subject.digest if manifest.subject else None)
    part = parse_evidence(proof.evidence)
    evidence = KitEvidence(
        kind="kit",
        manifest=manifest,
        model=summary.model,
        device=summary.device,
        enrollment=summary.enrollment,
        slot=summary.slot,
        seq=summary.seq,
        prev=summary.prev,
        records=summary.records,
        first=summary.first,
        last=summary.last,
        signatures=_signatures(proof.kit),
        segments=part.segments,
        standing=part.standing,
    )
    return manifest, summary, evidence


def _device_of(proof: Proof, policy: TrustPolicy, at: dt.datetime) -> VerifiedDevice:
    if proof.device.layer is None:
        raise EvidenceInvalid("the proof holds no device record", step=1)
    manifest = parse_manifest(proof.device.manifest)
    return verify_device_record(manifest, proof.device.layer, _signatures(proof.device), policy, at)


def _record_of(
    proof: Proof, manifest: Manifest, summary: KitSummary, evidence: KitEvidence, unpack: Unpack
) -> tuple[Record, SegmentHeader]:
    layer = next((item for item in manifest.layers if item.annotations.get(FILEPATH) == EVIDENCE_PATH), None)
    if layer is None:
        raise SubjectMismatch("the kit has no evidence layer")
    layer.verify(proof.evidence_layer, "evidence layer")
    if unpack(proof.evidence_layer) != proof.evidence:
        raise SubjectMismatch("the proof's evidence is not what the kit's evidence layer holds")
    verify_inclusion(proof.record, proof.index, summary.records, proof.path, summary.merkle)
    record = parse_record(proof.record)
    named = nth_record(evidence.segments, proof.index)
    if named is None or named[1] != record.n:
        raise SubjectMismatch(f"record {record.n} is not the one that the evidence names at place {proof.index}")
    header = parse_segment_header(named[0].header)
    verify_shapes(list(map(len, record.outputs)), record.shapes, header.outputs)
    return record, header


def _publisher_of(
    proof: Proof, model: Manifest, summary: KitSummary, policy: TrustPolicy, at: dt.datetime
) -> SignerIdentity:
    if model.digest != summary.model:
        raise SubjectMismatch(f"the proof shows the model {model.digest}, the kit names {summary.model}")
    return verify_model_signature(model, _signatures(proof.model), policy, at)


def _signatures(artifact: ProofArtifact) -> tuple[SignatureArtifact, ...]:
    found = []
    for item in artifact.signatures:
        with suppress(FormatError):  # rubbish beside a good signature must not block it
            found.append(SignatureArtifact(manifest=parse_manifest(item.manifest), blob=item.blob))
    return tuple(found)


def _step(number: int, judge: Callable[[], object]) -> Step:
    try:
        judge()
    except EdgeprovError as error:
        return Step(
            number=number,
            name=_NAMES[number],
            verdict="failed",
            detail=error.message,
            error=type(error).__name__,
            exit_code=error.exit_code,
        )
    return Step(number=number, name=_NAMES[number], verdict="ok")
