# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From spool segments to the layers of a data kit, in one pass and constant memory.

A part is finished when its compressed size reaches ``seal.part_bytes``; it is then one blob in the
layout. Memory holds one block of rows and one compressed part per kind, whatever the kit's size.

Spec: FORMAT.md sections "Data kit" and "Column blocks".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.device.part_writer import PartWriter, save_part
from edgeprov.formats.datakit import (
    EVIDENCE_NAME,
    EVIDENCE_PATH,
    Part,
    SegmentEvidence,
    encode_evidence,
    parse_evidence,
)
from edgeprov.formats.label import split_labels
from edgeprov.formats.merkle import MerkleBuilder
from edgeprov.formats.record import parse_record
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.limits import LIMITS, MIB
from edgeprov.store.compress import compress
from edgeprov.store.layout import Layout
from edgeprov.store.spool import INPUT, RECORD, Segment, read_segment

_BLOCK_BYTES: Final = 1 * MIB
_LABELS_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What build_parts made of the segments of one kit; times are nanoseconds since 1970."""

    parts: tuple[Part, ...]
    records: int
    labels: int
    first: int | None
    last: int | None
    recorded_first_ns: int | None
    recorded_last_ns: int | None
    merkle: bytes
    labels_merkle: bytes | None


def build_parts(
    layout: Layout,
    segments: Sequence[Path],
    labels: Iterable[bytes],
    part_bytes: int,
    *,
    damaged: Collection[Path] = (),
) -> Contents:
    """Write all parts of one kit as blobs.

    Args:
        layout: Where the blobs go.
        segments: Closed record segments of one model and slot, oldest first.
        labels: Canonical label rows.
        part_bytes: Compressed size at which a part ends.
        damaged: Of these segments what still verifies is taken, and no more is asked.

    Raises:
        StoreCorrupt: A segment that is not in ``damaged`` is.
        StoreFull: No space; what was written is garbage until the next collection.
    """
    return _Builder(layout, part_bytes).build(segments, labels, damaged)


class _Builder:
    def __init__(self, layout: Layout, part_bytes: int) -> None:
        self._records = PartWriter(layout, ("records", "outputs"), part_bytes)
        self._inputs = PartWriter(layout, ("inputs",), part_bytes)
        self._labels = PartWriter(layout, ("labels", "label-values"), part_bytes)
        self._layout = layout
        self._merkle = MerkleBuilder()
        self._labels_merkle = MerkleBuilder()
        self._first_row: bytes | None = None
        self._last_row: bytes | None = None

    def build(self, segments: Sequence[Path], labels: Iterable[bytes], damaged: Collection[Path]) -> Contents:
        evidence: list[SegmentEvidence] = []
        for path in segments:
            segment = read_segment(path)
            header = parse_segment_header(segment.header)
            evidence.extend(item for blob in segment.evidence for item in parse_evidence(blob))
            self._segment(header, _salvaged(segment) if path in damaged else segment.rows())
        rows = iter(labels)
        while some := list(islice(rows, _LABELS_AT_ONCE)):
            self._labels_merkle.add_all(some)
            for parts_of_row in split_labels(some):
                self._labels.write_row(*parts_of_row)
        parts = [*self._records.finish(), *self._labels.finish(), *self._inputs.finish()]
        if evidence:
            parts.append(self._evidence(evidence))
        first_record = parse_record(self._first_row) if self._first_row else None
        last_record = parse_record(self._last_row) if self._last_row else None
        return Contents(
            parts=tuple(parts),
            records=self._merkle.size,
            labels=self._labels_merkle.size,
            first=first_record.n if first_record else None,
            last=last_record.n if last_record else None,
            recorded_first_ns=first_record.recorded_at_ns if first_record else None,
            recorded_last_ns=last_record.recorded_at_ns if last_record else None,
            merkle=self._merkle.root(),
            labels_merkle=self._labels_merkle.root() if self._labels_merkle.size else None,
        )

    def _segment(self, header: SegmentHeader, frames: Iterable[tuple[int, bytes]]) -> None:
        rows: list[bytes] = []
        size = 0
        for kind, payload in frames:
            if kind == RECORD:
                rows.append(payload)
                size += len(payload)
                if len(rows) == LIMITS.block_rows or size >= _BLOCK_BYTES:
                    self._block(rows, header)
                    rows, size = [], 0
            elif kind == INPUT:
                self._inputs.write_row(payload)
        if rows:
            self._block(rows, header)

    def _block(self, rows: list[bytes], header: SegmentHeader) -> None:
        self._first_row = self._first_row or rows[0]
        self._last_row = rows[-1]
        self._merkle.add_all(rows)
        self._records.write_block(rows, header)

    def _evidence(self, evidence: list[SegmentEvidence]) -> Part:
        return save_part(self._layout, "evidence", EVIDENCE_NAME, EVIDENCE_PATH, compress(encode_evidence(evidence)))


def _salvaged(segment: Segment) -> Iterator[tuple[int, bytes]]:
    from edgeprov.store.salvage import salvaged_rows

    return salvaged_rows(segment, end=segment.first + (segment.records or 0))
