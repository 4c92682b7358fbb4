# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From verified kits to one labelled Parquet data set, with a signed statement of what went in.

One file for each model and device: ``model=<hex>/device=<serial>/part-0.parquet``. A file is made from
its inputs alone, written aside and renamed, and names its inputs in its footer; so a run that was
killed goes on where it stopped, a later run rewrites only what changed, and the order in which workers
finish changes nothing. What is left out is listed with the reason in ``_edgeprov/refused.jsonl``.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from edgeprov import __version__
from edgeprov.errors import DigestMismatch, EdgeprovError, FormatError, SubjectMismatch, UsageError
from edgeprov.fleet import tables
from edgeprov.fleet.check import Trust, load_evidence, load_part, open_kit
from edgeprov.fleet.engines import Engine
from edgeprov.fleet.index import Artifact, Index, Query, chunked
from edgeprov.fleet.remotes import Reader, Source
from edgeprov.fleet.signers import sign_statement
from edgeprov.fleet.tables import LabelSet, LabelType, PartitionWriter, TableSpec
from edgeprov.formats.datakit import DataKit, PartContents, parse_part
from edgeprov.formats.digest import Digest, digest_of, parse_digest
from edgeprov.formats.envelope import Signer
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.mediatypes import COLLECTION_PREDICATE, STATEMENT_TYPE
from edgeprov.formats.record import keyed_input_digest
from edgeprov.formats.segment import SegmentHeader, device_serial
from edgeprov.store.atomic import make_dirs, remove, rename, save_bytes, translated
from edgeprov.verify.content import ContentCheck

OWN: Final = "_edgeprov"
"""Readers of partitioned data skip folders that begin with an underscore."""

_BATCH_KITS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class KitInput:
    """One verified kit that goes in."""

    digest: str
    source: Source
    repo: str
    slot: str
    seq: int
    records: int
    labels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """All kits of one model and device, in the order of the series."""

    model: str
    device: str
    kits: tuple[KitInput, ...]
    label_type: LabelType
    dequantise: bool
    inputs: bool
    folder: str

    @property
    def path(self) -> str:
        """Of the file, relative to the data set."""
        return f"model={parse_digest(self.model).hex}/device={device_serial(self.device)}/part-0.parquet"

    @property
    def key(self) -> str:
        """Names everything that the file depends on."""
        parts = [
            "v1",
            __version__,
            tables.version(),
            self.label_type,
            str(self.dequantise),
            str(self.inputs),
            self.model,
            self.device,
        ]
        return hashlib.sha256("\n".join([*parts, *(kit.digest for kit in self.kits)]).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One finished file; ``left_out`` are (kit digest, error class, why)."""

    path: str
    model: str
    device: str
    digest: str
    bytes: int
    rows: int
    labelled: int
    duplicates: int
    reused: bool
    left_out: tuple[tuple[str, str, str], ...] = ()


@dataclass(slots=True)
class CollectReport:
    """What a collection holds."""

    folder: str
    files: int = 0
    rows: int = 0
    labelled: int = 0
    kits: int = 0
    refused: int = 0
    reused: int = 0
    bytes: int = 0
    models: dict[str, int] = field(default_factory=dict)
    statement: str = ""
    signed: bool = False


def collect(
    index: Index, query: Query, trust: Trust, engine: Engine, folder: Path, *, now: dt.datetime, signer: Signer | None = None,
    dequantise: bool = False, inputs: bool = True, progress: Callable[[int, int], None] | None = None,
) -> CollectReport:  # fmt: skip
    """Write the data set.

    Args:
        index: Open for writing; every kit that fits must have a verdict under ``trust``.
        query: Which kits.
        trust: Names the policy under which the verdicts were given.
        engine: Runs the partitions.
        folder: New, or one that an earlier run wrote.
        now: For the statement.
        signer: Signs the statement; None leaves it unsigned.
        dequantise: Add a float32 column beside each quantised tensor.
        inputs: Add captured inputs, where kits hold them.
        progress: Called with done and total kits.

    Raises:
        UsageError: Another folder, or kits without verdict.
        StoreError: The folder cannot be written.
    """
    _prepare(folder)
    chosen, refused = _choose(index, query)
    sources = index.sources()
    kits = [
        (
            a,
            KitInput(
                digest=a.digest,
                source=sources[a.source],
                repo=a.repo,
                slot=a.slot,
                seq=a.seq,
                records=a.records,
                labels=a.labels,
            ),
        )
        for a in chosen
    ]
    label_type = _label_type([kit for _, kit in kits if kit.labels], engine)
    groups: dict[tuple[str, str], list[KitInput]] = {}
    for artifact, kit in kits:
        groups.setdefault((artifact.model, artifact.device), []).append(kit)
    partitions = [
        Partition(
            model=model, device=device, kits=tuple(sorted(group, key=lambda kit: (kit.seq, kit.digest))), label_type=label_type,
            dequantise=dequantise, inputs=inputs, folder=str(folder),
        )
        for (model, device), group in sorted(groups.items())
        if any(kit.records for kit in group)
    ]  # fmt: skip
    _remove_stale(folder, {partition.path for partition in partitions})
    written: list[Written] = []
    done, total = 0, sum(len(partition.kits) for partition in partitions)
    by_path = {partition.path: len(partition.kits) for partition in partitions}
    for results in engine.run(write_partitions, _batches(partitions)):
        written.extend(results)
        done += sum(by_path[item.path] for item in results)
        if progress:
            progress(done, total)
    return _finish(index, query, trust, folder, partitions, written, refused, now, signer)


def write_partitions(partitions: tuple[Partition, ...]) -> list[Written]:
    """A task: make some files. Running it twice gives the same files."""
    return [_write_partition(partition) for partition in partitions]


def label_types(kits: tuple[KitInput, ...]) -> LabelType:
    """A task: the type that holds all labels of some kits."""
    kinds: set[LabelType] = set()
    for kit in kits:
        reader = _readers(kit.source)
        try:
            opened = open_kit(reader, kit.repo, reader.manifest(kit.repo, parse_digest(kit.digest)))
            for part in opened.parts:
                if part.kind == "labels":
                    kinds.update(
                        tables.label_kind(label.value) for label in parse_part(load_part(reader, kit.repo, part)).labels
                    )
        except (FormatError, DigestMismatch):
            continue  # the same error leaves the kit out when its partition is written
    return tables.join_kinds(kinds)


def _write_partition(partition: Partition) -> Written:
    target = Path(partition.folder) / partition.path
    if target.is_file() and tables.read_inputs_key(target) == partition.key:
        left_out = json.loads(_side(target).read_text()) if _side(target).is_file() else []
        rows, labelled = tables.count_rows(target)
        return _written(partition, target, rows, labelled, 0, tuple(map(tuple, left_out)), reused=True)
    make_dirs(target.parent, 0o755)
    temporary = target.with_name(f".part-0.{os.getpid()}.tmp")
    work = _PartitionWork(partition, temporary)
    try:
        work.run()
        _sync(temporary)
        if work.left_out:
            save_bytes(_side(target), json.dumps(work.left_out).encode(), mode=0o644)
        else:
            remove(_side(target))
        rename(temporary, target)
    finally:
        remove(temporary)
    return _written(partition, target, work.rows, work.labelled, work.duplicates, tuple(work.left_out), reused=False)


class _PartitionWork:
    """Reads the kits of one partition twice: labels first, because they come later than their records."""

    def __init__(self, partition: Partition, path: Path) -> None:
        self.partition = partition
        self.path = path
        self.labels: dict[str, LabelSet] = {}
        self.left_out: list[tuple[str, str, str]] = []
        self.last: dict[str, int] = {}
        self.writer: PartitionWriter | None = None
        self.tensors: SegmentHeader | None = None
        self.duplicates = self.rows = self.labelled = 0

    def run(self) -> None:
        for kit in self.partition.kits:
            if kit.labels:
                self._guard(kit, self._read_labels)
        for labels in self.labels.values():
            labels.finish()
        out = {digest for digest, _, _ in self.left_out}
        for kit in self.partition.kits:
            if kit.records and kit.digest not in out:
                self._guard(kit, self._read_records)
        if self.writer is None:  # every kit was left out: an empty file says so
            self.writer = PartitionWriter(
                self.path, TableSpec(outputs=(), label_type=self.partition.label_type), self._metadata()
            )
        self.writer.close()
        self.rows, self.labelled = self.writer.rows, self.writer.labelled

    def _guard(self, kit: KitInput, step: Callable[[KitInput, Reader, DataKit], None]) -> None:
        try:
            reader = _readers(kit.source)
            step(kit, reader, open_kit(reader, kit.repo, reader.manifest(kit.repo, parse_digest(kit.digest))))
        except EdgeprovError as error:
            if error.retryable:
                raise
            # Verified before, unusable now: the registry lost or changed it meanwhile.
            self.left_out.append((kit.digest, type(error).__name__, error.message))

    def _read_labels(self, kit: KitInput, reader: Reader, opened: DataKit) -> None:
        # Decoded as a whole before any is kept: a kit counts entirely or not at all.
        found = [parse_part(load_part(reader, kit.repo, part)) for part in opened.parts if part.kind == "labels"]
        for contents in found:
            self.labels.setdefault(kit.slot, LabelSet(self.partition.label_type)).add(contents.labels, kit.seq)

    def _read_records(self, kit: KitInput, reader: Reader, opened: DataKit) -> None:
        content = ContentCheck(opened, load_evidence(reader, kit.repo, opened), merkle=False)
        parts = [part for part in opened.parts if part.kind == "records"]
        if len(parts) > 1:
            # First a look, then the rows: a kit that turns out bad in its last part must leave no row behind.
            for part in opened.parts:
                if part.kind != "evidence":
                    content.add(parse_part(load_part(reader, kit.repo, part)))
            content.finish()
            contents: Iterable[PartContents] = (parse_part(load_part(reader, kit.repo, part)) for part in parts)
        else:
            every = [
                parse_part(load_part(reader, kit.repo, part))
                for part in opened.parts
                if part.kind not in ("evidence", "inputs")
            ]
            for item in every:
                content.add(item)
            content.finish()
            contents = [item for item in every if item.kind == "records"]
        inputs = self._captured(reader, kit, opened) if self.partition.inputs else None
        for item in contents:
            for block in item.blocks:
                self._add(kit, block, inputs)

    def _captured(self, reader: Reader, kit: KitInput, opened: DataKit) -> _CapturedInputs | None:
        parts = [part for part in opened.parts if part.kind == "inputs"]
        return _CapturedInputs(reader, kit.repo, parts) if parts else None

    def _add(self, kit: KitInput, block: Any, inputs: _CapturedInputs | None) -> None:
        header: SegmentHeader = block.header
        if self.tensors is None:
            self.tensors = header
            spec = TableSpec(
                outputs=header.outputs, inputs=header.inputs if self.partition.inputs and self._any_inputs() else (),
                label_type=self.partition.label_type, dequantise=self.partition.dequantise,
            )  # fmt: skip
            self.writer = PartitionWriter(self.path, spec, self._metadata())
        elif (header.outputs, header.inputs) != (self.tensors.outputs, self.tensors.inputs):
            raise SubjectMismatch("the kit's tensors are not those of the model's other kits")
        assert self.writer is not None  # noqa: S101 - narrowing for mypy
        numbers = block.numbers()
        last = self.last.get(kit.slot, -1)
        skip = sum(number <= last for number in numbers) if numbers[0] <= last else 0
        self.duplicates += skip
        if skip < block.count:
            captured = inputs.of(block) if inputs and self.writer.spec.inputs else None
            self.writer.add(
                block, kit=kit.digest, seq=kit.seq, labels=self.labels.get(kit.slot), skip=skip, inputs=captured
            )
            self.last[kit.slot] = numbers[-1]

    def _any_inputs(self) -> bool:
        for kit in self.partition.kits:
            if kit.records:
                reader = _readers(kit.source)
                opened = open_kit(reader, kit.repo, reader.manifest(kit.repo, parse_digest(kit.digest)))
                if any(part.kind == "inputs" for part in opened.parts):
                    return True
        return False

    def _metadata(self) -> dict[str, str]:
        return {
            "edgeprov.inputs": self.partition.key,
            "edgeprov.model": self.partition.model,
            "edgeprov.device": self.partition.device,
            "edgeprov.kits": str(len(self.partition.kits)),
        }


class _CapturedInputs:
    """Captured inputs of a kit, block by block; each is checked against the digest in its record."""

    def __init__(self, reader: Reader, repo: str, parts: list[Any]) -> None:
        self._stream = self._read(reader, repo, parts)
        self._next: tuple[int, tuple[bytes, ...]] | None = next(self._stream, None)

    def of(self, block: Any) -> dict[int, tuple[bytes, ...]]:
        numbers = block.numbers()
        found: dict[int, tuple[bytes, ...]] = {}
        while self._next is not None and self._next[0] <= numbers[-1]:
            found[self._next[0]] = self._next[1]
            self._next = next(self._stream, None)
        digests = dict(zip(numbers, block.input_digests(), strict=True))
        key = block.header.input_key
        for number, tensors in found.items():
            if digests.get(number) is not None and (key is None or keyed_input_digest(key, tensors) != digests[number]):
                raise DigestMismatch(f"the captured input of record {number} is not the one that was recorded")
        # An input without a digest in its record is bound to nothing: left out.
        return {number: tensors for number, tensors in found.items() if digests.get(number) is not None}

    @staticmethod
    def _read(reader: Reader, repo: str, parts: list[Any]) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        for part in parts:
            for item in parse_part(load_part(reader, repo, part)).inputs:
                yield item.n, tuple(bytes(tensor) for tensor in item.inputs)


def _choose(index: Index, query: Query) -> tuple[list[Artifact], list[dict[str, Any]]]:
    chosen: list[Artifact] = []
    refused: list[dict[str, Any]] = []
    claims: dict[tuple[str, int], list[Artifact]] = {}
    unchecked = 0
    for artifact in index.iterate(query):
        if artifact.verified is None:
            unchecked += 1
        elif not artifact.verified:
            refused.append(_refusal(artifact, artifact.error or "", artifact.detail or "", artifact.step))
        else:
            claims.setdefault((artifact.device, artifact.seq), []).append(artifact)
    if unchecked:
        raise UsageError(
            f"{unchecked} kits have no verdict yet", advice="Run edgeprov-fleet verify with the same filters first."
        )
    for group in claims.values():
        if len(group) > 1:
            refused += [
                _refusal(item, "SeriesBroken", f"{len(group)} artifacts claim number {item.seq}: a fork", 9)
                for item in group
            ]
        elif group[0].kind == "kit":
            chosen.append(group[0])
    return chosen, refused


def _refusal(artifact: Artifact, error: str, why: str, step: int | None) -> dict[str, Any]:
    return {
        "kit": artifact.digest, "device": artifact.device, "seq": artifact.seq, "kind": artifact.kind, "records": artifact.records,
        "step": step, "error": error, "why": why,
    }  # fmt: skip


def _label_type(kits: list[KitInput], engine: Engine) -> LabelType:
    return tables.join_kinds(engine.run(label_types, (tuple(batch) for batch in chunked(kits, _BATCH_KITS))))


def _batches(partitions: list[Partition]) -> Iterator[tuple[Partition, ...]]:
    batch: list[Partition] = []
    for partition in partitions:
        batch.append(partition)
        if sum(len(item.kits) for item in batch) >= _BATCH_KITS:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def _prepare(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / OWN).is_dir():
        raise UsageError(f"{folder} is not empty and not a data set of ours", advice="Name a new folder.")
    make_dirs(folder / OWN, 0o755)
    # The old statement no longer fits from here on; a new one is written last.
    for name in ("statement.json", "statement.sigstore.json"):
        remove(folder / OWN / name)


def _remove_stale(folder: Path, wanted: set[str]) -> None:
    with translated(folder):
        for path in folder.glob("model=*/device=*/part-0.parquet"):
            if str(path.relative_to(folder)) not in wanted:
                shutil.rmtree(path.parent)


def _finish(
    index: Index, query: Query, trust: Trust, folder: Path, partitions: list[Partition], written: list[Written],
    refused: list[dict[str, Any]], now: dt.datetime, signer: Signer | None,
) -> CollectReport:  # fmt: skip
    by_key = {(item.model, item.device): item for item in written}
    out: set[str] = set()
    for item in written:
        for digest, error, why in item.left_out:
            out.add(digest)
            refused.append({"kit": digest, "device": item.device, "error": error, "why": why, "step": 0})
    inputs = [
        {
            "kit": kit.digest,
            "model": partition.model,
            "device": partition.device,
            "seq": kit.seq,
            "records": kit.records,
            "labels": kit.labels,
        }
        for partition in partitions
        for kit in partition.kits
        if kit.digest not in out
    ]
    files = [
        {
            "path": item.path,
            "digest": item.digest,
            "bytes": item.bytes,
            "rows": item.rows,
            "labelled": item.labelled,
            "duplicates": item.duplicates,
        }
        for item in sorted(by_key.values(), key=lambda item: item.path)
    ]
    subjects = []
    for name, rows in (
        ("files", files),
        ("inputs", inputs),
        ("refused", sorted(refused, key=lambda row: str(row["kit"]))),
    ):
        data = b"".join(encode_json(row) + b"\n" for row in rows)
        save_bytes(folder / OWN / f"{name}.jsonl", data, mode=0o644)
        subjects.append({"name": f"{OWN}/{name}.jsonl", "digest": {"sha256": digest_of(data).hex}})
    report = CollectReport(
        folder=str(folder), files=len(files), rows=sum(item.rows for item in written), labelled=sum(item.labelled for item in written),
        kits=len(inputs), refused=len(refused), reused=sum(item.reused for item in written), bytes=sum(item.bytes for item in written),
    )  # fmt: skip
    for item in written:
        report.models[item.model] = report.models.get(item.model, 0) + item.rows
    created = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    statement = encode_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": COLLECTION_PREDICATE,
            "predicate": {
                "createdAt": created,
                "query": {
                    name: value for name, value in asdict(query).items() if value is not None and name != "policy"
                },
                "trust": f"sha256:{trust.digest}",
                "models": [
                    {"digest": {"sha256": parse_digest(name).hex}, "rows": rows}
                    for name, rows in sorted(report.models.items())
                ],
                "kits": report.kits,
                "rows": report.rows,
                "labelled": report.labelled,
                "refused": report.refused,
                "tools": {"edgeprov": __version__, "pyarrow": tables.version()},
            },
        }
    )
    report.statement, report.signed = str(digest_of(statement)), signer is not None
    if signer is not None:
        save_bytes(folder / OWN / "statement.sigstore.json", sign_statement(signer, statement), mode=0o644)
    save_bytes(folder / OWN / "statement.json", statement, mode=0o644)
    index.put(
        "collections", statement=report.statement, folder=str(folder.absolute()), models=json.dumps(sorted(report.models)),
        kits=report.kits, rows=report.rows, labelled=report.labelled, created=created,
    )  # fmt: skip
    return report


def _written(
    partition: Partition,
    target: Path,
    rows: int,
    labelled: int,
    duplicates: int,
    left_out: tuple[Any, ...],
    *,
    reused: bool,
) -> Written:
    with translated(target), target.open("rb") as stream:
        digest = Digest(hashlib.file_digest(stream, "sha256").hexdigest())
        size = stream.tell()
    return Written(
        path=partition.path, model=partition.model, device=partition.device, digest=str(digest), bytes=size, rows=rows,
        labelled=labelled, duplicates=duplicates, reused=reused, left_out=left_out,
    )  # fmt: skip


def _side(target: Path) -> Path:
    return target.with_name("_left_out.json")


def _sync(path: Path) -> None:
    with translated(path), path.open("rb") as stream:
        os.fsync(stream.fileno())


_OPEN: dict[Source, Reader] = {}


def _readers(source: Source) -> Reader:
    if source not in _OPEN:
        _OPEN[source] = Reader(source)
    return _OPEN[source]


def result_json(report: CollectReport) -> Mapping[str, Any]:
    """For output."""
    return asdict(report)
