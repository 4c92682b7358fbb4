# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every back end under one suite: a folder, and three real registry servers on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeprov.registry.base import Registry
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.peers import distribution_registry, peer, referrers_registry

PLAIN = RegistrySettings(plain_http=True)
BACK_ENDS = ("layout", "docker-registry", "distribution", "referrers")


@contextmanager
def docker_registry(folder: Path, extra: str = "") -> Iterator[str]:
    """Debian's docker-registry 2.8.2; ``extra`` is further YAML. Gives ``host:port``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, delete: {{enabled: true}}}}\n{extra}"
        f"http: {{addr: '127.0.0.1:{port}', secret: fixed}}\n"
    )
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([peer("docker-registry"), "serve", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)  # the server tells nobody when it listens
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture(scope="module", params=BACK_ENDS)
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "layout":
        yield LayoutRegistry(folder / "layout", create=True)
    elif request.param == "docker-registry":
        with docker_registry(folder) as host:
            yield OrasRegistry(host, settings=PLAIN)
    elif request.param == "distribution":
        with distribution_registry(folder) as client:
            yield OrasRegistry(client.host, settings=PLAIN)
    else:
        with referrers_registry() as client:
            yield OrasRegistry(client.host, settings=PLAIN)
