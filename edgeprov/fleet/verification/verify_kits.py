# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verify many kits: the ten steps for each, and every byte of it; verdicts are cached by digest and trust policy.

Work is cut into batches that carry all they need, so that a batch runs in a process of this machine
or on another one (fleet/engines). A kit that cannot be judged because a line was cut gets no verdict:
it stays unchecked, and the next run tries again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from edgeprov.errors import EdgeprovError, EvidenceInvalid, RegistryDenied, RegistryProtocolError, VerificationError
from edgeprov.fleet.engines import Engine
from edgeprov.fleet.index.database import Index, chunked
from edgeprov.fleet.index.query import Query
from edgeprov.fleet.index.verdicts import Judged, known_signatures, known_tags, save_verdicts
from edgeprov.fleet.registries.kits import LOST, load_contents, load_evidence, open_kit, open_reader
from edgeprov.fleet.registries.sources import ArtifactReader, Source
from edgeprov.fleet.trust.folder import Trust
from edgeprov.fleet.verification.device_records import judge_records
from edgeprov.fleet.verification.series_facts import encode_facts
from edgeprov.formats.datakit import DataKit, Part, PartContents, SegmentEvidence, Tombstone, parse_tombstone
from edgeprov.formats.digest import parse_digest
from edgeprov.limits import LIMITS
from edgeprov.verify.content import ContentCheck
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.evidence import Verdict, verify_kit
from edgeprov.verify.kit_evidence import KitEvidence, evidence_of_kit, evidence_of_tombstone

EVIDENCE, BLOBS, RECORDS = 1, 2, 3
"""Depths: the ten steps; and the digest of every blob; and the Merkle root over every record."""

BATCH: Final = 100

_CONTENT: Final = frozenset(("outputs", "label-values", "inputs"))
T = TypeVar("T")
NOTATION_ENDING: Final = ".s2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One artifact to judge, with what the index knows."""

    digest: str
    kind: str
    repo: str
    device: str
    seq: int
    signatures: tuple[str, ...] | None
    signature_tags: tuple[str, ...] = ()


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


@dataclass(slots=True)
class CheckReport:
    """Counts of one run; ``cached`` were judged before under the same policy and depth.

    ``incomplete`` are verified, and content of theirs is not available; they are looked at again in each run.
    """

    ok: int = 0
    incomplete: int = 0
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
            report.incomplete += judged.missing is not None
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
            tags = known_tags(index, some) if not sources[number].is_layout else {}
            items = [
                Item(
                    digest=digest,
                    kind=kind,
                    repo=repo,
                    device=device,
                    seq=seq,
                    signatures=known.get(digest),
                    signature_tags=tags.get(digest, ()),
                )
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
    reader = open_reader(batch.source)
    devices = {name: judge_records(records, batch.trust.files, batch.at) for name, records in batch.devices.items()}
    return [_judge(reader, item, devices[item.device], batch) for item in batch.items]


def _judge(
    reader: ArtifactReader, item: Item, devices: list[tuple[str, VerifiedDevice | EdgeprovError]], batch: Batch
) -> Judged:
    try:
        verdict, record, tombstone, missing = _verify(reader, item, devices, batch)
    except EdgeprovError as error:
        if error.retryable or isinstance(error, RegistryDenied | RegistryProtocolError):
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
        boot_sets=", ".join(verdict.boot_sets) or None,
        facts=encode_facts(verdict, tombstone),
        missing=missing or None,
    )


def _verify(
    reader: ArtifactReader, item: Item, devices: list[tuple[str, VerifiedDevice | EdgeprovError]], batch: Batch
) -> tuple[Verdict, str, Tombstone | None, tuple[str, ...]]:
    tombstone: Tombstone | None = None
    missing: tuple[str, ...] = ()
    manifest = reader.manifest(item.repo, parse_digest(item.digest))
    if item.kind == "tombstone":
        layer = reader.blob(item.repo, manifest.layers[0], max_bytes=LIMITS.config_bytes)
        tombstone = parse_tombstone(manifest, layer)
        evidence = evidence_of_tombstone(tombstone, [])
    else:
        kit = open_kit(reader, item.repo, manifest)
        evidence = evidence_of_kit(kit, [], load_evidence(reader, item.repo, kit))
        if batch.depth >= BLOBS:
            missing = _check_content(reader, item.repo, kit, evidence.segments, records=batch.depth >= RECORDS)
    if not devices:
        raise EvidenceInvalid(
            f"{item.device} has no device record",
            step=1,
            advice="Enroll the device, or sync the registry that holds its record.",
        )
    if named := reader.named_signatures(item.repo, manifest.digest, _evidence_tags(item)):
        # Refused under these, it may still be good: a stranger's signature can stand under such a tag.
        with suppress(VerificationError):
            return *_verify_signed(replace(evidence, signatures=tuple(named)), devices, batch), tombstone, missing
    known = tuple(map(parse_digest, item.signatures)) if item.signatures is not None else None
    signatures = reader.signatures(item.repo, manifest.digest, known)
    return *_verify_signed(replace(evidence, signatures=tuple(signatures)), devices, batch), tombstone, missing


def _evidence_tags(item: Item) -> list[str]:
    """The tags that hold bundles: the notation signature carries no evidence (FORMAT.md section 26)."""
    return [tag for tag in item.signature_tags if not tag.endswith(NOTATION_ENDING)]


def _verify_signed(
    evidence: KitEvidence, devices: list[tuple[str, VerifiedDevice | EdgeprovError]], batch: Batch
) -> tuple[Verdict, str]:
    first: EdgeprovError | None = None
    for record, device in devices:
        try:
            if isinstance(device, EdgeprovError):
                raise device
            return verify_kit(evidence, device, batch.trust.policy, batch.at), record
        except EdgeprovError as error:
            first = first or error  # the newest record's reason is the one to tell
    assert first is not None  # noqa: S101 - devices is not empty
    raise first


def _check_content(
    reader: ArtifactReader, repo: str, kit: DataKit, segments: tuple[SegmentEvidence, ...], *, records: bool
) -> tuple[str, ...]:
    """Check the parts of a kit; returns the names of those parts of content that are not available."""
    missing: list[str] = []
    if not records:
        for part in kit.parts:
            if part.kind in _CONTENT:
                _if_there(missing, part, lambda part: reader.check_blob(repo, part.layer))
            elif part.kind != "evidence":  # was read whole
                reader.check_blob(repo, part.layer)
        return tuple(missing)

    def load(part: Part) -> PartContents:
        return load_contents(reader, repo, part)

    content = ContentCheck(kit, segments)
    for part, outputs in kit.pairs("records"):
        content.add_records(load(part), _if_there(missing, outputs, load))
    for part, values in kit.pairs("labels"):
        content.add_labels(load(part), _if_there(missing, values, load))
    for part in kit.of_kind("inputs"):
        _if_there(missing, part, load)
    content.finish()
    return tuple(missing)


def _if_there(missing: list[str], part: Part, read: Callable[[Part], T]) -> T | None:
    try:
        return read(part)
    except LOST:
        missing.append(part.name)
        return None


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


def _count(report: CheckReport, step: int | None, error: str | None, count: int) -> None:
    reason = f"step {step}: {error}" if step else f"content: {error}"
    report.reasons[reason] = report.reasons.get(reason, 0) + count
