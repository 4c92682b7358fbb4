# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Signatures of a model in a layout folder of this device: of the state, or of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov.device.signature_reading import DAMAGE, FoundSignatures, SignatureSource, read_signatures
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.formats.signature_manifest import classic_tag
from edgeprov.limits import LIMITS

if TYPE_CHECKING:
    from edgeprov.errors import EdgeprovError
    from edgeprov.store.layout import Layout


def load_model_signatures(layout: Layout, model: Digest) -> FoundSignatures:
    """Read the stored signatures of a model; what is damaged is told in the result and hides no other.

    Raises:
        StoreError: The layout's index cannot be read.
        FormatError: The layout's index is malformed.
    """
    damaged: list[EdgeprovError] = []
    entries = list(layout.referrers(model, damaged=damaged))
    entries += [entry for ref, entry in layout.refs().items() if ref.endswith(classic_tag(model))]
    return read_signatures(entries, layout, damaged)


def save_model_signatures(layout: Layout, model: Digest, found: FoundSignatures, source: SignatureSource) -> None:
    """Store the signatures of a model that could be read, each with all its blobs.

    Where a blob of a signature manifest is lost, only the layers that could be read are stored, under a
    manifest of their own: a layout names no manifest that is not whole.

    Args:
        layout: Where to.
        model: What they sign.
        found: What was read from the source.
        source: Gives the other blobs: configs, and layers that are no signatures.

    Raises:
        StoreFull: No space.
        StoreError: The layout cannot be written.
    """
    known = {EMPTY_CONFIG.digest: EMPTY_BLOB} | {digest_of(item.blob): item.blob for item in found.artifacts}
    for manifest in {item.manifest.digest: item.manifest for item in found.artifacts}.values():
        stored = manifest if _complete(manifest, known, source) else _readable_part(manifest, known)
        for blob in stored.blobs:
            layout.save_blob(known[blob.digest], blob.media_type)
        layout.save_manifest(stored, ref=classic_tag(model) if stored.subject is None else None)


def _complete(manifest: Manifest, known: dict[Digest, bytes], source: SignatureSource) -> bool:
    """Read what is not known yet of a manifest's blobs; False when one cannot be had."""
    for blob in manifest.blobs:
        if blob.digest not in known:
            try:
                known[blob.digest] = source.load_blob(blob, max_bytes=LIMITS.signature_blob_bytes)
            except DAMAGE:
                return False
    return True


def _readable_part(manifest: Manifest, known: dict[Digest, bytes]) -> Manifest:
    return build_manifest(
        config=manifest.config if manifest.config.digest in known else EMPTY_CONFIG,
        layers=[layer for layer in manifest.layers if layer.digest in known],
        artifact_type=manifest.artifact_type,
        subject=manifest.subject,
        annotations=manifest.annotations,
    )
