# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""OCI image manifests and indexes. The raw bytes are kept: digests are over what was received.

Spec: OCI image-spec 1.1, manifest.md and image-index.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.descriptor import (
    Descriptor,
    describe,
    encode_descriptor,
    parse_annotations,
    parse_descriptor,
)
from edgeprov.formats.digest import Digest, digest_of, verify_digest
from edgeprov.formats.jsonx import encode_json, get_list, parse_json_object
from edgeprov.formats.mediatypes import EMPTY_BLOB, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from edgeprov.limits import LIMITS

EMPTY_CONFIG = describe(EMPTY_BLOB, OCI_EMPTY).with_data(EMPTY_BLOB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A parsed image manifest beside the exact bytes that it was parsed from."""

    raw: bytes = field(repr=False)
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """How another manifest or an index names this one (no annotations)."""
        return Descriptor(
            media_type=OCI_MANIFEST, digest=self.digest, size=len(self.raw), artifact_type=self.artifact_type
        )

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All blobs that the manifest needs: layers in order, then the config."""
        return (*self.layers, self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIndex:
    """A parsed image index."""

    raw: bytes = field(repr=False)
    digest: Digest
    manifests: tuple[Descriptor, ...]
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


def parse_manifest(raw: bytes, *, expected: Digest | None = None) -> Manifest:
    """Check size, then digest, then read.

    Args:
        raw: The bytes as received.
        expected: The digest asked for; nothing is parsed before it fits. None only for bytes that
            were found by tag, whose digest the caller then pins.

    Raises:
        LimitError: Over 4 MiB, or too many layers.
        DigestMismatch: Not the manifest that was asked for.
        FormatError: Not an image manifest.
    """
    obj = _parse_checked(raw, expected, "manifest")
    media_type = obj.get("mediaType", OCI_MANIFEST)  # kit leaves it out
    if media_type != OCI_MANIFEST:
        raise FormatError(f"media type {str(media_type)[:80]!r} is not an OCI image manifest")
    if "manifests" in obj:
        raise FormatError("a manifest with both the members of an image manifest and of an index")
    return Manifest(
        raw=raw,
        digest=expected or digest_of(raw),  # _parse_checked compared it
        config=parse_descriptor(obj.get("config"), "manifest config", inline=True),
        layers=tuple(
            parse_descriptor(item, f"layer {number}", inline=True)
            for number, item in enumerate(get_list(obj, "layers", "manifest", maximum=LIMITS.manifest_layers), 1)
        ),
        artifact_type=_artifact_type(obj),
        subject=_subject(obj),
        annotations=parse_annotations(obj.get("annotations"), "manifest"),
    )


def parse_index(raw: bytes, *, expected: Digest | None = None, max_bytes: int = LIMITS.manifest_bytes) -> ImageIndex:
    """As parse_manifest, for an image index.

    Raises:
        LimitError: Too large.
        DigestMismatch: Not the index that was asked for.
        FormatError: Not an image index.
    """
    obj = _parse_checked(raw, expected, "index", max_bytes)
    media_type = obj.get("mediaType", OCI_INDEX)
    if media_type != OCI_INDEX:
        raise FormatError(f"media type {str(media_type)[:80]!r} is not an OCI image index")
    if "layers" in obj or "config" in obj:
        raise FormatError("an index with members of an image manifest")
    return ImageIndex(
        raw=raw,
        digest=expected or digest_of(raw),  # _parse_checked compared it
        manifests=tuple(
            parse_descriptor(item, f"index entry {number}")
            for number, item in enumerate(get_list(obj, "manifests", "index", maximum=LIMITS.list_entries), 1)
        ),
        artifact_type=_artifact_type(obj),
        subject=_subject(obj),
        annotations=parse_annotations(obj.get("annotations"), "index"),
    )


def build_manifest(
    *,
    config: Descriptor,
    layers: Sequence[Descriptor],
    artifact_type: str | None = None,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Write a manifest in our canonical form and return it parsed.

    Raises:
        LimitError: It would be over 4 MiB.
    """
    obj: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": encode_descriptor(config),
        "layers": [encode_descriptor(layer) for layer in layers],
    }
    if artifact_type:
        obj["artifactType"] = artifact_type
    if subject:
        obj["subject"] = encode_descriptor(_bare(subject))
    if annotations:
        obj["annotations"] = dict(annotations)
    return parse_manifest(encode_json(obj))


def encode_index(manifests: Sequence[Descriptor]) -> bytes:
    """The bytes of an image index."""
    return encode_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [encode_descriptor(item) for item in manifests],
        }
    )


def _bare(descriptor: Descriptor) -> Descriptor:
    # A subject names content only; kit and oras write no annotations or artifactType there.
    return Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)


def _parse_checked(
    raw: bytes, expected: Digest | None, what: str, max_bytes: int = LIMITS.manifest_bytes
) -> dict[str, Any]:
    if len(raw) > max_bytes:
        raise LimitError(f"{what} has {len(raw)} bytes, more than {max_bytes}")
    if expected is not None:
        verify_digest(raw, expected, what)
    obj = parse_json_object(raw, what, max_bytes=max_bytes)
    if obj.get("schemaVersion") != 2:
        raise FormatError(f"{what}: schemaVersion is not 2")
    return obj


def _artifact_type(obj: Mapping[str, Any]) -> str | None:
    value = obj.get("artifactType")
    if value is not None and not isinstance(value, str):
        raise FormatError("manifest: 'artifactType' is not a string")
    return value or None


def _subject(obj: Mapping[str, Any]) -> Descriptor | None:
    value = obj.get("subject")
    return None if value is None else parse_descriptor(value, "subject")
