# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Lets each system call of a piece of work fail in turn, also those that change nothing on the disk.

The store's hook sees changes of the disk only. A ring, its descriptors and sockets use calls that it does not see: a
process without descriptors or memory left, or a broken tmpfs, lets these fail.
"""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Each with an error that it really gives. os.close is missing on purpose: it gives the descriptor up in any case.
CALLS: dict[tuple[Any, str], int] = {
    (os, "open"): errno.EMFILE,
    (io, "open"): errno.EMFILE,
    (os, "dup"): errno.EMFILE,
    (os, "memfd_create"): errno.EMFILE,
    (os, "pidfd_open"): errno.EMFILE,
    (socket, "socket"): errno.EMFILE,
    (socket, "socketpair"): errno.EMFILE,
    (mmap, "mmap"): errno.ENOMEM,
    (os, "posix_fallocate"): errno.ENOSPC,
    (os, "ftruncate"): errno.EIO,
    (os, "pread"): errno.EIO,
    (os, "read"): errno.EIO,
    (os, "pwrite"): errno.ENOSPC,
    (os, "fdatasync"): errno.EIO,
    (os, "fsync"): errno.EIO,
    (os, "stat"): errno.EIO,
    (os, "fstat"): errno.EIO,
    (os, "listdir"): errno.EIO,
    (os, "scandir"): errno.EIO,
    (os, "mkdir"): errno.EROFS,
    (os, "unlink"): errno.EROFS,
    (os, "rename"): errno.EROFS,
    (os, "replace"): errno.EROFS,
    (os, "chmod"): errno.EROFS,
    (fcntl, "flock"): errno.ENOLCK,
}


class Failing:
    """Counts the calls; one of them fails.

    Attributes:
        name: Of the call that failed; None while none did.
    """

    def __init__(self, number: int) -> None:
        self._left = number
        self.name: str | None = None

    def wrap(self, name: str, call: Callable[..., Any], code: int) -> Callable[..., Any]:
        def replaced(*args: Any, **options: Any) -> Any:
            if name == "socket" and (len(args) > 3 or "fileno" in options):
                return call(*args, **options)  # an object for a descriptor that is there: no system call
            self._left -= 1
            if self._left == -1:
                self.name = name
                raise OSError(code, os.strerror(code))
            return call(*args, **options)

        return replaced


@contextmanager
def failing(number: int) -> Iterator[Failing]:
    """Let the ``number``-th call (from 0) of this process fail."""
    found = Failing(number)
    known = {key: getattr(*key) for key in CALLS}
    for (module, name), code in CALLS.items():
        setattr(module, name, found.wrap(name, known[module, name], code))
    try:
        yield found
    finally:
        for (module, name), call in known.items():
            setattr(module, name, call)


def descriptors() -> dict[str, str]:
    """The open descriptors of this process, and what each of them names."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[path.name] = os.readlink(path)
        except OSError:
            continue  # of this very listing
    return found
