# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Facts of a manifest for the index: its kind, and the columns of a kit's or tombstone's row.

Nothing of it is proved: `verify` judges.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from edgeprov.errors import FormatError
from edgeprov.fleet.index.query_terms import parse_moment
from edgeprov.formats.b64 import b64
from edgeprov.formats.datakit import parse_datakit_annotations, parse_kit_tag
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.devicerecord import DeviceRecord, parse_enrollment
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.head import Head, certified_counter, head_tag, parse_head_tag
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import (
    A_COLLECTION,
    A_DEVICE,
    A_ENROLLMENT,
    A_MODEL,
    A_PREV,
    A_SEQ,
    A_SLOT,
    ANNOTATION_CREATED,
    DEVICE_RECORD,
    HEAD,
    KIT_ARTIFACT,
    KIT_CONFIG,
    TOMBSTONE,
)
from edgeprov.formats.modelkit import ModelKit
from edgeprov.formats.names import is_number
from edgeprov.formats.segment import check_slot, device_serial
from edgeprov.verify.signature import SignatureArtifact


def artifact_kind(manifest: Manifest) -> str:
    """``kit``, ``tombstone``, ``head``, ``device``, ``model``, or ``other``."""
    if manifest.artifact_type == TOMBSTONE:
        return "tombstone"
    if manifest.artifact_type == HEAD:
        return "head"
    if manifest.artifact_type == DEVICE_RECORD:
        return "device"
    if manifest.config.media_type == KIT_CONFIG or manifest.artifact_type == KIT_ARTIFACT:
        return "kit" if A_DEVICE in manifest.annotations or A_SEQ in manifest.annotations else "model"
    return "other"


def kit_columns(manifest: Manifest) -> dict[str, Any]:
    """The row of a data kit, as far as its manifest tells.

    Raises:
        FormatError: An annotation is missing or malformed.
    """
    summary = parse_datakit_annotations(manifest.annotations, manifest.subject.digest if manifest.subject else None)
    return {
        "model": str(summary.model),
        "device": summary.device,
        "enrollment": summary.enrollment.hex(),
        "slot": summary.slot,
        "seq": summary.seq,
        "prev": str(summary.prev) if summary.prev else None,
        "records": summary.records,
        "labels": summary.labels,
        "first": summary.first,
        "last": summary.last,
        "recorded_first": _moment(summary.recorded_first),
        "recorded_last": _moment(summary.recorded_last),
        "created": _moment(summary.created),
    }


def tombstone_columns(manifest: Manifest) -> dict[str, Any]:
    """As kit_columns, of a tombstone."""
    annotations = manifest.annotations
    try:
        device, prev = annotations[A_DEVICE], annotations[A_PREV]
        device_serial(device)
        return {
            "model": str(parse_digest(annotations[A_MODEL])),
            "device": device,
            "enrollment": parse_enrollment(annotations[A_ENROLLMENT], "tombstone").hex(),
            "slot": check_slot(annotations[A_SLOT]),
            "seq": _number(annotations[A_SEQ]),
            "prev": None if prev == "none" else str(parse_digest(prev)),
            "records": 0,
            "labels": 0,
            "created": _moment(annotations[ANNOTATION_CREATED]),
        }
    except (KeyError, ValueError) as error:
        raise FormatError(f"tombstone: annotation {error} is missing or malformed") from error


def _number(text: str) -> int:
    if not is_number(text) or text != str(int(text)):
        raise FormatError(f"tombstone: annotation {A_SEQ!r} is not a number: {text[:40]!r}")
    return int(text)


def _moment(text: str | None) -> str | None:
    return None if text is None else parse_moment(text)


def is_bound(repo: str, tag: str) -> bool:
    """Tell if a tag ends in the start of its digest: of a kit, tombstone, head, or one of several device records."""
    return bool(parse_kit_tag(tag) or parse_head_tag(tag) or ("." in tag and repo.endswith("devices")))


def device_columns(
    manifest: Manifest, record: DeviceRecord, layer: bytes, signatures: Iterable[SignatureArtifact]
) -> dict[str, Any]:
    """Columns of a device record."""
    return {
        "digest": str(manifest.digest),
        "device": record.device,
        "enrollment": record.enrollment.hex(),
        "replaces": None if record.replaces is None else record.replaces.hex(),
        "enrolled_at": record.enrolled_at,
        "assurance": record.assurance,
        "ak": record.ak.name.hex(),
        "counter_base": record.counter_base,
        "manifest": manifest.raw,
        "layer": layer,
        "signatures": encode_signatures(signatures),
    }


def head_columns(manifest: Manifest, head: Head, layer: bytes) -> dict[str, Any]:
    """Columns of a head."""
    return {
        "digest": str(manifest.digest),
        "device": head.device,
        "enrollment": head.enrollment.hex(),
        "counter": certified_counter(head),
        "created": head.at,
        "layer": layer,
    }


def model_columns(manifest: Manifest, kit: ModelKit) -> dict[str, Any]:
    """Columns of a model."""
    return {
        "digest": str(manifest.digest),
        "name": kit.name,
        "version": kit.version,
        "security_version": kit.security_version,
        "trained_on": manifest.annotations.get(A_COLLECTION),
        "created": manifest.annotations.get(ANNOTATION_CREATED),
    }


def tag_fault(tag: str, digest: Digest, values: dict[str, Any]) -> str:
    """Why a tag is not the one of this artifact; empty when it is."""
    parsed = parse_kit_tag(tag)
    if parsed is None:
        return "" if tag else "no tag"
    named = (parsed.device, parsed.seq, parsed.prefix)
    if named != (device_serial(values["device"]), values["seq"], digest.hex[:16]):
        return f"the tag was moved or forged: it names {parsed.device} number {parsed.seq}, the artifact is {digest}"
    return ""


def head_tag_fault(tag: str, digest: Digest, head: Head) -> str:
    """Why a tag is not the one of this head; empty when it is."""
    if tag == head_tag(device_serial(head.device), certified_counter(head), digest):
        return ""
    return f"the tag was moved or forged: the artifact is the head {digest} of {head.device}"


def encode_signatures(signatures: Iterable[SignatureArtifact]) -> bytes:
    """Signatures of a device record for the index."""
    return json.dumps([[b64(item.manifest.raw), b64(item.blob)] for item in signatures]).encode()


def split_ref(ref: str) -> tuple[str, str]:
    """Repository, and tag or digest, of a reference name in a layout folder."""
    head, at, digest = ref.partition("@")
    if at:
        return head, digest
    repo, colon, tag = ref.rpartition(":")
    return (repo, tag) if colon else ("", ref)


def is_referrer(entry: Descriptor) -> bool:
    """Whether an entry with a subject hangs on it; a kit or tombstone only names its model."""
    return entry.artifact_type not in (KIT_ARTIFACT, TOMBSTONE)
