# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Real registry servers on loopback, each on a port of its own: plain, with passwords, tokens, TLS."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.peers import peer


@contextmanager
def docker_registry(
    folder: Path, *, program: str = "docker-registry", enter: Sequence[str] = (), **sections: Mapping[str, Any]
) -> Iterator[str]:
    """Debian's docker-registry 2.8.2, or distribution v3 as ``program="registry"``.

    Args:
        folder: For its configuration, log and data.
        program: Which of the two.
        enter: Goes before its command and that of a client: how to get into another network namespace.
        sections: Further sections of its configuration, as ``auth={...}``; ``http`` is merged.

    Yields:
        ``host:port``; the host is 127.0.0.1.
    """
    server = Server(folder, program=program, enter=enter, **sections)
    server.start()
    try:
        yield server.host
    finally:
        server.stop()


class Server:
    """A registry process that a test may stop, kill and start again on the same port and data."""

    def __init__(
        self,
        folder: Path,
        *,
        program: str = "docker-registry",
        enter: Sequence[str] = (),
        **sections: Mapping[str, Any],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.host = f"127.0.0.1:{self.port}"
        self._folder = folder
        self._program = program
        self._enter = enter
        self._process: subprocess.Popen[bytes] | None = None
        self.config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
            **sections,
            "http": {"addr": self.host, "secret": "fixed", **sections.get("http", {})},
        }

    def start(self) -> None:
        """Start and wait until it listens."""
        path = self._folder / "config.yml"
        path.write_text(json.dumps(self.config))
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*self._enter, peer(self._program), "serve", str(path)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while True:
            if self._listens():
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self._folder / "log").read_text())
            time.sleep(0.02)  # the server tells nobody when it listens

    def _listens(self) -> bool:
        if self._enter:
            probe = [*self._enter, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{self.port}"]
            return subprocess.run(probe, capture_output=True, check=False).returncode == 0
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def requests(self) -> int:
        """Requests that it has answered; only with ``log={"accesslog": {"disabled": False}}``."""
        with (self._folder / "log").open() as log:
            return sum('"edgeprov"' in line and " /v2/" in line for line in log)

    def cpu_s(self) -> float:
        """CPU seconds that its process has taken."""
        assert self._process is not None
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, *, kill: bool = False) -> None:
        """End it, in order or with SIGKILL."""
        assert self._process is not None
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(timeout=10)
