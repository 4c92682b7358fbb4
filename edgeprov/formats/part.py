# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of a data kit, decompressed: records and their outputs, labels and their values, inputs.

A part is self-contained: it repeats the headers of the segments that its records come from. It is a
msgpack stream: one head, then column blocks (records, outputs) or rows (labels, label-values, inputs).
Numbers and times stand in other parts than what records and labels say, so that each can be read without
the other.

Spec: FORMAT.md section "Part".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.columns import EvidenceBlock, read_evidence_blocks
from edgeprov.formats.content_block import ContentBlock, read_content_blocks
from edgeprov.formats.label import LabelNumbers, LabelValues, read_label_numbers, read_label_values
from edgeprov.formats.packing import Buffer, Cursor, pack
from edgeprov.formats.record import CapturedInput, read_input
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.limits import LIMITS

PartKind = Literal["records", "outputs", "labels", "label-values", "inputs"]
PART_KINDS: Final[tuple[PartKind, ...]] = ("records", "outputs", "labels", "label-values", "inputs")
CONTENT_OF: Final[Mapping[PartKind, PartKind]] = {"records": "outputs", "labels": "label-values"}
"""Kinds of evidence, and the kind of the part of the same number that holds its content."""

_MAGIC: Final = "edgeprov.part"
_VERSION: Final = 1
_PATH = re.compile(r"(records|outputs|labels|label-values|inputs)/([0-9]{6})\.msgpack\.zst")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartContents:
    """A decoded part: what its kind does not hold is empty. Blocks and inputs are views of its bytes."""

    kind: PartKind
    headers: tuple[SegmentHeader, ...]
    blocks: tuple[EvidenceBlock, ...] = ()
    outputs: tuple[ContentBlock, ...] = ()
    labels: LabelNumbers = field(default_factory=LabelNumbers)
    label_values: LabelValues = field(default_factory=LabelValues)
    inputs: tuple[CapturedInput, ...] = ()


def part_name(kind: PartKind, number: int) -> str:
    """The name of the dataset entry of part ``number`` (from 1)."""
    return f"{kind}-{number:06d}"


def part_path(kind: PartKind, number: int) -> str:
    """The path of part ``number`` (from 1) inside its layer."""
    return f"{kind}/{number:06d}.msgpack.zst"


def parse_part_path(path: str) -> tuple[PartKind, int] | None:
    """Kind and number of a part's path, None when it is none."""
    match = _PATH.fullmatch(path)
    return next(((kind, int(match[2])) for kind in PART_KINDS if kind == match[1]), None) if match else None


def encode_part_header(kind: PartKind, headers: Sequence[bytes]) -> bytes:
    """The head of a part. Behind it follow blocks (encode_block), label rows or inputs, as they are.

    Args:
        kind: What follows.
        headers: Segment headers (their exact bytes) in the order in which blocks name them.
    """
    return pack([_MAGIC, _VERSION, kind, list(headers)])


def parse_part(plain: Buffer) -> PartContents:
    """Read a decompressed part as a whole.

    Raises:
        LimitError: Longer than a part may be, or one of its values is.
        FormatError: Not a part, or anything in it is malformed or out of order.
    """
    if len(plain) > LIMITS.part_plain_bytes:
        raise LimitError(f"part has {len(plain)} bytes, more than {LIMITS.part_plain_bytes}")
    cursor = Cursor(plain, "part")
    if cursor.array(4) != 4 or cursor.text() != _MAGIC:
        raise FormatError("not a part of a data kit")
    if (version := cursor.uint()) != _VERSION:
        raise FormatError(f"part has version {version}, this reader knows {_VERSION}")
    name = cursor.text()
    kind = next((known for known in PART_KINDS if known == name), None)
    if kind is None:
        raise FormatError(f"part has the unknown kind {name[:40]!r}")
    count = cursor.array(LIMITS.kit_segments)
    headers = tuple(parse_segment_header(cursor.binary(LIMITS.segment_header_bytes)) for _ in range(count))
    blocks: list[EvidenceBlock] = []
    outputs: list[ContentBlock] = []
    labels, label_values = LabelNumbers(), LabelValues()
    inputs: list[CapturedInput] = []
    while not cursor.at_end:
        if kind == "records":
            blocks.extend(read_evidence_blocks(cursor, headers))
        elif kind == "outputs":
            outputs.extend(read_content_blocks(cursor, headers))
        elif kind == "labels":
            labels = read_label_numbers(cursor)
        elif kind == "label-values":
            label_values = read_label_values(cursor)
        else:
            inputs.append(read_input(cursor))
    _verify_order(blocks)
    if any((block.segment, block.first) <= (before.segment, before.first) for before, block in pairwise(outputs)):
        raise FormatError("part: blocks are not in the order of segments and of record numbers")
    return PartContents(
        kind=kind,
        headers=headers,
        blocks=tuple(blocks),
        outputs=tuple(outputs),
        labels=labels,
        label_values=label_values,
        inputs=tuple(inputs),
    )


def _verify_order(blocks: Sequence[EvidenceBlock]) -> None:
    # Segments of one slot may interleave in their numbers, so numbers rise inside a segment only.
    segment, last = -1, -1
    for block in blocks:
        if block.segment < segment or (block.segment == segment and block.first <= last):
            raise FormatError("part: blocks are not in the order of segments and of record numbers")
        segment, last = block.segment, block.last
