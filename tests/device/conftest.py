# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeprov.device.context import Context
from edgeprov.device.runtime import InterpreterEngine
from edgeprov.tpm import simulator
from tests.support.box import Box
from tests.support.device_service import Service
from tests.support.site import WDBC, Site


def use(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Let this process be the device."""
    for name in ("tpm", "boot_tpm"):
        monkeypatch.setattr(Context, name, lambda context: site.open_tpm(context))  # noqa: PLW0108 - binds as a method
    monkeypatch.setattr(Context, "boot_id", lambda _self: site.boot_id)
    monkeypatch.setenv("EDGEPROV_CONFIG", str(site.config_file))
    return site


@pytest.fixture
def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    """A device without identity and model; options as of Site."""
    return lambda **options: use(Site(tmp_path, **options), monkeypatch)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An enrolled device with the wdbc model active, made once."""
    # ai-edge-litert says once per process, on stderr, that it made its delegate: before a test counts lines there.
    InterpreterEngine(WDBC.read_bytes())
    site = Site(tmp_path_factory.mktemp("template"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(site, monkeypatch)
        site.install_identity()
        site.install()
    return site


@pytest.fixture
def ready(template: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A fresh copy of the enrolled device with an active model."""
    return use(template.clone(tmp_path), monkeypatch)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    box = Box(tmp_path)
    device = box.enroll()
    box.run("model", "install", box.site.publish().reference)
    box.run("boot-check")
    service = Service(box, device)
    service.start()
    yield service
    for child in service.started:
        child.kill()
        child.communicate()
    service.stop(signal.SIGKILL)
    simulator.stop(tmp_path / "state" / "tpm")


@pytest.fixture
def noted(tmp_path: Path) -> memoryview:
    path = tmp_path / "noted"
    path.write_bytes(bytes(8))
    return memoryview(mmap.mmap(os.open(path, os.O_RDWR), 8)).cast("Q")
