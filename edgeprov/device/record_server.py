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
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from edgeprov import journal
from edgeprov.device.notify import inherited_socket, notify, watchdog_interval_s
from edgeprov.device.peer import Peer, uid_of, watch_ends
from edgeprov.device.record_session import Session, encode_error
from edgeprov.device.ring_session import RingSession, Sessions, resume_kind
from edgeprov.device.rotation import at_path
from edgeprov.device.tpm_work import TpmWork
from edgeprov.errors import EdgeprovError, NotStored, StoreError
from edgeprov.formats.packing import Feeder, pack
from edgeprov.limits import KIB, LIMITS, MIB
from edgeprov.store.atomic import translated

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.device.model_store import StoredModel
    from edgeprov.store.state import State

_READ_BYTES: Final = 256 * KIB
_MESSAGE_BYTES: Final = LIMITS.record_bytes + LIMITS.input_bytes + 1 * MIB
_ANSWER_S: Final = 30.0
_CONNECTIONS: Final = 64
_CONNECTIONS_OF_A_USER: Final = 16
_ACCEPT_AGAIN_S: Final = 0.5
_LOOK: Final = b"w"


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
            for message in feeder.feed(data):
                if (answer := session.handle(message)) is not None:
                    answers.write(pack(answer))
            answers.flush()
        feeder.verify_end()
    finally:
        session.close()
    if session.refused is not None:
        raise session.refused


def serve_socket(context: Context, slot: str, path: Path, *, tpm_in_child: bool = False) -> None:
    """Serve connections until SIGTERM or SIGINT.

    Args:
        context: The device.
        slot: Slot, unless ``hello`` names one.
        path: Where to listen, unless systemd hands a socket over.
        tpm_in_child: Ask the TPM in a process of its own, so that its library does not stay in this one.

    Raises:
        StoreError: The socket or the state folder cannot be used.
    """
    state = context.state()
    inherited = inherited_socket()
    server = inherited or _listen(path)
    wake, woken = socket.socketpair()
    wake.setblocking(False)  # noqa: FBT003 - socket's own signature
    previous = [signal.signal(name, lambda *_: None) for name in (signal.SIGTERM, signal.SIGINT)]
    signal.set_wakeup_fd(wake.fileno())
    connections: dict[socket.socket, int] = {}  # and the user at the other end
    threads: list[threading.Thread] = []
    interval = watchdog_interval_s()
    serving = _Serving(context, state, slot, TpmWork(context, state) if tpm_in_child else None)
    try:
        serving.resume()
        notify("READY=1\nSTATUS=listening")
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                watched = serving.watch(selector)
                ready = {key.fileobj for key, _ in selector.select(interval)}
                notify("WATCHDOG=1")
                if woken in ready and woken.recv(64).strip(_LOOK):
                    break  # the number of a signal
                serving.end_of_processes(watched)
                threads = [thread for thread in threads if thread.is_alive()]
                if server in ready and (client := _accept(server)) is not None:
                    uid = uid_of(client)
                    if len(threads) >= _CONNECTIONS or list(connections.values()).count(uid) >= _CONNECTIONS_OF_A_USER:
                        client.close()
                        continue
                    connections[client] = uid
                    threads.append(_spawn(serving, client, connections.pop, wake))
    finally:
        notify("STOPPING=1")
        for client in list(connections):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)  # what it sent is still recorded and answered
        for thread in threads:
            thread.join(_ANSWER_S)
        serving.leave()
        signal.set_wakeup_fd(-1)
        for name, handler in zip((signal.SIGTERM, signal.SIGINT), previous, strict=True):
            signal.signal(name, handler)
        for item in (server, wake, woken):
            item.close()
        if inherited is None:
            path.unlink(missing_ok=True)


class _Serving:
    """What the connections of a service share."""

    def __init__(self, context: Context, state: State, slot: str, work: TpmWork | None) -> None:
        self.context = context
        self.state = state
        self.slot = slot
        self.work = work
        self.sessions = Sessions()

    def resume(self) -> None:
        """Go on with the sessions of applications that live, after this service was killed."""
        for lane in (lane for slot in self.state.slots() for lane in self.state.spool(slot).lanes()):
            slot = lane.folder.name
            try:
                found = resume_kind(lane)
                if found is None:
                    continue
                kind, pid = found
                peer = Peer(pid, kind.user)
                open_segment = None if self.work is None else self.work.open_segment
                make = partial(
                    RingSession, self.context, self.state, kind, peer, resume=lane.lane, open_segment=open_segment
                )
                self.sessions.add(slot, peer, make)
            except NotStored:
                continue  # it ended just now
            except EdgeprovError as error:
                journal.event("failed", f"slot {slot}: {error.message}", priority=journal.ERROR)

    def watch(self, selector: selectors.BaseSelector) -> list[RingSession]:
        """Have the ends of all applications wake the selector."""
        living = self.sessions.living()
        watch_ends(selector, {session.peer for session in living})
        return living

    def end_of_processes(self, watched: list[RingSession]) -> None:
        """End the sessions of applications that have ended."""
        for session in watched:
            if session.peer.ended:
                self.sessions.end(session)

    def leave(self) -> None:
        """Stop copying. Applications go on: the next service copies what they append meanwhile."""
        for session in self.sessions.living():
            try:
                session.leave()
            except EdgeprovError as error:
                journal.event(
                    "failed",
                    f"slot {session.kind.slot}: not synced at the end: {error.message}",
                    priority=journal.ERROR,
                )


def _spawn(
    serving: _Serving, client: socket.socket, forget: Callable[[socket.socket], object], wake: socket.socket
) -> threading.Thread:
    def run() -> None:
        with client:
            _serve_client(serving, client, wake)
        forget(client)

    thread = threading.Thread(target=run, name="edgeprov-record", daemon=True)
    thread.start()
    return thread


def _accept(server: socket.socket) -> socket.socket | None:
    """The next connection; None where it broke off, or where there are no descriptors for it."""
    try:
        return server.accept()[0]
    except OSError as error:
        journal.event("failed", f"a connection was not accepted: {error.strerror}", priority=journal.WARNING)
        time.sleep(_ACCEPT_AGAIN_S)  # it still waits, and the selector would come back at once
        return None


def _serve_client(serving: _Serving, client: socket.socket, wake: socket.socket) -> None:
    try:
        peer = Peer.of(client)
    except EdgeprovError as error:
        with contextlib.suppress(OSError):
            _send(client, pack(encode_error(error)))
        return
    session = Session(
        serving.context,
        serving.state,
        serving.slot,
        peer=peer,
        sessions=serving.sessions,
        work=serving.work,
    )
    feeder = Feeder(max_bytes=_MESSAGE_BYTES, what="recording stream")
    try:
        while data := client.recv(_READ_BYTES):
            answers = b""
            try:
                for message in feeder.feed(data):
                    answer = session.handle(message)
                    if session.wants_weights is not None:
                        answers, answer = _send_weights(client, answers, answer, session.wants_weights), None
                        session.wants_weights = None
                    answers += b"" if answer is None else pack(answer)
                    if session.ring is not None:
                        _send_descriptor(client, answers, session.ring.fileno())
                        session.ring, answers = None, b""
                        _wake(wake)  # the main thread watches this application from now on
            except EdgeprovError as error:
                _send(client, answers + pack(encode_error(error)))
                return
            _send(client, answers)
    except OSError:
        pass  # the application is gone; what it was told stays recorded
    finally:
        with contextlib.suppress(EdgeprovError):
            session.close()
        if not any(known.peer is peer for known in serving.sessions.living()):
            peer.close()


def _wake(wake: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wake.send(_LOOK)


def _send(client: socket.socket, data: bytes) -> None:
    client.settimeout(_ANSWER_S)  # an application that never reads its answers does not hold a thread for ever
    client.sendall(data)
    client.settimeout(None)


def _send_weights(client: socket.socket, before: bytes, answer: list[Any] | None, model: StoredModel) -> bytes:
    """Send an answer, and the model's bytes with it; returns what is still to be sent: an error in its place."""
    try:
        fd = _weights(model)
    except EdgeprovError as error:
        return before + pack(encode_error(error))
    try:
        _send_descriptor(client, before + pack(answer), fd)
    finally:
        os.close(fd)
    return b""


def _weights(model: StoredModel) -> int:
    """The verified bytes in a sealed memory file: nobody can change them any more.

    Raises:
        DigestMismatch: They are not the model's.
        StoreError: They cannot be read, or there is no memory for them.
    """
    import fcntl

    from edgeprov.device.model_store import copy_weights

    with translated("weights in memory"):
        fd = os.memfd_create("edgeprov-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:  # in pieces: this process stays small
                copy_weights(model, file)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            os.lseek(fd, 0, os.SEEK_SET)
            os.fchmod(fd, 0o444)  # another user opens it through /proc/self/fd
        except BaseException:
            os.close(fd)
            raise
    return fd


def _send_descriptor(client: socket.socket, answer: bytes, fd: int) -> None:
    client.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


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
