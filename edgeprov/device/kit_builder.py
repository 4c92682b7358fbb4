# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From spool segments to the layers of a data kit, in one pass and constant memory.

A part is finished when its compressed size reaches ``seal.part_bytes``; it is then one blob in the
layout. Memory holds one block of rows and one compressed part per kind, whatever the kit's size.

Spec: FORMAT.md sections "Data kit" and "Column block".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.formats.columns import encode_block
from edgeprov.formats.datakit import (
    EVIDENCE_NAME,
    EVIDENCE_PATH,
    PART_LAYER,
    Part,
    PartKind,
    SegmentEvidence,
    encode_evidence,
    encode_part_header,
    parse_evidence,
    part_name,
    part_path,
)
from edgeprov.formats.merkle import MerkleBuilder
from edgeprov.formats.record import parse_record
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.formats.tarball import tar_prefix, tar_suffix
from edgeprov.limits import KIB, LIMITS, MIB
from edgeprov.store.compress import Compressor, choose_level, compress
from edgeprov.store.layout import Layout
from edgeprov.store.spool import INPUT, RECORD, Segment, read_segment

_BLOCK_BYTES: Final = 1 * MIB
_PIECE_BYTES: Final = 256 * KIB  # given to the compressor at once
# A part repeats the headers of its segments; this many at most, so that a kit of very many small
# segments does not carry all of them in each part.
_PART_HEADERS: Final = 64


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
        self._records = _PartWriter(layout, "records", part_bytes)
        self._inputs = _PartWriter(layout, "inputs", part_bytes)
        self._labels = _PartWriter(layout, "labels", part_bytes)
        self._layout = layout
        self._merkle = MerkleBuilder()
        self._first_row: bytes | None = None
        self._last_row: bytes | None = None

    def build(self, segments: Sequence[Path], labels: Iterable[bytes], damaged: Collection[Path]) -> Contents:
        evidence: list[SegmentEvidence] = []
        for path in segments:
            segment = read_segment(path)
            header = parse_segment_header(segment.header)
            evidence.extend(item for blob in segment.evidence for item in parse_evidence(blob))
            self._segment(header, _salvaged(segment) if path in damaged else segment.rows())
        label_count = 0
        for row in labels:
            self._labels.write_row(row)
            label_count += 1
        parts = [*self._records.finish(), *self._labels.finish(), *self._inputs.finish()]
        if evidence:
            parts.append(self._evidence(evidence))
        first_record = parse_record(self._first_row) if self._first_row else None
        last_record = parse_record(self._last_row) if self._last_row else None
        return Contents(
            parts=tuple(parts),
            records=self._merkle.size,
            labels=label_count,
            first=first_record.n if first_record else None,
            last=last_record.n if last_record else None,
            recorded_first_ns=first_record.recorded_at_ns if first_record else None,
            recorded_last_ns=last_record.recorded_at_ns if last_record else None,
            merkle=self._merkle.root(),
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
        return _save_part(self._layout, "evidence", EVIDENCE_NAME, EVIDENCE_PATH, compress(encode_evidence(evidence)))


class _PartWriter:
    """Collects rows or blocks of one kind into parts."""

    def __init__(self, layout: Layout, kind: PartKind, part_bytes: int) -> None:
        self._layout = layout
        self._kind = kind
        self._limit = part_bytes
        self._done: list[Part] = []
        self._headers: list[bytes] = []
        self._plain: list[bytes] = []
        self._plain_bytes = 0  # not compressed yet
        self._part_bytes = 0  # of the whole part, plain
        self._compressor: Compressor | None = None
        self._compressed: list[bytes] = []  # joined once, in the layer
        self._compressed_bytes = 0

    def write_block(self, rows: list[bytes], header: SegmentHeader) -> None:
        """Add a column block; its part gets the segment's header."""
        if header.raw not in self._headers:
            # The header list comes first in the part: once that is compressed, none can be added.
            if self._compressor is not None or len(self._headers) == _PART_HEADERS:
                self._flush()
            self._headers.append(header.raw)
        self._add(encode_block(rows, self._headers.index(header.raw), header))

    def write_row(self, row: bytes) -> None:
        """Add a label or an input."""
        if self._part_bytes + len(row) > LIMITS.part_plain_bytes:
            self._flush()
        self._add(row)

    def _add(self, item: bytes) -> None:
        self._plain.append(item)
        self._plain_bytes += len(item)
        self._part_bytes += len(item)
        if self._plain_bytes >= _PIECE_BYTES:
            self._compress()
        if self._compressed_bytes >= self._limit or self._part_bytes >= LIMITS.part_plain_bytes // 2:
            self._flush()

    def finish(self) -> list[Part]:
        """All parts, the last one included."""
        self._flush()
        return self._done

    def _compress(self) -> None:
        plain = b"".join(self._plain)
        if self._compressor is None:
            plain = encode_part_header(self._kind, self._headers) + plain
            self._compressor = Compressor(level=choose_level(plain))
        self._keep(self._compressor.write(plain))
        self._plain = []
        self._plain_bytes = 0

    def _flush(self) -> None:
        if self._plain:
            self._compress()
        if self._compressor is None:
            return
        self._keep(self._compressor.finish())
        number = len(self._done) + 1
        name, path = part_name(self._kind, number), part_path(self._kind, number)
        self._done.append(_save_part(self._layout, self._kind, name, path, *self._compressed))
        self._compressor = None
        self._compressed = []
        self._compressed_bytes = 0
        self._headers = []
        self._part_bytes = 0

    def _keep(self, compressed: bytes) -> None:
        self._compressed.append(compressed)
        self._compressed_bytes += len(compressed)


def _salvaged(segment: Segment) -> Iterator[tuple[int, bytes]]:
    from edgeprov.store.salvage import salvaged_rows

    return salvaged_rows(segment, end=segment.first + (segment.records or 0))


def _save_part(
    layout: Layout, kind: Literal["records", "labels", "inputs", "evidence"], name: str, path: str, *compressed: bytes
) -> Part:
    size = sum(map(len, compressed))
    data = b"".join((tar_prefix(path, size), *compressed, tar_suffix(size)))
    layer = layout.save_blob(data, PART_LAYER)
    return Part(kind=kind, name=name, path=path, layer=layer)
