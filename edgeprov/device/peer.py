# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The process at the other end of a Unix socket: its user, and whether it still lives."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Peer:
    """A process that connected. A closed connection does not show its end: a forked child may hold it open.

    Attributes:
        pid: Its process id, which cannot be another process's while this object is open.
        uid: Its user id.
        pidfd: Readable when it has ended (pidfd_open(2)).
    """

    def __init__(self, pid: int, uid: int) -> None:
        """Watch a process.

        Raises:
            ProcessLookupError: It has ended.
        """
        self.pid = pid
        self.uid = uid
        self.pidfd = os.pidfd_open(pid)

    @classmethod
    def of(cls, client: socket.socket) -> Peer:
        """The process that connected (SO_PEERCRED). Errors as in the constructor."""
        pid, uid = _credentials(client)
        return cls(pid, uid)

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        if self.pidfd >= 0:
            with contextlib.suppress(OSError):
                os.close(self.pidfd)
            self.pidfd = -1


def uid_of(client: socket.socket) -> int:
    """The user at the other end of a Unix socket."""
    return _credentials(client)[1]


def _credentials(client: socket.socket) -> tuple[int, int]:
    raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid
