# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A proof: one record of one kit, and all that is needed to believe in it, in one file without other records.

It holds the Merkle path instead of the kit's records, and the manifests, signatures and evidence as
they were published. Reading a proof proves nothing: verify.proof judges it.

Spec: FORMAT.md "Proof".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.jsonx import (
    JsonObject,
    encode_json,
    get_int,
    get_list,
    get_object,
    get_str,
    parse_json_object,
)
from edgeprov.limits import LIMITS

PROOF: Final = "application/vnd.edgeprov.proof.v1+json"
_PATH_LENGTH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSignature:
    """A signature as it was published: manifest and blob."""

    manifest: bytes = field(repr=False)
    blob: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofArtifact:
    """An artifact's manifest and its signatures; ``layer`` only for the device record."""

    manifest: bytes = field(repr=False)
    signatures: tuple[ProofSignature, ...]
    layer: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The content of a proof file.

    Attributes:
        record: Canonical bytes of the record.
        index: Its place among the kit's records, from 0.
        path: Merkle path, 32 bytes each, from the leaf up.
        kit: The data kit.
        evidence: The kit's evidence part, not compressed.
        evidence_layer: The layer that holds it, as published; binds ``evidence`` to the manifest.
        device: The device record.
        model: The model kit.
    """

    record: bytes
    index: int
    path: tuple[bytes, ...]
    kit: ProofArtifact
    evidence: bytes = field(repr=False)
    evidence_layer: bytes = field(repr=False)
    device: ProofArtifact
    model: ProofArtifact


def encode_proof(proof: Proof) -> bytes:
    """The file."""
    return encode_json(
        {
            "v": 1,
            "mediaType": PROOF,
            "record": b64(proof.record),
            "index": proof.index,
            "path": [b64(item) for item in proof.path],
            "kit": _encode_artifact(proof.kit),
            "evidence": b64(proof.evidence),
            "evidenceLayer": b64(proof.evidence_layer),
            "device": _encode_artifact(proof.device),
            "model": _encode_artifact(proof.model),
        }
    )


def parse_proof(raw: bytes) -> Proof:
    """Read a file.

    Raises:
        LimitError: Too long.
        FormatError: Not a proof of this version, or a member is malformed.
    """
    what = "proof"
    obj = parse_json_object(raw, what, max_bytes=LIMITS.proof_bytes)
    if get_str(obj, "mediaType", what) != PROOF or get_int(obj, "v", what) != 1:
        raise FormatError("not a proof of version 1")
    path = tuple(_b64(item) for item in get_list(obj, "path", what, maximum=_PATH_LENGTH))
    if any(len(item) != 32 for item in path):
        raise FormatError("proof: an item of the path has not 32 bytes")
    return Proof(
        record=get_b64(obj, "record", what),
        index=get_int(obj, "index", what),
        path=path,
        kit=_parse_artifact(get_object(obj, "kit", what)),
        evidence=get_b64(obj, "evidence", what),
        evidence_layer=get_b64(obj, "evidenceLayer", what),
        device=_parse_artifact(get_object(obj, "device", what)),
        model=_parse_artifact(get_object(obj, "model", what)),
    )


def _encode_artifact(artifact: ProofArtifact) -> JsonObject:
    result: JsonObject = {
        "manifest": b64(artifact.manifest),
        "signatures": [{"manifest": b64(item.manifest), "blob": b64(item.blob)} for item in artifact.signatures],
    }
    if artifact.layer is not None:
        result["layer"] = b64(artifact.layer)
    return result


def _parse_artifact(obj: JsonObject) -> ProofArtifact:
    what = "proof"
    layer = obj.get("layer")
    if "signatures" not in obj:
        raise FormatError("proof: an artifact has no member 'signatures'")
    return ProofArtifact(
        manifest=get_b64(obj, "manifest", what),
        signatures=_signatures(get_list(obj, "signatures", what, maximum=LIMITS.signatures_per_artifact)),
        layer=None if layer is None else _b64(layer),
    )


def _signatures(items: Sequence[object]) -> tuple[ProofSignature, ...]:
    result = []
    for item in items:
        if not isinstance(item, dict):
            raise FormatError("proof: a signature is not an object")
        result.append(ProofSignature(manifest=get_b64(item, "manifest", "proof"), blob=get_b64(item, "blob", "proof")))
    return tuple(result)


def _b64(item: object) -> bytes:
    if not isinstance(item, str):
        raise FormatError("proof: a member is not base64 text")
    return parse_b64(item, "proof")
