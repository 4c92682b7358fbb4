# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Removal of blobs that nothing in a layout folder needs any more."""

from __future__ import annotations

from pathlib import Path

from edgeprov.errors import DigestMismatch, FormatError, NotStored
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.manifest import parse_index, parse_manifest
from edgeprov.formats.mediatypes import OCI_INDEX, OCI_MANIFEST
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, remove, sync_dir, translated


def remove_unreached(blobs: Path, roots: list[Digest]) -> int:
    """Remove every blob that none of the roots reaches; the caller holds the layout's locks.

    Args:
        blobs: Folder of the blobs, each named by its SHA-256.
        roots: Manifests, indexes or blobs to keep with all that they name.

    Returns:
        Bytes freed.

    Raises:
        DigestMismatch: A manifest that must stay is damaged: nothing was removed.
        StoreError: The folder cannot be read or changed.
    """
    kept = _reached(blobs, roots)
    with translated(blobs):
        paths = sorted(blobs.iterdir())
    freed = 0
    for path in paths:
        if path.name in kept or len(path.name) != 64:
            continue
        with translated(path):
            size = path.stat().st_size
        remove(path)
        freed += size
    if freed:
        sync_dir(blobs)
    return freed


def _reached(blobs: Path, roots: list[Digest]) -> set[str]:
    kept: set[str] = set()
    while roots:
        digest = roots.pop()
        if digest.hex in kept:
            continue
        kept.add(digest.hex)
        for blob in _named_by(blobs / digest.hex, digest):
            if blob.media_type in (OCI_MANIFEST, OCI_INDEX):
                roots.append(blob.digest)
            else:
                kept.add(blob.digest.hex)
    return kept


def _named_by(path: Path, digest: Digest) -> tuple[Descriptor, ...]:
    with translated(path):
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return ()
    if size > LIMITS.manifest_bytes:
        return ()
    try:
        raw = load_bytes(path, max_bytes=LIMITS.manifest_bytes, what=f"manifest {digest}")
    except NotStored:
        return ()
    if digest_of(raw) != digest:
        raise DigestMismatch(f"{digest} is damaged; nothing was removed")
    if raw.lstrip()[:1] != b"{":
        return ()
    try:
        return parse_manifest(raw).blobs
    except FormatError:
        pass
    try:
        return parse_index(raw).manifests
    except FormatError:
        return ()  # a pinned blob that is not a manifest
