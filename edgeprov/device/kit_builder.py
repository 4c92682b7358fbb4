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
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.device.part_writer import PartWriter, save_part
from edgeprov.device.segments import parse_opening
from edgeprov.formats.datakit import Part
from edgeprov.formats.evidence_part import EVIDENCE_NAME, EVIDENCE_PATH, SegmentEvidence
from edgeprov.formats.label import split_labels
from edgeprov.formats.merkle import MerkleBuilder
from edgeprov.formats.record import recorded_at_of
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.limits import LIMITS, MIB
from edgeprov.store.compress import compress
from edgeprov.store.frames import unused_of
from edgeprov.store.layout import Layout
from edgeprov.store.spool import INPUT, RECORD, Range, Segment, SegmentInfo, read_segment

_BLOCK_BYTES: Final = 1 * MIB
_LABELS_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What build_parts made of the segments of one kit; times are nanoseconds since 1970, the least and greatest.

    ``parts`` lacks the evidence, which is made with the kit's number: save_evidence.
    """

    parts: tuple[Part, ...]
    segments: tuple[SegmentEvidence, ...]
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
    segments: Sequence[tuple[SegmentInfo, Sequence[Range]]],
    labels: Iterable[bytes],
    part_bytes: int,
    *,
    damaged: Collection[str] = (),
) -> Contents:
    """Write all parts of one kit as blobs.

    Args:
        layout: Where the blobs go.
        segments: Segments of one model and slot in the order of the kit's records, with the numbers of the records
            that the kit holds; then those without records.
        labels: Canonical label rows.
        part_bytes: Compressed size at which a part ends.
        damaged: Names of segments of which is taken what still verifies, and no more is asked.

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
        self._least_ns: int | None = None
        self._greatest_ns: int | None = None

    def build(
        self, segments: Sequence[tuple[SegmentInfo, Sequence[Range]]], labels: Iterable[bytes], damaged: Collection[str]
    ) -> Contents:
        evidence: list[SegmentEvidence] = []
        numbers: list[int] = []
        for info, ranges in segments:
            segment = read_segment(info.path)
            header = parse_segment_header(segment.header)
            opening = parse_opening(segment.evidence)
            whole = info.path.name not in damaged
            evidence.append(
                SegmentEvidence(
                    header=segment.header,
                    log=opening.log,
                    quote=opening.quote,
                    ranges=merged(ranges),
                    unused=merged(unused_of(segment.frames())) if whole and len(info.ranges) > 1 else (),
                )
            )
            numbers.extend(n for bounds in ranges for n in bounds)
            if ranges:
                self._segment(header, salvaged_rows(segment) if info.path.name in damaged else segment.rows())
        rows = iter(labels)
        while some := list(islice(rows, _LABELS_AT_ONCE)):
            self._labels_merkle.add_all(some)
            for parts_of_row in split_labels(some):
                self._labels.write_row(*parts_of_row)
        parts = [*self._records.finish(), *self._labels.finish(), *self._inputs.finish()]
        return Contents(
            parts=tuple(parts),
            segments=tuple(evidence),
            records=self._merkle.size,
            labels=self._labels_merkle.size,
            first=min(numbers, default=None),
            last=max(numbers, default=None),
            recorded_first_ns=self._least_ns,
            recorded_last_ns=self._greatest_ns,
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
        times = list(map(recorded_at_of, rows))
        least, greatest = min(times), max(times)
        self._least_ns = least if self._least_ns is None else min(least, self._least_ns)
        self._greatest_ns = greatest if self._greatest_ns is None else max(greatest, self._greatest_ns)
        self._merkle.add_all(rows)
        self._records.write_block(rows, header)


def save_evidence(layout: Layout, plain: bytes) -> Part:
    """Store the evidence part.

    Raises:
        StoreError: The layout cannot be written.
    """
    return save_part(layout, "evidence", EVIDENCE_NAME, EVIDENCE_PATH, compress(plain))


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Ranges in ascending order, those that touch made one."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return tuple(result)


def salvaged_rows(segment: Segment) -> Iterator[tuple[int, bytes]]:
    """The rows of a damaged segment that still verify."""
    from edgeprov.store.salvage import salvaged_rows as salvage

    return salvage(segment)
