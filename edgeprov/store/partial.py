# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A blob that arrives over several contacts: it grows in the layout's ingest folder under its digest.

Unlike a temporary file it survives the end of its writer and a power cut; what lies there is hashed
again before anything is added, and nothing is a blob before the whole fits its digest.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from edgeprov.errors import DigestMismatch, StoreBusy
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.limits import MIB
from edgeprov.store.atomic import DurableFile, exists, remove, sync_dir, translated

PREFIX: Final = "partial-"
_SYNC_BYTES: Final = 8 * MIB
_READ_BYTES: Final = 64 * 1024


class PartialBlob:
    """Appends to what an earlier attempt left.

    Attributes:
        size: Bytes that are there.
    """

    def __init__(self, folder: Path, expected: Descriptor, keep: Callable[[Path, Digest], None]) -> None:
        """Open or create the file of ``expected`` in ``folder``; ``keep`` moves the whole blob to its place.

        Raises:
            StoreBusy: Another process fetches this blob.
            StoreError: The folder cannot be written.
        """
        self._expected = expected
        self._keep = keep
        path = folder / f"{PREFIX}{expected.digest.hex}"
        fresh = not exists(path)
        self._file = DurableFile(path, create=fresh, mode=0o644)
        try:
            with translated(path):
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            self._file.close()
            if isinstance(error.__cause__, BlockingIOError):
                raise StoreBusy(f"another process fetches {expected.digest}") from error
            raise
        if fresh:
            sync_dir(folder)
        self._hash = hashlib.sha256()
        self._unsynced = 0
        self.size = 0
        if self._file.size > expected.size:
            self.restart()
        else:
            self._read_back(path)

    def _read_back(self, path: Path) -> None:
        with translated(path), path.open("rb", buffering=0) as stream:
            while chunk := stream.read(_READ_BYTES):
                self._hash.update(chunk)
                self.size += len(chunk)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            DigestMismatch: More than the blob has.
            StoreFull: No space; what was there stays.
            StoreError: Any other failure of the disk.
        """
        if self.size + len(data) > self._expected.size:
            raise DigestMismatch(f"blob {self._expected.digest} is longer than {self._expected.size} bytes")
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_BYTES:
            self._file.sync()
            self._unsynced = 0

    def restart(self) -> None:
        """Drop what is there. Errors as in write."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self._unsynced = self.size = 0

    def finish(self) -> None:
        """Make it a blob of the layout.

        Raises:
            DigestMismatch: It is not what was described.
            StoreError: The disk failed.
        """
        if self.size != self._expected.size or self._hash.hexdigest() != self._expected.digest.hex:
            raise DigestMismatch(
                f"received {self.size} bytes with digest sha256:{self._hash.hexdigest()}, "
                f"expected {self._expected.size} bytes with {self._expected.digest}"
            )
        self._file.sync()
        self._keep(self._file.path, self._expected.digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def partial_size(folder: Path, digest: Digest) -> int:
    """Bytes of a blob that have arrived so far."""
    try:
        return (folder / f"{PREFIX}{digest.hex}").stat().st_size
    except OSError:
        return 0


def drop_partials(folder: Path, keep: set[Digest]) -> None:
    """Remove what was begun for artifacts that nobody wants any more.

    Raises:
        StoreError: The folder cannot be changed.
    """
    with translated(folder):
        paths = list(folder.iterdir()) if folder.is_dir() else []
    wanted = {f"{PREFIX}{digest.hex}" for digest in keep}
    for path in paths:
        if path.name.startswith(PREFIX) and path.name not in wanted:
            remove(path)
