# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""All that is needed to judge one kit or tombstone, gathered from its parsed artifacts.

Spec: FORMAT.md "Verification".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgeprov._dataclass import dataclass, field
from edgeprov.formats.datakit import DataKit, Tombstone
from edgeprov.formats.digest import Digest
from edgeprov.formats.evidence_part import EvidencePart, SegmentEvidence
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.standing import Standing
from edgeprov.formats.tombstone import NumberEntry
from edgeprov.verify.signature import SignatureArtifact

Kind = Literal["kit", "tombstone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KitEvidence:
    """One kit or tombstone with its signatures; build it with evidence_of_kit or evidence_of_tombstone.

    ``numbers`` are the earlier counter values that a tombstone names.
    """

    kind: Kind
    manifest: Manifest = field(repr=False)
    model: Digest
    device: str
    enrollment: bytes
    slot: str
    seq: int
    prev: Digest | None
    records: int = 0
    first: int | None = None
    last: int | None = None
    signatures: tuple[SignatureArtifact, ...] = field(repr=False)
    segments: tuple[SegmentEvidence, ...] = field(default=(), repr=False)
    standing: Standing = field(repr=False)
    numbers: tuple[NumberEntry, ...] = ()

    @property
    def digest(self) -> Digest:
        """The manifest digest: d."""
        return self.manifest.digest


def evidence_of_kit(kit: DataKit, signatures: Sequence[SignatureArtifact], part: EvidencePart) -> KitEvidence:
    """What to judge of a data kit.

    Args:
        kit: Parsed from manifest and config, both checked by digest.
        signatures: All referrers that are signatures.
        part: The kit's evidence part, checked by digest.
    """
    return KitEvidence(
        kind="kit",
        manifest=kit.manifest,
        model=kit.model,
        device=kit.device,
        enrollment=kit.enrollment,
        slot=kit.slot,
        seq=kit.seq,
        prev=kit.prev,
        records=kit.records,
        first=kit.first,
        last=kit.last,
        signatures=tuple(signatures),
        segments=part.segments,
        standing=part.standing,
    )


def evidence_of_tombstone(tombstone: Tombstone, signatures: Sequence[SignatureArtifact]) -> KitEvidence:
    """What to judge of a tombstone, whose layer was checked by digest."""
    return KitEvidence(
        kind="tombstone",
        manifest=tombstone.manifest,
        model=tombstone.model,
        device=tombstone.device,
        enrollment=tombstone.enrollment,
        slot=tombstone.slot,
        seq=tombstone.seq,
        prev=tombstone.prev,
        signatures=tuple(signatures),
        standing=tombstone.standing,
        numbers=tombstone.numbers,
    )
