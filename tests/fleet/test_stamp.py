# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Timestamps at ingestion, by a local ``openssl ts``: pushed beside the originals, used by verify, never twice."""

from __future__ import annotations

import datetime as dt
import shlex
from pathlib import Path

import pytest

from edgeprov.fleet.registries.sources import ArtifactReader, parse_source
from edgeprov.formats.bundle import parse_bundle
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.policy import parse_policy
from tests.support import pki
from tests.support.fleet import fleet, push_device, push_kit, write_trust
from tests.support.tsa import Tsa
from tests.support.world import World


@pytest.fixture
def site(tmp_path: Path):
    world, tsa = World(), Tsa(tmp_path)
    world.policy_files["tsa.pem"] = tsa.root.pem
    registry = LayoutRegistry(tmp_path / "registry", create=True)
    unit = world.enroll("unit-0001")
    push_device(registry, unit)
    sealed = unit.seal(notation=True)
    repo = push_kit(registry, unit, sealed)
    write_trust(world, tmp_path / "trust.d")
    options = ["--fleet", tmp_path / "fleet", "--trust", tmp_path / "trust.d", "--json"]
    assert fleet("sync", f"oci:{tmp_path}/registry", *options[:2]).code == 0
    command = shlex.join(tsa.command)
    return world, unit, sealed, repo, options, command, f"oci:{tmp_path}/registry"


def test_stamps_are_added_once_and_prove_the_time(site):
    world, unit, sealed, repo, options, command, name = site
    done = fleet("stamp", "--tsa-command", command, *options)
    assert done.code == 0, done.out
    assert done.last("summary") == {"type": "summary", "signatures": 2, "kits": 1}
    assert fleet("stamp", "--tsa-command", command, *options).last("summary")["signatures"] == 0
    signatures = ArtifactReader(parse_source(name)).signatures(repo, sealed.digest)
    assert len(signatures) == 4  # bundle and JWS, each with and without
    assert {item.blob for item in sealed.signatures} <= {item.blob for item in signatures}
    later = dt.datetime(2090, 1, 1, tzinfo=dt.UTC)
    verdict = verify_kit(
        sealed.evidence(signatures=signatures), unit.verified(), parse_policy(world.policy_files), later
    )
    assert verdict.signed_before is not None
    assert abs(verdict.signed_before - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)


@pytest.mark.parametrize(
    ("command", "code"), [("false", 3), ("/nonexistent", 3), ("", 3), ("'", 3), ("echo no", 4), ("cat", 4)]
)
def test_authority_that_fails_changes_nothing(site, command, code):
    _, _, sealed, repo, options, _, name = site
    assert fleet("stamp", "--tsa-command", command, *options).code == code
    signatures = ArtifactReader(parse_source(name)).signatures(repo, sealed.digest)
    assert not any(parse_bundle(item.blob).timestamps for item in signatures if b"dsseEnvelope" in item.blob)


def test_authority_that_the_trust_folder_does_not_know(site, tmp_path):
    world, _, _, _, options, command, _ = site
    (tmp_path / "trust.d" / "tsa.pem").write_bytes(pki.root("Another TSA").pem)
    assert fleet("stamp", "--tsa-command", command, *options).code == 13
    (tmp_path / "trust.d" / "tsa.pem").unlink()
    assert fleet("stamp", "--tsa-command", command, *options).code == 3
    assert world.policy_files["tsa.pem"]
