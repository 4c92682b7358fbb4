# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to a running recorder: end its segment for a kit, or write out what it has in memory. A Unix socket.

The recorder's thread sleeps until a connection comes or the segment is large enough. The asker sends one byte and
gets it back when it is done; a connection that ends without it was to a recorder that was closing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from edgeprov.errors import EdgeprovError, StoreBusy, StoreError
from edgeprov.store.atomic import translated

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.spool import SlotSpool

_WAIT_S: Final = 30.0
_LONGEST_SLEEP_S: Final = 60.0
_TURN_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.01


_END: Final = b"e"
_SYNC: Final = b"s"


class _Rotate(Protocol):
    def __call__(self, *, forced: bool) -> bool: ...


class RotationServer:
    """The thread that starts new segments and answers requests; one per recorder."""

    def __init__(
        self,
        context: Context,
        name: str,
        rotate: _Rotate,
        due_in_s: Callable[[], float],
        sync: Callable[[], bool],
    ) -> None:
        """Listen at the socket of a lane, by its name.

        Raises:
            StoreError: The socket cannot be made in the run folder.
        """
        self._rotate = rotate
        self._due_in_s = due_in_s
        self._sync = sync
        self._path = socket_path(context, name)
        self._socket = _listen(self._path, context.make_run_dir())
        try:
            with translated(self._path):
                self._wake, self._woken = socket.socketpair()
        except StoreError:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"edgeprov-{name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and remove the socket."""
        if self._thread.is_alive():
            self._wake.send(b"x")
            self._thread.join()
        self._wake.close()
        self._woken.close()
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _serve(self) -> None:
        import selectors

        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = selector.select(min(max(self._due_in_s(), 0.05), _LONGEST_SLEEP_S))
                if any(key.fileobj is self._woken for key, _ in ready):
                    return
                if ready:
                    with contextlib.suppress(OSError):
                        client, _ = self._socket.accept()
                        with client:
                            client.settimeout(_WAIT_S)
                            self._answer(client)
                else:
                    with contextlib.suppress(EdgeprovError):  # as in _answer
                        self._rotate(forced=False)

    def _answer(self, client: socket.socket) -> None:
        request = client.recv(1)
        done = False
        with contextlib.suppress(EdgeprovError):  # the recorder's next append says it to the application
            if request == _END:
                done = self._rotate(forced=True)
            elif request == _SYNC:
                done = self._sync()
        if done:
            client.sendall(request)


def reach(request: Callable[[], bool], alone: Callable[[], object]) -> None:
    """Have the recorder of a lane do something, or do it where no recorder runs.

    A session that begins or ends just now is waited for, for a moment; one that stays silent is left alone: it has
    recorded nothing yet.

    Args:
        request: Asks the recorder; False when none answered.
        alone: Does it under the lane's writer lock; StoreBusy when a recorder runs.

    Raises:
        StoreError: The recorder does not answer, or the disk failed.
    """
    deadline = time.monotonic() + _TURN_S
    while not request():
        try:
            alone()
        except StoreBusy:
            if time.monotonic() > deadline:
                return
            time.sleep(_LOOK_AGAIN_S)
        else:
            return


def request_rotation(context: Context, name: str) -> bool:
    """Ask the recorder of a lane to end its segment for a kit, and wait until it did.

    Returns:
        False when no recorder runs, or it was closing.

    Raises:
        StoreError: The recorder does not answer.
    """
    return _request(context, name, _END)


def request_sync(context: Context, name: str) -> bool:
    """Ask the recorder of a lane to write out all, and to read the proved time. As request_rotation."""
    return _request(context, name, _SYNC)


def request_sync_of_all(context: Context, spool: SlotSpool) -> None:
    """Ask the recorders of all lanes of a slot to write out what they have in memory. As request_rotation."""
    for lane in spool.lanes():
        request_sync(context, lane.name)


def _request(context: Context, name: str, verb: bytes) -> bool:
    path = socket_path(context, name)
    with translated(path):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with client:
        client.settimeout(_WAIT_S)
        try:
            at_path(path, client.connect)
            client.sendall(verb)
            return client.recv(1) == verb
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except (ConnectionResetError, BrokenPipeError):
            return False  # it ended just now; its segment was closed
        except OSError as error:
            raise StoreError(
                f"the recorder of slot {name} does not answer", advice="Stop the application, then seal again."
            ) from error


def socket_path(context: Context, name: str) -> Path:
    """Where the recorder of a lane listens."""
    return context.run_dir / f"recorder-{name}.sock"


def service_socket(context: Context) -> Path:
    """Where the device service listens for applications."""
    return context.run_dir / "device.sock"


def _listen(path: Path, folder: Path) -> socket.socket:
    with translated(path):
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The writer lock of the lane is ours, so a socket that is here belongs to a dead process.
        path.unlink(missing_ok=True)
        at_path(path, server.bind)
        path.chmod(0o660)
        server.listen(4)
    except OSError as error:
        server.close()
        raise StoreError(f"{path}: cannot listen: {error.strerror or error}", advice=f"Check {folder}.") from error
    return server


def at_path(path: Path, use: Callable[[str], None]) -> None:
    """Call ``use`` with a short name of ``path``, whatever the length of its folder."""
    # sun_path has 108 bytes: through /proc/self/fd the folder's own length does not count.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
