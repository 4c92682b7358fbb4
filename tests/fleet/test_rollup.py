# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Roll-ups: only closed shards, only verified kits, one writer, the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeprov.fleet import rollup as module
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.in_toto import parse_statement
from edgeprov.formats.mediatypes import ROLLUP_PREDICATE
from edgeprov.registry.base import Registry, fallback_tag
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.store.lock import lock
from tests.support import pki
from tests.support.fleet import Run, data_repo, fleet, push_device, push_kit, write_trust
from tests.support.peers import referrers_registry
from tests.support.registries import docker_registry
from tests.support.world import Sealed, Unit, World


class Shelf:
    """A registry with a world's kits, and a fleet folder beside it."""

    def __init__(self, root: Path, registry: Registry, name: str) -> None:
        self.root = root
        self.registry = registry
        self.name = name
        self.world = World()
        self.ca = root / "ca"
        assert fleet("ca", "init", self.ca).code == 0
        write_trust(self.world, root / "trust.d")

    def enrol(self, serial: str) -> Unit:
        unit = self.world.enrol(serial)
        push_device(self.registry, unit)  # type: ignore[arg-type]
        return unit

    def push(self, unit: Unit, sealed: Sealed, month: str = "202602") -> Sealed:
        push_kit(self.registry, unit, sealed, repo=data_repo(sealed, month))  # type: ignore[arg-type]
        return sealed

    def roll_up(self, *options: object) -> Run:
        assert fleet("sync", self.name, "--plain-http", "--fleet", self.root / "fleet").code == 0
        fleet("verify", "--fleet", self.root / "fleet", "--trust", self.root / "trust.d", "--workers", 1)
        return fleet(
            "rollup",
            "--fleet",
            self.root / "fleet",
            "--trust",
            self.root / "trust.d",
            "--ca",
            self.ca,
            "--json",
            *options,
        )

    def shard(self, run: Run, month: str = "202602") -> dict:
        assert run.code == 0, run.err
        return next(item for item in run.items if item["type"] == "shard" and item["repo"].endswith(month))


@contextmanager
def opened(kind: str, root: Path) -> Iterator[Shelf]:
    if kind == "layout":
        yield Shelf(root, LayoutRegistry(root / "registry", create=True), f"oci:{root}/registry")
    elif kind == "referrers":
        with referrers_registry() as client:
            yield Shelf(root, OrasRegistry(client.host, settings=RegistrySettings(plain_http=True)), client.host)
    else:
        with docker_registry(root / "server") as host:
            yield Shelf(root, OrasRegistry(host, settings=RegistrySettings(plain_http=True)), host)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(pki.NOW.timestamp()) + 40 * 86400))


@pytest.fixture(params=["layout", "docker-registry", pytest.param("referrers", marks=pytest.mark.slow)])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    with opened(request.param, tmp_path) as shelf:
        yield shelf


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Shelf]:
    with opened("layout", tmp_path) as shelf:
        yield shelf


def test_a_closed_shard_is_named_whole_signed_and_found_from_the_model(shelf: Shelf) -> None:
    units = [shelf.enrol("ward-1"), shelf.enrol("ward-2")]
    kits = [shelf.push(unit, unit.seal()) for unit in units for _ in range(3)]
    shard = shelf.shard(shelf.roll_up())
    assert (shard["state"], shard["kits"]) == ("written", 6)
    repo = data_repo(kits[0])
    index = shelf.registry.fetch_index(repo, "rollup.1")
    assert {item.digest for item in index.manifests} == {kit.digest for kit in kits}
    assert [item.annotations["dev.edgeprov.seq"] for item in index.manifests[:3]] == ["101", "102", "103"]
    assert index.subject is not None
    assert index.subject.digest == kits[0].kit.model
    (signature,) = shelf.registry.list_referrers(repo, index.digest)
    manifest = shelf.registry.fetch_manifest(repo, signature.digest)
    statement = parse_statement(parse_bundle(b"".join(shelf.registry.fetch_blob(repo, manifest.layers[0]))).payload)
    assert statement.predicate_type == ROLLUP_PREDICATE
    assert statement.subjects == (index.digest,)
    assert statement.predicate["closedUntil"] == {"urn:edgeprov:device:ward-1": 103, "urn:edgeprov:device:ward-2": 103}
    listed = {item.digest for item in shelf.registry.list_referrers(repo, kits[0].kit.model)}
    assert {kit.digest for kit in kits} <= listed


def test_a_repeat_writes_nothing_and_a_late_kit_makes_the_next_number(shelf: Shelf) -> None:
    unit = shelf.enrol("ward-1")
    first = shelf.push(unit, unit.seal())
    assert shelf.shard(shelf.roll_up())["state"] == "written"
    repo = data_repo(first)
    before = set(shelf.registry.list_tags(repo))
    again = shelf.shard(shelf.roll_up())
    assert (again["state"], again["fallback"]) == ("current", None)
    assert set(shelf.registry.list_tags(repo)) == before
    assert len(shelf.registry.list_referrers(repo, parse_digest(again["digest"]))) == 1
    shelf.push(unit, unit.seal())
    late = shelf.shard(shelf.roll_up())
    assert (late["state"], late["kits"]) == ("written", 2)
    assert late["reference"].endswith(":rollup.2")


def test_a_gap_keeps_the_shard_open_until_the_missing_kit_comes(folder: Shelf) -> None:
    unit = folder.enrol("ward-1")
    folder.push(unit, unit.seal())
    missing = unit.seal()
    folder.push(unit, unit.seal())
    shard = folder.shard(folder.roll_up())
    assert shard["state"] == "open"
    assert "whole only up to 101" in shard["why"]
    folder.push(unit, missing)
    assert folder.shard(folder.roll_up())["state"] == "written"


def test_an_unknown_device_and_a_forged_kit_do_not_get_in(folder: Shelf) -> None:
    unit = folder.enrol("ward-1")
    good = folder.push(unit, unit.seal())
    forged = folder.push(unit, unit.seal(signer=folder.world.enrol("ward-9").tpm))
    shard = folder.shard(folder.roll_up())
    assert (shard["state"], shard["kits"]) == ("written", 1)
    index = folder.registry.fetch_index(data_repo(good), "rollup.1")
    assert [item.digest for item in index.manifests] == [good.digest]
    assert forged.digest != good.digest
    stranger = folder.world.enrol("ward-3")
    folder.push(stranger, stranger.seal(), "202601")
    assert folder.shard(folder.roll_up(), "202601")["state"] == "open"


def test_a_month_that_is_not_over_stays_open(folder: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = folder.enrol("ward-1")
    folder.push(unit, unit.seal(), "299912")
    shard = folder.shard(folder.roll_up(), "299912")
    assert (shard["state"], shard["why"]) == ("open", "its month is not over")


def test_a_run_that_was_stopped_before_it_signed_is_finished_by_the_next(
    folder: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = folder.enrol("ward-1")
    kit = folder.push(unit, unit.seal())
    with monkeypatch.context() as broken:
        broken.setattr(module._Shard, "_sign", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert folder.roll_up().code == 130
    shard = folder.shard(folder.roll_up())
    assert shard["state"] == "current"
    assert len(folder.registry.list_referrers(data_repo(kit), parse_digest(shard["digest"]))) == 1


def test_large_shards_are_nested(folder: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAF_ENTRIES", 2)
    unit = folder.enrol("ward-1")
    kits = [folder.push(unit, unit.seal()) for _ in range(5)]
    folder.shard(folder.roll_up())
    repo = data_repo(kits[0])
    leaves = folder.registry.fetch_index(repo, "rollup.1").manifests
    assert len(leaves) == 3
    named = [item.digest for leaf in leaves for item in folder.registry.fetch_index(repo, leaf.digest).manifests]
    assert named == [kit.digest for kit in kits]


def test_a_second_writer_is_turned_away(folder: Shelf) -> None:
    unit = folder.enrol("ward-1")
    folder.push(unit, unit.seal())
    folder.roll_up()
    with lock(folder.root / "fleet" / "rollup.lock"):
        assert folder.roll_up().code == 32


@pytest.mark.parametrize("wanted", [True, False])
def test_the_fallback_tag_is_for_registries_without_the_referrers_api(tmp_path: Path, wanted: bool) -> None:
    with opened("docker-registry", tmp_path) as shelf:
        unit = shelf.enrol("ward-1")
        kit = shelf.push(unit, unit.seal())
        shard = shelf.shard(shelf.roll_up(*[] if wanted else ["--no-fallback"]))
        assert shard["fallback"] == (1 if wanted else None)
        tag = fallback_tag(kit.kit.model)
        assert (shelf.registry.head_manifest(data_repo(kit), tag) is not None) is wanted
