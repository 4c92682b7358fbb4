# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A whole small world for verifiers: publisher, vendor, enroller, devices with software TPMs, and their kits.

Everything is built by the project's own formats from seeds and fixed times: the same calls give the
same bytes. Keyword arguments of ``Unit.seal`` replace single pieces, which is how attacks are made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from edgeprov._dataclass import field_names
from edgeprov._dataclass import replace as replace_part
from edgeprov.formats import merkle
from edgeprov.formats.block import encode_block
from edgeprov.formats.bundle import build_bundle, build_signature_manifest
from edgeprov.formats.datakit import (
    EVIDENCE_NAME,
    EVIDENCE_PATH,
    DataKit,
    EvidencePart,
    Part,
    SegmentEvidence,
    build_datakit,
    build_tombstone,
    encode_evidence,
    encode_part_header,
    parse_datakit,
    part_name,
    part_path,
)
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.devicerecord import DeviceRecord, build_device_record, enroll_qualifying
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.envelope import Signer, pae_digest
from edgeprov.formats.eventlog import Event, encode_event, event_data
from edgeprov.formats.evidence_part import DeviceEvent
from edgeprov.formats.head import Head, HeadClaims, head_qualifying
from edgeprov.formats.in_toto import encode_model_statement
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.jws import (
    build_notation_manifest,
    encode_jws,
    encode_notation_payload,
    encode_notation_protected,
    signing_input,
)
from edgeprov.formats.label import Label
from edgeprov.formats.manifest import Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    DEVICE_PREDICATE,
    DEVICE_URN_PREFIX,
    IN_TOTO_PAYLOAD,
    JOSE,
    KIT_ARTIFACT,
    KIT_CONFIG,
    SLSA_PROVENANCE,
    TOMBSTONE_PREDICATE,
)
from edgeprov.formats.record import encode_record
from edgeprov.formats.segment import RuntimeInfo, SegmentHeader, Tensor, build_segment_header, parse_segment_header
from edgeprov.formats.standing import Standing, encode_standing
from edgeprov.formats.statement import (
    SealedKit,
    SealEvidence,
    encode_device_statement,
    encode_kit_statement,
    encode_tombstone_statement,
)
from edgeprov.formats.tarball import tar_prefix, tar_suffix
from edgeprov.formats.tombstone import LostRange, NumberEntry, parse_tombstone
from edgeprov.formats.tpmt import COUNTER_INDEX, parse_public
from edgeprov.store.compress import compress
from edgeprov.verify.enrollment import VerifiedDevice, verify_device_record
from edgeprov.verify.kit_evidence import KitEvidence, evidence_of_kit, evidence_of_tombstone
from edgeprov.verify.policy import TrustPolicy, parse_policy
from edgeprov.verify.signature import SignatureArtifact
from tests.support import pki
from tests.support.kits import encode_label_parts, labels_root
from tests.support.softtpm import SoftTpm

VERSION = "0.1.0"
CREATED = "2026-02-03T04:05:06Z"
STARTED = "2026-02-03T03:00:00Z"
START_NS = 1_770_087_600_000_000_000
INPUTS = (Tensor(name="x", shape=(1, 30), dtype="int8", scale=(0.05,), zero_point=(-3,)),)
OUTPUTS = (Tensor(name="p", shape=(1, 2), dtype="int8", scale=(1 / 256,), zero_point=(-128,)),)
RUNTIME = RuntimeInfo(name="tflite-runtime", version="2.14.0", threads=1, delegate="none")
POLICY_TOML = b"""\
[roles]
publisher = ["https://acme.example/models"]
enroller = ["urn:edgeprov:enroller:*"]
roster = ["urn:edgeprov:roster:*"]
collector = ["urn:edgeprov:collector:*"]
importer = ["urn:edgeprov:importer:*"]

[device]
assurance = ["dev"]
"""


def sign_bundle(
    subject: Descriptor, statement: bytes, signer: Signer, predicate_type: str, **options: object
) -> SignatureArtifact:
    """A bundle by any signer, with its manifest."""
    blob = build_bundle(
        statement=statement,
        signature_der=signer.sign_digest(pae_digest(IN_TOTO_PAYLOAD, statement)),
        certificate=signer.certificate_chain[0],
        **options,  # type: ignore[arg-type]
    )
    return SignatureArtifact(manifest=build_signature_manifest(subject, blob, predicate_type, CREATED), blob=blob)


def edited_manifest(manifest: Manifest, edit: Callable[[dict[str, Any]], object]) -> Manifest:
    """The manifest with other bytes, which no reader has accepted yet."""
    value = json.loads(manifest.raw)
    edit(value)
    raw = encode_json(value)
    return replace(manifest, raw=raw, digest=digest_of(raw))


def sign_notation(subject: Descriptor, signer: Signer) -> SignatureArtifact:
    payload, protected = encode_notation_payload(subject), encode_notation_protected(CREATED)
    blob = encode_jws(
        payload=payload,
        protected=protected,
        signature_der=signer.sign_digest(sha256(signing_input(protected, payload)).digest()),
        certificates=signer.certificate_chain,
        agent=f"edgeprov/{VERSION}",
    )
    manifest = build_notation_manifest(subject, describe(blob, JOSE), signer.certificate_chain, CREATED)
    return SignatureArtifact(manifest=manifest, blob=blob)


@dataclass
class Sealed:
    """A kit with all its bytes: what a registry would hold."""

    kit: DataKit
    config: bytes
    blobs: dict[Digest, bytes]
    part: EvidencePart
    rows: list[bytes]
    statement: bytes
    signatures: list[SignatureArtifact]

    @property
    def segments(self) -> tuple[SegmentEvidence, ...]:
        return self.part.segments

    @property
    def manifest(self) -> Manifest:
        return self.kit.manifest

    @property
    def digest(self) -> Digest:
        return self.kit.manifest.digest

    def evidence(self, **changes: object) -> KitEvidence:
        part = {name: changes[name] for name in ("segments", "standing") if name in changes}
        return evidence_of_kit(
            changes.get("kit", self.kit),  # type: ignore[arg-type]
            changes.get("signatures", self.signatures),  # type: ignore[arg-type]
            replace_part(self.part, **part),
        )


@dataclass
class Unit:
    """A device: its software TPM, its record, and its series of kits."""

    world: World
    serial: str
    tpm: SoftTpm
    record: DeviceRecord
    record_manifest: Manifest
    record_blob: bytes
    record_signatures: list[SignatureArtifact]
    slot: str = "default"
    log: bytes = b""
    events: int = 0
    next_n: int = 0
    prev: Digest | None = None
    prev_segment: bytes | None = None
    boots: int = 1
    sealed: list[Sealed] = field(default_factory=list)
    stones: dict[Digest, bytes] = field(default_factory=dict)  # layers of tombstones by manifest digest

    @property
    def urn(self) -> str:
        return DEVICE_URN_PREFIX + self.serial

    def verified(self, policy: TrustPolicy | None = None) -> VerifiedDevice:
        return verify_device_record(
            self.record_manifest, self.record_blob, self.record_signatures, policy or self.world.policy, pki.NOW
        )

    def reboot(self) -> None:
        self.tpm.reboot()
        self.log, self.events, self.boots = b"", 0, self.boots + 1

    def measure(self, model: Digest, *, kind: str = "activate", slot: str | None = None) -> None:
        """What the boot check does: one event into the PCR, one entry in the log."""
        slot = slot or self.slot
        self.tpm.pcr_event(event_data(kind, slot, model))  # type: ignore[arg-type]
        self.log += encode_event(Event(number=self.events, pcr=self.tpm.pcr, type=kind, slot=slot, model=model))  # type: ignore[arg-type]
        self.events += 1

    def open_segment(self, *, model: Digest | None = None, **changes: object) -> SegmentEvidence:
        """Take a number of the counter, unless ``changes`` give one, and quote the header."""
        changes.setdefault("number", self.tpm.counter if changes.get("shared") else None)
        if changes["number"] is None:
            changes["number"] = self.tpm.increment_counter()
        header = self.segment_header(model=model, **changes)
        self.prev_segment = header.sha256
        return SegmentEvidence(header=header.raw, quote=self.tpm.quote(header.sha256), log=self.log)

    def segment_header(self, *, model: Digest | None = None, **changes: object) -> SegmentHeader:
        values: dict[str, object] = {
            "model": model or self.world.model.digest,
            "slot": self.slot,
            "device": self.urn,
            "boot_id": f"00000000-0000-4000-8000-{self.boots:012d}",
            "enrollment": self.record.enrollment,
            "number": self.tpm.counter,
            "prev": self.prev_segment,
            "opened_at_ns": START_NS + self.next_n * 10**9,
            "opened_mono_ns": 10**9,
            "reset_count": self.tpm.reset_count,
            "restart_count": self.tpm.restart_count,
            "tpm_clock_ms": self.tpm.clock_ms,
            "inputs": INPUTS,
            "outputs": OUTPUTS,
            "runtime": RUNTIME,
        }
        return build_segment_header(**(values | changes))  # type: ignore[arg-type]

    def rows(self, count: int) -> list[bytes]:
        rows = []
        for _ in range(count):
            n = self.next_n
            outputs = [bytes(((n * 7) % 256, (n * 13) % 256))]
            rows.append(encode_record(n, START_NS + n * 10**9, 10**9 + n * 10**9, 150_000 + n, outputs))
            self.next_n += 1
        return rows

    def seal(
        self,
        *,
        records: int | Sequence[int] = 5,
        labels: Sequence[Label] = (),
        segments: Sequence[SegmentEvidence] | None = None,
        model: Manifest | None = None,
        signer: Signer | None = None,
        quote: Callable[[SoftTpm, bytes], object] | None = None,
        counter: Callable[[SoftTpm, bytes], object] | None = None,
        log: bytes | None = None,
        claims: Mapping[str, object] | None = None,
        seq: int | None = None,
        prev: Digest | str | None = "",
        standing: Standing | None = None,
        events: Sequence[DeviceEvent] = (),
        ends: tuple[int, int] | None = None,
        order: Sequence[int] = (),
        notation: bool = False,
        edit: Callable[[dict[str, Any]], object] | None = None,
        rows: Sequence[bytes] = (),
        hidden: bool = False,
    ) -> Sealed:
        """One kit in the order of the real flow; keywords replace single pieces of it.

        ``rows`` take the place of made-up ones, and ``next_n`` follows them. With ``hidden`` they stand in the
        Merkle tree and in proofs only: the parts hold none. ``records`` is a number for the last segment, or one
        for each segment; ``order`` that of the records in the kit where segments interleave, ``ends`` the numbers
        that the manifest tells as first and last.
        """
        model = model or self.world.model
        if segments is None:
            segments = (self.open_segment(model=model.digest),) if records else ()
        counts = [records] if isinstance(records, int) else list(records)
        counts = [0] * (len(segments) - len(counts)) + ([len(rows)] if rows else counts)
        bounds = list(accumulate(counts, initial=self.next_n - len(rows)))
        segments = [
            segment if first == end or segment.ranges else replace_part(segment, ranges=((first, end - 1),))
            for segment, (first, end) in zip(segments, pairwise(bounds), strict=bool(segments))
        ]
        rows = list(rows) or self.rows(sum(counts))
        rows = [rows[place] for place in order] or rows
        number = self.tpm.increment_counter() if seq is None else seq
        standing = standing or Standing(at_ns=START_NS, newest=self.prev_segment)
        evidence_part = encode_evidence(segments, standing, events)
        kit, config, blobs = self.pack(
            rows, labels, segments, evidence_part, model, number, self.prev if prev == "" else prev, ends, hidden=hidden
        )  # type: ignore[arg-type]
        if edit is not None:
            kit = replace(kit, manifest=edited_manifest(kit.manifest, edit))
        digest = kit.manifest.digest
        evidence = SealEvidence(
            quote=(quote or (lambda tpm, q: tpm.quote(q)))(self.tpm, digest.raw),  # type: ignore[arg-type]
            counter=(counter or (lambda tpm, q: tpm.certify_counter(q)))(self.tpm, digest.raw),  # type: ignore[arg-type]
            log=self.log if log is None else log,
        )
        item = SealedKit(digest=digest, seq=number, reset_count=self.tpm.reset_count, evidence=evidence)
        values: dict[str, object] = {"model": model.digest, "slot": self.slot, "device": self.urn, "assurance": "dev"}
        values |= {"version": VERSION, "started_on": STARTED, "finished_on": CREATED}
        statement = encode_kit_statement(item, **(values | dict(claims or {})))  # type: ignore[arg-type]
        signer = signer or self.tpm
        signatures = [sign_bundle(kit.manifest.descriptor, statement, signer, SLSA_PROVENANCE)]
        if notation:
            signatures.append(sign_notation(kit.manifest.descriptor, signer))
        self.prev = digest
        part = EvidencePart(segments=tuple(segments), standing=standing, events=tuple(events))
        sealed = Sealed(kit, config, blobs, part, rows, statement, signatures)
        self.sealed.append(sealed)
        return sealed

    def pack(
        self,
        rows: Sequence[bytes],
        labels: Sequence[Label],
        segments: Sequence[SegmentEvidence],
        evidence: bytes,
        model: Manifest,
        seq: int,
        prev: Digest | None,
        ends: tuple[int, int] | None = None,
        *,
        hidden: bool = False,
    ) -> tuple[DataKit, bytes, dict[Digest, bytes]]:
        parts, blobs = [], {}
        headers = [segment.header for segment in segments]

        def add(kind: str, name: str, path: str, plain: bytes) -> None:
            packed = self.world.pack(plain)
            layer = tar_prefix(path, len(packed)) + packed + tar_suffix(len(packed))
            descriptor = describe(layer, "application/vnd.kitops.modelkit.dataset.v1.tar")
            blobs[descriptor.digest] = layer
            if kind == "evidence":
                descriptor = descriptor.with_data(layer)
            parts.append(Part(kind=kind, name=name, path=path, layer=descriptor))  # type: ignore[arg-type]

        if rows:
            shown, blocks = rows[:0] if hidden else rows, {"records": b"", "outputs": b""}
            start = 0
            for place, segment in enumerate(segments):
                if mine := shown[start : start + segment.records]:
                    evidence_block, content = encode_block(mine, place, parse_segment_header(segment.header))
                    blocks["records"] += evidence_block
                    blocks["outputs"] += content
                start += segment.records
            for kind, plain in blocks.items():
                head = encode_part_header(kind, headers)  # type: ignore[arg-type]
                add(kind, part_name(kind, 1), part_path(kind, 1), head + plain)  # type: ignore[arg-type]
        if labels:
            for kind, plain in encode_label_parts(labels).items():
                add(kind, part_name(kind, 1), part_path(kind, 1), plain)
        add("evidence", EVIDENCE_NAME, EVIDENCE_PATH, evidence)
        first, last = ends or (self.next_n - len(rows), self.next_n - 1)
        manifest, config = build_datakit(
            model=model.digest,
            device=self.urn,
            enrollment=self.record.enrollment,
            slot=self.slot,
            seq=seq,
            prev=prev,
            records=len(rows),
            labels=len(labels),
            first=first if rows else None,
            last=last if rows else None,
            recorded_first_ns=START_NS + first * 10**9 if rows else None,
            recorded_last_ns=START_NS + last * 10**9 if rows else None,
            merkle=merkle.root(rows),
            labels_merkle=labels_root(labels),
            parts=parts,
            created=CREATED,
        )
        blobs[manifest.config.digest] = config
        return parse_datakit(manifest, config), config, blobs

    def bury(
        self,
        *,
        reason: str = "crash",
        lost: Sequence[tuple[int, int]] = (),
        numbers: Sequence[NumberEntry] | None = None,
        standing: Standing | None = None,
    ) -> KitEvidence:
        """A tombstone for a number that a crash burnt, or for a segment whose records are gone."""
        if numbers is None and reason in ("crash", "unknown"):
            numbers = [NumberEntry(number=self.tpm.increment_counter(), reason=reason)]  # type: ignore[arg-type]
        elif numbers is None:
            header = parse_segment_header(self.open_segment().header)
            numbers = [NumberEntry(number=header.number, reason=reason, header=header.sha256)]  # type: ignore[arg-type]
        number = self.tpm.increment_counter()
        manifest, layer = build_tombstone(
            model=self.world.model.digest,
            device=self.urn,
            enrollment=self.record.enrollment,
            slot=self.slot,
            seq=number,
            prev=self.prev,
            numbers=numbers,
            lost=[
                LostRange(
                    first=first,
                    last=last,
                    count=last - first + 1,
                    least=None,
                    greatest=None,
                    doubt=True,
                    reason=reason,  # type: ignore[arg-type]
                )
                for first, last in lost
            ],
            standing=standing or Standing(at_ns=START_NS, newest=self.prev_segment),
            at=CREATED,
        )
        self.stones[manifest.digest] = layer
        raw = manifest.digest.raw
        evidence = SealEvidence(quote=self.tpm.quote(raw), counter=self.tpm.certify_counter(raw), log=self.log)
        statement = encode_tombstone_statement(
            SealedKit(digest=manifest.digest, seq=number, reset_count=self.tpm.reset_count, evidence=evidence),
            model=self.world.model.digest,
            slot=self.slot,
            device=self.urn,
            assurance="dev",
            version=VERSION,
            created=CREATED,
        )
        self.prev = manifest.digest
        signature = sign_bundle(manifest.descriptor, statement, self.tpm, TOMBSTONE_PREDICATE)
        return evidence_of_tombstone(parse_tombstone(manifest, layer), [signature])

    def head(self, nonce: bytes | None, *, standing: Standing | None = None, at: str = CREATED) -> Head:
        claims = HeadClaims(
            device=self.urn,
            enrollment=self.record.enrollment,
            nonce=nonce,
            newest=self.prev,
            at=at,
            standing=encode_standing(standing or Standing(at_ns=START_NS, newest=self.prev_segment)),
        )
        qualifying = head_qualifying(claims)
        return Head(
            **{name: getattr(claims, name) for name in field_names(HeadClaims)},
            quote=self.tpm.quote(qualifying),
            counter=self.tpm.certify_counter(qualifying),
            log=self.log,
        )


class World:
    """Publisher, vendor and devices. ``policy_files`` is the trust folder that fits them."""

    def __init__(self, *, pack: Callable[[bytes], bytes] = lambda plain: compress(plain, 1)) -> None:
        self.pack = pack  # how a part is compressed
        self.publisher_root = pki.root("Acme Publisher Root")
        self.publisher = pki.publisher_certificate(self.publisher_root)
        self.device_root = pki.root("Acme Device Root")
        self.enroller = pki.enroller_certificate(self.device_root)
        self.roster = pki.role_certificate(self.device_root, "roster")
        self.importer = pki.role_certificate(self.device_root, "importer")
        self.collector = pki.role_certificate(self.publisher_root, "collector")
        self.model = self.make_model("wdbc", b"model bytes, version 1")
        self.policy_files: dict[str, bytes] = {
            "publisher.pem": self.publisher_root.pem,
            "device.pem": self.device_root.pem,
            "policy.toml": POLICY_TOML,
        }

    @property
    def policy(self) -> TrustPolicy:
        return parse_policy(self.policy_files)

    def make_model(self, name: str, weights: bytes) -> Manifest:
        """A manifest as a model kit has one; nothing here opens its layers."""
        layer = describe(weights, "application/vnd.kitops.modelkit.model.v1.tar")
        config = encode_json({"manifestVersion": "1.0.0", "package": {"name": name}, "model": {"path": "model.tflite"}})
        return build_manifest(config=describe(config, KIT_CONFIG), layers=[layer], artifact_type=KIT_ARTIFACT)

    def sign_model(self, model: Manifest | None = None, signer: Signer | None = None) -> SignatureArtifact:
        model = model or self.model
        from edgeprov.formats.mediatypes import COSIGN_SIGN_PREDICATE

        statement = encode_model_statement(model.digest)
        return sign_bundle(model.descriptor, statement, signer or self.publisher, COSIGN_SIGN_PREDICATE)

    def enroll(self, serial: str, *, tpm: SoftTpm | None = None, boot: bool = True, **changes: object) -> Unit:
        """A device with certificate and signed record; ``changes`` replace fields of the record."""
        tpm = tpm or SoftTpm(serial)
        certificate = pki.device_certificate(self.device_root, serial, tpm.sk)
        tpm.certificate_chain = certificate.certificate_chain
        nonce: bytes = changes.get("nonce", sha256(b"nonce " + serial.encode()).digest())  # type: ignore[assignment]
        values: dict[str, object] = {
            "device": DEVICE_URN_PREFIX + serial,
            "ak": parse_public(tpm.ak_public),
            "sk": parse_public(tpm.sk_public),
            "certificates": certificate.certificate_chain,
            "certify": tpm.certify_sk(enroll_qualifying(nonce)),
            "counter": tpm.certify_counter(enroll_qualifying(nonce), value=changes.get("counter_base")),  # type: ignore[arg-type]
            "nonce": nonce,
            "assurance": "dev",
            "counter_base": tpm.counter,
            "counter_index": COUNTER_INDEX,
            "enrolled_at": "2026-01-02T03:04:05Z",
            "proof": "none",
        }
        record = DeviceRecord(**(values | changes))  # type: ignore[arg-type]
        manifest, blob = build_device_record(record)
        unit = Unit(self, serial, tpm, record, manifest, blob, [self.vouch(manifest, record)])
        if boot:
            unit.measure(self.model.digest)
        return unit

    def vouch(self, manifest: Manifest, record: DeviceRecord, *, signer: Signer | None = None) -> SignatureArtifact:
        """The enroller's bundle on a device record."""
        statement = encode_device_statement(
            manifest.digest,
            device=record.device,
            enroller="urn:edgeprov:enroller:line1",
            enrolled_at=record.enrolled_at,
        )
        return sign_bundle(manifest.descriptor, statement, signer or self.enroller, DEVICE_PREDICATE)


def save_exported_trust(world: World, folder: Path) -> Path:
    """What ``edgeprov-fleet export-trust`` writes for this world."""
    from edgeprov.fleet.trust.trust_export import export_trust

    for name, data in export_trust(world.policy_files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)
    return folder
