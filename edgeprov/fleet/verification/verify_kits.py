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
from operator import attrgetter
from typing import Any, Final

from edgeprov.errors import EdgeprovError, EvidenceInvalid, FormatError
from edgeprov.fleet.engines import Engine
from edgeprov.fleet.index.database import Index, Query, chunked, json_of_text
from edgeprov.fleet.registries.sources import Reader, Source
from edgeprov.fleet.trust.folder import Trust
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
from edgeprov.limits import LIMITS
from edgeprov.store.compress import decompress
from edgeprov.verify.content import ContentCheck
from edgeprov.verify.enrolment import VerifiedDevice, verify_device_record
from edgeprov.verify.evidence import Verdict, evidence_of_kit, evidence_of_tombstone, verify_kit
from edgeprov.verify.signature import SignatureArtifact

EVIDENCE, BLOBS, RECORDS = 1, 2, 3
"""Depths: the ten steps; and the digest of every blob; and the Merkle root over every record."""

BATCH: Final = 100
_SAVED: Final = (
    "digest", "verified", "step", "error", "detail", "code", "record", "assurance", "reset_count", "restart_count",
    "clock_ms", "safe", "signed_before", "opened_clock_ms",
)  # fmt: skip
_saved: Final = attrgetter(*_SAVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One artifact to judge, with what the index knows."""

    digest: str
    kind: str
    repo: str
    device: str
    seq: int
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
    on_verdict: Callable[[Item, Judged], None] | None = None,
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
    under_way: dict[str, Item] = {}
    batches = make_batches(index, waiting, trust, at, depth, under_way)
    for results in engine.run(judge_batch, batches):
        done += len(results)
        given = [judged for judged in results if judged.verified is not None]
        report.unreachable += len(results) - len(given)
        with index.transaction():
            save_verdicts(index, given, trust, depth, at)
        for judged in given:
            report.ok += judged.verified is True
            if not judged.verified:
                report.refused += 1
                _count(report, judged.step, judged.error, 1)
            if on_verdict:
                on_verdict(under_way[judged.digest], judged)
        for judged in results:
            del under_way[judged.digest]
        if progress:
            progress(done, total)
    return report


def make_batches(
    index: Index,
    waiting: Mapping[int, Sequence[str]],
    trust: Trust,
    at: dt.datetime,
    depth: int,
    under_way: dict[str, Item],
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
            known = known_signatures(index, some) if sources[number].is_layout else {}
            items = [
                Item(digest=digest, kind=kind, repo=repo, device=device, seq=seq, signatures=known.get(digest))
                for digest, kind, repo, device, seq in index.rows(
                    "SELECT digest, kind, repo, device, seq FROM artifacts "  # noqa: S608 - marks only
                    f"WHERE digest IN ({', '.join('?' * len(some))}) ORDER BY device, seq, digest",
                    some,
                )
            ]
            under_way.update((item.digest, item) for item in items)
            yield Batch(
                source=sources[number],
                items=tuple(items),
                devices={item.device: tuple(records.get(item.device, ())) for item in items},
                trust=trust,
                at=at,
                depth=depth,
            )


def judge_batch(batch: Batch) -> list[Judged]:
    """Judge one batch: a pure function of registry content, trust and time, run in any process."""
    reader = _reader(batch.source)
    devices = {name: _devices(records, batch.trust.files, batch.at) for name, records in batch.devices.items()}
    return [_judge(reader, item, devices[item.device], batch) for item in batch.items]


def _judge(
    reader: Reader, item: Item, devices: list[tuple[str, VerifiedDevice | EdgeprovError]], batch: Batch
) -> Judged:
    try:
        verdict, record, tombstone = _verify(reader, item, devices, batch)
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
        opened_clock_ms=verdict.opened_clock_ms,
        reason=tombstone.reason if tombstone else None,
        lost=tombstone.discarded if tombstone else None,
    )


def _verify(
    reader: Reader, item: Item, devices: list[tuple[str, VerifiedDevice | EdgeprovError]], batch: Batch
) -> tuple[Verdict, str, Tombstone | None]:
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
            return verdict, record, tombstone
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


def _detail(error: EdgeprovError) -> str:
    """The message without the step's number, which has its own column."""
    step = getattr(error, "step", None)
    return error.message.removeprefix(f"step {step}: ") if step else error.message


def save_verdicts(index: Index, judged: Sequence[Judged], trust: Trust, depth: int, at: dt.datetime) -> None:
    """Remember verdicts; the caller holds the transaction."""
    moment = at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = ("policy", "depth", "judged_at", *_SAVED)
    index.put_all("verdicts", names, [(trust.digest, depth, moment, *_saved(item)) for item in judged])
    buried = [(item.digest, item.reason, json.dumps(item.lost or ())) for item in judged if item.reason is not None]
    index.put_all("tombstones", ("digest", "reason", "lost"), buried)


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
        for raw, blob in json_of_text(signatures)
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
