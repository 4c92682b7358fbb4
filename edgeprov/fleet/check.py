# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verify many kits: the ten steps for each, and every byte of it; verdicts are cached by digest and trust policy.

Work is cut into batches that carry all they need, so that a batch runs in a process of this machine
or on another one (fleet/engines). A kit that cannot be judged because a line was cut gets no verdict:
it stays unchecked, and the next run tries again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from edgeprov.errors import EdgeprovError, EvidenceInvalid, FormatError
from edgeprov.fleet.engines import Engine
from edgeprov.fleet.index import Artifact, Index, Query, chunked
from edgeprov.fleet.remotes import Reader, Source
from edgeprov.fleet.trust import Trust
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.datakit import (
    DataKit,
    Part,
    SegmentEvidence,
    Tombstone,
    parse_datakit,
    parse_evidence,
    parse_part,
    parse_tombstone,
)
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.manifest import Manifest, parse_manifest
from edgeprov.formats.tarball import iter_tar, plain_member
from edgeprov.formats.tpmt import parse_attest
from edgeprov.limits import LIMITS
from edgeprov.store.compress import decompress
from edgeprov.verify.content import ContentCheck
from edgeprov.verify.enrolment import VerifiedDevice, verify_device_record
from edgeprov.verify.evidence import Verdict, evidence_of_kit, evidence_of_tombstone, verify_kit
from edgeprov.verify.signature import SignatureArtifact

EVIDENCE, BLOBS, RECORDS = 1, 2, 3
"""Depths: the ten steps; and the digest of every blob; and the Merkle root over every record."""

BATCH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One artifact to judge, with what the index knows."""

    digest: str
    kind: str
    repo: str
    device: str
    signatures: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Work for one process: artifacts of one source, and the records of their devices."""

    source: Source
    items: tuple[Item, ...]
    devices: Mapping[str, tuple[tuple[bytes, bytes, bytes], ...]] = field(repr=False)
    """Device URN to its records, newest first: manifest, layer, signatures (JSON)."""
    trust: Trust
    at: dt.datetime
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict; ``verified`` None means that it could not be judged now."""

    digest: str
    verified: bool | None
    step: int | None = None
    error: str | None = None
    detail: str | None = None
    code: int | None = None
    record: str | None = None
    assurance: str | None = None
    reset_count: int | None = None
    restart_count: int | None = None
    clock_ms: int | None = None
    safe: bool | None = None
    signed_before: str | None = None
    opened_clock_ms: int | None = None
    """TPM clock when the kit's first segment was opened: its records are younger."""
    reason: str | None = None
    """Of a tombstone: why there is no kit."""
    lost: tuple[tuple[int, int], ...] | None = None
    """Of a tombstone: ranges of record numbers that are gone."""


@dataclass(slots=True)
class CheckReport:
    """Counts of one run; ``cached`` were judged before under the same policy and depth."""

    ok: int = 0
    refused: int = 0
    unreachable: int = 0
    cached: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def check(
    index: Index,
    query: Query,
    trust: Trust,
    engine: Engine,
    *,
    at: dt.datetime,
    depth: int = BLOBS,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_verdict: Callable[[Artifact, Judged], None] | None = None,
) -> CheckReport:
    """Judge all artifacts that fit a query and have no verdict yet.

    Args:
        index: Open for writing; verdicts are committed batch by batch, so a kill loses one batch.
        query: Which ones.
        trust: Trust folder.
        engine: Runs the batches.
        at: Time at which certificates are judged.
        depth: EVIDENCE, BLOBS or RECORDS.
        again: Judge anew what has a verdict.
        progress: Called with done and total.
        on_verdict: Called for each new verdict.
    """
    report = CheckReport()
    if not again:
        query = replace(query, unjudged=depth)
        for verified, step, error, count in index.verdicts(query):
            report.cached += count
            report.ok += count * verified
            report.refused += count * (not verified)
            if not verified:
                _count(report, step, error, count)
    waiting = index.digests(query)
    done, total = 0, sum(map(len, waiting.values()))
    under_way: dict[str, Artifact] = {}
    batches = make_batches(index, query, waiting, trust, at, depth, under_way)
    for results in engine.run(judge_batch, batches):
        with index.transaction():
            for judged in results:
                done += 1
                artifact = under_way.pop(judged.digest)
                if judged.verified is None:
                    report.unreachable += 1
                    continue
                save_verdict(index, judged, trust, depth, at)
                report.ok += judged.verified
                report.refused += not judged.verified
                if not judged.verified:
                    _count(report, judged.step, judged.error, 1)
                if on_verdict:
                    on_verdict(artifact, judged)
        if progress:
            progress(done, total)
    return report


def make_batches(
    index: Index,
    query: Query,
    waiting: Mapping[int, Sequence[str]],
    trust: Trust,
    at: dt.datetime,
    depth: int,
    under_way: dict[str, Artifact],
) -> Iterator[Batch]:
    """Cut work into batches of one source each, neighbours in a device's series together.

    ``waiting`` are digests by source; what a batch holds is put into ``under_way`` when it is made, so that
    memory holds the batches in flight and not the fleet.
    """
    sources = index.sources()
    records: dict[str, list[tuple[bytes, bytes, bytes]]] = {}
    for row in index.rows("SELECT device, manifest, layer, signatures FROM devices ORDER BY enrolled_at DESC, digest"):
        records.setdefault(row["device"], []).append((row["manifest"], row["layer"], row["signatures"]))
    for number, digests in sorted(waiting.items()):
        for some in chunked(digests, BATCH):
            batch = index.find(replace(query, digest=tuple(some)))
            under_way.update((artifact.digest, artifact) for artifact in batch)
            known = known_signatures(index, some) if sources[number].is_layout else {}
            yield Batch(
                source=sources[number],
                items=tuple(
                    Item(
                        digest=a.digest,
                        kind=a.kind,
                        repo=a.repo,
                        device=a.device,
                        signatures=known.get(a.digest) if known else None,
                    )
                    for a in batch
                ),
                devices={a.device: tuple(records.get(a.device, ())) for a in batch},
                trust=trust,
                at=at,
                depth=depth,
            )


def judge_batch(batch: Batch) -> list[Judged]:
    """Judge one batch: a pure function of registry content, trust and time, run in any process."""
    reader = _reader(batch.source)
    return [_judge(reader, item, batch) for item in batch.items]


def _judge(reader: Reader, item: Item, batch: Batch) -> Judged:
    try:
        devices = _devices(batch.devices.get(item.device, ()), batch.trust.files, batch.at)
        verdict, record, opened, tombstone = _verify(reader, item, devices, batch)
    except EdgeprovError as error:
        if error.retryable:
            return Judged(digest=item.digest, verified=None, error=type(error).__name__, detail=error.message)
        return Judged(
            digest=item.digest,
            verified=False,
            step=_step_of(error),
            error=type(error).__name__,
            detail=_detail(error),
            code=error.exit_code,
        )
    return Judged(
        digest=item.digest,
        verified=True,
        record=record,
        assurance=verdict.assurance,
        reset_count=verdict.reset_count,
        restart_count=verdict.restart_count,
        clock_ms=verdict.clock_ms,
        safe=verdict.safe,
        signed_before=verdict.signed_before.isoformat() if verdict.signed_before else None,
        opened_clock_ms=opened,
        reason=tombstone.reason if tombstone else None,
        lost=tombstone.discarded if tombstone else None,
    )


def _verify(
    reader: Reader, item: Item, devices: list[tuple[str, VerifiedDevice | EdgeprovError]], batch: Batch
) -> tuple[Verdict, str, int | None, Tombstone | None]:
    tombstone: Tombstone | None = None
    manifest = reader.manifest(item.repo, parse_digest(item.digest))
    known = tuple(map(parse_digest, item.signatures)) if item.signatures is not None else None
    signatures = reader.signatures(item.repo, manifest.digest, known)
    if item.kind == "tombstone":
        layer = reader.blob(item.repo, manifest.layers[0], max_bytes=LIMITS.config_bytes)
        tombstone = parse_tombstone(manifest, layer)
        evidence = evidence_of_tombstone(tombstone, signatures)
    else:
        kit = open_kit(reader, item.repo, manifest)
        evidence = evidence_of_kit(kit, signatures, load_evidence(reader, item.repo, kit))
        if batch.depth >= BLOBS:
            _check_content(reader, item.repo, kit, evidence.segments, records=batch.depth >= RECORDS)
    if not devices:
        raise EvidenceInvalid(
            f"{item.device} has no device record",
            step=1,
            advice="Enrol the device, or sync the registry that holds its record.",
        )
    first: EdgeprovError | None = None
    for record, device in devices:
        try:
            if isinstance(device, EdgeprovError):
                raise device
            verdict = verify_kit(evidence, device, batch.trust.policy, batch.at)
            return verdict, record, _opened_clock(evidence.segments), tombstone
        except EdgeprovError as error:
            first = first or error  # the newest record's reason is the one to tell
    assert first is not None  # noqa: S101 - devices is not empty
    raise first


def open_kit(reader: Reader, repo: str, manifest: Manifest) -> DataKit:
    """A data kit with its config, verified by digest."""
    return parse_datakit(manifest, reader.blob(repo, manifest.config, max_bytes=LIMITS.config_bytes))


def load_evidence(reader: Reader, repo: str, kit: DataKit) -> tuple[SegmentEvidence, ...]:
    """The evidence part of a kit, verified by digest; empty when it has none."""
    parts = [part for part in kit.parts if part.kind == "evidence"]
    return parse_evidence(load_part(reader, repo, parts[0])) if parts else ()


def load_part(reader: Reader, repo: str, part: Part) -> bytes:
    """A part of a kit: verified by digest, taken out of its archive, decompressed.

    Raises:
        DigestMismatch: Not the layer that the manifest names.
        FormatError: Not an archive with exactly this part.
        LimitError: Larger than a part may be.
    """
    return part_of_layer(reader.blob(repo, part.layer, max_bytes=LIMITS.part_max_bytes + 64 * 1024), part.path)


def part_of_layer(layer: bytes, path: str) -> bytes:
    """The plain bytes of the one file in a layer. Errors as in load_part."""
    found = plain_member(layer, path)
    return decompress(_member(layer, path) if found is None else found, LIMITS.part_plain_bytes)


def _member(layer: bytes, path: str) -> memoryview:
    view, position = memoryview(layer), 0

    def read(size: int) -> bytes:
        nonlocal position
        piece = bytes(view[position : position + size])
        position += len(piece)
        return piece

    found: memoryview | None = None
    for member, content in iter_tar(read):
        if member.is_dir:
            continue
        if member.path != path or found is not None:
            raise FormatError(f"layer holds {member.path[:80]!r}, not only {path!r}")
        found = view[member.offset : member.offset + member.size]
        for _ in content:
            pass
    if found is None:
        raise FormatError(f"layer does not hold {path!r}")
    return found


def _check_content(
    reader: Reader, repo: str, kit: DataKit, segments: tuple[SegmentEvidence, ...], *, records: bool
) -> None:
    content = ContentCheck(kit, segments)
    for part in kit.parts:
        if part.kind == "evidence":
            continue  # was read whole
        if records:
            content.add(parse_part(load_part(reader, repo, part)))
        else:
            reader.check_blob(repo, part.layer)
    if records:
        content.finish()


def _step_of(error: EdgeprovError) -> int:
    step = getattr(error, "step", None)
    if isinstance(step, int):
        return step
    if type(error).__name__ in ("SignatureInvalid", "SubjectMismatch", "SignerUntrusted"):
        return 2
    return 1 if type(error).__name__ == "PolicyDenied" else 0


def _opened_clock(segments: tuple[SegmentEvidence, ...]) -> int | None:
    quotes = [segment.quote for segment in segments if segment.quote is not None]
    return parse_attest(quotes[0].attest).clock_ms if quotes else None


def _detail(error: EdgeprovError) -> str:
    """The message without the step's number, which has its own column."""
    step = getattr(error, "step", None)
    return error.message.removeprefix(f"step {step}: ") if step else error.message


def save_verdict(index: Index, judged: Judged, trust: Trust, depth: int, at: dt.datetime) -> None:
    """Remember a verdict; the caller holds the transaction."""
    if judged.reason is not None:
        index.put("tombstones", digest=judged.digest, reason=judged.reason, lost=json.dumps(judged.lost or ()))
    index.put(
        "verdicts",
        digest=judged.digest,
        policy=trust.digest,
        depth=depth,
        verified=judged.verified,
        step=judged.step,
        error=judged.error,
        detail=judged.detail,
        code=judged.code,
        record=judged.record,
        assurance=judged.assurance,
        reset_count=judged.reset_count,
        restart_count=judged.restart_count,
        clock_ms=judged.clock_ms,
        safe=judged.safe,
        signed_before=judged.signed_before,
        opened_clock_ms=judged.opened_clock_ms,
        judged_at=at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _count(report: CheckReport, step: int | None, error: str | None, count: int) -> None:
    reason = f"step {step}: {error}" if step else f"content: {error}"
    report.reasons[reason] = report.reasons.get(reason, 0) + count


def known_signatures(index: Index, digests: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Signature manifests of some artifacts of a folder, as sync found them in its index."""
    marks = ", ".join("?" * len(digests))
    found: dict[str, list[str]] = {digest: [] for digest in digests}
    for row in index.rows(
        f"SELECT subject, digest FROM signatures WHERE subject IN ({marks}) ORDER BY digest",  # noqa: S608
        digests,
    ):
        found[row["subject"]].append(row["digest"])
    return {subject: tuple(digests) for subject, digests in found.items()}


@lru_cache(maxsize=16)
def _reader(source: Source) -> Reader:
    return Reader(source)


@lru_cache(maxsize=4_096)
def _device(
    manifest_raw: bytes, layer: bytes, signatures: bytes, files: tuple[tuple[str, bytes], ...], at: dt.datetime
) -> VerifiedDevice | EdgeprovError:
    artifacts = [
        SignatureArtifact(manifest=parse_manifest(parse_b64(raw, "signature")), blob=parse_b64(blob, "signature"))
        for raw, blob in json.loads(signatures)
    ]
    try:
        return verify_device_record(parse_manifest(manifest_raw), layer, artifacts, Trust(files=files).policy, at)
    except EdgeprovError as error:
        return error


def _devices(
    records: tuple[tuple[bytes, bytes, bytes], ...], files: tuple[tuple[str, bytes], ...], at: dt.datetime
) -> list[tuple[str, VerifiedDevice | EdgeprovError]]:
    return [
        (f"sha256:{hashlib.sha256(manifest).hexdigest()}", _device(manifest, layer, signatures, files, at))
        for manifest, layer, signatures in records
    ]


def verified_devices(index: Index, trust: Trust, at: dt.datetime) -> dict[str, VerifiedDevice | EdgeprovError]:
    """The newest record of each device, after step 1, or why it is refused."""
    result: dict[str, VerifiedDevice | EdgeprovError] = {}
    for row in index.rows("SELECT device, manifest, layer, signatures FROM devices ORDER BY enrolled_at, digest"):
        result[row["device"]] = _device(row["manifest"], row["layer"], row["signatures"], trust.files, at)
    return result


def as_json(judged: Judged) -> dict[str, Any]:
    """For output."""
    return {name: getattr(judged, name) for name in Judged.__slots__ if getattr(judged, name) is not None}
