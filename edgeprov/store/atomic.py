# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Durable files: every call of the store that changes the disk passes through this module.

What is written here follows one order: bytes into a temporary file, fdatasync, rename, fsync of the
folder. After a power cut a name therefore shows either its old content or its new content, never a
mixture. POSIX promises this only for a file system that keeps what it confirmed; a disk whose cache
lies, or FAT (whose rename is two writes), gives less, which is why all that is read is verified by
digest or checksum again.

The error of an fdatasync is final: the kernel may have dropped the pages and report success on the
next call. The caller must then give the file up, never sync again and go on.

``hook`` is the one seam for fault injection: it sees each change before it happens and may raise
OSError in its place.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from edgeprov.errors import LimitError, NotStored, StoreError, StoreFull

Hook = Callable[[str, str, bytes | str | int | None, int], None]
"""Called as ``hook(operation, path, argument, offset)`` with the operations create, write (bytes, at
offset), truncate (new size), allocate (new size), sync, rename (target), remove, mkdir and sync_dir."""

hook: Hook | None = None

TEMPORARY: Final = ".edgeprov-tmp-"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_counter = itertools.count()


def translate(error: OSError, what: str) -> StoreError:
    """The project's error for one of the system's.

    Args:
        error: What a system call raised.
        what: File or folder, and what was tried, for the message.
    """
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return StoreFull(f"{what}: {reason}")
    if error.errno in _DENIED:
        return StoreError(f"{what}: {reason}", advice="Mount the state folder writable, or run as its owner.")
    if error.errno == errno.ENOENT:
        return NotStored(f"{what}: {reason}")
    return StoreError(f"{what}: {reason}")


@contextmanager
def translated(what: str | Path) -> Iterator[None]:
    """Turns OSError of the body into StoreError, StoreFull or NotStored."""
    try:
        yield
    except OSError as error:
        raise translate(error, str(what)) from error


def _tell(operation: str, path: str | Path, argument: bytes | str | int | None = None, offset: int = 0) -> None:
    if hook is not None:
        hook(operation, str(path), argument, offset)


class DurableFile:
    """An open file whose writes and syncs are complete or raise.

    Attributes:
        path: Its name when it was opened.
        size: Bytes written so far, which is the offset of the next write.
    """

    __slots__ = ("_fd", "path", "size")

    def __init__(self, path: Path, *, create: bool, mode: int = 0o600) -> None:
        """Create the file (it must not exist), or open an existing one to append.

        Raises:
            StoreError: It cannot be opened; StoreFull when that is for want of space.
        """
        self.path = path
        with translated(path):
            if create:
                _tell("create", path)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(path, flags, mode)
                self.size = 0
            else:
                self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    self.size = os.fstat(self._fd).st_size
                except OSError:
                    os.close(self._fd)
                    raise

    def fileno(self) -> int:
        """The descriptor, for flock and ioctl."""
        return self._fd

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data`` at the end.

        Raises:
            StoreFull: No space. A part may have been written; truncate() to ``size`` removes it.
            StoreError: Any other failure.
        """
        with translated(self.path):
            if hook is not None:
                _tell("write", self.path, bytes(data), self.size)
            done = os.pwrite(self._fd, data, self.size)
            if done < len(data):  # a nearly full disk: the next call says why
                rest = memoryview(data)
                while done < len(data):
                    done += os.pwrite(self._fd, rest[done:], self.size + done)
        self.size += len(data)

    def sync(self) -> None:
        """Flush to the disk (fdatasync). After an error the file must be given up (see the module's text)."""
        with translated(self.path):
            _tell("sync", self.path)
            os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        """Cut to ``size`` bytes, which is where the next write goes."""
        with translated(self.path):
            _tell("truncate", self.path, size)
            os.ftruncate(self._fd, size)
        self.size = size

    def allocate(self, size: int) -> None:
        """Have the file system set ``size`` bytes aside, so that later writes below cannot meet a full disk.

        The file grows with zeros. File systems without the call write the zeros.
        """
        with translated(self.path):
            _tell("allocate", self.path, size)
            try:
                os.posix_fallocate(self._fd, 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                    raise  # without the call, the write itself meets the full disk

    def close(self) -> None:
        """Close without sync; closing twice is allowed."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with translated(self.path):
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_temporary(folder: Path, mode: int = 0o600) -> DurableFile:
    """A new file in ``folder`` that sweep() leaves alone for as long as this process holds it open."""
    while True:
        path = folder / f"{TEMPORARY}{os.getpid()}-{next(_counter)}"
        try:
            file = DurableFile(path, create=True, mode=mode)
        except StoreError as error:
            if isinstance(error.__cause__, FileExistsError):
                continue  # left by an earlier process of this number, and sweep() has not come by
            raise
        try:
            with translated(path):
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_nlink:
                    return file
        except BaseException:
            with suppress(StoreError):
                remove(path)
            file.close()
            raise
        file.close()  # swept between create and lock


@contextmanager
def open_replace(path: Path, mode: int = 0o600) -> Iterator[DurableFile]:
    """A temporary file that becomes ``path`` when the body ends, and vanishes when the body raises.

    Raises:
        StoreFull: No space; ``path`` keeps its old content.
        StoreError: Any other failure; ``path`` has its old content or, if the sync of the folder
            failed, either.
    """
    file = open_temporary(path.parent, mode)
    try:
        yield file
        file.sync()
        rename(file.path, path)
    except BaseException:
        with suppress(OSError, StoreError):
            remove(file.path)
        raise
    finally:
        file.close()
    sync_dir(path.parent)


def save_bytes(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace the content of ``path`` durably and as a whole.

    Raises:
        StoreFull: No space; the old content is still there.
        StoreError: Any other failure.
    """
    with open_replace(path, mode) as file:
        file.write(data)


def load_bytes(path: Path | str, *, max_bytes: int, what: str) -> bytes:
    """Read a whole file that has at most ``max_bytes`` bytes.

    Raises:
        NotStored: No such file.
        LimitError: It is larger.
        StoreError: It cannot be read.
    """
    fd, size = open_regular(path, what)
    try:
        data = _read_at_most(fd, max_bytes + 1, size + 1)
    except OSError as error:
        raise translate(error, f"{what} ({path})") from error
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise LimitError(f"{what} ({path}) has more than {max_bytes} bytes")
    return data


def open_regular(path: Path | str, what: str) -> tuple[int, int]:
    """Open a regular file to read; a link, a pipe or a device on a stranger's stick is refused.

    Returns:
        The descriptor, which the caller closes, and the size in bytes.

    Raises:
        NotStored: No such file.
        StoreError: Not a regular file, or it cannot be opened.
    """
    try:
        # O_NONBLOCK: opening a pipe must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise translate(error, f"{what} ({path})") from error
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise StoreError(f"{what} ({path}): not a regular file")
    return fd, status.st_size


def _read_at_most(fd: int, count: int, likely: int) -> bytes:
    first = os.read(fd, min(count, likely))
    if len(first) == likely - 1:
        return first  # of the size that it had when it was opened, and the byte behind that is not there
    chunks = [first]
    count -= len(first)
    while count > 0 and chunks[-1]:
        chunks.append(os.read(fd, min(count, 64 * 1024)))  # nothing, unless the file grows meanwhile
        count -= len(chunks[-1])
    return b"".join(chunks)


def exists(path: Path) -> bool:
    """Whether there is something of this name.

    Raises:
        StoreError: The folder cannot be searched, or the disk failed.
    """
    with translated(path):
        return path.exists()


def make_dirs(path: Path, mode: int = 0o700) -> None:
    """Create the folder and those above it, each durable in its parent. Existing ones stay as they are."""
    with translated(path):
        if path.is_dir():
            return
    if path.parent != path:
        make_dirs(path.parent, mode)
    with translated(path):
        _tell("mkdir", path)
        with suppress(FileExistsError):
            path.mkdir(mode)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    sync_dir(path.parent)


def rename(source: Path, target: Path) -> None:
    """Atomic within one file system; durable after sync_dir of the folders."""
    with translated(target):
        _tell("rename", source, str(target))
        source.replace(target)


def remove(path: Path) -> None:
    """Remove a file's name; durable after sync_dir."""
    with translated(path):
        _tell("remove", path)
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Make durable what is in a file now, whoever wrote it.

    Raises:
        NotStored: No such file.
        StoreError: The disk failed.
    """
    fd, _ = open_regular(path, "file")
    try:
        with translated(path):
            _tell("sync", path)
            os.fdatasync(fd)
    finally:
        os.close(fd)


def sync_dir(path: Path) -> None:
    """Make creations, renames and removals in the folder durable."""
    with translated(path):
        _tell("sync_dir", path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # FUSE and some network file systems cannot sync a folder
                raise
        finally:
            os.close(fd)


def sweep(folder: Path) -> int:
    """Remove temporary files that no living process holds; returns how many.

    Raises:
        StoreError: The folder cannot be read or changed.
    """
    swept = 0
    with translated(folder):
        paths = [path for path in folder.iterdir() if path.name.startswith(TEMPORARY)]
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise translate(error, str(path)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            remove(path)
            swept += 1
        finally:
            os.close(fd)
    return swept
