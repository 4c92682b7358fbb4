# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""An OCI image layout folder: models and kits on the device, the technician's stick, the embedded registry.

Invariants, at any instant and after any crash: a blob under its name is whole and was synced before
it got the name; index.json names a manifest only when all its blobs are durable; so what the index
shows is never half there. Every read is verified: what comes out has the digest that was asked for.
Collection of garbage removes only what neither the index nor a pinned digest reaches.

Spec: OCI image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeprov.errors import DigestMismatch, EdgeprovError, FormatError, NotStored, StoreError
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.jsonx import encode_json, parse_json_object
from edgeprov.formats.manifest import ImageIndex, Manifest, parse_index, parse_manifest
from edgeprov.formats.mediatypes import OCI_INDEX, OCI_MANIFEST
from edgeprov.formats.signature_manifest import may_hold_signature
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import (
    exists,
    load_bytes,
    make_dirs,
    rename,
    save_bytes,
    sweep,
    sync_dir,
    translated,
)
from edgeprov.store.blobs import LayoutBlobs
from edgeprov.store.layout_garbage import remove_unreached
from edgeprov.store.layout_index import LayoutIndex, index_entry, plain
from edgeprov.store.lock import lock

_MARKER = {"imageLayoutVersion": "1.0.0"}
_UNREADABLE = (DigestMismatch, FormatError, StoreError)
_FILE_MODE = 0o644  # a layout is read by other tools, and holds nothing secret


class Layout(LayoutBlobs):
    """One layout folder. Several processes may use it at once; writers of index.json take turns."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        """Use the folder as it is; see create() and open().

        Args:
            root: The folder that holds ``oci-layout``, ``index.json`` and ``blobs/sha256``.
            read_only: Refuse every change; needed for media that cannot be written.
        """
        super().__init__(root, read_only=read_only)
        self._index_path = root / "index.json"
        self._cached: tuple[tuple[int, int, int], LayoutIndex] | None = None
        self._batch: _Batch | None = None
        self._subjects: dict[Digest, tuple[Digest | None, Descriptor]] = {}
        self._set_aside: Callable[[Path, str], object] | None = None

    def rebuild_with(self, set_aside: Callable[[Path, str], object]) -> None:
        """From now on make a lost or damaged index.json again from the blobs; only where no one else writes.

        Args:
            set_aside: Told the damaged file and the reason, moves it away; not called when read-only.
        """
        self._set_aside = set_aside

    @classmethod
    def create(cls, root: Path, *, anew: bool = False) -> Layout:
        """Make the folder a layout; one that is there already is opened.

        Args:
            root: The folder.
            anew: Write the marker again, and leave the index to rebuild_with().

        Raises:
            StoreFull: No space.
            StoreError: The folder cannot be written.
        """
        layout = cls(root)
        make_dirs(root, 0o755)
        make_dirs(layout._blobs, 0o755)
        if not anew and not exists(layout._index_path):
            with lock(root, wait=True):
                if not exists(layout._index_path):
                    save_bytes(layout._index_path, LayoutIndex().encode(), mode=_FILE_MODE)
        if anew or not exists(root / "oci-layout"):
            save_bytes(root / "oci-layout", encode_json(_MARKER), mode=_FILE_MODE)
        return cls.open(root)

    @classmethod
    def open(cls, root: Path, *, read_only: bool = False) -> Layout:
        """Open an existing layout and, unless read-only, remove what dead writers left half-done.

        Raises:
            NotStored: The folder is not a layout.
            FormatError: A layout of another major version.
            StoreError: It cannot be read.
        """
        try:
            raw = load_bytes(root / "oci-layout", max_bytes=LIMITS.config_file_bytes, what="OCI layout marker")
        except NotStored as error:
            raise NotStored(
                f"{root} is not an OCI layout folder", advice="Name the folder that holds index.json."
            ) from error
        version = parse_json_object(raw, "oci-layout").get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise FormatError(f"{root}: OCI layout version {str(version)[:20]!r} is not 1.x")
        layout = cls(root, read_only=read_only)
        if not read_only:
            sweep(root)
            if exists(layout._ingest):
                sweep(layout._ingest)
        return layout

    def _keep_blob(self, path: Path, digest: Digest) -> None:
        rename(path, self.blob_path(digest))
        if self._batch is not None:
            self._batch.unsynced = True
        else:
            sync_dir(self._blobs)

    # -- manifests --------------------------------------------------------------------------------

    def load_manifest(self, digest: Digest) -> Manifest:
        """A manifest by digest, verified.

        Raises:
            NotStored: Not here.
            DigestMismatch: The file holds something else.
            FormatError: Not an image manifest.
            LimitError: Over 4 MiB.
        """
        raw = load_bytes(self.blob_path(digest), max_bytes=LIMITS.manifest_bytes, what=f"manifest {digest}")
        return parse_manifest(raw, expected=digest)

    def load_index(self, digest: Digest) -> ImageIndex:
        """A nested index by digest, verified. Errors as in load_manifest."""
        raw = load_bytes(self.blob_path(digest), max_bytes=LIMITS.manifest_bytes, what=f"index {digest}")
        return parse_index(raw, expected=digest)

    def save_manifest(self, manifest: Manifest, *, ref: str | None = None) -> None:
        """Make an artifact visible, once all its blobs are here. Repeating it changes nothing.

        Args:
            manifest: Its subject need not be in this layout.
            ref: Reference name; an older artifact of this name loses it.

        Raises:
            NotStored: A blob is missing.
            DigestMismatch: A blob has another size than the manifest says.
            StoreFull: No space.
            StoreError: The folder cannot be written.
        """
        for blob in manifest.blobs:
            size = self.blob_size(blob.digest)
            if size is None:
                raise NotStored(f"blob {blob.digest} of manifest {manifest.digest} is not stored")
            if size != blob.size:
                raise DigestMismatch(f"blob {blob.digest} has {size} bytes, the manifest says {blob.size}")
        self.save_blob(manifest.raw, OCI_MANIFEST)
        subject = manifest.subject.digest if manifest.subject else None
        entry = index_entry(manifest.descriptor, ref=ref, subject=subject, annotations=dict(manifest.annotations))
        self._change(lambda index: index.add(entry))

    def save_index(self, raw: bytes, *, ref: str | None = None) -> Descriptor:
        """Store a nested index and name it. Errors as in save_manifest."""
        index = parse_index(raw)
        self.save_blob(raw, OCI_INDEX)
        bare = Descriptor(media_type=OCI_INDEX, digest=index.digest, size=len(raw), artifact_type=index.artifact_type)
        subject = index.subject.digest if index.subject else None
        entry = index_entry(bare, ref=ref, subject=subject, annotations=dict(index.annotations))
        self._change(lambda target: target.add(entry))
        return bare

    def has_manifest(self, digest: Digest) -> bool:
        """Whether index.json names this manifest, that is: whether it is complete and visible."""
        return bool(self._index().by_digest(digest))

    def manifests(self) -> tuple[Descriptor, ...]:
        """The entries of index.json in order; their annotations hold reference and subject."""
        return tuple(self._index().entries)

    def entries_of(self, digest: Digest) -> tuple[Descriptor, ...]:
        """As manifests(), of one manifest."""
        return self._index().by_digest(digest)

    def refs(self) -> dict[str, Descriptor]:
        """Entries by reference name."""
        return dict(self._index().by_ref())

    def resolve(self, ref: str) -> Descriptor | None:
        """The entry of a reference name or of a ``sha256:`` digest."""
        if ref.startswith("sha256:"):
            entries = self._index().by_digest(parse_digest(ref))
            return entries[0] if entries else None
        return self._index().by_ref().get(ref)

    def remove_manifest(self, digest: Digest, *, with_signatures: bool = False) -> None:
        """Take an artifact out of the index; collect_garbage() frees its blobs.

        Args:
            digest: Of the manifest.
            with_signatures: Also its signatures, as far as they can be read. Other referrers stay.
        """
        gone = {digest}
        if with_signatures:
            found = self.referrers(digest, damaged=[])
            gone.update(item.digest for item in found if may_hold_signature(item))
        self._change(lambda index: index.drop(digests=gone))

    def remove_ref(self, ref: str) -> None:
        """Take one reference name away."""
        self._change(lambda index: index.drop(ref=ref))

    def referrers(
        self, digest: Digest, artifact_type: str | None = None, *, damaged: list[EdgeprovError] | None = None
    ) -> tuple[Descriptor, ...]:
        """What has ``digest`` as its subject, with its own annotations and artifactType.

        Entries written by other tools do not tell their subject: their manifests are read, once.

        Args:
            digest: The subject.
            artifact_type: Only referrers of this type.
            damaged: Gets the errors of manifests whose subject cannot be known. Without it the first is raised.

        Raises:
            DigestMismatch, FormatError, StoreError: Such a manifest is damaged.
        """
        index = self._index()
        found: dict[Digest, Descriptor] = {}
        for subject, shown in (
            *((digest, plain(entry)) for entry in index.by_subject(digest)),
            *(self._subject_of(entry, damaged) for entry in index.by_subject(None)),
            *(self._subject_of(entry, damaged) for entry in self._nested(index, damaged)),
        ):
            if subject == digest and artifact_type in (None, shown.artifact_type):
                found.setdefault(shown.digest, shown)
        return tuple(found.values())

    def _nested(self, index: LayoutIndex, damaged: list[EdgeprovError] | None) -> Iterator[Descriptor]:
        for entry in index.indexes():
            if self.has_blob(entry.digest):
                try:
                    yield from self.load_index(entry.digest).manifests  # e.g. a fallback tag sha256-<hex>
                except _UNREADABLE as error:
                    if damaged is None:
                        raise
                    damaged.append(error)

    def _subject_of(self, entry: Descriptor, damaged: list[EdgeprovError] | None) -> tuple[Digest | None, Descriptor]:
        known = self._subjects.get(entry.digest)
        if known is None:
            known = (None, entry)
            if entry.media_type == OCI_MANIFEST and self.has_blob(entry.digest):
                try:
                    manifest = self.load_manifest(entry.digest)
                except _UNREADABLE as error:
                    if damaged is None:
                        raise
                    damaged.append(error)
                    return known
                shown = plain(manifest.descriptor.with_annotations(manifest.annotations))
                known = (manifest.subject.digest if manifest.subject else None, shown)
            self._subjects[entry.digest] = known
        return known

    # -- index.json -------------------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Many manifests, one write of index.json when the body ends. Nothing shows if the body raises.

        Garbage is not collected meanwhile, so blobs saved in the body stay until their manifest names
        them; a collection that is going on is waited for.
        """
        self._writable()
        if self._batch is not None:
            yield  # the outer batch writes
            return
        with lock(self._blobs, shared=True, wait=True):
            self._batch = batch = _Batch(self._index().copy())
            try:
                yield
            finally:
                self._batch = None
            if batch.unsynced:
                sync_dir(self._blobs)
            if batch.changes:
                self._apply(batch.changes)

    def _change(self, change: Callable[[LayoutIndex], bool]) -> None:
        self._writable()
        if self._batch is not None:
            if change(self._batch.view):
                self._batch.changes.append(change)
        else:
            self._apply([change])

    def _apply(self, changes: list[Callable[[LayoutIndex], bool]]) -> None:
        with lock(self.root, wait=True):
            index = self._index().copy()
            if any([change(index) for change in changes]):  # noqa: C419  all of them are to run
                save_bytes(self._index_path, index.encode(), mode=_FILE_MODE)
                self._cached = (self._signature(), index)

    def _index(self) -> LayoutIndex:
        if self._batch is not None:
            return self._batch.view
        try:
            return self._loaded_index()
        except (FormatError, NotStored) as error:
            if self._set_aside is None:
                raise
            return self._rebuilt(error)

    def _loaded_index(self) -> LayoutIndex:
        signature = self._signature()
        if self._cached is None or self._cached[0] != signature:
            raw = load_bytes(self._index_path, max_bytes=LIMITS.index_bytes, what="layout index")
            self._cached = (signature, LayoutIndex(raw))
        return self._cached[1]

    def _rebuilt(self, error: FormatError | NotStored) -> LayoutIndex:
        from edgeprov.store.layout_rebuild import rebuild_index

        if self.read_only or self._set_aside is None:
            return rebuild_index(self._blobs)
        make_dirs(self._ingest, 0o755)
        with lock(self._ingest, wait=True):  # not the index's own lock: the caller may hold that
            with suppress(FormatError, NotStored):
                return self._loaded_index()  # another process was first
            index = rebuild_index(self._blobs)
            if isinstance(error, FormatError):
                self._set_aside(self._index_path, f"layout index: {error.message}; made again from the manifests")
            save_bytes(self._index_path, index.encode(), mode=_FILE_MODE)
            self._cached = (self._signature(), index)
        return index

    def _signature(self) -> tuple[int, int, int]:
        with translated(self._index_path):
            status = self._index_path.stat()
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def collect_garbage(self, pinned: Iterable[Digest] = ()) -> int:
        """Remove blobs that neither an entry of the index nor a pinned digest reaches.

        Args:
            pinned: Manifests or blobs to keep with all that they need, wherever they are named.

        Returns:
            Bytes freed.

        Raises:
            StoreBusy: A batch is open in some process.
            DigestMismatch: A manifest that must stay is damaged: nothing was removed.
            StoreError: The folder cannot be read or changed.
        """
        self._writable()
        with lock(self.root, wait=True), lock(self._blobs):
            return remove_unreached(self._blobs, [*pinned, *(entry.digest for entry in self._index().entries)])


class _Batch:
    """What an open batch has collected."""

    def __init__(self, view: LayoutIndex) -> None:
        self.view = view
        self.changes: list[Callable[[LayoutIndex], bool]] = []
        self.unsynced = False
