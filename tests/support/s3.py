# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""An S3 server on loopback (moto's, from the readers' environment), reached through s3fs as any other."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.readers import readers_python

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_BUCKET = "import sys, fsspec; fsspec.filesystem('s3').mkdir(sys.argv[1])"
_GET = """
import sys, fsspec
fs, start = fsspec.filesystem("s3"), sys.argv[1] + "/"
for path in fs.find(sys.argv[1]):
    fs.get_file(path, sys.argv[2] + "/" + path.removeprefix(start).replace("/", "%"))
"""


@dataclass
class Bucket:
    """``environment`` is all that a program needs to reach it."""

    name: str
    environment: dict[str, str]
    enter: tuple[str, ...] = ()

    def files(self, prefix: str, folder: Path) -> dict[str, bytes]:
        """What lies below a prefix, brought to an empty folder first."""
        folder.mkdir()
        self.program(_GET, f"{self.name}/{prefix}", folder)
        return {path.name.replace("%", "/"): path.read_bytes() for path in folder.iterdir()}

    def program(self, source: str, *argv: object) -> str:
        run = subprocess.run(
            [*self.enter, readers_python(), "-c", source, *map(str, argv)],
            env=self.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run.stdout


@contextlib.contextmanager
def s3_bucket(environment: Mapping[str, str], enter: Sequence[str] = (), *, locked: bool = False) -> Iterator[Bucket]:
    """A server with one bucket.

    Args:
        environment: Of its programs.
        enter: Goes before their commands: how to get into another network namespace.
        locked: The server knows no account, so not ours either.
    """
    program = [*enter, readers_python(), "-c", _SERVER]
    settings = {"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if locked else {}
    with subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, **settings},
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        keys = {"AWS_ACCESS_KEY_ID": "edgeprov", "AWS_SECRET_ACCESS_KEY": "edgeprov", "AWS_DEFAULT_REGION": "us-east-1"}
        keys["FSSPEC_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        bucket = Bucket("data", {**environment, **keys}, tuple(enter))
        if not locked:
            bucket.program(_BUCKET, bucket.name)
        try:
            yield bucket
        finally:
            server.stdin.close()  # its end
