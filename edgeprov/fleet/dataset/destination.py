# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Where a data set is written: a folder of this machine, or by its URL wherever fsspec reaches.

A file is made aside and appears under its name as a whole. Names are relative to the data set, with
slashes. The name of an output is all that travels to workers; each opens it for itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, Protocol
from urllib.parse import urlsplit

from edgeprov.errors import NotStored, StoreBusy, StoreError, StoreFull, UsageError
from edgeprov.formats.digest import Digest
from edgeprov.store.atomic import (
    TEMPORARY,
    DurableFile,
    load_bytes,
    make_dirs,
    remove,
    rename,
    save_bytes,
    sync_dir,
    translated,
)
from edgeprov.store.lock import Lock

OWN: Final = "_edgeprov"
"""Readers of partitioned data skip folders that begin with an underscore."""

STATEMENT: Final = f"{OWN}/statement.json"
BUNDLE: Final = f"{OWN}/statement.sigstore.json"
INPUTS: Final = f"{OWN}/inputs.jsonl"
UNFINISHED: Final = f"{OWN}/unfinished"
"""There from the first moment of a run to its last: the place is ours, and not whole yet."""

_FOLDER_URL: Final = "file://"
_HELD_BYTES: Final = 64 * 1024


class DigestFile:
    """A new file with the digest of what was written into it, whatever others do to it meanwhile.

    As much of Python's file protocol as writers of tables need.
    """

    closed = False

    def __init__(self, path: Path) -> None:
        """Create it.

        Raises:
            StoreError: Something lies there, or it cannot be created.
        """
        with _told(path):
            self._file = DurableFile(path, create=True, mode=0o644)
        self._state = hashlib.sha256()
        self._held = bytearray()
        self.size = 0
        """Bytes written so far."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append; StoreError when it cannot be written."""
        self.size += len(data)
        if len(data) < _HELD_BYTES:  # a footer is a thousand small pieces
            self._held += data
            if len(self._held) >= _HELD_BYTES:
                self.flush()
        else:
            self.flush()
            self._put(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Write what is held back; StoreError when it cannot be written."""
        self._put(self._held)
        self._held.clear()

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        with _told(self._file.path):
            self._file.write(data)
        self._state.update(data)

    def close(self) -> None:
        """Close; twice is allowed. What was not flushed is lost."""
        self._file.close()
        self.closed = True

    @property
    def digest(self) -> str:
        """``sha256:`` and the digest of all that was flushed."""
        return str(Digest(self._state.hexdigest()))


class Destination(Protocol):
    """A place for a data set.

    Every method may raise StoreError (StoreFull for want of space); nothing is left half written.
    """

    name: str
    """An absolute path or a URL, without secrets."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep a second run out for the body, where the place can: a folder does, a URL does not.

        Raises:
            StoreBusy: Another run writes there.
        """

    def files(self) -> list[str]:
        """All files that are there, sorted; none where the place does not exist yet."""

    def load(self, path: str, *, max_bytes: int) -> bytes | None:
        """A whole file, None when there is none.

        Raises:
            LimitError: It is larger.
        """

    def save(self, path: str, data: bytes) -> None:
        """Replace a file as a whole."""

    def remove(self, path: str) -> None:
        """Remove a file; it need not be there."""

    def reading(self, path: str) -> AbstractContextManager[BinaryIO | None]:
        """A file to read and seek in, None when there is none."""

    def writing(self, path: str) -> AbstractContextManager[Path]:
        """Name of a new file of this machine to fill: ``path`` at the end of the body; gone after an error."""


def digest_at(output: Destination, path: str) -> str | None:
    """Digest of what lies there, None when there is nothing."""
    state = hashlib.sha256()
    with output.reading(path) as stream:
        if stream is None:
            return None
        while piece := stream.read(64 * 1024):
            state.update(piece)
    return str(Digest(state.hexdigest()))


@lru_cache(maxsize=8)
def open_destination(name: str) -> Destination:
    """The output that a path or URL names; nothing is created yet.

    Raises:
        UsageError: No such protocol, its package is not installed, or a password stands in the URL.
    """
    if name.startswith(_FOLDER_URL):
        return FolderDestination(Path(name.removeprefix(_FOLDER_URL)))
    if "://" not in name:
        return FolderDestination(Path(name))
    if urlsplit(name).password is not None:
        raise UsageError(
            "a password in the URL of the output",
            advice="Put it where the protocol's package looks for it (its environment, or fsspec's configuration).",
        )
    from edgeprov.fleet.dataset.destination_fsspec import FsspecDestination

    return FsspecDestination(name)


class FolderDestination:
    """A folder of this machine (or one that it mounts); files are durable before they get their names."""

    def __init__(self, folder: Path) -> None:
        """Name the folder."""
        self._folder = folder.absolute()
        self.name = str(self._folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """As Destination.alone: the lock is the folder itself, so that nothing is left in it."""
        with _told(self.name):
            make_dirs(self._folder, 0o755)
        held = None
        try:
            held = Lock(self._folder)
        except StoreBusy as error:
            raise StoreBusy(
                f"{self.name}: another collect writes there", advice="Wait for it to end, or name another folder (-o)."
            ) from error
        except StoreError:
            pass  # NFS locks no folders
        try:
            yield
        finally:
            if held is not None:
                held.release()

    def files(self) -> list[str]:
        """As Destination.files."""
        with _told(self.name):
            return sorted(str(path.relative_to(self._folder)) for path in self._folder.rglob("*") if not path.is_dir())

    def load(self, path: str, *, max_bytes: int) -> bytes | None:
        """As Destination.load."""
        with _told(self.name):
            try:
                return load_bytes(self._folder / path, max_bytes=max_bytes, what=path)
            except NotStored:
                return None

    def save(self, path: str, data: bytes) -> None:
        """As Destination.save."""
        target = self._folder / path
        with _told(self.name):
            make_dirs(target.parent, 0o755)
            save_bytes(target, data, mode=0o644)

    def remove(self, path: str) -> None:
        """As Destination.remove; folders that are empty then go too."""
        target = self._folder / path
        with _told(self.name):
            remove(target)
        with suppress(OSError):  # not empty, or gone
            for parent in target.relative_to(self._folder).parents[:-1]:
                (self._folder / parent).rmdir()

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO | None]:
        """As Destination.reading."""
        with _told(self.name):
            try:
                stream = (self._folder / path).open("rb")
            except FileNotFoundError:
                yield None
                return
            with stream:
                yield stream

    @contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """As Destination.writing."""
        target = self._folder / path
        temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}.part")
        with _told(target):
            make_dirs(target.parent, 0o755)
            remove(temporary)  # left by a killed process of this number; what lies there is never written into
        try:
            yield temporary
            with _told(temporary):
                with temporary.open("rb") as stream:
                    os.fsync(stream.fileno())
                rename(temporary, target)
                sync_dir(target.parent)
        finally:
            remove(temporary)


@contextmanager
def _told(what: str | Path) -> Iterator[None]:
    """Errors of a folder, with advice for whoever named it and not for the owner of a device."""
    try:
        with translated(what):
            yield
    except StoreFull as error:
        raise StoreFull(
            error.message, advice="Make room there, then repeat the command: what is written stays."
        ) from error
    except StoreError as error:
        if type(error) is not StoreError:
            raise
        raise StoreError(error.message, advice="Name a folder that this account can write (-o).") from error
