# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of a model's signatures from wherever they are: a damaged one never hides a good one.

Each manifest and each blob is read on its own. An error of one is kept and the next one is read, so
that the order of signatures does not matter. Nothing is judged here: see model_trust.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

from edgeprov._dataclass import dataclass
from edgeprov.errors import (
    DigestMismatch,
    EdgeprovError,
    FormatError,
    LimitError,
    RegistryNotFound,
    RegistryProtocolError,
    StoreError,
)
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.signature_manifest import classic_tag, may_hold_signature, signature_layers, signature_tag
from edgeprov.limits import LIMITS
from edgeprov.verify.signature import SignatureArtifact

if TYPE_CHECKING:
    from edgeprov.formats.manifest import Manifest
    from edgeprov.registry.base import Registry

DAMAGE: Final = (DigestMismatch, FormatError, StoreError, RegistryNotFound, RegistryProtocolError)
"""One manifest or blob cannot be used: other bytes, no bytes, a bad sector. A dead link is none of these."""


class SignatureSource(Protocol):
    """Reader of manifests and blobs of one repository, verified by digest; a Layout is one."""

    def load_manifest(self, digest: Digest) -> Manifest:
        """Read a manifest."""

    def load_blob(self, descriptor: Descriptor, *, max_bytes: int) -> bytes:
        """Read a whole blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSignatures:
    """Signatures of one artifact, and the errors of those that could not be read."""

    artifacts: tuple[SignatureArtifact, ...] = ()
    damaged: tuple[EdgeprovError, ...] = ()


def read_signatures(
    entries: Iterable[Descriptor], source: SignatureSource, damaged: Iterable[EdgeprovError] = ()
) -> FoundSignatures:
    """Read signature manifests and their signature blobs; manifests without a signature are passed over.

    Args:
        entries: Candidates: referrers of the model, and the manifest under cosign's ``.sig`` tag. Only the
            first ``LIMITS.signatures_per_artifact`` that can be signatures are read.
        source: Where they are.
        damaged: Errors that were met while the candidates were listed.
    """
    candidates = {entry.digest: entry for entry in entries if may_hold_signature(entry)}
    artifacts: list[SignatureArtifact] = []
    errors = list(damaged)
    for digest in list(candidates)[: LIMITS.signatures_per_artifact]:
        try:
            manifest = source.load_manifest(digest)
        except DAMAGE as error:
            errors.append(error)
            continue
        for layer in signature_layers(manifest)[: LIMITS.signatures_per_artifact]:
            try:
                blob = layer.data or source.load_blob(layer, max_bytes=LIMITS.signature_blob_bytes)
            except DAMAGE as error:
                errors.append(error)
                continue
            artifacts.append(SignatureArtifact(manifest=manifest, blob=blob))
    return FoundSignatures(artifacts=tuple(artifacts), damaged=tuple(errors))


class RegistrySource:
    """The SignatureSource of a repository in a registry."""

    def __init__(self, registry: Registry, repo: str) -> None:
        """Name the repository; nothing is read yet."""
        self._registry = registry
        self._repo = repo

    def load_manifest(self, digest: Digest) -> Manifest:
        """Read a manifest. Errors as in Registry.fetch_manifest."""
        return self._registry.fetch_manifest(self._repo, digest)

    def load_blob(self, descriptor: Descriptor, *, max_bytes: int) -> bytes:
        """Read a whole blob.

        Raises:
            LimitError: Longer than ``max_bytes``.
            DigestMismatch: Other bytes than the descriptor names.
            RegistryNotFound: Not there.
            RegistryError: The registry or the link failed.
        """
        if descriptor.size > max_bytes:
            raise LimitError(f"blob {descriptor.digest} has {descriptor.size} bytes, more than {max_bytes}")
        return b"".join(self._registry.fetch_blob(self._repo, descriptor))


def fetch_named_signatures(registry: Registry, repo: str, tag: str) -> FoundSignatures:
    """Read the signature that stands under the first signature tag of a model; empty where nothing does.

    Raises:
        RegistryError: The registry or the link failed; worth another try.
    """
    found = registry.head_manifest(repo, signature_tag(tag, 1))
    return read_signatures([found] if found else [], RegistrySource(registry, repo))


def fetch_signatures(registry: Registry, repo: str, model: Digest) -> FoundSignatures:
    """Read the signatures of a model from its repository: its referrers, and cosign's classic tag.

    Raises:
        RegistryError: The registry or the link failed; worth another try.
    """
    entries = list(registry.list_referrers(repo, model))
    classic = registry.head_manifest(repo, classic_tag(model))
    if classic is not None:
        entries.append(classic)
    return read_signatures(entries, RegistrySource(registry, repo))
