# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data kit: a native ModelKit without a model; an annotation names the model that made the data.

The annotations are what a fleet query reads without opening the kit; they stand in the manifest, so
the signature over its digest covers them. Readers refuse a kit that says one thing in two ways.

Spec: FORMAT.md section "Data kit".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from edgeprov._dataclass import dataclass, field_names
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.devicerecord import parse_enrollment
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.evidence_part import (
    EVIDENCE_NAME,
    EVIDENCE_PATH,
    EvidencePart,
    SegmentEvidence,
    encode_evidence,
    parse_evidence,
)
from edgeprov.formats.jsonx import JsonObject, encode_json
from edgeprov.formats.kit_tag import SEQ_MAX, KitTag, kit_tag, parse_kit_tag
from edgeprov.formats.kitfile import kitfile_entries, parse_kitfile
from edgeprov.formats.manifest import Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    A_DEVICE,
    A_ENROLLMENT,
    A_FIRST,
    A_LABELS,
    A_LABELS_MERKLE,
    A_LAST,
    A_MERKLE,
    A_MODEL,
    A_PREV,
    A_RECORDED_FIRST,
    A_RECORDED_LAST,
    A_RECORDS,
    A_SEQ,
    A_SLOT,
    ANNOTATION_CREATED,
    FILEPATH,
    KIT_ARTIFACT,
    KIT_CONFIG,
)
from edgeprov.formats.merkle import EMPTY_ROOT
from edgeprov.formats.modelkit import layer_media_type
from edgeprov.formats.part import (
    CONTENT_OF,
    PartContents,
    PartKind,
    encode_part_header,
    parse_part,
    parse_part_path,
    part_name,
    part_path,
)
from edgeprov.formats.record import INT_MAX
from edgeprov.formats.rfc3339 import check_utc_text, rfc3339_ms_of_ns
from edgeprov.formats.segment import check_slot, device_serial
from edgeprov.formats.tombstone import NO_PREV, Tombstone, build_tombstone, parse_tombstone
from edgeprov.limits import LIMITS

__all__ = [
    "EVIDENCE_NAME", "EVIDENCE_PATH", "DataKit", "EvidencePart", "KitSummary", "KitTag", "Part", "PartContents",
    "PartKind", "SegmentEvidence", "Tombstone", "build_datakit", "build_tombstone", "encode_evidence",
    "encode_part_header", "kit_tag", "parse_datakit", "parse_datakit_annotations", "parse_evidence", "parse_kit_tag",
    "parse_part", "parse_tombstone", "part_name", "part_path",
]  # fmt: skip

PART_LAYER: Final = layer_media_type("dataset")

_UINT = re.compile(r"0|[1-9][0-9]{0,18}")
_KIND_ORDER: Final = ("records", "outputs", "labels", "label-values", "inputs", "evidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One layer of a data kit. Part layers are not compressed, so diffId and digest are the same."""

    kind: PartKind | Literal["evidence"]
    name: str
    path: str
    layer: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class KitSummary:
    """What the annotations of a data kit say. Times are the device's clock, RFC 3339, unproved.

    ``first`` and ``last`` are the least and the greatest record number; these and the times are None in a
    kit without records. ``enrollment`` has 32 bytes.
    """

    model: Digest
    device: str
    enrollment: bytes
    slot: str
    seq: int
    prev: Digest | None
    records: int
    labels: int
    first: int | None
    last: int | None
    recorded_first: str | None
    recorded_last: str | None
    merkle: bytes
    labels_merkle: bytes | None
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKit(KitSummary):
    """A parsed data kit: the summary, the manifest, and the parts in layer order."""

    manifest: Manifest
    parts: tuple[Part, ...]

    def of_kind(self, kind: PartKind | Literal["evidence"]) -> list[Part]:
        """The parts of one kind, in order."""
        return [part for part in self.parts if part.kind == kind]

    def pairs(self, kind: Literal["records", "labels"]) -> list[tuple[Part, Part]]:
        """The parts of evidence of a kind, each with the part that holds its content."""
        return list(zip(self.of_kind(kind), self.of_kind(CONTENT_OF[kind]), strict=True))


def build_datakit(
    *,
    model: Digest,
    device: str,
    enrollment: bytes,
    slot: str,
    seq: int,
    prev: Digest | None,
    records: int,
    labels: int,
    first: int | None,
    last: int | None,
    recorded_first_ns: int | None,
    recorded_last_ns: int | None,
    merkle: bytes,
    labels_merkle: bytes | None,
    parts: Sequence[Part],
    created: str,
    subject: Descriptor | None = None,
) -> tuple[Manifest, bytes]:
    """Write a data kit; returns its manifest and its config blob.

    Args:
        model: Manifest digest of the model kit.
        device: Device URN.
        enrollment: Enrollment id, 32 bytes.
        slot: Slot that the records come from.
        seq: TPM counter value.
        prev: Manifest digest of the device's kit or tombstone before; None for the first.
        records: Number of records.
        labels: Number of labels.
        first: Least record number; None without records.
        last: Greatest record number.
        recorded_first_ns: Least wall clock of a record, nanoseconds.
        recorded_last_ns: Greatest wall clock of a record.
        merkle: Root (32 bytes) over all records in order.
        labels_merkle: Root (32 bytes) over all labels in order; None without labels.
        parts: Layers in order: records, outputs, labels, label-values, inputs, evidence.
        created: RFC 3339 time, device clock.
        subject: Manifest descriptor of the model kit, for registries that hold it in the same repository.

    Raises:
        FormatError: Values that do not fit each other.
        LimitError: More parts or longer annotations than a kit may have.
    """
    annotations = {
        A_MODEL: str(model),
        A_DEVICE: device,
        A_ENROLLMENT: enrollment.hex(),
        A_SLOT: slot,
        A_SEQ: str(seq),
        A_PREV: str(prev) if prev else NO_PREV,
        A_RECORDS: str(records),
        A_MERKLE: "sha256:" + merkle.hex(),
        ANNOTATION_CREATED: created,
    }
    if labels:
        annotations[A_LABELS] = str(labels)
    if labels_merkle is not None:
        annotations[A_LABELS_MERKLE] = "sha256:" + labels_merkle.hex()
    if first is not None and last is not None:
        annotations |= {A_FIRST: str(first), A_LAST: str(last)}
    if recorded_first_ns is not None and recorded_last_ns is not None:
        annotations |= {
            A_RECORDED_FIRST: rfc3339_ms_of_ns(recorded_first_ns),
            A_RECORDED_LAST: rfc3339_ms_of_ns(recorded_last_ns),
        }
    if (size := sum(len(key) + len(value) for key, value in annotations.items())) > LIMITS.kit_annotation_bytes:
        raise LimitError(f"annotations of a data kit have {size} bytes, more than {LIMITS.kit_annotation_bytes}")
    _verify_parts(parse_datakit_annotations(annotations, subject.digest if subject else None), parts)
    config = encode_json(_kitfile(parts, annotations))
    manifest = build_manifest(
        config=describe(config, KIT_CONFIG).with_data(config),
        layers=[part.layer.with_annotations({FILEPATH: part.path}) for part in parts],
        artifact_type=KIT_ARTIFACT,
        subject=subject,
        annotations=annotations,
    )
    return manifest, config


def parse_datakit(manifest: Manifest, config_raw: bytes) -> DataKit:
    """Read a data kit.

    Args:
        manifest: The kit's manifest.
        config_raw: Its config blob; size and digest are checked here.

    Raises:
        DigestMismatch: Not the config that the manifest names.
        FormatError: Not a data kit, or manifest, config and annotations contradict each other.
        LimitError: Too large.
    """
    if manifest.config.media_type != KIT_CONFIG or manifest.artifact_type != KIT_ARTIFACT:
        raise FormatError("the artifact is not a data kit")
    manifest.config.verify(config_raw, "kit config")
    entries = kitfile_entries(parse_kitfile(config_raw))
    if len(entries) != len(manifest.layers) or not entries:
        raise FormatError("data kit: layers and entries of the Kitfile do not fit each other")
    parts = []
    for entry, layer in zip(entries, manifest.layers, strict=True):
        if entry.kind != "dataset" or layer.media_type != PART_LAYER:
            raise FormatError("data kit holds something else than plain data set layers")
        if entry.item.get("digest") != str(layer.digest) or entry.item.get("diffId") != str(layer.digest):
            raise FormatError(f"data kit: entry {entry.name[:80]!r} does not name its layer")
        parts.append(_part(entry.name, entry.path, layer))
    summary = parse_datakit_annotations(manifest.annotations, manifest.subject.digest if manifest.subject else None)
    _verify_parts(summary, parts)
    values = {name: getattr(summary, name) for name in field_names(type(summary))}
    return DataKit(manifest=manifest, parts=tuple(parts), **values)


def parse_datakit_annotations(annotations: Mapping[str, str], subject: Digest | None) -> KitSummary:
    """Read the annotations of a data kit, from its manifest or from an entry of a referrers list.

    Args:
        annotations: The annotations.
        subject: Digest of the manifest's subject, None when it has none.

    Raises:
        FormatError: One is missing or malformed, or they contradict each other.
    """
    model, device = parse_digest(_get(annotations, A_MODEL)), _get(annotations, A_DEVICE)
    if subject not in (None, model):
        raise FormatError("data kit: the subject is not the model that the annotations name")
    device_serial(device)
    records, labels, labels_merkle = _get_uint(annotations, A_RECORDS), 0, None
    if A_LABELS in annotations:
        labels = _get_uint(annotations, A_LABELS)
    if labels:
        labels_merkle = parse_digest(_get(annotations, A_LABELS_MERKLE)).raw
    elif A_LABELS_MERKLE in annotations:
        raise FormatError("data kit without labels has a Merkle root of labels")
    if records > LIMITS.kit_records or labels > LIMITS.kit_records:
        raise LimitError(f"data kit has more than {LIMITS.kit_records} records or labels")
    first = last = None
    recorded_first = recorded_last = None
    merkle = parse_digest(_get(annotations, A_MERKLE)).raw
    if records:
        first, last = _get_uint(annotations, A_FIRST), _get_uint(annotations, A_LAST)
        if last - first + 1 < records:
            raise FormatError(f"data kit: {records} records do not fit the numbers {first} to {last}")
        recorded_first, recorded_last = (
            _get_time(annotations, A_RECORDED_FIRST),
            _get_time(annotations, A_RECORDED_LAST),
        )
    elif merkle != EMPTY_ROOT or any(
        key in annotations for key in (A_FIRST, A_LAST, A_RECORDED_FIRST, A_RECORDED_LAST)
    ):
        raise FormatError("data kit without records has annotations about records")
    prev = _get(annotations, A_PREV)
    return KitSummary(
        model=model,
        device=device,
        enrollment=parse_enrollment(_get(annotations, A_ENROLLMENT), "data kit"),
        slot=check_slot(_get(annotations, A_SLOT)),
        seq=_get_uint(annotations, A_SEQ, SEQ_MAX),
        prev=None if prev == NO_PREV else parse_digest(prev),
        records=records,
        labels=labels,
        first=first,
        last=last,
        recorded_first=recorded_first,
        recorded_last=recorded_last,
        merkle=merkle,
        labels_merkle=labels_merkle,
        created=_get_time(annotations, ANNOTATION_CREATED),
    )


def _kitfile(parts: Sequence[Part], annotations: Mapping[str, str]) -> JsonObject:
    device = device_serial(annotations[A_DEVICE])
    datasets: list[dict[str, Any]] = [
        {"name": part.name, "path": part.path, "digest": str(part.layer.digest), "diffId": str(part.layer.digest)}
        for part in parts
    ]
    if datasets:
        # Shown by `kit info` and kept by `kit unpack`, which both drop annotations.
        datasets[0]["parameters"] = {
            "sourceModel": annotations[A_MODEL],
            "device": annotations[A_DEVICE],
            "slot": annotations[A_SLOT],
            "sequence": int(annotations[A_SEQ]),
            "records": int(annotations[A_RECORDS]),
        }
    return {
        "manifestVersion": "1.0.0",
        "package": {"name": f"{device}-{annotations[A_SLOT]}-data", "version": annotations[A_SEQ]},
        "datasets": datasets,
    }


def _part(name: str, path: str, layer: Descriptor) -> Part:
    # Writers keep to part_max_bytes; only a part of one huge row may be larger.
    if layer.size > LIMITS.part_plain_bytes:
        raise LimitError(f"part {name[:80]!r} has {layer.size} bytes, more than {LIMITS.part_plain_bytes}")
    if (name, path) == (EVIDENCE_NAME, EVIDENCE_PATH):
        return Part(kind="evidence", name=name, path=path, layer=layer)
    known = parse_part_path(path)
    if known is None or name != part_name(*known):
        raise FormatError(f"data kit has the unknown part {name[:40]!r} at {path[:80]!r}")
    return Part(kind=known[0], name=name, path=path, layer=layer)


def _verify_parts(summary: KitSummary, parts: Sequence[Part]) -> None:
    if bool(summary.records) != any(part.kind == "records" for part in parts):
        raise FormatError("data kit: the number of records and the parts contradict each other")
    if bool(summary.labels) != any(part.kind == "labels" for part in parts):
        raise FormatError("data kit: the number of labels and the parts contradict each other")
    if sum(part.kind == "evidence" for part in parts) != 1:
        raise FormatError("data kit: not exactly one evidence part")
    for kind, content in CONTENT_OF.items():
        if sum(part.kind == kind for part in parts) != sum(part.kind == content for part in parts):
            raise FormatError(f"data kit: not every part of kind {kind!r} has its part of kind {content!r}")
    order = [_KIND_ORDER.index(part.kind) for part in parts]
    if order != sorted(order):
        raise FormatError(f"data kit: parts are not in the order {', '.join(_KIND_ORDER)}")
    seen: dict[PartKind, int] = {}
    for part in parts:
        if part.kind == "evidence":
            continue
        seen[part.kind] = number = seen.get(part.kind, 0) + 1
        if part.path != part_path(part.kind, number):
            raise FormatError(f"data kit: {part.name!r} stands where part {number} should")


def _get(annotations: Mapping[str, str], key: str) -> str:
    if (value := annotations.get(key)) is None:
        raise FormatError(f"data kit has no annotation {key!r}")
    return value


def _get_uint(annotations: Mapping[str, str], key: str, maximum: int = INT_MAX) -> int:
    value = _get(annotations, key)
    if not _UINT.fullmatch(value) or int(value) > maximum:
        raise FormatError(f"data kit: annotation {key!r} is not a number: {value[:40]!r}")
    return int(value)


def _get_time(annotations: Mapping[str, str], key: str) -> str:
    return check_utc_text(_get(annotations, key), f"data kit: annotation {key!r}")
