# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprov.device.context import Context
from tests.support.site import Site


@pytest.fixture
def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    def make(**options: Any) -> Site:
        site = Site(tmp_path, **options)
        monkeypatch.setattr(Context, "tpm", lambda context: site.open_tpm(context))  # noqa: PLW0108 - binds as a method
        monkeypatch.setattr(Context, "boot_id", lambda _self: site.boot_id)
        monkeypatch.setenv("EDGEPROV_CONFIG", str(site.config_file))
        return site

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
