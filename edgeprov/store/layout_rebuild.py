# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A layout's index.json made again from its blobs, where the file was lost or damaged.

The index only says which manifests are whole, by which name, and what they are about: all of that stands in
the manifests. A manifest that had been taken out and not collected yet is back again; for kits that means one
more upload of what the registry has, for models a few bytes until they are removed again.
"""

from __future__ import annotations

from pathlib import Path

from edgeprov.errors import FormatError, StoreError
from edgeprov.formats.datakit import kit_tag
from edgeprov.formats.digest import digest_of, parse_digest
from edgeprov.formats.jsonx import get_object, get_str, parse_json_object
from edgeprov.formats.manifest import Manifest, parse_manifest
from edgeprov.formats.mediatypes import A_DEVICE, A_SEQ, COSIGN_SIMPLE_SIGNING
from edgeprov.formats.segment import device_serial
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, translated
from edgeprov.store.layout_index import LayoutIndex, index_entry


def rebuild_index(blobs: Path) -> LayoutIndex:
    """Name every manifest whose blobs are all here.

    Args:
        blobs: Folder of the blobs, each named by its SHA-256.

    Raises:
        StoreError: The folder cannot be read.
    """
    with translated(blobs):
        sizes = {path.name: status for path in blobs.iterdir() if len(path.name) == 64 and (status := path.stat())}
    index = LayoutIndex()
    for name in sorted(sizes, key=lambda name: (sizes[name].st_mtime_ns, name)):
        manifest = _manifest(blobs / name)
        if manifest is None or any(
            blob.digest.hex not in sizes or sizes[blob.digest.hex].st_size != blob.size for blob in manifest.blobs
        ):
            continue
        subject = manifest.subject.digest if manifest.subject else None
        notes = dict(manifest.annotations)
        index.add(index_entry(manifest.descriptor, ref=_ref(blobs, manifest), subject=subject, annotations=notes))
    return index


def _manifest(path: Path) -> Manifest | None:
    try:
        raw = load_bytes(path, max_bytes=LIMITS.manifest_bytes, what="blob")
        if raw[:1] != b"{" or digest_of(raw).hex != path.name:
            return None
        return parse_manifest(raw)
    except (FormatError, StoreError):
        return None  # a layer, a config, or rotten: whoever needs it says so


def _ref(blobs: Path, manifest: Manifest) -> str | None:
    """The name under which device and installer keep it: kits by their tag, cosign's old signatures by theirs."""
    notes = manifest.annotations
    try:
        if A_SEQ in notes and A_DEVICE in notes:
            return kit_tag(device_serial(notes[A_DEVICE]), int(notes[A_SEQ]), manifest.digest)
        layer = next((layer for layer in manifest.layers if layer.media_type == COSIGN_SIMPLE_SIGNING), None)
        if layer is None:
            return None
        raw = load_bytes(blobs / layer.digest.hex, max_bytes=LIMITS.signature_blob_bytes, what="signature")
        image = get_object(get_object(parse_json_object(raw, "payload"), "critical", "payload"), "image", "payload")
        return f"sha256-{parse_digest(get_str(image, 'docker-manifest-digest', 'payload')).hex}.sig"
    except (FormatError, StoreError, ValueError):
        return None
