# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One blob on its way into or out of a layout, in constant memory.

It is written to a temporary file while it is hashed, and read back only under verification.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from edgeprov.errors import DigestMismatch, StoreError
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.store.atomic import open_regular, open_temporary, remove, translate

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

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
