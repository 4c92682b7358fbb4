# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One result with its whole chain of proof, from the registries into one file; and the check of such a file.

Nothing but the record itself, its Merkle path and the published manifests, signatures and evidence goes
into the file: no other record, no label, no input.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgeprov.errors import EdgeprovError, NotStored, UsageError, VerificationError
from edgeprov.fleet.index.database import Index, json_of_text
from edgeprov.fleet.index.query import Artifact, Query
from edgeprov.fleet.index.verdicts import known_tags, model_signature_tags
from edgeprov.fleet.registries.kits import load_content, load_contents, open_kit, part_of_layer
from edgeprov.fleet.registries.sources import ArtifactReader
from edgeprov.formats.block import join_blocks
from edgeprov.formats.datakit import EVIDENCE_PATH, DataKit
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX
from edgeprov.formats.merkle import inclusion_path
from edgeprov.formats.names import SERIAL
from edgeprov.formats.proof import Proof, ProofArtifact, ProofSignature
from edgeprov.formats.record import parse_record
from edgeprov.limits import LIMITS
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.proof_check import verify_proof

_RECORD = re.compile(rf"(?P<device>{SERIAL})/(?:(?P<slot>[a-z0-9-]{{1,32}})/)?(?P<n>[0-9]{{1,18}})")
_LAYER_SLACK = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordName:
    """A record: device serial, slot and number."""

    device: str
    slot: str
    n: int


def parse_record_name(text: str) -> RecordName:
    """Read ``SERIAL/SLOT/N``, or ``SERIAL/N`` for the slot ``default``.

    Raises:
        UsageError: Another form.
    """
    found = _RECORD.fullmatch(text.removeprefix(DEVICE_URN_PREFIX))
    if found is None:
        raise UsageError(
            f"{text[:80]!r} names no record", advice="Write SERIAL/SLOT/NUMBER, as in unit-0001/default/42."
        )
    return RecordName(device=found["device"], slot=found["slot"] or "default", n=int(found["n"]))


def make_proof(index: Index, name: RecordName, policy: TrustPolicy, at: dt.datetime) -> Proof:
    """Gather a proof from the registries that the index knows, and verify it before it is handed out.

    Args:
        index: After a sync.
        name: The record.
        policy: Whom and what to trust: a proof that we would refuse ourselves is not made.
        at: Time at which certificates are judged.

    Raises:
        NotStored: No kit with this record, or no device record or model for it, is known.
        VerificationError: The record is there, but its proof fails.
        RegistryError: A registry cannot be read.
    """
    first: EdgeprovError | None = None
    for artifact in _candidates(index, name):
        reader = ArtifactReader(index.sources()[artifact.source])
        proof = _gather(index, reader, artifact, name)
        if proof is None:
            continue
        for device in _device_records(index, artifact.device):
            candidate = replace(proof, device=device)
            try:
                verify_proof(candidate, policy, at, unpack_evidence)
            except VerificationError as error:
                first = first or error  # the newest device record's reason is the one to tell
                continue
            return candidate
    if first is not None:
        raise first
    raise NotStored(
        f"no kit with record {name.n} of {name.device}, slot {name.slot}, is known",
        advice="Sync the registries; a record that was discarded or never uploaded cannot be proved.",
    )


def unpack_evidence(layer: bytes) -> bytes:
    """The plain evidence part in a kit's evidence layer. Errors as in load_part."""
    return part_of_layer(layer, EVIDENCE_PATH)


def _candidates(index: Index, name: RecordName) -> Iterator[Artifact]:
    query = Query(device=(DEVICE_URN_PREFIX + name.device,), slot=name.slot, kind="kit")
    for artifact in index.iterate(query):
        if artifact.first is not None and artifact.last is not None and artifact.first <= name.n <= artifact.last:
            yield artifact


def _gather(index: Index, reader: ArtifactReader, artifact: Artifact, name: RecordName) -> Proof | None:
    manifest = reader.manifest(artifact.repo, parse_digest(artifact.digest))
    kit = open_kit(reader, artifact.repo, manifest)
    rows = list(_rows(reader, artifact.repo, kit))
    place = next((number for number, row in enumerate(rows) if parse_record(row).n == name.n), None)
    if place is None:
        return None
    evidence = next((part for part in kit.parts if part.kind == "evidence"), None)
    if evidence is None:
        raise NotStored(f"kit {artifact.digest} holds no evidence")
    layer = reader.blob(artifact.repo, evidence.layer, max_bytes=LIMITS.part_max_bytes + _LAYER_SLACK)
    tags = known_tags(index, [artifact.digest]).get(artifact.digest, ())
    return Proof(
        record=rows[place],
        index=place,
        path=tuple(inclusion_path(rows, place)),
        kit=_artifact(reader, artifact.repo, manifest.raw, artifact.digest, tags),
        evidence=unpack_evidence(layer),
        evidence_layer=layer,
        device=ProofArtifact(manifest=b"", signatures=()),
        model=_model(index, artifact.model),
    )


def _rows(reader: ArtifactReader, repo: str, kit: DataKit) -> Iterator[bytes]:
    for records, outputs in kit.pairs("records"):
        evidence, content = load_contents(reader, repo, records), load_content(reader, repo, outputs)
        for block in join_blocks(evidence.blocks, content.outputs):
            yield from block.rows()


def _model(index: Index, digest: str) -> ProofArtifact:
    rows = index.rows("SELECT source, repo FROM models WHERE digest = ?", (digest,))
    if not rows:
        raise NotStored(
            f"the model {digest} is in no registry that was synced", advice="Sync the registry that holds the models."
        )
    reader = ArtifactReader(index.sources()[rows[0]["source"]])
    manifest = reader.manifest(rows[0]["repo"], parse_digest(digest))
    return _artifact(reader, rows[0]["repo"], manifest.raw, digest, model_signature_tags(index, digest))


def _artifact(reader: ArtifactReader, repo: str, manifest: bytes, digest: str, tags: Sequence[str]) -> ProofArtifact:
    signatures = reader.signatures(repo, parse_digest(digest), tags=tags)
    return ProofArtifact(
        manifest=manifest,
        signatures=tuple(ProofSignature(manifest=item.manifest.raw, blob=item.blob) for item in signatures),
    )


def _device_records(index: Index, device: str) -> Iterator[ProofArtifact]:
    rows = index.rows(
        "SELECT manifest, layer, signatures FROM devices WHERE device = ? ORDER BY enrolled_at DESC, digest", (device,)
    )
    if not rows:
        raise NotStored(
            f"{device} has no device record in any registry that was synced",
            advice="Sync the registry in which the device was enrolled.",
        )
    for row in rows:
        signatures = tuple(
            ProofSignature(manifest=base64.b64decode(manifest), blob=base64.b64decode(blob))
            for manifest, blob in json_of_text(row["signatures"])
        )
        yield ProofArtifact(manifest=row["manifest"], layer=row["layer"], signatures=signatures)
