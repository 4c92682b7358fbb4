# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`edgeprov-fleet serve` as a process of its own, asked over a real socket."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKEN = "a-token-of-some-length"
ROOT = Path(__file__).parents[2]


class Service:
    def __init__(self, url: str) -> None:
        self.url = url
        self.netloc = url.split("/")[2]

    def ask(self, path: str, *, method: str = "GET", **headers: str):
        connection = http.client.HTTPConnection(self.netloc, timeout=30)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, path: str, **headers: str):
        status, _, body = self.ask(path, **headers)
        assert status == 200, (path, status, body)
        return json.loads(body)


@contextmanager
def serving(hub, *argv: object) -> Iterator[Service]:
    command = [sys.executable, "-m", "edgeprov.cli.fleet_main", "serve", "--listen", "127.0.0.1:0", "--json"]
    command += ["--fleet", str(hub.fleet), "--trust", str(hub.trust), *map(str, argv)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Service(json.loads(line)["url"])
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()
