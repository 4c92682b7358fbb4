# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Manifests that hold signatures: how they are found beside an artifact, and which of their layers count.

Spec: FORMAT.md "Signatures" and "Registry layout".
cosign 2 stores them under a tag, cosign 3 and notation as referrers.
"""

from __future__ import annotations

import re
from typing import Final

from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import COSIGN_SIMPLE_SIGNING, JOSE, NOTATION_SIGNATURE, OCI_MANIFEST, SIGSTORE_BUNDLE
from edgeprov.limits import LIMITS

SIGNATURE_LAYERS: Final = frozenset((SIGSTORE_BUNDLE, JOSE, COSIGN_SIMPLE_SIGNING))
MAX_SIGNATURE_TAGS: Final = 62
"""Highest number of a signature tag: a set of numbers fits an integer of SQLite."""

FIRST_ADDED: Final = 3
"""Number of the first signature that somebody else adds: 1 is the writer's bundle, 2 its notation signature."""

_SIGNATURE_TAG: Final = re.compile(r"(.+)\.s([1-9][0-9]?)")


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


def signature_tag(tag: str, number: int) -> str:
    """The tag of a signature of the artifact that has this tag; numbers count from 1."""
    return f"{tag}.s{number}"


def parse_signature_tag(tag: str) -> tuple[str, int] | None:
    """Take a signature tag apart: tag of the artifact, number; None for another tag."""
    match = _SIGNATURE_TAG.fullmatch(tag)
    return (match[1], int(match[2])) if match and int(match[2]) <= MAX_SIGNATURE_TAGS else None


def signature_tags(tag: str, numbers: int) -> tuple[str, ...]:
    """The tags of a set of numbers, in which bit n stands for number n."""
    return tuple(signature_tag(tag, number) for number in range(1, MAX_SIGNATURE_TAGS + 1) if numbers >> number & 1)
