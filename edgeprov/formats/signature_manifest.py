# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Manifests that hold signatures: how they are found beside an artifact, and which of their layers count.

Spec: FORMAT.md "Signatures"; cosign 2 stores them under a tag, cosign 3 and notation as referrers.
"""

from __future__ import annotations

from typing import Final

from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import COSIGN_SIMPLE_SIGNING, JOSE, NOTATION_SIGNATURE, OCI_MANIFEST, SIGSTORE_BUNDLE
from edgeprov.limits import LIMITS

SIGNATURE_LAYERS: Final = frozenset((SIGSTORE_BUNDLE, JOSE, COSIGN_SIMPLE_SIGNING))


def may_hold_signature(entry: Descriptor) -> bool:
    """Tell by its descriptor whether a referrer can be a signature; data kits refer to their model, too.

    Lists of referrers need not name the artifactType of a notation signature, so none is "maybe".
    """
    if entry.media_type != OCI_MANIFEST or entry.size > LIMITS.signature_blob_bytes:
        return False
    return entry.artifact_type in (None, SIGSTORE_BUNDLE, NOTATION_SIGNATURE)


def signature_layers(manifest: Manifest) -> tuple[Descriptor, ...]:
    """Layers of a manifest that may hold a signature, each digest once; too large ones are left out."""
    found = {
        layer.digest: layer
        for layer in manifest.layers
        if layer.media_type in SIGNATURE_LAYERS and layer.size <= LIMITS.signature_blob_bytes
    }
    return tuple(found.values())


def classic_tag(artifact: Digest) -> str:
    """The tag under which cosign 2 stores the signatures of a manifest."""
    return f"sha256-{artifact.hex}.sig"
