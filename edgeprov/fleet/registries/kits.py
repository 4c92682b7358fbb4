# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of data kits: the manifest with its config, parts out of their archives."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from edgeprov.errors import FormatError, NotStored, RegistryNotFound
from edgeprov.fleet.registries.sources import ArtifactReader, Source
from edgeprov.formats.datakit import (
    DataKit,
    EvidencePart,
    Part,
    PartContents,
    parse_datakit,
    parse_evidence,
    parse_part,
)
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.tarball import iter_tar
from edgeprov.limits import LIMITS
from edgeprov.store.compress import decompress


def open_kit(reader: ArtifactReader, repo: str, manifest: Manifest) -> DataKit:
    """A data kit with its config, verified by digest."""
    return parse_datakit(manifest, reader.blob(repo, manifest.config, max_bytes=LIMITS.config_bytes))


def load_evidence(reader: ArtifactReader, repo: str, kit: DataKit) -> EvidencePart:
    """The evidence part of a kit, verified by digest."""
    (part,) = kit.of_kind("evidence")
    return parse_evidence(load_part(reader, repo, part))


def load_part(reader: ArtifactReader, repo: str, part: Part) -> bytes:
    """A part of a kit: verified by digest, taken out of its archive, decompressed.

    Raises:
        DigestMismatch: Not the layer that the manifest names.
        FormatError: Not an archive with exactly this part.
        LimitError: Larger than a part may be.
    """
    return part_of_layer(reader.blob(repo, part.layer, max_bytes=LIMITS.part_max_bytes + 64 * 1024), part.path)


def load_contents(reader: ArtifactReader, repo: str, part: Part) -> PartContents:
    """A part of a kit, read.

    Raises:
        FormatError: Malformed, or of another kind than its path says; further errors as in load_part.
    """
    contents = parse_part(load_part(reader, repo, part))
    if contents.kind != part.kind:
        raise FormatError(f"the part at {part.path!r} says that it holds {contents.kind}")
    return contents


def load_content(reader: ArtifactReader, repo: str, part: Part) -> PartContents:
    """As load_contents, of a part that holds content.

    Raises:
        RegistryNotFound, NotStored: The part is gone: the message says "content not available" and names it.
    """
    try:
        return load_contents(reader, repo, part)
    except LOST as error:
        raise type(error)(
            f"content not available: part {part.name}: {error.message}",
            advice="Bring the part back from a mirror, a stick or the device's outbox.",
        ) from error


LOST: Final = (RegistryNotFound, NotStored)
"""Errors that say that a blob is gone where it was kept: nothing about who made it."""


def part_of_layer(layer: bytes, path: str) -> bytes:
    """The plain bytes of the one file in a layer. Errors as in load_part."""
    return decompress(_member(layer, path), LIMITS.part_plain_bytes)


def _member(layer: bytes, path: str) -> memoryview:
    view, position = memoryview(layer), 0

    def read(size: int) -> bytes:
        nonlocal position
        piece = bytes(view[position : position + size])
        position += len(piece)
        return piece

    found: memoryview | None = None
    for member, content in iter_tar(read):
        if member.is_dir:
            continue
        if member.path != path or found is not None:
            raise FormatError(f"layer holds {member.path[:80]!r}, not only {path!r}")
        found = view[member.offset : member.offset + member.size]
        for _ in content:
            pass
    if found is None:
        raise FormatError(f"layer does not hold {path!r}")
    return found


@lru_cache(maxsize=16)
def open_reader(source: Source) -> ArtifactReader:
    """Open a source for reading, once per process."""
    return ArtifactReader(source)
