# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The recording protocol over a Unix socket or over standard input and output.

One thread per connection; the main thread accepts, feeds systemd's watchdog and waits for SIGTERM.
A connection may send many requests before it reads the answers; they come in order.

Spec: FORMAT.md section "Recording protocol".
"""

from __future__ import annotations

import array
import contextlib
import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from edgeprov.device.notify import inherited_socket, notify, watchdog_interval_s
from edgeprov.device.record_session import Session, encode_error
from edgeprov.device.rotation import at_path
from edgeprov.errors import EdgeprovError, StoreError
from edgeprov.formats.packing import Feeder, pack
from edgeprov.limits import KIB, LIMITS, MIB

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.device.model_store import StoredModel
    from edgeprov.store.state import State

_READ_BYTES: Final = 256 * KIB
_MESSAGE_BYTES: Final = LIMITS.record_bytes + LIMITS.input_bytes + 1 * MIB
_ANSWER_S: Final = 30.0
_CONNECTIONS: Final = 64


def serve_stream(context: Context, slot: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Serve one session until the requests end.

    Args:
        context: The device.
        slot: Slot, unless ``hello`` names one.
        requests: Raw msgpack stream.
        answers: Where the answers go.

    Raises:
        FormatError: The stream is not msgpack, or ends within a request; everything before was recorded.
        EdgeprovError: The first error that was an answer: nobody may have read it.
        StoreError: The state folder cannot be used.
    """
    session = Session(context, context.state(), slot)
    feeder = Feeder(max_bytes=_MESSAGE_BYTES, what="recording stream")
    try:
        while data := os.read(requests.fileno(), _READ_BYTES):
            answers.writelines(pack(session.handle(message)) for message in feeder.feed(data))
            answers.flush()
        feeder.verify_end()
    finally:
        session.close()
    if session.refused is not None:
        raise session.refused


def serve_socket(context: Context, slot: str, path: Path) -> None:
    """Serve connections until SIGTERM or SIGINT.

    Args:
        context: The device.
        slot: Slot, unless ``hello`` names one.
        path: Where to listen, unless systemd hands a socket over.

    Raises:
        StoreError: The socket or the state folder cannot be used.
    """
    state = context.state()
    server = inherited_socket() or _listen(path)
    wake, woken = socket.socketpair()
    wake.setblocking(False)  # noqa: FBT003 - socket's own signature
    previous = [signal.signal(name, lambda *_: None) for name in (signal.SIGTERM, signal.SIGINT)]
    signal.set_wakeup_fd(wake.fileno())
    connections: set[socket.socket] = set()
    threads: list[threading.Thread] = []
    interval = watchdog_interval_s()
    try:
        notify("READY=1\nSTATUS=listening")
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(interval)}
                notify("WATCHDOG=1")
                if woken in ready:
                    break
                if server in ready:
                    client, _ = server.accept()
                    threads = [thread for thread in threads if thread.is_alive()]
                    if len(threads) >= _CONNECTIONS:
                        client.close()
                        continue
                    connections.add(client)
                    threads.append(_spawn(context, state, slot, client, connections.discard))
    finally:
        notify("STOPPING=1")
        for client in list(connections):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)  # what it sent is still recorded and answered
        for thread in threads:
            thread.join(_ANSWER_S)
        signal.set_wakeup_fd(-1)
        for name, handler in zip((signal.SIGTERM, signal.SIGINT), previous, strict=True):
            signal.signal(name, handler)
        for item in (server, wake, woken):
            item.close()
        path.unlink(missing_ok=True)


def _spawn(
    context: Context, state: State, slot: str, client: socket.socket, forget: Callable[[socket.socket], None]
) -> threading.Thread:
    def run() -> None:
        with client:
            _serve_client(Session(context, state, slot), client)
        forget(client)

    thread = threading.Thread(target=run, name="edgeprov-record", daemon=True)
    thread.start()
    return thread


def _serve_client(session: Session, client: socket.socket) -> None:
    feeder = Feeder(max_bytes=_MESSAGE_BYTES, what="recording stream")
    try:
        while data := client.recv(_READ_BYTES):
            answers = []
            try:
                for message in feeder.feed(data):
                    answers.append(pack(session.handle(message)))
                    if session.wants_weights is not None:
                        _send_weights(client, b"".join(answers), session.wants_weights)
                        session.wants_weights, answers = None, []
            except EdgeprovError as error:
                _send(client, b"".join(answers) + pack(encode_error(error)))
                return
            _send(client, b"".join(answers))
    except OSError:
        pass  # the application is gone; what it was told stays recorded
    finally:
        with contextlib.suppress(EdgeprovError):
            session.close()


def _send(client: socket.socket, data: bytes) -> None:
    client.settimeout(_ANSWER_S)  # an application that never reads its answers does not hold a thread for ever
    client.sendall(data)
    client.settimeout(None)


def _send_weights(client: socket.socket, answer: bytes, model: StoredModel) -> None:
    """Hand the verified bytes over as a sealed memory file: nobody can change them any more."""
    import fcntl

    from edgeprov.device.model_store import load_weights

    weights = memoryview(load_weights(model))
    fd = os.memfd_create("edgeprov-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        while weights:
            weights = weights[os.write(fd, weights) :]
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        os.lseek(fd, 0, os.SEEK_SET)
        client.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    finally:
        os.close(fd)


def _listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                at_path(path, probe.connect)
            except (FileNotFoundError, ConnectionRefusedError):
                path.unlink(missing_ok=True)
            else:
                raise StoreError(f"{path}: another process listens there")
        at_path(path, server.bind)
        path.chmod(0o660)
        server.listen(8)
    except OSError as error:
        server.close()
        raise StoreError(f"{path}: cannot listen: {error.strerror or error}", advice="Check the folder.") from error
    return server
