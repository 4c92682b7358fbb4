# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every back end under one suite: a folder, and three real registry servers on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeprov.registry.base import Registry
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.peers import referrers_registry
from tests.support.registries import docker_registry

PLAIN = RegistrySettings(plain_http=True)
BACK_ENDS = (
    "layout",
    "docker-registry",
    pytest.param("distribution", marks=pytest.mark.slow),
    pytest.param("referrers", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module", params=BACK_ENDS)
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "layout":
        yield LayoutRegistry(folder / "layout", create=True)
    elif request.param == "docker-registry":
        with docker_registry(folder) as host:
            yield OrasRegistry(host, settings=PLAIN)
    elif request.param == "distribution":
        with docker_registry(folder, program="registry") as host:
            yield OrasRegistry(host, settings=PLAIN)
    else:
        with referrers_registry() as client:
            yield OrasRegistry(client.host, settings=PLAIN)
