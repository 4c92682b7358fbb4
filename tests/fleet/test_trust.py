# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`edgeprov-fleet trust`: roles, and deny entries that match nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.fleet import Run, fleet, push_device, push_kit, write_trust
from tests.support.world import World


def deny(kind: str, value: str, more: str = "") -> str:
    return f'[[deny]]\ntype = "{kind}"\nvalue = "{value}"\n{more}'


def items(run: Run, kind: str) -> list[dict]:
    return [item for item in run.items if item["type"] == kind]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World()
    unit = world.enroll("ward-1")
    registry = LayoutRegistry(tmp_path / "registry", create=True)
    push_device(registry, unit)
    sealed = unit.seal()
    push_kit(registry, unit, sealed)
    entries = [
        deny("kit", str(sealed.digest), 'reason = "made at a fair"\n'), deny("kit", "sha256:" + "ab" * 32),
        deny("device", unit.urn), deny("device", unit.record.enrollment.hex()), deny("device", "urn:edgeprov:device:ward-2"),
        deny("key", hashlib.sha256(unit.tpm.public_key_spki).hexdigest()), deny("key", "ab" * 32),
        deny("certificate", f"serial:{world.enroller.certificate.serial_number:x}", "from = 2026-02-01T00:00:00Z\n"),
        deny("certificate", "serial:1234"), deny("model", str(world.model.digest)),
    ]  # fmt: skip
    world.policy_files["policy.toml"] += "".join(entries).encode()
    return world


def test_an_entry_that_matches_nothing_is_told(world: World, tmp_path: Path):
    trust = write_trust(world, tmp_path / "trust")
    before = fleet("trust", "--trust", trust, "--fleet", tmp_path / "fleet", "--json")
    assert [item["matches"] for item in items(before, "deny")] == [0] * 10
    assert fleet("sync", f"oci:{tmp_path}/registry", "--fleet", tmp_path / "fleet").code == 0
    run = fleet("trust", "--trust", trust, "--fleet", tmp_path / "fleet", "--json")
    assert run.code == 0, run.err
    # No model of this digest was published: only kits name it.
    assert [item["matches"] for item in items(run, "deny")] == [1, 0, 1, 1, 0, 1, 0, 1, 0, 0]
    assert {item["role"]: item["identities"] for item in items(run, "role")}["importer"] == ["urn:edgeprov:importer:*"]
    text = fleet("trust", "--trust", trust, "--fleet", tmp_path / "fleet").out
    assert text.count("MATCHES NOTHING") == 5
    assert "made at a fair" in text


def test_a_kit_of_a_denied_device_is_refused_and_told_why(world: World, tmp_path: Path):
    trust = write_trust(world, tmp_path / "trust")
    fleet("sync", f"oci:{tmp_path}/registry", "--fleet", tmp_path / "fleet")
    run = fleet("verify", "--fleet", tmp_path / "fleet", "--trust", trust)
    assert run.code != 0
    assert "deny list" in run.out + run.err
