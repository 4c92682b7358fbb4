# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One file of a data set: the verified kits of one model and device, made into Parquet by one task.

A task may run twice, on any machine that reaches the registry and the output: it gives the same file.
A kit that turns out unusable is left out as a whole, and named beside the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgeprov import __version__
from edgeprov.errors import (
    DigestMismatch,
    FormatError,
    NotStored,
    RegistryNotFound,
    SubjectMismatch,
    VerificationError,
)
from edgeprov.fleet import tables
from edgeprov.fleet.check import load_evidence, load_part, open_kit
from edgeprov.fleet.label_types import LabelType, column_kind, join_kinds
from edgeprov.fleet.output import Output, open_output
from edgeprov.fleet.remotes import Reader, Source
from edgeprov.fleet.tables import LabelSet, PartitionWriter, TableSpec
from edgeprov.formats.datakit import DataKit, PartContents, parse_part
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.record import keyed_input_digest
from edgeprov.formats.segment import SegmentHeader, device_serial
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import translated
from edgeprov.verify.content import ContentCheck


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
    output: str

    @property
    def path(self) -> str:
        """Of the file, relative to the data set."""
        return f"model={parse_digest(self.model).hex}/device={device_serial(self.device)}/part-0.parquet"

    @property
    def side(self) -> str:
        """Of the list of kits that turned out unusable; there only when there are any."""
        return self.path.rpartition("/")[0] + "/_left_out.json"

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
                    kinds.add(column_kind(parse_part(load_part(reader, kit.repo, part)).labels.values))
        except (FormatError, DigestMismatch):
            continue  # the same error leaves the kit out when its partition is written
    return join_kinds(kinds)


def _write_partition(partition: Partition) -> Written:
    output = open_output(partition.output)
    reused = _reused(partition, output)
    if reused is not None:
        return reused
    with output.writing(partition.path) as temporary:
        work = _PartitionWork(partition, temporary)
        work.run()
        with translated(temporary), temporary.open("rb") as stream:
            digest, size = _measure(stream)
        if work.left_out:
            output.save(partition.side, json.dumps(work.left_out).encode())
        else:
            output.remove(partition.side)
    return Written(
        path=partition.path, model=partition.model, device=partition.device, digest=digest, bytes=size, rows=work.rows,
        labelled=work.labelled, duplicates=work.duplicates, reused=False, left_out=tuple(work.left_out),
    )  # fmt: skip


def _reused(partition: Partition, output: Output) -> Written | None:
    """The file of an earlier run, where it was made of the same inputs."""
    with output.reading(partition.path) as stream:
        if stream is None or tables.read_inputs_key(stream) != partition.key:
            return None
        rows, labelled = tables.count_rows(stream)
        stream.seek(0)
        digest, size = _measure(stream)
    side = output.load(partition.side, max_bytes=LIMITS.layer_bytes)
    return Written(
        path=partition.path, model=partition.model, device=partition.device, digest=digest, bytes=size, rows=rows,
        labelled=labelled, duplicates=0, reused=True, left_out=tuple(map(tuple, json.loads(side))) if side else (),
    )  # fmt: skip


class _PartitionWork:
    """Reads the kits of one partition twice: labels first, because they come later than their records."""

    def __init__(self, partition: Partition, path: Path) -> None:
        self.partition = partition
        self.path = path
        self.labels: dict[str, LabelSet] = {}
        self.label_counts: dict[str, int] = {}
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
        except (FormatError, VerificationError, RegistryNotFound, NotStored) as error:
            # Verified before, unusable now: the registry lost or changed it meanwhile. Whatever else happens
            # (a cut line, a full disk) says nothing about the kit, and ends the run.
            self.left_out.append((kit.digest, type(error).__name__, error.message))

    def _read_labels(self, kit: KitInput, reader: Reader, opened: DataKit) -> None:
        # Decoded as a whole before any is kept: a kit counts entirely or not at all.
        found = [parse_part(load_part(reader, kit.repo, part)) for part in opened.parts if part.kind == "labels"]
        self.label_counts[kit.digest] = sum(len(contents.labels) for contents in found)
        for contents in found:
            self.labels.setdefault(kit.slot, LabelSet(self.partition.label_type)).add(contents.labels, kit.seq)

    def _read_records(self, kit: KitInput, reader: Reader, opened: DataKit) -> None:
        content = ContentCheck(opened, load_evidence(reader, kit.repo, opened), merkle=False)
        content.add_labels(self.label_counts.get(kit.digest, 0))
        parts = [part for part in opened.parts if part.kind == "records"]
        contents: Iterable[PartContents]
        if len(parts) == 1:
            contents = [parse_part(load_part(reader, kit.repo, parts[0]))]
            content.add(contents[0])
        else:
            # First a look, then the rows: a kit that turns out bad in its last part must leave no row behind.
            for part in parts:
                content.add(parse_part(load_part(reader, kit.repo, part)))
            contents = (parse_part(load_part(reader, kit.repo, part)) for part in parts)
        content.finish()
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
        last = self.last.get(kit.slot, -1)
        skip = sum(number <= last for number in block.numbers()) if block.first <= last else 0
        self.duplicates += skip
        if skip < block.count:
            captured = inputs.of(block) if inputs and self.writer.spec.inputs else None
            self.writer.add(
                block, kit=kit.digest, seq=kit.seq, labels=self.labels.get(kit.slot), skip=skip, inputs=captured
            )
            self.last[kit.slot] = block.last

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


def _measure(stream: BinaryIO) -> tuple[str, int]:
    state, size = hashlib.sha256(), 0
    while piece := stream.read(64 * 1024):
        state.update(piece)
        size += len(piece)
    return str(Digest(state.hexdigest())), size


_OPEN: dict[Source, Reader] = {}


def _readers(source: Source) -> Reader:
    if source not in _OPEN:
        _OPEN[source] = Reader(source)
    return _OPEN[source]
