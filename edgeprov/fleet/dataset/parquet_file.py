# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One file of a data set: the verified kits of one model and device, made into Parquet by one task.

A task may run twice, on any machine that reaches the registry and the output: it gives the same file.
A kit that turns out unusable is left out as a whole, and named beside the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from edgeprov import __version__
from edgeprov.errors import (
    DigestMismatch,
    FormatError,
    NotStored,
    RegistryNotFound,
    SubjectMismatch,
    VerificationError,
)
from edgeprov.fleet.dataset import record_tables
from edgeprov.fleet.dataset.destination import digest_at, open_destination
from edgeprov.fleet.dataset.label_set import LabelSet
from edgeprov.fleet.dataset.label_types import LabelType, column_kind, join_kinds
from edgeprov.fleet.dataset.record_tables import PartitionWriter, TableSpec
from edgeprov.fleet.registries.kits import load_content, load_contents, load_evidence, open_kit, open_reader
from edgeprov.fleet.registries.sources import ArtifactReader, Source
from edgeprov.formats.block import Block
from edgeprov.formats.datakit import DataKit, Part
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.label import LabelColumns, join_labels
from edgeprov.formats.record import keyed_input_digest
from edgeprov.formats.segment import SegmentHeader, device_serial
from edgeprov.verify.content import ContentCheck

_UNUSABLE: Final = (FormatError, VerificationError, RegistryNotFound, NotStored)
_OPENED_KITS: Final = 512
"""Kits whose manifest and config are kept from the first pass to the second; of more, they are read again.

Without it collect of small kits takes 12 % more (`./tests/run bench tricks`).
"""


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
class Written:
    """One finished file; ``left_out`` are (kit digest, error class, why)."""

    path: str
    model: str
    device: str
    key: str
    digest: str
    """Of the bytes as they were written; empty where nothing was, because ``label_type`` did not fit."""
    bytes: int
    rows: int
    labelled: int
    duplicates: int
    label_type: LabelType
    """The narrowest type of the labels that this file's kits hold."""
    reused: bool = False
    left_out: tuple[tuple[str, str, str], ...] = ()


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
    known: Written | None = None
    """Digest and size that the last run noted for the file with this key, so that it need not be made again."""

    @property
    def path(self) -> str:
        """Of the file, relative to the data set."""
        return f"model={parse_digest(self.model).hex}/device={device_serial(self.device)}/part-0.parquet"

    @property
    def key(self) -> str:
        """Names everything that the file depends on."""
        parts = [
            "v3",
            __version__,
            record_tables.version(),
            self.label_type,
            str(self.dequantise),
            str(self.inputs),
            self.model,
            self.device,
        ]
        return hashlib.sha256("\n".join([*parts, *(kit.digest for kit in self.kits)]).encode()).hexdigest()


def write_partitions(partitions: tuple[Partition, ...]) -> list[Written]:
    """A task: make some files. Running it twice gives the same files."""
    return [_write_partition(partition) for partition in partitions]


def guess_label_type(kit: KitInput) -> LabelType:
    """A task: the type of one kit's labels, ``null`` where it cannot be read."""
    reader = open_reader(kit.source)
    try:
        opened = open_kit(reader, kit.repo, reader.manifest(kit.repo, parse_digest(kit.digest)))
        return join_kinds(column_kind(labels.values) for labels in _load_labels(reader, kit, opened))
    except _UNUSABLE:
        return "null"  # the same error leaves the kit out when its partition is written


def _write_partition(partition: Partition) -> Written:
    output = open_destination(partition.output)
    known = partition.known
    # What lies there is believed for its digest only: whoever can write there can also write a footer.
    if known is not None and digest_at(output, partition.path) == known.digest:
        return replace(known, reused=True)
    left_out: dict[str, tuple[str, str]] = {}
    label_type: LabelType = "null"
    while True:
        work = _PartitionWork(partition, left_out)
        work.look()
        # Also of kits that are left out later: else the type that fits would change with each attempt, for ever.
        label_type = join_kinds((label_type, work.label_type))
        written = Written(
            path=partition.path, model=partition.model, device=partition.device, key=partition.key, digest="",
            bytes=0, rows=0, labelled=0, duplicates=0, label_type=label_type,
        )  # fmt: skip
        if not work.fits:
            return written
        try:
            with output.writing(partition.path) as temporary:
                writer = work.write(temporary)
        except _SpoiledError:
            continue  # once: the pass went on to the end, and found all that is unusable
        return replace(
            written, digest=writer.digest, bytes=writer.bytes, rows=writer.rows, labelled=writer.labelled,
            duplicates=work.duplicates, left_out=tuple((kit, *why) for kit, why in sorted(left_out.items())),
        )  # fmt: skip


def _load_labels(reader: ArtifactReader, kit: KitInput, opened: DataKit) -> list[LabelColumns]:
    return [
        join_labels(load_contents(reader, kit.repo, part).labels, load_content(reader, kit.repo, values).label_values)
        for part, values in opened.pairs("labels")
    ]


class _SpoiledError(Exception):
    """Something of a kit went in before the kit turned out unusable: the file must be made without it."""


class _PartitionWork:
    """Reads the kits of one partition: labels first, because they come later than their records.

    A kit counts entirely or not at all. ``left_out`` are those that do not, with error class and reason:
    what it names already is not looked at, what turns out unusable is added.
    """

    def __init__(self, partition: Partition, left_out: dict[str, tuple[str, str]]) -> None:
        self.partition = partition
        self.left_out = left_out
        # Numbers of records belong to an enrollment, not to a serial: another board starts with its own.
        self.labels: dict[tuple[bytes, str], LabelSet] = {}
        self.label_type: LabelType = "null"
        self.fits = True
        self.label_counts: dict[str, int] = {}
        self.last: dict[tuple[bytes, str], int] = {}
        self.writer: PartitionWriter | None = None
        self.duplicates = 0
        self._has_inputs = self._spoiled = False
        self._opened: dict[str, DataKit] = {}

    def look(self) -> None:
        """Open each kit; learn its labels, and whether there are captured inputs."""
        for kit in self.partition.kits:
            self._guard(kit, self._look)

    def write(self, path: Path) -> PartitionWriter:
        """Write the file; returns its closed writer.

        Raises:
            _SpoiledError: Not a file to keep: make it again, without what is left out now.
        """
        for labels in self.labels.values():
            labels.finish()
        for kit in self.partition.kits:
            if kit.records:
                self._guard(kit, partial(self._read_records, path))
        if self._spoiled:
            raise _SpoiledError
        if self.writer is None:  # every kit was left out: an empty file says so
            spec = TableSpec(outputs=(), label_type=self.partition.label_type)
            self.writer = PartitionWriter(path, spec, self._metadata())
        self.writer.close()
        return self.writer

    def _guard(self, kit: KitInput, step: Callable[[KitInput, ArtifactReader, DataKit], None]) -> None:
        if kit.digest in self.left_out:
            return
        try:
            reader = open_reader(kit.source)
            opened = self._opened.pop(kit.digest, None)
            if opened is None:
                opened = open_kit(reader, kit.repo, reader.manifest(kit.repo, parse_digest(kit.digest)))
            step(kit, reader, opened)
        except _UNUSABLE as error:
            # Verified before, unusable now: the registry lost or changed it meanwhile. Whatever else happens
            # (a cut line, a full disk) says nothing about the kit, and ends the run.
            self.left_out[kit.digest] = (type(error).__name__, error.message)
            self._spoiled |= kit.digest in self.label_counts

    def _look(self, kit: KitInput, reader: ArtifactReader, opened: DataKit) -> None:
        if kit.labels:
            found = _load_labels(reader, kit, opened)
            whole = self.partition.label_type
            self.label_type = join_kinds((self.label_type, *(column_kind(labels.values) for labels in found)))
            self.fits = join_kinds((self.label_type, whole)) == whole
            self.label_counts[kit.digest] = place = 0
            for labels in found:
                if self.fits:
                    self.labels.setdefault((opened.enrollment, kit.slot), LabelSet(whole)).add(labels, kit.seq, place)
                place += len(labels)
            self.label_counts[kit.digest] = place
        self._has_inputs |= any(part.kind == "inputs" for part in opened.parts)
        if kit.records and len(self._opened) < _OPENED_KITS:
            self._opened[kit.digest] = opened

    def _read_records(self, path: Path, kit: KitInput, reader: ArtifactReader, opened: DataKit) -> None:
        content = ContentCheck(opened, load_evidence(reader, kit.repo, opened).segments, merkle=False)
        content.count_labels(self.label_counts.get(kit.digest, 0))
        inputs = self._captured(reader, kit, opened) if self.partition.inputs else None
        begun = False
        try:
            for part, outputs in opened.pairs("records"):
                blocks = content.add_records(
                    load_contents(reader, kit.repo, part), load_content(reader, kit.repo, outputs)
                )
                begun = True
                for block in blocks:
                    self._add(path, kit, block, inputs)
            content.finish()
        except _UNUSABLE:
            self._spoiled |= begun
            raise

    def _captured(self, reader: ArtifactReader, kit: KitInput, opened: DataKit) -> _CapturedInputs | None:
        parts = opened.of_kind("inputs")
        return _CapturedInputs(reader, kit.repo, parts) if parts else None

    def _add(self, path: Path, kit: KitInput, block: Block, inputs: _CapturedInputs | None) -> None:
        header: SegmentHeader = block.header
        if self.writer is None:
            spec = TableSpec(
                outputs=header.outputs, inputs=header.inputs if self.partition.inputs and self._has_inputs else (),
                label_type=self.partition.label_type, dequantise=self.partition.dequantise,
            )  # fmt: skip
            self.writer = PartitionWriter(path, spec, self._metadata())
        assert self.writer is not None  # noqa: S101 - narrowing for mypy
        spec = self.writer.spec
        if record_tables.kinds_of(header.outputs) != record_tables.kinds_of(spec.outputs) or (
            spec.inputs and record_tables.kinds_of(header.inputs) != record_tables.kinds_of(spec.inputs)
        ):
            raise SubjectMismatch("the types of the kit's tensors are not those of the model's other kits")
        series = (header.enrollment, kit.slot)
        last = self.last.get(series, -1)
        skip = sum(number <= last for number in block.numbers()) if block.first <= last else 0
        self.duplicates += skip
        if skip < block.count and not self._spoiled:
            captured = inputs.of(block) if inputs and self.writer.spec.inputs else None
            self.writer.add(
                block, kit=kit.digest, seq=kit.seq, labels=self.labels.get(series), skip=skip, inputs=captured
            )
            self.last[series] = block.last

    def _metadata(self) -> dict[str, str]:
        return {
            "edgeprov.inputs": self.partition.key,
            "edgeprov.model": self.partition.model,
            "edgeprov.device": self.partition.device,
            "edgeprov.kits": str(len(self.partition.kits)),
        }


class _CapturedInputs:
    """Captured inputs of a kit, block by block; each is checked against the digest in its record."""

    def __init__(self, reader: ArtifactReader, repo: str, parts: list[Part]) -> None:
        self._stream = self._read(reader, repo, parts)
        self._next: tuple[int, tuple[bytes, ...]] | None = next(self._stream, None)

    def of(self, block: Block) -> dict[int, tuple[bytes, ...]]:
        numbers = block.numbers()
        found: dict[int, tuple[bytes, ...]] = {}
        while self._next is not None and self._next[0] <= numbers[-1]:
            found[self._next[0]] = self._next[1]
            self._next = next(self._stream, None)
        digests = dict(zip(numbers, block.content.input_digests(), strict=True))
        key = block.header.input_key
        for number, tensors in found.items():
            if digests.get(number) is not None and (key is None or keyed_input_digest(key, tensors) != digests[number]):
                raise DigestMismatch(f"the captured input of record {number} is not the one that was recorded")
        # An input without a digest in its record is bound to nothing: left out.
        return {number: tensors for number, tensors in found.items() if digests.get(number) is not None}

    @staticmethod
    def _read(reader: ArtifactReader, repo: str, parts: list[Part]) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        for part in parts:
            for item in load_content(reader, repo, part).inputs:
                yield item.n, tuple(bytes(tensor) for tensor in item.inputs)
