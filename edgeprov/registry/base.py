# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a registry can do, in descriptors and digests; every back end passes tests/contract/registry.

Back ends: ``registry.oras_backend.OrasRegistry`` for a network host, and by shape (no import)
``store.layout_registry.LayoutRegistry`` for a folder.

Spec: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from edgeprov._dataclass import dataclass
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import ImageIndex, Manifest


@dataclass(frozen=True, slots=True)
class NextBlob:
    """The blob that comes after the one that is pushed.

    Attributes:
        descriptor: What it is.
        open: Gives its bytes; called in another thread, and perhaps never.
    """

    descriptor: Descriptor
    open: Callable[[], contextlib.AbstractContextManager[BinaryIO]]


class Registry(Protocol):
    """A set of repositories that hold blobs and manifests.

    Every method may raise RegistryError (worth a retry), RegistryDenied or RegistryProtocolError;
    a folder raises StoreError for its disk. What is fetched by digest is verified before it is used.
    """

    name: str

    def head_blob(self, repo: str, digest: Digest) -> int | None:
        """Size in bytes, None when the repository has no such blob."""

    def fetch_blob(self, repo: str, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        """The blob from ``offset`` on, in chunks; from the start it is verified before its last chunk.

        Raises:
            RegistryNotFound: No such blob.
            DigestMismatch: Other bytes, or another size, than the descriptor names.
        """

    def push_blob(
        self,
        repo: str,
        descriptor: Descriptor,
        data: bytes | BinaryIO,
        *,
        following: NextBlob | None = None,
        fresh: bool = False,
    ) -> bool:
        """Upload; False when it was there already. With ``fresh`` nobody is asked: the caller made it just now.

        ``following`` is the blob that comes next, as far as the caller knows: a network registry does meanwhile
        all that comes before its body. A stream whose ``expected`` is the descriptor verifies itself.

        Raises:
            DigestMismatch: ``data`` is not what the descriptor names.
        """

    def head_manifest(self, repo: str, reference: str) -> Descriptor | None:
        """What a tag or digest names, None when nothing."""

    def fetch_manifest(self, repo: str, reference: str | Digest) -> Manifest:
        """A manifest by tag or by digest; by digest it is verified before it is parsed.

        Raises:
            RegistryNotFound: No such manifest.
            DigestMismatch: Another one came.
        """

    def push_manifest(self, repo: str, manifest: Manifest, *, tag: str | None = None) -> bool:
        """Store the exact bytes; True when the registry says that it indexed the subject (OCI-Subject)."""

    def fetch_index(self, repo: str, reference: str | Digest) -> ImageIndex:
        """An image index by tag or by digest. Errors as in fetch_manifest."""

    def push_index(self, repo: str, raw: bytes, *, tag: str | None = None) -> None:
        """Store the exact bytes of an image index."""

    def list_tags(self, repo: str) -> tuple[str, ...]:
        """All tags; an unknown repository has none."""

    def list_referrers(self, repo: str, digest: Digest, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """What names ``digest`` as its subject: by the referrers API, else by the fallback tag."""

    def list_repositories(self) -> tuple[str, ...]:
        """All repositories, where the registry has a catalogue.

        Raises:
            RegistryError: It has none, or does not show it.
        """


def fallback_tag(digest: Digest) -> str:
    """The tag that holds the referrers of ``digest`` where there is no referrers API.

    Spec: OCI distribution-spec 1.1, "Referrers Tag Schema".
    """
    return f"sha256-{digest.hex}"
