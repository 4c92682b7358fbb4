# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Record rows to an evidence block and a content block, and the two blocks back to the exact rows.

The rows are the leaves of the kit's Merkle tree.

Spec: FORMAT.md section "Column blocks".
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, LimitError, SubjectMismatch
from edgeprov.formats.columns import EvidenceBlock, encode_evidence_block
from edgeprov.formats.content_block import ContentBlock, encode_content_block
from edgeprov.formats.packing import pack, pack_plain, unpack_rows
from edgeprov.formats.record import RECORD_ITEMS, Record
from edgeprov.formats.segment import SegmentHeader
from edgeprov.limits import LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Records of one segment: the evidence, and the content that belongs to it."""

    evidence: EvidenceBlock
    content: ContentBlock

    @property
    def header(self) -> SegmentHeader:
        """Header of the segment."""
        return self.evidence.header

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.evidence.count

    @property
    def first(self) -> int:
        """Number of the first record."""
        return self.evidence.first

    @property
    def last(self) -> int:
        """Number of the last record."""
        return self.evidence.last

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(map(len, self.evidence.columns.values())) + sum(map(len, self.content.columns.values()))

    def numbers(self) -> array[int]:
        """Record numbers, int64[count]."""
        return self.evidence.numbers()

    def rows(self) -> list[bytes]:
        """The canonical bytes of each record, as they were recorded."""
        evidence, content = self.evidence, self.content
        shapes = content.shapes()
        rows = zip(
            evidence.numbers(),
            evidence.recorded_at_ns(),
            evidence.mono_ns(),
            evidence.durations_ns(),
            evidence.flags(),
            content.outputs(),
            repeat(None) if shapes is None else shapes,
            content.input_digests(),
            repeat(None),
            strict=False,
        )
        result = list(map(pack_plain, rows))
        for row, params in content.params:
            record = self.record(row)
            result[row] = pack([
                record.n, record.recorded_at_ns, record.mono_ns, record.duration_ns, record.flags,
                record.outputs, record.shapes, record.input_digest, params,
            ])  # fmt: skip
        return result

    def record(self, row: int) -> Record:
        """One record by its row in the block."""
        if not 0 <= row < self.count:
            raise FormatError(f"block has {self.count} rows, none with number {row}")
        evidence, content = self.evidence, self.content
        shapes = content.shapes()
        return Record(
            n=evidence.numbers()[row],
            recorded_at_ns=evidence.recorded_at_ns()[row],
            mono_ns=evidence.mono_ns()[row],
            duration_ns=evidence.durations_ns()[row],
            flags=evidence.flags()[row],
            outputs=content.outputs()[row],
            shapes=None if shapes is None else shapes[row],
            input_digest=content.input_digests()[row],
            params=dict(content.params).get(row),
        )


def encode_block(rows: Sequence[bytes], header_index: int, header: SegmentHeader) -> tuple[bytes, bytes]:
    """The evidence block and the content block of some consecutive records of one segment.

    Args:
        rows: Canonical record rows (encode_record), at most 1,024.
        header_index: Index of the segment's header in both parts.
        header: That header: its outputs say which shapes are fixed.

    Raises:
        LimitError: More rows than a block may have.
        FormatError: A row is not a record row of this segment.
    """
    if not 0 < len(rows) <= LIMITS.block_rows:
        raise LimitError(f"a block holds 1 to {LIMITS.block_rows} rows, not {len(rows)}")
    decoded = unpack_rows(rows, width=RECORD_ITEMS, what="record row")
    try:
        return _encode(decoded, header_index, header)
    except (TypeError, OverflowError, IndexError, AttributeError) as error:
        raise FormatError(f"record row does not fit the segment: {error}") from error


def join_blocks(evidence: Sequence[EvidenceBlock], content: Sequence[ContentBlock]) -> tuple[Block, ...]:
    """The records of a records part and of the outputs part of the same number.

    Raises:
        SubjectMismatch: The two do not belong together.
    """
    if len(evidence) != len(content):
        raise SubjectMismatch(f"a records part has {len(evidence)} blocks, its outputs part {len(content)}")
    result = []
    for one, other in zip(evidence, content, strict=True):
        mine = (one.segment, one.count, one.first, one.header.raw)
        if mine != (other.segment, other.count, other.first, other.header.raw):
            raise SubjectMismatch(
                f"the block of records {one.first} to {one.last} stands beside the content of other records"
            )
        result.append(Block(evidence=one, content=other))
    return tuple(result)


def _encode(decoded: Sequence[tuple[Any, ...]], header_index: int, header: SegmentHeader) -> tuple[bytes, bytes]:
    *times, flags, outputs, shapes, digests, params = zip(*decoded, strict=True)
    return (
        encode_evidence_block(header_index, times, flags),
        encode_content_block(header_index, header, times[0][0], outputs, shapes, digests, params),
    )
