# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Check a kit's parts against the judged segments, and against counts and Merkle root of its manifest.

The layers' digests bind every byte of the parts to the manifest; this check binds what the bytes mean:
a record belongs to a segment that the TPM vouches for, and the root that proofs lead to is the root
of these records.

Spec: FORMAT.md "Data kit", invariants of the parts.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeprov.errors import DigestMismatch, SubjectMismatch
from edgeprov.formats.block import Block, join_blocks
from edgeprov.formats.datakit import DataKit, PartContents, SegmentEvidence
from edgeprov.formats.label import LabelColumns, join_labels
from edgeprov.formats.merkle import MerkleBuilder
from edgeprov.verify.place import RecordPlaces


class ContentCheck:
    """Takes the parts of one kit in order, in constant memory; ``finish`` gives the verdict.

    A part of content may be lost: numbers, times and counts are judged without it, the Merkle root is not.
    """

    def __init__(self, kit: DataKit, segments: Sequence[SegmentEvidence], *, merkle: bool = True) -> None:
        """Begin a kit.

        Args:
            kit: Parsed, with verified manifest digest.
            segments: Of its evidence part, the same that verify_kit judged.
            merkle: Recompute the roots; costs about as much as decoding.
        """
        self._kit = kit
        self._merkle = MerkleBuilder() if merkle else None
        self._labels_merkle = MerkleBuilder() if merkle else None
        self._records = self._labels = 0
        self._places = RecordPlaces(segments)

    def add_records(self, records: PartContents, outputs: PartContents | None) -> tuple[Block, ...]:
        """Check a records part, with the outputs part of the same number where that is at hand.

        Returns:
            The records; nothing where their content is not at hand.

        Raises:
            SubjectMismatch: A segment that the evidence does not hold, other records than it names, or content
                of other records.
        """
        for header in records.headers:
            self._places.verify_header(header.raw)
        for block in records.blocks:
            self._places.take(block.header.raw, block.numbers())
            self._records += block.count
        if outputs is None:
            self._merkle = None
            return ()
        joined = join_blocks(records.blocks, outputs.outputs)
        if self._merkle is not None:
            for whole in joined:
                self._merkle.add_all(whole.rows())
        return joined

    def add_labels(self, labels: PartContents, values: PartContents | None) -> LabelColumns:
        """Check a labels part, with the label-values part of the same number where that is at hand.

        Returns:
            The labels; nothing where their values are not at hand.

        Raises:
            SubjectMismatch: The two parts do not belong together.
        """
        self._labels += len(labels.labels.numbers)
        if values is None:
            self._labels_merkle = None
            return LabelColumns()
        joined = join_labels(labels.labels, values.label_values)
        if self._labels_merkle is not None:
            self._labels_merkle.add_all(joined.rows())
        return joined

    def count_labels(self, count: int) -> None:
        """Count labels whose parts were read apart."""
        self._labels += count

    def finish(self) -> None:
        """After the last part.

        Raises:
            SubjectMismatch: Counts are not those of the manifest, or a record is missing.
            DigestMismatch: A Merkle root is another.
        """
        kit = self._kit
        if (self._records, self._labels) != (kit.records, kit.labels):
            raise SubjectMismatch(
                f"the kit holds {self._records} records and {self._labels} labels, "
                f"its manifest says {kit.records} and {kit.labels}"
            )
        self._places.finish()
        if self._merkle is not None and self._merkle.root() != kit.merkle:
            raise DigestMismatch("the records do not lead to the Merkle root of the manifest")
        if kit.labels and self._labels_merkle is not None and self._labels_merkle.root() != kit.labels_merkle:
            raise DigestMismatch("the labels do not lead to the Merkle root of labels of the manifest")
