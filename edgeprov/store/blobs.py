# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The blobs of a layout: found, read and written by digest, and one on its way in or out in constant memory.

It is written to a temporary file while it is hashed, and read back only under verification.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from edgeprov.errors import DigestMismatch, LimitError, StoreError
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.digest import Digest
from edgeprov.store.atomic import load_bytes, make_dirs, open_regular, open_temporary, remove, translate

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from edgeprov.store.partial import PartialBlob

_MODE = 0o644  # other tools read layouts; what is private is the folder around them

CHUNK_BYTES = 64 * 1024
"""Read size while hashing: buffers of this size stay in the cache, 1 MiB costs half as much again."""


class BlobReader(io.RawIOBase):
    """A readable stream over one blob that raises instead of handing out the last bytes of wrong content.

    ``len()`` is the size in bytes. Whoever must not use a single unverified byte calls
    ``Layout.verify_blob`` first or waits for the end of the stream.

    Attributes:
        expected: What is verified.
    """

    def __init__(self, path: Path, descriptor: Descriptor) -> None:
        """Open the file and compare its size.

        Raises:
            NotStored: No such blob.
            DigestMismatch: The file has another size.
            StoreError: It cannot be read.
        """
        self._fd = -1
        super().__init__()
        self._what = f"blob {descriptor.digest}"
        self._fd, size = open_regular(path, self._what)
        self.expected = descriptor
        self._left = descriptor.size
        self._hash = hashlib.sha256()
        if size != descriptor.size:
            self.close()
            raise DigestMismatch(f"{self._what} has {size} bytes, expected {descriptor.size}")
        if not size:
            self._verify()

    def __len__(self) -> int:
        return self.expected.size

    def __bool__(self) -> bool:
        return True  # an empty blob is a stream all the same

    def readable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Bytes read so far; HTTP clients take what is left of the size as the length of a body."""
        return self.expected.size - self._left

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill the buffer; 0 at the end.

        Raises:
            DigestMismatch: These would be the last bytes, and the whole does not fit the digest.
            StoreError: The file cannot be read.
        """
        view = memoryview(buffer).cast("B")[: self._left]
        if not view:
            return 0
        try:
            count = os.readv(self._fd, (view,))
        except OSError as error:
            raise translate(error, self._what) from error
        if not count:
            raise DigestMismatch(f"{self._what} was cut while it was read")
        self._hash.update(view[:count])
        self._left -= count
        if not self._left:
            self._verify()
        return count

    def _verify(self) -> None:
        actual = self._hash.hexdigest()
        if actual != self.expected.digest.hex:
            raise DigestMismatch(f"{self._what} has content of digest sha256:{actual}")

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


class BlobWriter:
    """A blob in the making. As a context manager: without commit() nothing is left behind.

    Attributes:
        size: Bytes written so far.
    """

    def __init__(self, ingest: Path, keep: Callable[[Path, Digest], None], known: Digest | None = None) -> None:
        """Start a temporary file in ``ingest``; ``keep`` moves it to its place under its digest.

        Args:
            ingest: Folder on the file system of the blobs.
            keep: Moves a file to its place.
            known: Digest of what will be written, from one who has hashed these very bytes.
        """
        self._file = open_temporary(ingest, _MODE)
        self._keep = keep
        self._known = known
        self._hash = hashlib.sha256()
        self._done = False
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes.

        Raises:
            StoreFull: No space.
            StoreError: Any other failure of the disk.
        """
        self._file.write(data)
        if self._known is None:
            self._hash.update(data)
        self.size += len(data)
        return len(data)

    @property
    def digest(self) -> Digest:
        """Of what was written so far."""
        return self._known or Digest(self._hash.hexdigest())

    def commit(self, media_type: str) -> Descriptor:
        """Make the blob durable under its digest.

        Raises:
            StoreFull: No space.
            StoreError: Any other failure of the disk.
        """
        self._file.sync()
        digest = self.digest
        self._keep(self._file.path, digest)
        self._done = True
        self._file.close()
        return Descriptor(media_type=media_type, digest=digest, size=self.size)

    def abort(self) -> None:
        """Drop what was written; after commit() this does nothing."""
        if not self._done:
            with suppress(StoreError):
                remove(self._file.path)
            self._file.close()
            self._done = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


class LayoutBlobs:
    """What a Layout can do with blobs."""

    def __init__(self, root: Path, *, read_only: bool) -> None:
        """As Layout."""
        self.root = root
        self.read_only = read_only
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"

    def blob_path(self, digest: Digest) -> Path:
        """Where the blob lies or would lie. Reading it there skips verification."""
        return self._blobs / digest.hex

    def blob_size(self, digest: Digest) -> int | None:
        """Size in bytes, None when it is not here."""
        try:
            return self.blob_path(digest).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"blob {digest}: {error.strerror}") from error

    def has_blob(self, digest: Digest) -> bool:
        """Whether a blob of this digest is here; its content is verified on reading."""
        return self.blob_size(digest) is not None

    def load_blob(self, descriptor: Descriptor, *, max_bytes: int) -> bytes:
        """A whole blob in memory, its size and digest verified.

        Raises:
            LimitError: The descriptor names more than ``max_bytes``.
            NotStored: No such blob.
            DigestMismatch: The file holds something else.
            StoreError: It cannot be read.
        """
        what = f"blob {descriptor.digest}"
        if descriptor.size > max_bytes:
            raise LimitError(f"{what} has {descriptor.size} bytes, more than {max_bytes}")
        try:
            data = load_bytes(self.blob_path(descriptor.digest), max_bytes=descriptor.size, what=what)
        except LimitError as error:
            raise DigestMismatch(f"{what} has more than the expected {descriptor.size} bytes") from error
        descriptor.verify(data, what)
        return data

    def open_blob(self, descriptor: Descriptor) -> BlobReader:
        """A stream over a blob, verified at its end. Errors as in BlobReader."""
        return BlobReader(self.blob_path(descriptor.digest), descriptor)

    def verify_blob(self, descriptor: Descriptor) -> None:
        """Read a blob once and compare size and digest. Errors as in load_blob."""
        with self.open_blob(descriptor) as stream:
            buffer = memoryview(bytearray(CHUNK_BYTES))
            while stream.readinto(buffer):
                pass

    def save_blob(self, data: bytes, media_type: str) -> Descriptor:
        """Store bytes durably; what is there already (and intact) stays.

        Raises:
            StoreFull: No space.
            StoreError: The folder cannot be written.
        """
        descriptor = describe(data, media_type)
        if not self._intact(descriptor):
            with self._writer(descriptor.digest) as writer:
                writer.write(data)
                writer.commit(media_type)
        return descriptor

    def blob_writer(self) -> BlobWriter:
        """A blob of unknown size and digest, written in constant memory."""
        return self._writer(None)

    def _writer(self, known: Digest | None) -> BlobWriter:
        self._writable()
        make_dirs(self._ingest, 0o755)
        return BlobWriter(self._ingest, self._keep_blob, known)

    def save_blob_stream(self, chunks: Iterable[bytes], expected: Descriptor) -> None:
        """Store a blob that must turn out as described; an intact one that is there is not read again.

        Raises:
            DigestMismatch: The chunks are longer than, shorter than or other than described.
            StoreFull: No space.
            StoreError: The folder cannot be written.
        """
        if self._intact(expected):
            return
        with self.blob_writer() as writer:
            for chunk in chunks:
                if writer.size + len(chunk) > expected.size:
                    raise DigestMismatch(f"blob {expected.digest} is longer than {expected.size} bytes")
                writer.write(chunk)
            if writer.size != expected.size or writer.digest != expected.digest:
                raise DigestMismatch(
                    f"received {writer.size} bytes with digest {writer.digest}, "
                    f"expected {expected.size} bytes with {expected.digest}"
                )
            writer.commit(expected.media_type)

    def resume_blob(self, expected: Descriptor) -> PartialBlob:
        """Go on with a blob that arrives over several contacts. Errors as in PartialBlob."""
        from edgeprov.store.partial import PartialBlob  # a boot has no use for it

        self._writable()
        make_dirs(self._ingest, 0o755)
        return PartialBlob(self._ingest, expected, self._keep_blob)

    def partial_size(self, digest: Digest) -> int:
        """Bytes of a blob that resume_blob() has got so far."""
        from edgeprov.store.partial import partial_size

        return partial_size(self._ingest, digest)

    def drop_partials(self, keep: Iterable[Digest]) -> None:
        """Remove what resume_blob() began, except for ``keep``. Raises StoreError."""
        from edgeprov.store.partial import drop_partials

        self._writable()
        drop_partials(self._ingest, set(keep))

    def is_intact(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here and what it should be; reads all of it."""
        return self._intact(descriptor)

    def _intact(self, descriptor: Descriptor) -> bool:
        if not self.has_blob(descriptor.digest):
            return False
        try:
            self.verify_blob(descriptor)
        except (DigestMismatch, StoreError):
            return False  # a rotten copy is replaced by the good bytes at hand
        return True

    def _keep_blob(self, path: Path, digest: Digest) -> None:
        """Give a whole and synced blob its name."""
        raise NotImplementedError

    def _writable(self) -> None:
        if self.read_only:
            raise StoreError(
                f"layout {self.root} is read-only", advice="Models baked into the image cannot be changed."
            )
