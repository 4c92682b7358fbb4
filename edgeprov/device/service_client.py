# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The application's connection to the device service: requests, answers and descriptors over a Unix socket.

Spec: FORMAT.md section "Recording protocol".
"""

from __future__ import annotations

import array
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edgeprov import errors
from edgeprov.device.rotation import at_path
from edgeprov.errors import EdgeprovError, FormatError, StoreError
from edgeprov.formats.packing import Feeder, pack
from edgeprov.limits import KIB

_ANSWER_S: Final = 60.0
_ANSWER_BYTES: Final = 64 * KIB
_RESTART_S: Final = 30.0
_RETRY_S: Final = 0.05


class ServiceClient:
    """One connection. Several threads may use it; requests are answered one behind the other."""

    def __init__(self, path: Path) -> None:
        """Connect.

        Raises:
            StoreError: Nobody listens there, or this user may not use the socket.
        """
        self._path = path
        self._lock = threading.RLock()
        self._again: Callable[[ServiceClient], object] | None = None
        self._connect()

    def request(self, message: list[Any]) -> tuple[list[Any], list[int]]:
        """Send a request and wait for its answer.

        Returns:
            The answer, and the descriptors that came with it; the caller closes them.

        Raises:
            EdgeprovError: The service's own error.
            StoreError: The service does not answer.
        """
        with self._lock:
            try:
                answer, descriptors = self._exchange(message)
            except OSError:
                self._reconnect()
                answer, descriptors = self._exchange_again(message)
        if answer[0] == "error":
            raise remote_error(answer[1])
        return answer, descriptors

    def request_file(self, message: list[Any], what: str) -> tuple[list[Any], int]:
        """As request, for an answer that comes with one descriptor, which the caller closes.

        Args:
            message: The request.
            what: What the descriptor is, for the message of an error.

        Raises:
            FormatError: It came with none, or with several.
        """
        answer, descriptors = self.request(message)
        if len(descriptors) != 1:
            _close(descriptors)
            raise FormatError(f"the device service sent no {what}")
        return answer, descriptors[0]

    def tell(self, message: list[Any]) -> None:
        """Send what needs no answer; a service that is away will find out by itself when it is back."""
        with self._lock:
            try:
                self._socket.sendall(pack(message))
            except OSError:
                self._socket.close()

    def on_reconnect(self, resume: Callable[[ServiceClient], object]) -> None:
        """Have ``resume`` called on the new connection after the service was restarted."""
        self._again = resume

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._socket.close()

    def exchange(self, message: list[Any]) -> list[Any]:
        """As request, on this very connection: for ``resume``, which is part of a reconnection.

        Raises:
            EdgeprovError: The service's own error.
            OSError: The connection broke.
        """
        answer, _ = self._exchange(message)
        if answer[0] == "error":
            raise remote_error(answer[1])
        return answer

    def _connect(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                at_path(self._path, self._socket.connect)
            except OSError:
                self._socket.close()
                raise
        except OSError as error:
            raise StoreError(
                f"{self._path}: the device service cannot be reached: {error.strerror or error}",
                advice="Check `systemctl status edgeprov`, and that this user is in the group edgeprov-app.",
            ) from error
        self._socket.settimeout(_ANSWER_S)

    def _exchange(self, message: list[Any]) -> tuple[list[Any], list[int]]:
        feeder = Feeder(max_bytes=_ANSWER_BYTES, what="answer of the device service")
        descriptors: list[int] = []
        try:
            self._socket.sendall(pack(message))
            while True:
                data, ancillary, flags, _ = self._socket.recvmsg(_ANSWER_BYTES, socket.CMSG_SPACE(4 * 4))
                descriptors += _descriptors(ancillary)
                _verify_more(data, flags)
                for answer in feeder.feed(data):
                    return _verified(answer), descriptors
        except BaseException:
            # Whatever came between request and answer: the next answer would be taken for this one's.
            self._socket.close()
            _close(descriptors)
            raise

    def _exchange_again(self, message: list[Any]) -> tuple[list[Any], list[int]]:
        try:
            return self._exchange(message)
        except OSError as error:
            raise _silent(error) from error

    def _reconnect(self) -> None:
        """Wait for a service that is being restarted."""
        deadline = time.monotonic() + _RESTART_S
        while True:
            try:
                self._socket.close()
                self._connect()
                if self._again is not None:
                    self._again(self)
            except (StoreError, OSError) as error:
                if time.monotonic() > deadline:
                    raise _silent(error) from error
                time.sleep(_RETRY_S)
            else:
                return


def _silent(error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    return StoreError(
        f"the device service does not answer: {error}", advice="Check `systemctl status edgeprov` and its journal."
    )


def _verify_more(data: bytes, flags: int) -> None:
    if flags & socket.MSG_CTRUNC:
        raise StoreError(
            "a descriptor of the device service could not be received",
            advice="Let the application have fewer files open, or raise its limit (ulimit -n).",
        )
    if not data:
        raise ConnectionResetError("the device service closed the connection")


def _verified(answer: object) -> list[Any]:
    if not isinstance(answer, list) or not answer:
        raise FormatError("the device service answered something else than a list")
    return answer


def remote_error(told: dict[str, Any]) -> EdgeprovError:
    """The error that the service told.

    Args:
        told: ``code``, ``error`` (name of the class), ``message``, ``advice``, ``retryable``.
    """
    kind = getattr(errors, str(told.get("error")), None)
    if not (isinstance(kind, type) and issubclass(kind, EdgeprovError)):
        kind = StoreError
    return kind(str(told.get("message")), advice=str(told.get("advice", "")))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _close(descriptors: list[int]) -> None:
    import os

    for descriptor in descriptors:
        os.close(descriptor)
