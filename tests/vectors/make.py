# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What the generator of the vectors builds with: a deterministic world, and proofs that can be edited."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

from edgeprov._dataclass import replace
from edgeprov.formats.datakit import EVIDENCE_PATH, encode_evidence
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.merkle import inclusion_path
from edgeprov.formats.proof import Proof, ProofArtifact, ProofSignature, encode_proof
from edgeprov.verify.signature import SignatureArtifact
from tests.support.world import Sealed, Unit, World

Document = dict[str, Any]
Edit = Callable[[Document], object]


def stored(plain: bytes) -> bytes:
    """A zstd frame of stored blocks: the same bytes whatever library is installed (RFC 8878, 3.1.1)."""
    assert len(plain) < 1 << 17
    blocks = (len(plain) << 3 | 1).to_bytes(3, "little") + plain
    return b"\x28\xb5\x2f\xfd\xa0" + len(plain).to_bytes(4, "little") + blocks


def make_world() -> World:
    return World(pack=stored)


def artifact(manifest: bytes, signatures: list[SignatureArtifact], layer: bytes | None = None) -> ProofArtifact:
    return ProofArtifact(
        manifest=manifest,
        signatures=tuple(ProofSignature(manifest=item.manifest.raw, blob=item.blob) for item in signatures),
        layer=layer,
    )


def document(
    unit: Unit,
    sealed: Sealed,
    index: int = 0,
    *,
    model: Manifest | None = None,
    model_signatures: list[SignatureArtifact] | None = None,
) -> Document:
    """A proof as JSON, for editing."""
    world = unit.world
    layer = next(item for item in sealed.kit.parts if item.path == EVIDENCE_PATH).layer
    model = model or world.model
    proof = Proof(
        record=sealed.rows[index],
        index=index,
        path=tuple(inclusion_path(sealed.rows, index)),
        kit=artifact(sealed.manifest.raw, sealed.signatures),
        evidence=plain_evidence(sealed),
        evidence_layer=sealed.blobs[layer.digest],
        device=artifact(unit.record_manifest.raw, unit.record_signatures, unit.record_blob),
        model=artifact(model.raw, [world.sign_model(model)] if model_signatures is None else model_signatures),
    )
    return json.loads(encode_proof(proof))


def plain_evidence(sealed: Sealed, **changes: object) -> bytes:
    """The evidence part of a kit, with other segments, standing or events."""
    part = replace(sealed.part, **changes)
    return encode_evidence(part.segments, part.standing, part.events)


def edited(original: Document, edit: Edit) -> Document:
    result = copy.deepcopy(original)
    edit(result)
    return result


def flip(text: str, position: int = -4) -> str:
    """base64 with one bit changed."""
    raw = bytearray(base64.b64decode(text))
    raw[position] ^= 1
    return base64.b64encode(raw).decode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
