# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a registry can do, in descriptors and digests; every back end passes tests/contract/registry.

Back ends: ``registry.oras_backend.OrasRegistry`` for a network host, and by shape (no import)
``store.layout_registry.LayoutRegistry`` for a folder.

Spec: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import BinaryIO, Protocol

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, RegistryNotFound
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import EMPTY_CONFIG, ImageIndex, Manifest, encode_index
from edgeprov.formats.mediatypes import EMPTY_BLOB


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
        self, repo: str, descriptor: Descriptor, data: bytes | BinaryIO, *, following: NextBlob | None = None
    ) -> bool:
        """Upload; False when it was there already.

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


def push_referrer(registry: Registry, repo: str, manifest: Manifest) -> None:
    """Push a manifest that has a subject, and see to it that it is found from its subject.

    Where the registry does not index it, the fallback tag of the subject is rewritten. That is a
    read-modify-write without a lock: only the one writer of a subject may do it, and for the
    signatures of its own kit a device is that.

    Raises:
        FormatError: The manifest has no subject.
    """
    subject = manifest.subject
    if subject is None:
        raise FormatError("a referrer without a subject")
    if registry.push_manifest(repo, manifest):
        return
    listed = registry.list_referrers(repo, subject.digest)
    if any(item.digest == manifest.digest for item in listed):
        return
    tag = fallback_tag(subject.digest)
    entries: list[Descriptor] = []
    with contextlib.suppress(RegistryNotFound):
        entries = list(registry.fetch_index(repo, tag).manifests)
    entries.append(manifest.descriptor.with_annotations(manifest.annotations))
    registry.push_index(repo, encode_index(entries), tag=tag)


def attach(registry: Registry, repo: str, manifest: Manifest, blobs: Mapping[Digest, bytes]) -> None:
    """push_referrer with its blobs first.

    Args:
        registry: Where to.
        repo: Repository of the subject.
        manifest: The referrer.
        blobs: The bytes of each of its blobs by digest; the empty config may be left out.
    """
    for blob in manifest.blobs:
        data = EMPTY_BLOB if blob.digest == EMPTY_CONFIG.digest else blobs[blob.digest]
        registry.push_blob(repo, blob, BytesIO(data))
    push_referrer(registry, repo, manifest)
