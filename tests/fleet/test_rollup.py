# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Roll-ups: only closed shards, only verified kits, one writer, the same bytes each time."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeprov.errors import RegistryProtocolError
from edgeprov.fleet import rollup as module
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.in_toto import parse_statement
from edgeprov.formats.mediatypes import OCI_INDEX, ROLLUP_PREDICATE
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
        self.fleet_folder = root / "fleet"
        assert fleet("ca", "init", self.ca).code == 0
        trust = write_trust(self.world, root / "trust.d")
        with (trust / "publisher.pem").open("ab") as file:  # collectors share the publishers' CA
            file.write((self.ca / "trust.d" / "publisher.pem").read_bytes())

    def enroll(self, serial: str) -> Unit:
        unit = self.world.enroll(serial)
        push_device(self.registry, unit)  # type: ignore[arg-type]
        return unit

    def push(self, unit: Unit, sealed: Sealed, month: str = "202602") -> Sealed:
        push_kit(self.registry, unit, sealed, repo=data_repo(sealed, month))  # type: ignore[arg-type]
        return sealed

    def roll_up(self, *options: object) -> Run:
        assert fleet("sync", self.name, "--plain-http", "--fleet", self.fleet_folder).code == 0
        fleet("verify", "--fleet", self.fleet_folder, "--trust", self.root / "trust.d", "--workers", 1)
        return fleet(
            "rollup",
            "--fleet",
            self.fleet_folder,
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
    units = [shelf.enroll("ward-1"), shelf.enroll("ward-2")]
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
    unit = shelf.enroll("ward-1")
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
    unit = folder.enroll("ward-1")
    folder.push(unit, unit.seal())
    missing = unit.seal()
    folder.push(unit, unit.seal())
    shard = folder.shard(folder.roll_up())
    assert shard["state"] == "open"
    assert "whole only up to 101" in shard["why"]
    folder.push(unit, missing)
    assert folder.shard(folder.roll_up())["state"] == "written"


def test_an_unknown_device_and_a_forged_kit_do_not_get_in(folder: Shelf) -> None:
    unit = folder.enroll("ward-1")
    good = folder.push(unit, unit.seal())
    forged = folder.push(unit, unit.seal(signer=folder.world.enroll("ward-9").tpm))
    shard = folder.shard(folder.roll_up())
    assert (shard["state"], shard["kits"]) == ("written", 1)
    index = folder.registry.fetch_index(data_repo(good), "rollup.1")
    assert [item.digest for item in index.manifests] == [good.digest]
    assert forged.digest != good.digest
    stranger = folder.world.enroll("ward-3")
    folder.push(stranger, stranger.seal(), "202601")
    assert folder.shard(folder.roll_up(), "202601")["state"] == "open"


def test_a_month_that_is_not_over_stays_open(folder: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = folder.enroll("ward-1")
    folder.push(unit, unit.seal(), "299912")
    shard = folder.shard(folder.roll_up(), "299912")
    assert (shard["state"], shard["why"]) == ("open", "its month is not over")


def test_a_run_that_was_stopped_before_it_signed_is_finished_by_the_next(
    folder: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = folder.enroll("ward-1")
    kit = folder.push(unit, unit.seal())
    with monkeypatch.context() as broken:
        broken.setattr(module._Shard, "_sign", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert folder.roll_up().code == 130
    shard = folder.shard(folder.roll_up())
    assert shard["state"] == "current"
    assert len(folder.registry.list_referrers(data_repo(kit), parse_digest(shard["digest"]))) == 1


def test_large_shards_are_nested(folder: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAF_ENTRIES", 2)
    unit = folder.enroll("ward-1")
    kits = [folder.push(unit, unit.seal()) for _ in range(5)]
    folder.shard(folder.roll_up())
    repo = data_repo(kits[0])
    leaves = folder.registry.fetch_index(repo, "rollup.1").manifests
    assert len(leaves) == 3
    named = [item.digest for leaf in leaves for item in folder.registry.fetch_index(repo, leaf.digest).manifests]
    assert named == [kit.digest for kit in kits]


def test_a_second_writer_is_turned_away(folder: Shelf) -> None:
    unit = folder.enroll("ward-1")
    folder.push(unit, unit.seal())
    folder.roll_up()
    with lock(folder.root / "fleet" / "rollup.lock"):
        assert folder.roll_up().code == 32


def take_away(shelf: Shelf, sealed: Sealed) -> None:
    """Somebody with the right to delete does so."""
    repo = data_repo(sealed)
    if isinstance(shelf.registry, LayoutRegistry):
        shelf.registry.layout.remove_manifest(sealed.digest)
        return
    request = urllib.request.Request(f"http://{shelf.name}/v2/{repo}/manifests/{sealed.digest}", method="DELETE")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 202
    # 2.8.2 goes on listing the tag of what was deleted; the one who deletes sees to the rest.
    for folder in (shelf.root / "server" / "data").rglob(f"_manifests/tags/*.{sealed.digest.hex[:16]}"):
        shutil.rmtree(folder)


def ask(shelf: Shelf, verb: str, *options: object) -> Run:
    trust = [] if verb == "sync" else ["--trust", shelf.root / "trust.d"]
    workers = ["--workers", 1] if verb in ("verify", "audit") else []
    return fleet(verb, *options, "--fleet", shelf.root / "fleet", *trust, *workers, "--json")


@pytest.fixture(params=["layout", "docker-registry"])
def deletable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    with opened(request.param, tmp_path) as shelf:
        yield shelf


@pytest.mark.parametrize("known_before", [True, False])
def test_a_kit_that_a_roll_up_names_and_somebody_took_away_is_told_everywhere(
    deletable: Shelf, known_before: bool
) -> None:
    shelf, unit = deletable, deletable.enroll("ward-1")
    kits = [shelf.push(unit, unit.seal()) for _ in range(4)]
    assert shelf.shard(shelf.roll_up())["state"] == "written"
    if not known_before:  # an index that starts anew has never seen what is gone
        shutil.rmtree(shelf.root / "fleet")
    synced = ask(shelf, "sync", shelf.name, "--plain-http")
    assert synced.last("synced")["gone"] == 0
    if not known_before:
        shutil.rmtree(shelf.root / "fleet")
    for kit in kits[2:]:
        take_away(shelf, kit)
    gone = {f"ward-1.{kit.kit.seq:010d}.{kit.digest.hex[:16]}" for kit in kits[2:]}

    synced = ask(shelf, "sync", shelf.name, "--plain-http")
    assert synced.code == 0
    assert synced.last("synced")["gone"] == 2
    assert {item["tag"] for item in synced.items if item["type"] == "gone"} == gone
    for proved in (None, True):  # before and after the roll-up's signature was verified
        told = [item for item in ask(shelf, "query").items if item["type"] == "gone"]
        assert {item["tag"] for item in told} == gone
        assert {item["proved"] for item in told} == {proved if not known_before else True} or proved is None
        ask(shelf, "verify")
    assert "2 kits that a roll-up names are gone" in fleet("query", "--fleet", shelf.root / "fleet").out
    audit = ask(shelf, "audit", "--from", "2025-01", "--to", "2027-01").last("audit")
    assert (audit["verdict"], audit["totals"]["gone"]) == ("gaps", 2)
    assert {item["tag"] for item in audit["gone"]} == gone

    for kit in kits[2:]:  # it comes back, from a stick or from the device
        shelf.push(unit, kit)
    assert ask(shelf, "sync", shelf.name, "--plain-http").last("synced")["gone"] == 0
    assert ask(shelf, "audit", "--from", "2025-01", "--to", "2027-01").last("audit")["totals"]["gone"] == 0


def verdicts(shelf: Shelf) -> dict[str, bool | None]:
    ask(shelf, "sync")
    told = [item for item in ask(shelf, "verify").items if item.get("kind") == "rollup"]
    return {item["name"].rpartition("/")[2]: item["verified"] for item in told}


def test_a_roll_up_by_a_stranger_is_refused_and_accuses_nobody(folder: Shelf) -> None:
    unit = folder.enroll("ward-1")
    folder.push(unit, unit.seal())
    folder.roll_up()
    folder.ca = folder.root / "other-ca"
    assert fleet("ca", "init", folder.ca).code == 0
    folder.push(unit, unit.seal())
    assert folder.shard(folder.roll_up())["reference"].endswith("rollup.2")
    assert verdicts(folder) == {"202602:rollup.1": True, "202602:rollup.2": False}
    assert [item for item in ask(folder, "query").items if item["type"] == "gone"] == []


def test_a_roll_up_of_another_shard_is_refused_and_accuses_nobody(folder: Shelf) -> None:
    """A good one, put where it does not belong: it must neither count there nor spoil the one that does."""
    unit = folder.enroll("ward-1")
    kit = folder.push(unit, unit.seal())
    folder.roll_up()
    rollup = folder.registry.fetch_index(data_repo(kit), "rollup.1")
    (signature,) = folder.registry.list_referrers(data_repo(kit), rollup.digest)
    for manifest in (kit.manifest, folder.registry.fetch_manifest(data_repo(kit), signature.digest)):
        folder.registry.push_manifest(data_repo(kit, "202601"), manifest)
    folder.registry.push_index(data_repo(kit, "202601"), rollup.raw, tag="rollup.7")
    assert verdicts(folder) == {"202601:rollup.7": False, "202602:rollup.1": True}
    assert [item for item in ask(folder, "query").items if item["type"] == "gone"] == []


def test_a_roll_up_that_was_not_signed_yet_is_read_again_when_it_is(
    folder: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = folder.enroll("ward-1")
    folder.push(unit, unit.seal())
    with monkeypatch.context() as broken:
        broken.setattr(module._Shard, "_sign", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        folder.roll_up()
    assert verdicts(folder) == {"202602:rollup.1": None}
    folder.roll_up()
    assert verdicts(folder) == {"202602:rollup.1": True}


def test_where_tags_cannot_be_listed_the_roll_ups_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened("docker-registry", tmp_path) as shelf:
        unit = shelf.enroll("ward-1")
        kits = [shelf.push(unit, unit.seal()) for _ in range(3)]
        shelf.roll_up()
        late = shelf.push(unit, unit.seal())
        shutil.rmtree(tmp_path / "fleet")
        listed = OrasRegistry.list_tags

        def refuse(registry: OrasRegistry, repo: str) -> tuple[str, ...]:
            if repo.startswith("data/"):
                raise RegistryProtocolError("this registry lists nothing", status=405)
            return listed(registry, repo)

        monkeypatch.setattr(OrasRegistry, "list_tags", refuse)
        synced = ask(shelf, "sync", shelf.name, "--plain-http")
        assert synced.last("synced")["kits"] == 3
        assert any("later ones are not" in item["why"] for item in synced.items if item["type"] == "fault")
        found = {item["digest"] for item in ask(shelf, "query").items if item["type"] == "kit"}
        assert found == {str(kit.digest) for kit in kits}
        assert str(late.digest) not in found


def in_a_child(work: Callable[[], object]) -> int:
    """Exit status of a process of its own that does this: it can be killed without a last word."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(number: int, *, after: bool) -> None:
    """From here on this process dies at the ``number``-th write to a registry, before or after it."""
    left = number

    def dying(write: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if not left and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = write(*args, **options)
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return call

    for back_end in (OrasRegistry, LayoutRegistry):
        for name in ("push_blob", "push_manifest", "push_index"):
            setattr(back_end, name, dying(getattr(back_end, name)))


def shelf_state(shelf: Shelf, kits: list[Sealed]) -> tuple[object, ...]:
    """What any client can see of a shard: it must not depend on where a run was stopped."""
    repo, registry = data_repo(kits[0]), shelf.registry
    top = registry.fetch_index(repo, "rollup.1")
    nested = [item.digest for item in top.manifests if item.media_type == OCI_INDEX]
    leaves = [registry.fetch_index(repo, digest).raw for digest in nested]
    signatures = len(registry.list_referrers(repo, top.digest))
    listed = {item.digest for item in registry.list_referrers(repo, kits[0].kit.model)}
    mine = {tag for tag in registry.list_tags(repo) if tag.startswith("rollup.")}
    return top.raw, leaves, signatures, listed, mine


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layout", "docker-registry"])
def test_a_run_may_be_killed_at_each_of_its_writes_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module, "LEAF_ENTRIES", 2)
    killed, ends = 0, []
    for after in (False, True):
        for number in itertools.count(1):
            with opened(kind, tmp_path / f"{number}-{after}") as shelf:
                unit = shelf.enroll("ward-1")
                kits = [shelf.push(unit, unit.seal()) for _ in range(3)]

                def dies(shelf: Shelf = shelf, number: int = number, after: bool = after) -> None:
                    kill_at(number, after=after)
                    shelf.roll_up()

                status = in_a_child(dies)
                assert shelf.roll_up().code == 0
                assert shelf.shard(shelf.roll_up())["state"] == "current"
                ends.append(shelf_state(shelf, kits))
                assert verdicts(shelf) == {"202602:rollup.1": True}
            if status == 0:
                break
            assert status == -signal.SIGKILL
            killed += 1
    assert killed >= 2 * 6  # two leaves, the top, the signature's two blobs and its manifest
    assert all(end == ends[0] for end in ends)
    assert ends[0][2] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layout", "docker-registry", "referrers"])
def test_two_desks_that_roll_up_at_once_do_no_harm(tmp_path: Path, kind: str) -> None:
    with opened(kind, tmp_path) as shelf:
        unit = shelf.enroll("ward-1")
        kits = [shelf.push(unit, unit.seal()) for _ in range(3)]
        children = []
        for desk in range(4):
            child = os.fork()
            if not child:
                try:
                    shelf.fleet_folder = tmp_path / f"fleet-{desk}"
                    os._exit(shelf.roll_up().code)
                finally:
                    os._exit(99)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert set(codes) <= {0, 32, 40}  # done; or told to come again, as at a registry that is busy
        assert shelf.roll_up().code == 0
        _, _, signatures, listed, mine = shelf_state(shelf, kits)
        assert mine == {"rollup.1"}
        assert 1 <= signatures <= 5
        assert {kit.digest for kit in kits} <= listed
        assert verdicts(shelf) == {"202602:rollup.1": True}


@pytest.mark.parametrize("wanted", [True, False])
def test_the_fallback_tag_is_for_registries_without_the_referrers_api(tmp_path: Path, wanted: bool) -> None:
    with opened("docker-registry", tmp_path) as shelf:
        unit = shelf.enroll("ward-1")
        kit = shelf.push(unit, unit.seal())
        shard = shelf.shard(shelf.roll_up(*[] if wanted else ["--no-fallback"]))
        assert shard["fallback"] == (1 if wanted else None)
        tag = fallback_tag(kit.kit.model)
        assert (shelf.registry.head_manifest(data_repo(kit), tag) is not None) is wanted
