# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peers import RegistryClient, distribution_registry, referrers_registry
from tests.support.world import World, save_exported_trust


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session", params=["referrers", "fallback"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryClient]:
    """One registry with the referrers API and one without."""
    if request.param == "referrers":
        with referrers_registry() as client:
            yield client
    else:
        with distribution_registry(tmp_path_factory.mktemp("distribution")) as client:
            yield client


@pytest.fixture(scope="session")
def trust(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``edgeprov-fleet export-trust`` writes for this world."""
    return save_exported_trust(world, tmp_path_factory.mktemp("trust"))


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a tool that turns to a public service fails: empty TUF cache, no proxy that works."""
    home = tmp_path_factory.mktemp("home")
    return {
        "HOME": str(home),
        "TUF_ROOT": str(home / "tuf"),
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "COSIGN_EXPERIMENTAL": "",
    }
