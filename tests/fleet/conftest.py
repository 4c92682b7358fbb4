# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeprov.formats.label import Label
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.fleet import Run, fleet, push_device, push_kit, push_signatures, write_trust
from tests.support.world import Unit, World


@dataclass
class Hub:
    """A registry folder, a trust folder and an index folder around one world."""

    root: Path
    world: World
    registry: LayoutRegistry
    units: dict[str, Unit] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"oci:{self.root}/registry"

    @property
    def fleet(self) -> Path:
        return self.root / "fleet"

    @property
    def trust(self) -> Path:
        return self.root / "trust.d"

    def device(self, serial: str, **changes: object) -> Unit:
        unit = self.world.enroll(serial, **changes)
        push_device(self.registry, unit)
        self.units[serial] = unit
        return unit

    def run(self, verb: str, *argv: object, trust: bool | None = None) -> Run:
        options: list[object] = ["--fleet", self.fleet]
        if trust or (trust is None and verb not in ("sync", "lineage")):
            options += ["--trust", self.trust]
        return fleet(verb, *argv, *options, *(["--workers", "1"] if verb in ("verify", "collect", "audit") else []))

    def sync(self) -> Run:
        return self.run("sync", self.name)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    world = World()
    write_trust(world, tmp_path / "trust.d")
    return Hub(tmp_path, world, LayoutRegistry(tmp_path / "registry", create=True))


@pytest.fixture
def full(hub: Hub) -> Hub:
    """Two devices, four kits each; the last one labels the first five records."""
    with hub.registry.layout.batch():
        for serial in ("a1", "b2"):
            unit = hub.device(serial)
            for number in range(4):
                labels = [Label(n=n, value=n % 2, source="lab", labelled_at_ns=10**18 + 1000 * n) for n in range(5)]
                push_kit(hub.registry, unit, unit.seal(records=20, labels=labels if number == 3 else ()))
    return hub


@pytest.fixture
def judged(full: Hub) -> Hub:
    """As full, with the model there too, and everything verified."""
    repo = "models/wdbc"
    for blob, data in ((full.world.model.layers[0], b"model bytes, version 1"), (full.world.model.config, None)):
        if data is None:
            data = json.dumps(
                {"manifestVersion": "1.0.0", "package": {"name": "wdbc"}, "model": {"path": "model.tflite"}},
                sort_keys=True,
                separators=(",", ":"),
            ).encode()
        full.registry.push_blob(repo, blob, data)
    full.registry.push_manifest(repo, full.world.model, tag="1.0.0")
    push_signatures(full.registry, repo, [full.world.sign_model()])
    full.sync()
    assert full.run("verify").code == 0
    return full
