# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The repository of a kit is decided when it is sent: a bad template stops the upload with advice, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprov._dataclass import replace
from edgeprov.device.export import export
from edgeprov.device.upload import upload
from edgeprov.errors import ConfigError
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.sender import Sender


def test_a_bad_template_is_told_and_mended(sender: Sender, tmp_path: Path) -> None:
    entry = sender.fill(1, 100)
    folder = f"oci:{tmp_path}/registry"
    for template in ("data/{devise}", "data/{bin}", "Data"):
        with pytest.raises(ConfigError) as caught:
            upload(sender.context(folder, registry="", template=template))
        assert "registry.data_template" in caught.value.message + caught.value.advice
        with pytest.raises(ConfigError):
            export(sender.context(folder, registry="", template=template), tmp_path / "stick")
        sender.verify_nothing_lost()
    result = upload(sender.context(folder, registry="", template="data/{device}"))
    assert [item.repo for item in result.sent] == ["data/unit-1"]
    assert LayoutRegistry(tmp_path / "registry").list_tags("data/unit-1") == (
        entry.tag,
        f"{entry.tag}.s1",
        f"{entry.tag}.s2",
    )


def test_kits_sealed_before_a_rename_stay_with_their_own(sender: Sender, tmp_path: Path) -> None:
    sender.fill(1, 100)
    sender.serial = "renamed"
    sender.fill(1, 100)
    folder = f"oci:{tmp_path}/registry"
    result = upload(sender.context(folder, registry="", template="data/{device}"))
    assert [item.repo for item in result.sent] == ["data/unit-1", "data/renamed"]


def test_year_and_month_are_those_of_sealing(make_sender: Callable[..., Sender], tmp_path: Path) -> None:
    sender = make_sender("Ward_7")
    entry = sender.fill(1, 100)
    sender.state.save_outbox(replace(entry, info={**entry.info, "created": "2031-02-03T04:05:06Z"}))
    result = upload(sender.context(f"oci:{tmp_path}/registry", registry="", template="data/{device}/{year}"))
    (sent,) = result.sent
    assert sent.repo.startswith("data/ward-7-")
    assert sent.repo.endswith("/2031")
