# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Values of the data-kit formats for tests: a header, rows, parts and a whole kit, all deterministic."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprov.errors import FormatError
from edgeprov.formats import merkle
from edgeprov.formats.block import Block, encode_block, join_blocks
from edgeprov.formats.columns import read_evidence_blocks
from edgeprov.formats.content_block import read_content_blocks
from edgeprov.formats.datakit import (
    EVIDENCE_NAME,
    EVIDENCE_PATH,
    PART_LAYER,
    Part,
    PartContents,
    PartKind,
    SegmentEvidence,
    build_datakit,
    encode_evidence,
    encode_part_header,
    part_name,
    part_path,
)
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.label import Label, LabelColumns, encode_label, join_labels, split_labels
from edgeprov.formats.manifest import Manifest, parse_manifest
from edgeprov.formats.mediatypes import OCI_MANIFEST
from edgeprov.formats.packing import Cursor
from edgeprov.formats.record import encode_record
from edgeprov.formats.segment import RuntimeInfo, SegmentHeader, Tensor, build_segment_header, device_urn
from edgeprov.formats.standing import Standing
from edgeprov.formats.tarball import END, tar_header, tar_padding, tar_prefix, tar_suffix
from edgeprov.formats.tpmt import Attestation

KITS = Path(__file__).parents[1] / "data" / "kits"
MODEL = describe(b'{"schemaVersion":2}', OCI_MANIFEST)
ENROLLMENT = bytes(range(64, 96))
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


def golden_kit(name: str) -> tuple[Manifest, bytes, dict[Digest, bytes]]:
    """Manifest, config and blobs of a kit that the real kit packed."""
    folder = KITS / name
    digest = json.loads((folder / "index.json").read_bytes())["manifests"][0]["digest"].removeprefix("sha256:")
    blobs = {Digest(path.name): path.read_bytes() for path in (folder / "blobs" / "sha256").iterdir()}
    manifest = parse_manifest(blobs[Digest(digest)], expected=Digest(digest))
    return manifest, blobs[manifest.config.digest], blobs


def segment_header(**changes: Any) -> SegmentHeader:
    values: dict[str, Any] = {
        "model": MODEL.digest,
        "slot": "default",
        "device": device_urn("dev042"),
        "boot_id": "5c0bde9e-3a0f-4f3b-9f21-2f4f7e1f7a10",
        "enrollment": ENROLLMENT,
        "number": 40,
        "prev": None,
        "opened_at_ns": START_NS,
        "opened_mono_ns": 12_000_000_000,
        "reset_count": 7,
        "restart_count": 0,
        "tpm_clock_ms": 12_345,
        "inputs": [Tensor(name="x", shape=(1, 30), dtype="int8", scale=(0.05,), zero_point=(-3,))],
        "outputs": [Tensor(name="y", shape=(1, 3), dtype="int8", scale=(0.00390625,), zero_point=(-128,))],
        "runtime": RuntimeInfo(name="tflite-runtime", version="2.14.0", threads=1, delegate=""),
        "params": {},
        "input_key": bytes(range(32)),
    }
    return build_segment_header(**(values | changes))


def record_rows(count: int, *, first: int = 1, seed: int = 1, digests: bool = True) -> list[bytes]:
    rng = random.Random(seed)
    return [
        encode_record(
            first + i,
            START_NS + i * 1_000_000_007 + rng.randrange(1000),
            13_000_000_000 + i * 1_000_000_000 + rng.randrange(1000),
            15_000 + rng.randrange(500),
            (rng.randbytes(3),),
            rng.randbytes(32) if digests else None,
        )
        for i in range(count)
    ]


@dataclass(frozen=True)
class WholeKit:
    manifest: Manifest
    config: bytes
    layers: tuple[bytes, ...]
    plain: tuple[bytes, ...]
    rows: list[bytes]


def decode_block(data: tuple[bytes, bytes], headers: Sequence[SegmentHeader]) -> Block:
    """The records of an evidence block and its content block, one of each."""
    evidence = list(read_evidence_blocks(Cursor(data[0], "column block"), headers))
    content = list(read_content_blocks(Cursor(data[1], "column block"), headers))
    if len(evidence) != 1 or len(content) != 1:
        raise FormatError(f"{len(evidence)} and {len(content)} column blocks, not one each")
    return join_blocks(evidence, content)[0]


def encode_record_parts(
    rows: Sequence[bytes], header: SegmentHeader, headers: Sequence[bytes] = ()
) -> dict[PartKind, bytes]:
    """The plain records part and outputs part of rows of one segment; ``headers`` of the part, if it has more."""
    headers = headers or [header.raw]
    index = list(headers).index(header.raw)
    blocks = [encode_block(rows[start : start + 1024], index, header) for start in range(0, len(rows), 1024)]
    return {
        "records": encode_part_header("records", headers) + b"".join(evidence for evidence, _ in blocks),
        "outputs": encode_part_header("outputs", headers) + b"".join(content for _, content in blocks),
    }


def encode_label_parts(labels: Iterable[Label]) -> dict[PartKind, bytes]:
    """The plain labels part and label-values part of some labels."""
    rows = split_labels([encode_label(label) for label in labels])
    return {
        "labels": encode_part_header("labels", []) + b"".join(number for number, _ in rows),
        "label-values": encode_part_header("label-values", []) + b"".join(value for _, value in rows),
    }


def labels_root(labels: Iterable[Label]) -> bytes | None:
    """Root of the tree of labels; None without any."""
    rows = [encode_label(label) for label in labels]
    return merkle.root(rows) if rows else None


def blocks_of(parts: Sequence[PartContents]) -> list[Block]:
    """The records in the parts of a kit."""
    of = {kind: [part for part in parts if part.kind == kind] for kind in ("records", "outputs")}
    pairs = zip(of["records"], of["outputs"], strict=True)
    return [block for one, other in pairs for block in join_blocks(one.blocks, other.outputs)]


def labels_of(parts: Sequence[PartContents]) -> list[LabelColumns]:
    """The labels in the parts of a kit."""
    of = {kind: [part for part in parts if part.kind == kind] for kind in ("labels", "label-values")}
    pairs = zip(of["labels"], of["label-values"], strict=True)
    return [join_labels(one.labels, other.label_values) for one, other in pairs]


def encode_tar(
    files: Mapping[str, bytes], *, folders: Iterable[str] = (), modes: Mapping[str, int] | None = None
) -> bytes:
    """A layer in the order of kit's lexical walk; parent folders are added.

    Args:
        files: Content by path.
        folders: Folders that hold no file.
        modes: Permission bits by path, where they are not the usual ones.
    """
    bodies: dict[tuple[str, ...], bytes | None] = {tuple(path.split("/")): None for path in folders}
    for path, content in files.items():
        parts = tuple(path.split("/"))
        bodies |= {parts[:depth]: None for depth in range(1, len(parts))} | {parts: content}
    layer = bytearray()
    for parts, body in sorted(bodies.items(), key=lambda item: item[0]):
        path = "/".join(parts)
        layer += tar_header(path, len(body or b""), directory=body is None, mode=(modes or {}).get(path))
        layer += (body or b"") + tar_padding(len(body or b""))
    return bytes(layer) + END


def part_layer(path: str, data: bytes) -> bytes:
    return tar_prefix(path, len(data)) + data + tar_suffix(len(data))


def data_kit(records: int = 1500, labels: int = 2, model: Descriptor = MODEL) -> WholeKit:
    """A data kit whose parts are not compressed (compression is the store's business)."""
    header = segment_header(model=model.digest)
    rows = record_rows(records)
    plain, parts, layers = [], [], []

    def add(kind: Any, name: str, path: str, data: bytes) -> None:
        layer = part_layer(path, data)
        plain.append(data)
        layers.append(layer)
        parts.append(Part(kind=kind, name=name, path=path, layer=describe(layer, PART_LAYER)))

    made = [encode_record_parts(rows[start : start + 1024], header) for start in range(0, records, 1024)]
    for kind in ("records", "outputs"):
        for number, pair in enumerate(made, 1):
            add(kind, part_name(kind, number), part_path(kind, number), pair[kind])
    values = [Label(n=n + 1, value=bool(n % 2), source="biopsy", labelled_at_ns=START_NS) for n in range(labels)]
    for kind, data in encode_label_parts(values).items() if values else ():
        add(kind, part_name(kind, 1), part_path(kind, 1), data)
    quote = Attestation(attest=b"a", signature=b"s", pcrs=((14, bytes(32)),))
    ranges = ((1, records),) if records else ()
    evidence = SegmentEvidence(header=header.raw, quote=quote, log=b"", ranges=ranges)
    standing = Standing(at_ns=START_NS, newest=header.sha256)
    add("evidence", EVIDENCE_NAME, EVIDENCE_PATH, encode_evidence([evidence], standing))
    manifest, config = build_datakit(
        model=model.digest,
        device=header.device,
        enrollment=ENROLLMENT,
        slot="default",
        seq=41,
        prev=digest_of(b"previous"),
        records=records,
        labels=labels,
        first=1 if records else None,
        last=records or None,
        recorded_first_ns=START_NS if records else None,
        recorded_last_ns=START_NS + records * 10**9 if records else None,
        merkle=merkle.root(rows),
        labels_merkle=labels_root(values),
        parts=parts,
        created="2026-01-15T10:00:00.000Z",
    )
    return WholeKit(manifest, config, tuple(layers), tuple(plain), rows)
