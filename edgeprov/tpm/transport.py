# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Two ways to carry a TPM command: the kernel's resource manager, and a socket to swtpm.

Both keep a deadline, which the C library's own transports do not: a TPM that stops answering must
not hang a device. No network port is ever opened or probed.

Spec: TCG TSS 2.0 TPM Command Transmission Interface; Linux tpm(4) poll and non-blocking read.
"""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path
from typing import Final, Protocol

from edgeprov.errors import TpmUnavailable
from edgeprov.limits import LIMITS

RESOURCE_MANAGER: Final = Path("/dev/tpmrm0")
_HEADER: Final = 10  # tag, size, code


class Transport(Protocol):
    """Carries one command at a time."""

    name: str

    def send(self, command: bytes) -> None:
        """Hand one command to the TPM."""

    def receive(self, timeout_s: float) -> bytes:
        """The response to the last command."""

    def close(self) -> None:
        """Give the TPM back. Never raises."""


class DeviceTransport:
    """A TPM character device; the kernel swaps our objects in and out and flushes them at close."""

    def __init__(self, path: Path = RESOURCE_MANAGER) -> None:
        """Open the device.

        Raises:
            TpmUnavailable: It is missing, or this user may not use it.
        """
        self.name = str(path)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError as error:
            raise TpmUnavailable(f"{path}: permission denied", advice="Add this user to the group `tss`.") from error
        except OSError as error:
            raise TpmUnavailable(f"{path}: {error.strerror}") from error

    def send(self, command: bytes) -> None:
        """Hand one command to the TPM.

        Raises:
            TpmUnavailable: The device went away.
        """
        try:
            os.write(self._fd, command)
        except OSError as error:
            raise TpmUnavailable(f"{self.name}: {error.strerror}") from error

    def receive(self, timeout_s: float) -> bytes:
        """The response to the last command.

        Raises:
            TpmUnavailable: No answer within ``timeout_s``, or the device went away.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        try:
            while (left := deadline - time.monotonic()) > 0:
                if poll.poll(left * 1000):
                    try:
                        response = os.read(self._fd, LIMITS.tpm_response_bytes)
                    except BlockingIOError:
                        continue
                    if response:
                        return response
                    break
        except OSError as error:
            raise TpmUnavailable(f"{self.name}: {error.strerror}") from error
        raise TpmUnavailable(f"{self.name}: no answer within {timeout_s:.0f} s")

    def close(self) -> None:
        """Close the device."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SocketTransport:
    """A unix socket on which swtpm listens. One connection per command, so that processes can take turns."""

    def __init__(self, path: Path) -> None:
        """Remember the socket; nothing is opened yet."""
        self.name = str(path)
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, command: bytes) -> None:
        """Hand one command to the TPM.

        Raises:
            TpmUnavailable: Nothing listens there.
        """
        self.close()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(LIMITS.tpm_busy_s)
        try:
            connect(self._socket, self._path)
            self._socket.sendall(command)
        except OSError as error:
            self.close()
            raise TpmUnavailable(f"TPM simulator at {self.name} does not answer: {error.strerror or error}") from error

    def receive(self, timeout_s: float) -> bytes:
        """The response to the last command.

        Raises:
            TpmUnavailable: No answer within ``timeout_s``, or the simulator ended.
        """
        if self._socket is None:
            raise TpmUnavailable(f"TPM simulator at {self.name}: not connected")
        try:
            return read_response(self._socket, timeout_s, self.name)
        finally:
            self.close()

    def close(self) -> None:
        """Drop the connection; the simulator goes on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class PairTransport:
    """A connected socket, the other end of which is one private swtpm."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        """Take over ``connection``."""
        self.name = name
        self._socket = connection

    def send(self, command: bytes) -> None:
        """Hand one command to the TPM.

        Raises:
            TpmUnavailable: The simulator ended.
        """
        try:
            self._socket.sendall(command)
        except OSError as error:
            raise TpmUnavailable(f"{self.name} ended: {error.strerror}") from error

    def receive(self, timeout_s: float) -> bytes:
        """The response to the last command.

        Raises:
            TpmUnavailable: No answer within ``timeout_s``, or the simulator ended.
        """
        return read_response(self._socket, timeout_s, self.name)

    def close(self) -> None:
        """Close our end, which ends the simulator."""
        self._socket.close()


def read_response(connection: socket.socket, timeout_s: float, name: str) -> bytes:
    """Read one TPM response, whose header tells its length.

    Raises:
        TpmUnavailable: No whole response within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    data = b""
    wanted = _HEADER
    try:
        while len(data) < wanted:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            part = connection.recv(wanted - len(data))
            if not part:
                raise TpmUnavailable(f"{name}: the TPM went away in the middle of a command")
            data += part
            if len(data) == _HEADER:
                wanted = int.from_bytes(data[2:6], "big")
                if not _HEADER <= wanted <= LIMITS.tpm_response_bytes:
                    raise TpmUnavailable(f"{name}: does not speak TPM 2.0")
    except TimeoutError as error:
        raise TpmUnavailable(f"{name}: no answer within {timeout_s:.0f} s") from error
    except OSError as error:
        raise TpmUnavailable(f"{name}: {error.strerror}") from error
    return data


def connect(client: socket.socket, path: Path) -> None:
    """Connect to a unix socket whose path may be longer than the 107 bytes of a socket address.

    Raises:
        OSError: As connect(2).
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        client.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
