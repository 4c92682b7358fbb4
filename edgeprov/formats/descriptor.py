# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""OCI content descriptors: type, digest and size of some bytes.

Spec: OCI image-spec, descriptor.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeprov._dataclass import dataclass, field, replace
from edgeprov.errors import DigestMismatch, FormatError, LimitError
from edgeprov.formats.b64 import b64, parse_b64
from edgeprov.formats.digest import Digest, digest_of, parse_digest, verify_digest
from edgeprov.formats.jsonx import get_int, get_str
from edgeprov.limits import LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a manifest says of one blob. ``size`` is in bytes; ``data`` is the blob itself, where it stands here too."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None
    data: bytes | None = field(default=None, repr=False)

    def with_data(self, data: bytes) -> Descriptor:
        """The same content with its bytes in the descriptor, unless they are more than the bound.

        Raises:
            DigestMismatch: ``data`` is not what this descriptor names.
        """
        self.verify(data, "blob in a descriptor")
        return replace(self, data=data) if self.size <= LIMITS.inline_bytes else self

    def with_annotations(self, annotations: Mapping[str, str]) -> Descriptor:
        """The same content with other annotations."""
        return replace(self, annotations=dict(annotations))

    def verify(self, data: bytes, what: str) -> None:
        """Compare size, then digest.

        Raises:
            DigestMismatch: ``data`` is not what this descriptor names.
        """
        if len(data) != self.size:
            raise DigestMismatch(f"{what} has {len(data)} bytes, expected {self.size}")
        verify_digest(data, self.digest, what)


def describe(data: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """The descriptor of bytes in memory."""
    return Descriptor(
        media_type=media_type, digest=digest_of(data), size=len(data), annotations=dict(annotations or {})
    )


def parse_descriptor(value: object, what: str, *, inline: bool = False) -> Descriptor:
    """Read a decoded JSON descriptor. Unknown members are ignored: the raw manifest keeps them.

    Args:
        value: The decoded JSON.
        what: Name for errors.
        inline: Read ``data`` too, and hold it to size and digest. Without it ``data`` is ignored.

    Raises:
        FormatError: A member is missing or of a wrong type, or ``data`` is not the blob.
    """
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a descriptor object")
    artifact_type = value.get("artifactType")
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise FormatError(f"{what}: 'artifactType' is not a string")
    descriptor = Descriptor(
        media_type=get_str(value, "mediaType", what),
        digest=parse_digest(get_str(value, "digest", what)),
        size=get_int(value, "size", what),
        annotations=parse_annotations(value.get("annotations"), what),
        artifact_type=artifact_type,
    )
    return _with_inline(descriptor, value["data"], what) if inline and "data" in value else descriptor


def _with_inline(descriptor: Descriptor, text: object, what: str) -> Descriptor:
    if descriptor.size > LIMITS.inline_bytes:
        return descriptor  # of another tool; the blob is taken
    if not isinstance(text, str) or len(text) > 2 * LIMITS.inline_bytes:
        raise FormatError(f"{what}: 'data' is not the blob that the descriptor names")
    try:
        return descriptor.with_data(parse_b64(text, f"{what}: 'data'"))
    except DigestMismatch as error:
        raise FormatError(f"{what}: 'data' is not the blob that the descriptor names") from error


def encode_descriptor(descriptor: Descriptor) -> dict[str, Any]:
    """The JSON form; empty members are left out."""
    result: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.annotations:
        result["annotations"] = dict(descriptor.annotations)
    if descriptor.artifact_type:
        result["artifactType"] = descriptor.artifact_type
    if descriptor.data is not None:
        result["data"] = b64(descriptor.data)
    return result


def parse_annotations(value: object, what: str) -> dict[str, str]:
    """Read an annotation map; absent reads as empty.

    Raises:
        FormatError: Not a map of strings.
        LimitError: Together longer than the bound.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{what}: annotations are not an object")
    if not value:
        return {}
    if set(map(type, value.values())) != {str}:
        odd = next(key for key, text in value.items() if not isinstance(text, str))
        raise FormatError(f"{what}: annotation {odd[:80]!r} is not a string")
    total = sum(map(len, value)) + sum(map(len, value.values()))
    if total > LIMITS.annotation_bytes:
        raise LimitError(f"{what}: annotations have {total} bytes, more than {LIMITS.annotation_bytes}")
    return dict(value)
