# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One device of the made-up fleet: boots, measures, records, seals and signs as the real one does.

The TPM is tests.support.softtpm: the structures are a TPM's, the keys are software.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeprov._dataclass import field_names, replace
from edgeprov.formats import merkle
from edgeprov.formats.datakit import (
    EVIDENCE_NAME,
    EVIDENCE_PATH,
    PART_LAYER,
    Part,
    SegmentEvidence,
    build_datakit,
    build_tombstone,
    encode_evidence,
    kit_tag,
    part_name,
    part_path,
)
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import Digest
from edgeprov.formats.eventlog import Event, encode_event, event_data
from edgeprov.formats.head import Head, HeadClaims, encode_head, head_qualifying
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.label import Label
from edgeprov.formats.manifest import Manifest, parse_manifest
from edgeprov.formats.mediatypes import A_RECORDS, EMPTY_BLOB, SLSA_PROVENANCE, TOMBSTONE_PREDICATE
from edgeprov.formats.record import encode_record
from edgeprov.formats.rfc3339 import rfc3339_ms_of_ns
from edgeprov.formats.segment import RuntimeInfo, Tensor, build_segment_header
from edgeprov.formats.standing import Standing, encode_standing
from edgeprov.formats.statement import SealedKit, SealEvidence, encode_kit_statement, encode_tombstone_statement
from edgeprov.formats.tarball import tar_prefix, tar_suffix
from edgeprov.formats.tombstone import LostRange, NumberEntry
from edgeprov.store.compress import compress
from edgeprov.verify.signature import SignatureArtifact
from tests.bench.fleetgen.plan import DAY_S, DevicePlan, Settings
from tests.support import pki
from tests.support.kits import encode_label_parts, encode_record_parts, labels_root
from tests.support.softtpm import SoftTpm
from tests.support.world import VERSION, World, sign_bundle

INPUTS = (Tensor(name="features", shape=(1, 30), dtype="int8", scale=(0.05,), zero_point=(-3,)),)
OUTPUTS = (Tensor(name="benign", shape=(1, 1), dtype="int8", scale=(1 / 256,), zero_point=(-128,)),)
RUNTIME = RuntimeInfo(name="tflite-runtime", version="2.14.0", threads=1, delegate="none")
ERROR_RATE = (0.06, 0.04, 0.09, 0.02)  # of each model version: the third one is a regression
SLOT = "default"
NS = 10**9
ENROLLED_BEFORE_S = 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What is pushed: a manifest with its blobs, and the signatures that hang on it."""

    day: int
    repo: str
    tag: str | None
    manifest: Manifest
    blobs: dict[Digest, bytes]
    signatures: tuple[SignatureArtifact, ...] = ()
    list_changes: dict[str, str] = field(default_factory=dict)  # a lying list entry
    rot: Digest | None = None  # a blob whose bytes change in the registry


@dataclass(slots=True, kw_only=True)
class Truth:
    """What the verifier must find about one device."""

    serial: str
    enrolled: bool
    counter_base: int
    updates: tuple[int, ...] = ()  # day of each model version
    offline: tuple[tuple[int, int], ...] = ()
    last_seq: int = 0  # of the TPM's counter at the end: what a head tells
    good: int = 0
    records: dict[str, int] = field(default_factory=dict)  # accepted records by model digest
    rows: dict[str, int] = field(default_factory=dict)  # the same without forks: what a data set holds
    labelled: int = 0  # labels of those rows
    twins: dict[str, int] = field(default_factory=dict)  # a fork's second kit -> its records
    lost: list[int] = field(default_factory=list)  # numbers that nothing verified explains, but for refused kits' own
    tombstones: list[int] = field(default_factory=list)
    voided: list[int] = field(default_factory=list)  # those of tombstones, and those that they name
    forks: list[int] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # kit digest -> kind
    odd: dict[str, str] = field(default_factory=dict)  # digest -> lying-list, dead-clock, fast-clock


class FleetDevice:
    """A device from its enrollment to the last day."""

    def __init__(self, settings: Settings, plan: DevicePlan, world: World, models: Sequence[Manifest]) -> None:
        self.settings = settings
        self.plan = plan
        self.models = models
        self.rng = random.Random(f"{settings.seed} {plan.serial}")
        # The vendor's line enrolls an hour before the first day; the TPM's clock runs from there.
        enrolled_at = rfc3339_ms_of_ns(settings.start_ns - ENROLLED_BEFORE_S * NS).replace(".000Z", "Z")
        self.unit = world.enroll(plan.serial, boot=False, enrolled_at=enrolled_at)
        self.tpm: SoftTpm = self.unit.tpm
        self.truth = Truth(
            serial=plan.serial,
            enrolled=plan.enrolled,
            counter_base=self.tpm.counter,
            updates=plan.updates,
            offline=plan.offline,
        )
        self._rogue = SoftTpm(f"rogue {plan.serial}")
        self._rogue.certificate_chain = pki.device_certificate(
            pki.root("Somebody Else"), plan.serial, self._rogue.sk
        ).certificate_chain
        other = world.enroll(f"neighbour-of-{plan.serial}", boot=False)
        self._neighbour = other.tpm
        self._log = b""
        self._events = 0
        self._boot_day = 0
        self._boots = 1
        self._next_n = 1
        self._prev: Digest | None = None
        self._prev_segment: bytes | None = None
        self._old_evidence: SealEvidence | None = None
        self._active = 0
        self._gone: set[int] = set()  # records whose kit is lost or refused
        self._unlabelled: list[tuple[int, int, list[tuple[int, bool]]]] = []  # day, model, (n, truth)

    def artifacts(self) -> Iterator[Artifact]:
        """Everything that the device ever sends, in order of sealing."""
        if self.plan.enrolled:
            record = self.unit.record_manifest
            blobs = {record.layers[0].digest: self.unit.record_blob, record.config.digest: EMPTY_BLOB}
            signatures = tuple(self.unit.record_signatures)
            yield Artifact(
                day=0, repo="devices", tag=self.plan.serial, manifest=record, blobs=blobs, signatures=signatures
            )
        self._measure()
        for day in range(self.settings.days):
            yield from self._day(day)
        self.truth.last_seq = self.tpm.counter

    def head(self, nonce: bytes) -> bytes:
        """The device's answer to an auditor after its last day: only this shows that the newest kit is lost."""
        claims = HeadClaims(
            device=self.unit.urn,
            enrollment=self.unit.record.enrollment,
            nonce=nonce,
            newest=self._prev,
            at=rfc3339_ms_of_ns(self._wall_ns(self.settings.days, 0)),
            standing=encode_standing(self._standing(self.settings.days, 0)),
        )
        qualifying = head_qualifying(claims)
        quote, counter = self.tpm.quote(qualifying), self.tpm.certify_counter(qualifying)
        stated = {name: getattr(claims, name) for name in field_names(HeadClaims)}
        return encode_head(Head(**stated, quote=quote, counter=counter, log=self._log))

    def _standing(self, day: int, second: int) -> Standing:
        return Standing(at_ns=self._wall_ns(day, second), newest=self._prev_segment)

    def _day(self, day: int) -> Iterator[Artifact]:
        wanted = self.plan.model_on(day)
        if wanted != self._active or self.rng.random() < 0.08:
            self._reboot(day)
            self._active = wanted
            self._measure()
        fault = self.plan.faults.get(day)
        if fault in ("crash", "discarded"):
            yield self._tombstone(day, fault)
        due = [item for item in self._unlabelled if item[0] + self.plan.labels_after <= day]
        self._unlabelled = [item for item in self._unlabelled if item not in due]
        mine = [label for _, model, rows in due if model == self._active for label in rows]
        for old in sorted({model for _, model, _ in due if model != self._active}):
            labels = [label for _, model, rows in due if model == old for label in rows]
            if labels:
                yield from self._kit(day, model=old, records=0, labels=labels)
        records = max(1, round(self.rng.gauss(self.settings.records, self.settings.records / 4)))
        yield from self._kit(day, model=self._active, records=records, labels=mine, fault=fault)

    def _tick(self, day: int, second: int) -> None:
        self.tpm.clock_ms = max(self.tpm.clock_ms, (ENROLLED_BEFORE_S + day * DAY_S + second) * 1000)

    # -- boots ------------------------------------------------------------------------------------

    def _reboot(self, day: int) -> None:
        self.tpm.reboot()
        self._log, self._events, self._boot_day = b"", 0, day
        self._boots += 1

    def _measure(self) -> None:
        model = self.models[self._active].digest
        self.tpm.pcr_event(event_data("activate", SLOT, model))
        self._log += encode_event(Event(number=self._events, pcr=14, type="activate", slot=SLOT, model=model))
        self._events += 1

    def _wall_ns(self, day: int, second: int) -> int:
        if self.plan.dead_clock[0] <= day <= self.plan.dead_clock[1]:
            return (day - self._boot_day) * DAY_S * NS + second * NS
        ahead = 3 * 365 if self.plan.fast_clock[0] <= day <= self.plan.fast_clock[1] else 0
        return self.settings.start_ns + ((day + ahead) * DAY_S + second) * NS

    # -- kits -------------------------------------------------------------------------------------

    def _kit(
        self, day: int, *, model: int, records: int, labels: Sequence[tuple[int, bool]], fault: str | None = None
    ) -> Iterator[Artifact]:
        if fault == "fork":
            twin = copy.deepcopy(self)
            twin.rng = random.Random(f"twin {self.plan.serial} {day}")
            sealed = twin._seal(day, model, records + 3, labels, None)
            self.truth.forks += [twin.tpm.counter - 1, twin.tpm.counter]  # the segment and the kit
            self.truth.twins[str(sealed.manifest.digest)] = records + 3
            yield sealed
        if fault in ("rogue-key", "foreign-key", "replayed-quote", "unmeasured", "altered"):
            # The forger works on a copy: the device's own series goes on as if nothing had been.
            forger = copy.deepcopy(self)
            forger.rng = random.Random(f"forger {self.plan.serial} {day}")
            forged = forger._seal(day, model, records, labels, fault)
            self.truth.refused[str(forged.manifest.digest)] = fault
            yield forged
        sealed = self._seal(
            day, model, records, labels, fault if fault in ("unsigned", "rotten", "lying-list") else None
        )
        digest = str(sealed.manifest.digest)
        if fault in ("lost", "unsigned", "rotten", "fork"):
            self._gone.update(range(self._next_n - records, self._next_n))
        if fault == "lost":
            self.truth.lost += [self.tpm.counter - 1, self.tpm.counter]
            return
        if fault in ("unsigned", "rotten"):
            self.truth.refused[digest] = fault
            self.truth.lost.append(self.tpm.counter - 1)  # the number of its segment
        else:
            self._count(model, records, labels, forked=fault == "fork")
        if fault == "lying-list":
            self.truth.odd[digest] = fault
        elif self._wall_ns(day, 0) != self.settings.start_ns + day * DAY_S * NS:
            self.truth.odd[digest] = (
                "dead-clock" if self.plan.dead_clock[0] <= day <= self.plan.dead_clock[1] else "fast-clock"
            )
        yield sealed

    def _count(self, model: int, records: int, labels: Sequence[tuple[int, bool]], *, forked: bool) -> None:
        self.truth.good += 1
        key = str(self.models[model].digest)
        self.truth.records[key] = self.truth.records.get(key, 0) + records
        if not forked:
            self.truth.rows[key] = self.truth.rows.get(key, 0) + records
            self.truth.labelled += sum(n not in self._gone for n, _ in labels)

    def _seal(
        self, day: int, model: int, records: int, labels: Sequence[tuple[int, bool]], fault: str | None
    ) -> Artifact:
        source = self.models[(model + 1) % len(self.models)] if fault == "unmeasured" else self.models[model]
        sealed_ns = self._wall_ns(day, 72_000)
        parts: list[Part] = []
        blobs: dict[Digest, bytes] = {}
        first = self._next_n
        rows: list[bytes] = []
        self._tick(day, 28_000)
        segments: list[SegmentEvidence] = []
        if records:
            segment, header = self._segment(day, source.digest)
            rows, outcomes = self._rows(day, model, records)
            segments.append(replace(segment, ranges=((first, self._next_n - 1),)))
            self._unlabelled.append((day, model, outcomes))
            for kind, plain in encode_record_parts(rows, header).items():
                _add(parts, blobs, kind, part_name(kind, 1), part_path(kind, 1), plain)
        values = [Label(n=n, value=value, source="histology", labelled_at_ns=sealed_ns) for n, value in labels]
        for kind, plain in encode_label_parts(values).items() if values else ():
            _add(parts, blobs, kind, part_name(kind, 1), part_path(kind, 1), plain)
        evidence = encode_evidence(segments, self._standing(day, 72_000))
        _add(parts, blobs, "evidence", EVIDENCE_NAME, EVIDENCE_PATH, evidence)
        self._tick(day, 72_000)
        seq = self.tpm.increment_counter()
        manifest, config = build_datakit(
            model=source.digest,
            device=self.unit.urn,
            enrollment=self.unit.record.enrollment,
            slot=SLOT,
            seq=seq,
            prev=self._prev,
            records=len(rows),
            labels=len(labels),
            first=first if rows else None,
            last=self._next_n - 1 if rows else None,
            recorded_first_ns=self._wall_ns(day, 28_800) if rows else None,
            recorded_last_ns=self._wall_ns(day, 64_800) if rows else None,
            merkle=merkle.root(rows),
            labels_merkle=labels_root(values),
            parts=parts,
            created=rfc3339_ms_of_ns(sealed_ns),
        )
        blobs[manifest.config.digest] = config
        statement_of = manifest.digest
        if fault == "altered":
            obj = json.loads(manifest.raw)
            obj["annotations"][A_RECORDS] = str(max(0, len(rows) - 1))
            manifest = parse_manifest(encode_json(obj))
        signatures = (
            () if fault == "unsigned" else (self._sign(day, manifest, statement_of, source.digest, seq, fault),)
        )
        self._prev = manifest.digest
        created = rfc3339_ms_of_ns(sealed_ns)
        return Artifact(
            day=self.plan.arrival(day),
            repo=f"data/{source.digest.hex}/{created[:7].replace('-', '')}",
            tag=kit_tag(self.plan.serial, seq, manifest.digest),
            manifest=manifest,
            blobs=blobs,
            signatures=signatures,
            list_changes={A_RECORDS: "1000000"} if fault == "lying-list" else {},
            rot=parts[0].layer.digest if fault == "rotten" else None,
        )

    def _sign(
        self, day: int, manifest: Manifest, subject: Digest, model: Digest, seq: int, fault: str | None
    ) -> SignatureArtifact:
        evidence = self._evidence(subject)
        if fault == "replayed-quote" and self._old_evidence is not None:
            evidence = self._old_evidence
        elif fault is None:
            self._old_evidence = evidence
        statement = encode_kit_statement(
            SealedKit(digest=subject, seq=seq, reset_count=self.tpm.reset_count, evidence=evidence),
            model=model,
            slot=SLOT,
            device=self.unit.urn,
            assurance="dev",
            version=VERSION,
            started_on=rfc3339_ms_of_ns(self._wall_ns(day, 28_800)),
            finished_on=rfc3339_ms_of_ns(self._wall_ns(day, 72_000)),
        )
        signer = {"rogue-key": self._rogue, "foreign-key": self._neighbour}.get(fault or "", self.tpm)
        return sign_bundle(manifest.descriptor, statement, signer, SLSA_PROVENANCE)

    def _tombstone(self, day: int, reason: str) -> Artifact:
        model = self.models[self._active]
        lost = []
        if reason == "discarded":
            first, last, start = self._next_n, self._next_n + 24, self._wall_ns(day, 0)
            _, header = self._segment(day, model.digest)
            entry = NumberEntry(number=header.number, reason="discarded", header=header.sha256)
            lost.append(
                LostRange(
                    first=first, last=last, count=25, least=start, greatest=start, doubt=False, reason="discarded"
                )
            )
            self._next_n += 25
        else:
            entry = NumberEntry(number=self.tpm.increment_counter(), reason="crash")
        self._tick(day, 3_600)
        seq = self.tpm.increment_counter()
        at = rfc3339_ms_of_ns(self._wall_ns(day, 3_600))
        manifest, layer = build_tombstone(
            model=model.digest,
            device=self.unit.urn,
            enrollment=self.unit.record.enrollment,
            slot=SLOT,
            seq=seq,
            prev=self._prev,
            numbers=[entry],
            lost=lost,
            standing=self._standing(day, 3_600),
            at=at,
        )
        sealed = SealedKit(
            digest=manifest.digest, seq=seq, reset_count=self.tpm.reset_count, evidence=self._evidence(manifest.digest)
        )
        statement = encode_tombstone_statement(
            sealed, model=model.digest, slot=SLOT, device=self.unit.urn, assurance="dev", version=VERSION, created=at
        )
        self._prev = manifest.digest
        self.truth.tombstones.append(seq)
        self.truth.voided += [entry.number, seq]
        return Artifact(
            day=self.plan.arrival(day),
            repo=f"data/{model.digest.hex}/{at[:7].replace('-', '')}",
            tag=kit_tag(self.plan.serial, seq, manifest.digest),
            manifest=manifest,
            blobs={manifest.layers[0].digest: layer, manifest.config.digest: EMPTY_BLOB},
            signatures=(sign_bundle(manifest.descriptor, statement, self.tpm, TOMBSTONE_PREDICATE),),
        )

    def _evidence(self, subject: Digest) -> SealEvidence:
        return SealEvidence(
            quote=self.tpm.quote(subject.raw), counter=self.tpm.certify_counter(subject.raw), log=self._log
        )

    def _segment(self, day: int, model: Digest) -> tuple[SegmentEvidence, Any]:
        header = build_segment_header(
            model=model,
            slot=SLOT,
            device=self.unit.urn,
            boot_id=f"00000000-0000-4000-8000-{self._boots:012d}",
            enrollment=self.unit.record.enrollment,
            number=self.tpm.increment_counter(),
            prev=self._prev_segment,
            opened_at_ns=self._wall_ns(day, 28_000),
            opened_mono_ns=((day - self._boot_day) * DAY_S + 28_000) * NS,
            reset_count=self.tpm.reset_count,
            restart_count=self.tpm.restart_count,
            tpm_clock_ms=self.tpm.clock_ms,
            inputs=INPUTS,
            outputs=OUTPUTS,
            runtime=RUNTIME,
            input_key=hashlib.sha256(b"key" + self.plan.serial.encode() + self._next_n.to_bytes(8, "big")).digest(),
        )
        self._prev_segment = header.sha256
        return SegmentEvidence(header=header.raw, quote=self.tpm.quote(header.sha256), log=self._log), header

    def _rows(self, day: int, model: int, count: int) -> tuple[list[bytes], list[tuple[int, bool]]]:
        rng, rows, outcomes = self.rng, [], []
        wall, mono = self._wall_ns(day, 28_800), ((day - self._boot_day) * DAY_S + 28_800) * NS
        step = 36_000 * NS // max(1, count - 1)
        error = ERROR_RATE[model % len(ERROR_RATE)]
        noise = rng.randbytes(count * 32)
        for i in range(count):
            benign = rng.random() < 0.63
            seen = benign != (rng.random() < error)
            output = rng.randint(20, 127) if seen else rng.randint(-128, -20)
            n = self._next_n
            at = i * step
            digest = noise[i * 32 : i * 32 + 32]
            rows.append(
                encode_record(n, wall + at, mono + at, 14_000 + noise[i * 32] * 11, (bytes((output & 255,)),), digest)
            )
            if noise[i * 32 + 1] < 179:  # seven in ten get a label
                outcomes.append((n, benign))
            self._next_n += 1
        return rows, outcomes


def _add(parts: list[Part], blobs: dict[Digest, bytes], kind: Any, name: str, path: str, plain: bytes) -> None:
    packed = compress(plain, 1)
    layer = tar_prefix(path, len(packed)) + packed + tar_suffix(len(packed))
    descriptor = describe(layer, PART_LAYER)
    blobs[descriptor.digest] = layer
    if kind == "evidence":
        descriptor = descriptor.with_data(layer)
    parts.append(Part(kind=kind, name=name, path=path, layer=descriptor))
