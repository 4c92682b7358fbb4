# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A layout folder that answers as a registry does: ``oci:DIR``, for tests, demos and air-gapped sites.

One folder holds all repositories: index.json names each manifest ``<repo>:<tag>``, or
``<repo>@<digest>`` when it has no tag. Blobs are shared. The repository ``""`` is the folder as
other tools see it: reference names are its tags, and it holds every manifest by digest.

The class has the shape of ``registry.base.Registry`` and raises the same errors for what an artifact
is not; errors of the disk stay StoreError. It is written without importing the network side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from edgeprov.errors import NotStored, RegistryNotFound, RegistryProtocolError
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.manifest import ImageIndex, Manifest, parse_index
from edgeprov.formats.mediatypes import ANNOTATION_REF_NAME, OCI_INDEX
from edgeprov.store.blobs import CHUNK_BYTES
from edgeprov.store.layout import Layout

T = TypeVar("T")


class LayoutRegistry:
    """The registry Protocol over one layout folder.

    Attributes:
        name: ``oci:<folder>``.
        layout: The folder itself, for batch() around many pushes.
    """

    def __init__(self, root: Path, *, create: bool = False, read_only: bool = False) -> None:
        """Open the folder.

        Args:
            root: The layout folder.
            create: Make it a layout when it is none.
            read_only: Refuse every push.

        Raises:
            NotStored: Not a layout folder, and ``create`` is false.
            StoreError: It cannot be opened or made.
        """
        self.layout = Layout.create(root) if create else Layout.open(root, read_only=read_only)
        self.name = f"oci:{root}"

    # -- blobs ------------------------------------------------------------------------------------

    def head_blob(self, repo: str, digest: Digest) -> int | None:  # noqa: ARG002  blobs are shared
        """Size in bytes, None when there is no such blob."""
        return self.layout.blob_size(digest)

    def fetch_blob(self, repo: str, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        """The blob in chunks; from the start it is verified before its last chunk.

        Raises:
            RegistryNotFound: No such blob.
            DigestMismatch: The folder holds something else under this name.
            StoreError: It cannot be read.
        """
        try:
            stream = self.layout.open_blob(descriptor)
        except NotStored as error:
            raise RegistryNotFound(f"{self.name}: {repo or 'folder'} has no blob {descriptor.digest}") from error
        with stream:
            while chunk := stream.read(CHUNK_BYTES):
                if offset >= len(chunk):
                    offset -= len(chunk)  # read all the same: so even the rest of a blob is verified
                    continue
                yield chunk[offset:]
                offset = 0

    def push_blob(
        self,
        repo: str,  # noqa: ARG002 - a folder keeps all blobs together
        descriptor: Descriptor,
        data: bytes | BinaryIO,
        *,
        following: object = None,  # noqa: ARG002 - a folder has nothing to ask before
        fresh: bool = False,  # noqa: ARG002 - asking a folder costs nothing
    ) -> bool:
        """Store a blob durably.

        Returns:
            False when it was there.

        Raises:
            DigestMismatch: ``data`` is not what the descriptor names.
            StoreFull: No space.
            StoreError: The folder cannot be written.
        """
        if self.layout.blob_size(descriptor.digest) == descriptor.size:
            return False
        self.layout.save_blob_stream(_chunks(data), descriptor)
        return True

    # -- manifests --------------------------------------------------------------------------------

    def head_manifest(self, repo: str, reference: str) -> Descriptor | None:
        """The descriptor of a tag or of a ``sha256:`` digest, None when the repository has none such."""
        if not reference.startswith("sha256:"):
            found = self.layout.resolve(_ref(repo, reference))
        else:
            digest = parse_digest(reference)
            found = next(self._entries(repo, digest), None)
        if found is None:
            return None
        return Descriptor(
            media_type=found.media_type, digest=found.digest, size=found.size, artifact_type=found.artifact_type
        )

    def fetch_manifest(self, repo: str, reference: str | Digest) -> Manifest:
        """A manifest, verified.

        Raises:
            RegistryNotFound: The repository has none such.
            DigestMismatch: The folder holds something else under this digest.
            FormatError: Not an image manifest.
        """
        return self._load(repo, reference, self.layout.load_manifest)

    def fetch_index(self, repo: str, reference: str | Digest) -> ImageIndex:
        """A nested index, verified. Errors as in fetch_manifest."""
        return self._load(repo, reference, self.layout.load_index)

    def push_manifest(self, repo: str, manifest: Manifest, *, tag: str | None = None) -> bool:
        """Make an artifact visible; its blobs must have been pushed.

        Returns:
            True: referrers are listed without further work.

        Raises:
            RegistryProtocolError: A blob is missing, as a registry answers MANIFEST_BLOB_UNKNOWN.
            StoreFull: No space.
            StoreError: The folder cannot be written.
        """
        with self.layout.batch():
            self._demote(repo, tag, manifest.digest)
            try:
                self.layout.save_manifest(manifest, ref=self._name(repo, tag, manifest.digest))
            except NotStored as error:
                raise RegistryProtocolError(f"{self.name}: {error.message}") from error
        return True

    def push_index(self, repo: str, raw: bytes, *, tag: str | None = None) -> None:
        """Store a nested index. Errors as in push_manifest."""
        digest = parse_index(raw).digest
        with self.layout.batch():
            self._demote(repo, tag, digest)
            self.layout.save_index(raw, ref=self._name(repo, tag, digest))

    def list_tags(self, repo: str) -> tuple[str, ...]:
        """All tags of the repository, sorted."""
        found = []
        for ref in self.layout.refs():
            if repo:
                head, colon, tag = ref.rpartition(":")
                if colon and head == repo and not head.endswith("@sha256"):
                    found.append(tag)
            elif "@" not in ref:
                found.append(ref)
        return tuple(sorted(found))

    def list_referrers(self, repo: str, digest: Digest, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """What has ``digest`` as its subject in this repository, newest pushed last."""
        found = self.layout.referrers(digest, artifact_type)
        if not repo or not found:
            return found
        return tuple(item for item in found if next(self._entries(repo, item.digest), None) is not None)

    def list_repositories(self) -> tuple[str, ...]:
        """All repositories, sorted; ``""`` when the folder has names without one."""
        return tuple(
            sorted({_repo_of(entry.annotations.get(ANNOTATION_REF_NAME, "")) for entry in self.layout.manifests()})
        )

    # -- naming -----------------------------------------------------------------------------------

    def _name(self, repo: str, tag: str | None, digest: Digest) -> str | None:
        if tag is not None:
            return _ref(repo, tag)
        if next(self._entries(repo, digest), None) is not None:
            return None  # it has a name in this repository; a second, weaker one says nothing new
        return f"{repo}@{digest}" if repo else None

    def _demote(self, repo: str, tag: str | None, digest: Digest) -> None:
        """What loses its tag stays in the repository by digest; what gets one needs no bare entry."""
        if not repo or tag is None:
            return
        old = self.layout.resolve(_ref(repo, tag))
        if old is not None and old.digest != digest and old.media_type != OCI_INDEX:
            self.layout.save_manifest(self.layout.load_manifest(old.digest), ref=f"{repo}@{old.digest}")
        bare = f"{repo}@{digest}"
        if self.layout.resolve(bare) is not None:
            self.layout.remove_ref(bare)

    def _entries(self, repo: str, digest: Digest) -> Iterator[Descriptor]:
        for entry in self.layout.entries_of(digest):
            if not repo or _repo_of(entry.annotations.get(ANNOTATION_REF_NAME, "")) == repo:
                yield entry

    def _load(self, repo: str, reference: str | Digest, load: Callable[[Digest], T]) -> T:
        found = self.head_manifest(repo, str(reference))
        if found is None:
            raise RegistryNotFound(f"{self.name}: {repo or 'folder'} has no {str(reference)[:200]}")
        try:
            return load(found.digest)
        except NotStored as error:
            raise RegistryNotFound(f"{self.name}: {error.message}") from error


def _ref(repo: str, tag: str) -> str:
    return f"{repo}:{tag}" if repo else tag


def _repo_of(ref: str) -> str:
    head, at, _ = ref.partition("@")
    return head if at else ref.rpartition(":")[0]


def _chunks(data: bytes | BinaryIO) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    while chunk := data.read(CHUNK_BYTES):
        yield chunk
