# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The process at the other end of a Unix socket: its user, and whether it still lives."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import struct
from collections.abc import Set as AbstractSet
from typing import Final

from edgeprov.errors import NotStored
from edgeprov.store.atomic import translate

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
            NotStored: It has ended.
            StoreError: It cannot be watched.
        """
        self.pid = pid
        self.uid = uid
        try:
            self.pidfd = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise NotStored(f"process {pid} has ended") from error
        except OSError as error:
            raise translate(error, f"process {pid} cannot be watched") from error

    @classmethod
    def of(cls, client: socket.socket) -> Peer:
        """The process that connected (SO_PEERCRED). Errors as in the constructor."""
        pid, uid = _credentials(client)
        return cls(pid, uid)

    @property
    def ended(self) -> bool:
        """Whether the process has ended, or is watched no more."""
        pidfd = self.pidfd
        if pidfd < 0:
            return True  # another thread has closed it
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            with contextlib.suppress(OSError):
                os.close(pidfd)


def watch_ends(selector: selectors.BaseSelector, peers: AbstractSet[Peer]) -> None:
    """Have the ends of these processes, and of no others, wake a selector."""
    # By process, not by descriptor: a number that was closed is soon another process's.
    known = {key.data: key.fd for key in selector.get_map().values() if isinstance(key.data, Peer)}
    open_peers = {peer for peer in peers if peer.pidfd >= 0}
    for peer in known.keys() - open_peers:
        selector.unregister(known[peer])
    for peer in open_peers - known.keys():
        with contextlib.suppress(OSError, ValueError):  # another thread has closed it just now
            selector.register(peer.pidfd, selectors.EVENT_READ, peer)


def uid_of(client: socket.socket) -> int:
    """The user at the other end of a Unix socket."""
    return _credentials(client)[1]


def _credentials(client: socket.socket) -> tuple[int, int]:
    raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid
