# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of a swtpm: makes each command as slow as a chip's, and writes down what was asked.

A device uses it with ``tpm.tcti = "swtpm:path=<folder>/slow.sock"``. swtpm serves one connection at a
time, so the proxy opens one for each command, under one lock, and keeps none. The control socket beside
it is relayed without delay, for other programs' swtpm transports.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgeprov.tpm.transport import connect

_HEADER = 10  # tag, size, command or response code
NAMES = {
    0x11F: "EvictControl", 0x121: "HierarchyControl", 0x122: "NV_UndefineSpace", 0x126: "Clear", 0x127: "ClearControl",
    0x129: "HierarchyChangeAuth", 0x12A: "NV_DefineSpace", 0x131: "CreatePrimary", 0x134: "NV_Increment",
    0x137: "NV_Write", 0x138: "NV_WriteLock", 0x13C: "PCR_Event", 0x144: "Startup", 0x145: "Shutdown",
    0x147: "ActivateCredential", 0x148: "Certify", 0x14E: "NV_Read", 0x151: "PolicySecret", 0x158: "Quote",
    0x15D: "Sign", 0x165: "FlushContext", 0x169: "NV_ReadPublic", 0x173: "ReadPublic", 0x176: "StartAuthSession",
    0x17A: "GetCapability", 0x17E: "PCR_Read", 0x181: "ReadClock", 0x182: "PCR_Extend", 0x184: "NV_Certify",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One command that went through: TPM_CC and the response code."""

    command: int
    response: int

    def __str__(self) -> str:
        name = NAMES.get(self.command, f"{self.command:#05x}")
        return name if self.response == 0 else f"{name}:{self.response:#05x}"


class SlowTpm:
    """Listens at ``slow.sock`` and ``slow.sock.ctrl`` in ``folder`` while its body runs (context manager).

    Args:
        upstream: swtpm's command socket; its control socket is ``<upstream>.ctrl``.
        folder: Where to listen.
        delay_s: Waits so long before it passes a command on.
    """

    def __init__(self, upstream: Path, folder: Path, *, delay_s: float = 0.3) -> None:
        self.path = folder / "slow.sock"
        self.delay_s = delay_s
        self.log: list[Asked] = []
        self._upstream = upstream
        self._one_at_a_time = threading.Lock()
        self._servers: list[socket.socket] = []

    @property
    def tcti(self) -> str:
        """The value of ``tpm.tcti`` that leads here."""
        return f"swtpm:path={self.path}"

    def __enter__(self) -> Self:
        for path, serve in ((self.path, self._serve_command), (Path(f"{self.path}.ctrl"), self._serve_control)):
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.bind(str(path))
            server.listen(16)
            self._servers.append(server)
            threading.Thread(target=self._accept, args=(server, serve), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown(socket.SHUT_RDWR)  # wakes accept
            server.close()
        for path in (self.path, Path(f"{self.path}.ctrl")):
            path.unlink(missing_ok=True)

    @contextmanager
    def count(self) -> Iterator[list[Asked]]:
        """The commands that are asked within the body: a list that is filled when the body ends."""
        start = len(self.log)
        found: list[Asked] = []
        try:
            yield found
        finally:
            found += self.log[start:]

    def commands_of(self, argv: Sequence[str], env: dict[str, str]) -> list[Asked]:
        """The commands of one process, which must end with exit code 0."""
        with self.count() as found:
            child = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
        assert child.returncode == 0, (argv, child.stdout, child.stderr)
        return found

    def _accept(self, server: socket.socket, serve: object) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()  # type: ignore[arg-type]

    def _serve_command(self, client: socket.socket) -> None:
        with client:
            while command := _read_message(client):
                time.sleep(self.delay_s)
                with self._one_at_a_time, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tpm:
                    connect(tpm, self._upstream)
                    tpm.sendall(command)
                    response = _read_message(tpm)
                    self.log.append(Asked(_code(command), _code(response)))
                client.sendall(response)

    def _serve_control(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tpm:
            connect(tpm, Path(f"{self._upstream}.ctrl"))
            while command := client.recv(4096):
                tpm.sendall(command)
                client.sendall(tpm.recv(4096))


def _read_message(connection: socket.socket) -> bytes:
    """One command or response, whose size stands in bytes 2 to 6; empty when the other side closed."""
    data = b""
    wanted = _HEADER
    while len(data) < wanted:
        part = connection.recv(wanted - len(data))
        if not part:
            return b""
        data += part
        if len(data) == _HEADER:
            wanted = int.from_bytes(data[2:6], "big")
    return data


def _code(message: bytes) -> int:
    return int.from_bytes(message[6:10], "big")
