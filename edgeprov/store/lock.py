# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One writer at a time, across processes and threads: flock, which the kernel drops when a process dies.

The lock files stay where they are: removing one would let two processes lock two files of one name.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprov.errors import StoreBusy
from edgeprov.store.atomic import translate


class Lock:
    """A held lock; release() or the end of the process gives it up."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path, *, shared: bool = False, wait: bool = False) -> None:
        """Take the lock of a file (made when missing) or of an existing folder.

        Args:
            path: The file or folder.
            shared: Several may hold it together, but none beside an exclusive one.
            wait: Wait for the other process instead of raising.

        Raises:
            StoreBusy: Another process or thread holds it.
            StoreError: The file cannot be opened or made.
        """
        self.path = path
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            try:
                fd = os.open(path, flags)
            except FileNotFoundError:
                fd = os.open(path, flags | os.O_CREAT, 0o600)
        except OSError as error:
            raise translate(error, f"lock {path}") from error
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(fd, operation)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreBusy(f"{path.name}: held by another edgeprov process") from error
            raise translate(error, f"lock {path}") from error
        self._fd = fd

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


@contextmanager
def lock(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock of ``path`` for the body. Arguments and errors as in Lock."""
    held = Lock(path, shared=shared, wait=wait)
    try:
        yield
    finally:
        held.release()
