# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Sync and query: only what is new costs anything, and nothing that lies is believed."""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
from dataclasses import replace

import pytest

from edgeprov.errors import UsageError
from edgeprov.fleet.index.query_terms import parse_moment
from edgeprov.fleet.ingest import sync as sync_module
from edgeprov.fleet.registries.sources import open_registry, parse_source
from edgeprov.formats.descriptor import describe, encode_descriptor
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest, encode_index
from edgeprov.formats.mediatypes import A_RECORDS, EMPTY_BLOB, KIT_ARTIFACT, OCI_INDEX
from tests.support.fleet import data_repo, fleet, push_kit, push_signatures, push_tombstone
from tests.support.registries import docker_registry
from tests.support.world import sign_bundle


def test_sync_finds_kits_devices_and_tombstones(full):
    run = full.run("sync", full.name, "--json")
    item = run.last("synced")
    assert (item["kits"], item["devices"], item["faults"]) == (8, 2, 0)
    again = full.run("sync", "--json").last("synced")
    assert (again["kits"], again["devices"], again["models"]) == (0, 0, 0)


def test_a_second_sync_reads_no_manifest(full, monkeypatch):
    full.sync()
    read = []
    monkeypatch.setattr(sync_module._Sync, "_fetch_one", lambda _self, name: read.append(name))
    assert full.sync().code == 0
    assert read == []


def test_one_new_kit_costs_one_manifest(full, monkeypatch):
    full.sync()
    push_kit(full.registry, full.units["a1"], full.units["a1"].seal(records=3))
    read = []
    real = sync_module._Sync._fetch_one
    monkeypatch.setattr(sync_module._Sync, "_fetch_one", lambda self, name: (read.append(name), real(self, name))[1])
    assert full.run("sync", "--json").last("synced")["kits"] == 1
    assert len(read) == 1


def test_a_killed_sync_goes_on(full, monkeypatch):
    monkeypatch.setattr(sync_module, "BATCH", 2)
    real, calls = sync_module._Sync._fetch, []

    def dying(self, batch):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(sync_module._Sync, "_fetch", dying)
    assert full.sync().code == 130
    found = full.run("query", "--json").items
    assert 0 < len(found) < 8
    monkeypatch.setattr(sync_module._Sync, "_fetch", real)
    full.sync()
    assert len(full.run("query", "--json").items) == 8


def test_queries(full):
    full.sync()
    model = str(full.world.model.digest)
    assert len(full.run("query", "--model", model, "--json").items) == 8
    assert len(full.run("query", "--model", model[7:17], "--json").items) == 8
    assert len(full.run("query", "--device", "a1", "--json").items) == 4
    assert len(full.run("query", "--device", "urn:edgeprov:device:a1", "--slot", "default", "--json").items) == 4
    assert full.run("query", "--device", "nobody", "--json").items == []
    assert len(full.run("query", "--labels", "--json").items) == 2
    assert len(full.run("query", "--no-labels", "--json").items) == 6
    assert len(full.run("query", "--from", "2026-02-03", "--to", "2026-02-03", "--json").items) == 8
    assert full.run("query", "--from", "2026-03", "--json").items == []
    assert len(full.run("query", "--verdict", "unchecked", "--json").items) == 8
    assert full.run("query", "--model", "nothing").code == 2
    assert full.run("query", "--from", "yesterday").code == 2
    assert len(full.run("query", "--limit", "3", "--json").items) == 3


def test_csv_has_a_header_and_no_formulas(full):
    full.sync()
    lines = full.run("query", "--csv").out.splitlines()
    assert lines[0].startswith("digest,kind,verdict,model")
    assert len(lines) == 9
    from edgeprov.cli.fleet.query import _cell

    assert _cell("=1+1") == "'=1+1"


def test_nothing_to_query_is_told(tmp_path):
    run = fleet("query", "--fleet", tmp_path / "none")
    assert run.code == 35
    assert "sync" in run.err
    assert fleet("sync", "--fleet", tmp_path / "none").code == 2
    assert fleet("sync", f"oci:{tmp_path}/nothing", "--fleet", tmp_path / "none").code == 35


def test_a_damaged_index_is_named(full):
    full.sync()
    (full.fleet / "index.sqlite").write_bytes(b"not a database at all" * 100)
    run = full.run("query")
    assert run.code == 31
    assert "sync" in run.err


@pytest.mark.parametrize("rot", [b"", b"SQLite format 3\0" + bytes(84), b"no database at all"])
@pytest.mark.parametrize("verb", ["verify", "audit", "query"])
def test_a_broken_index_is_not_an_empty_fleet(full, verb, rot):
    (full.fleet).mkdir()
    (full.fleet / "index.sqlite").write_bytes(rot)
    run = full.run(verb, *(("--from", "2026-01", "--to", "2026-02") if verb == "audit" else ()))
    assert run.code == 31, run.err
    assert "sync" in run.err


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE devices",
        "DROP TABLE artifacts; CREATE TABLE artifacts (digest TEXT)",
        "UPDATE sources SET settings = '{\"na'",
        "UPDATE devices SET signatures = x'ff'",
        "UPDATE artifacts SET device = CAST(x'ff' AS TEXT)",
    ],
)
def test_rot_inside_of_the_index_is_a_damaged_index(full, change):
    import sqlite3

    full.sync()
    with closing(sqlite3.connect(full.fleet / "index.sqlite")) as db, db:
        db.executescript(change)
    run = full.run("audit", "--from", "2026-01", "--to", "2026-12")
    assert run.code == 31, run.out + run.err
    assert "Move it away" in run.err


def test_an_index_of_a_newer_version_is_left_alone(full):
    import sqlite3

    full.sync()
    with closing(sqlite3.connect(full.fleet / "index.sqlite")) as db, db:
        db.execute("PRAGMA user_version = 99")
    assert full.run("query").code == 33


def test_an_index_of_an_older_version_is_moved_away(full):
    import sqlite3

    full.sync()
    with closing(sqlite3.connect(full.fleet / "index.sqlite")) as db, db:
        db.executescript("DROP TABLE series_facts; PRAGMA user_version = 3;")
    for verb in ("query", "sync"):
        told = full.run(verb)
        assert (told.code, "Move it away" in told.err) == (31, True)
    (full.fleet / "index.sqlite").rename(full.fleet / "old.sqlite")
    assert full.run("sync", full.name).code == 0
    assert len(full.run("query", "--json").items) == 8


def test_forged_tags_and_annotations(full):
    """A tag that names another device, an annotation that contradicts the subject, a kit that is none."""
    unit = full.units["a1"]
    sealed = unit.seal(records=5)
    repo = push_kit(full.registry, unit, sealed, tag="a1.0000009999.0123456789abcdef")
    lying = build_manifest(
        config=sealed.manifest.config, layers=sealed.manifest.layers, artifact_type=KIT_ARTIFACT,
        subject=replace(full.world.model.descriptor, digest=sealed.digest), annotations=dict(sealed.manifest.annotations),
    )  # fmt: skip
    full.registry.push_manifest(repo, lying, tag=f"a1.0000000106.{lying.digest.hex[:16]}")
    garbage = build_manifest(config=EMPTY_CONFIG, layers=[], annotations={"x": "y"})
    full.registry.push_blob(repo, EMPTY_CONFIG, EMPTY_BLOB)
    full.registry.push_manifest(repo, garbage, tag="a1.0000000107.aaaaaaaaaaaaaaaa")
    run = full.run("sync", full.name, "--json")
    assert run.code == 0
    why = {item["reference"]: item["why"] for item in run.items if item["type"] == "fault"}
    assert len(why) == 3
    assert "moved or forged" in why["a1.0000009999.0123456789abcdef"]
    assert "subject is not the model" in why[f"a1.0000000106.{lying.digest.hex[:16]}"]
    # The honest kit under the forged name is indexed by digest all the same.
    assert sealed.digest.hex in full.run("query", "--json", "--device", "a1").out
    assert lying.digest.hex not in full.run("query", "--json").out


@pytest.mark.parametrize("kind", ["layout", "docker-registry"])
def test_artifacts_of_unknown_types_are_passed_over(hub, kind):
    """An index over kits with a signature on it, and a manifest: of types that this program does not know."""
    with docker_registry(hub.root / "server") if kind != "layout" else nullcontext() as host:
        if host is not None:
            hub.registry = open_registry(parse_source(host), create=True)
        unit, unknown = hub.device("a1"), "application/vnd.edgeprov.rollup.v1+json"
        sealed = unit.seal(records=5)
        repo = push_kit(hub.registry, unit, sealed)
        index = json.loads(encode_index([sealed.manifest.descriptor]))
        index |= {"artifactType": unknown, "subject": encode_descriptor(hub.world.model.descriptor)}
        raw = encode_json(index)
        hub.registry.push_index(repo, raw, tag="rollup.1")
        on_index = describe(raw, OCI_INDEX)
        push_signatures(hub.registry, repo, [sign_bundle(on_index, b"{}", unit.tpm, unknown)])
        other = build_manifest(
            config=EMPTY_CONFIG, layers=[], artifact_type=unknown, subject=sealed.manifest.descriptor
        )
        hub.registry.push_manifest(repo, other, tag="other")
        for _ in range(2):
            run = hub.run("sync", host or hub.name, "--json")
            assert run.code == 0, run.err
            # A folder tells what an entry is; a registry's list of tags does not, so the index is fetched and named.
            faults = [item["reference"] for item in run.items if item["type"] == "fault"]
            assert faults == ([] if kind == "layout" else ["rollup.1"])
        assert [item["digest"] for item in hub.run("query", "--json").items] == [str(sealed.digest)]
        verified = hub.run("verify", "--json")
        assert verified.code == 0, verified.out
        period = ("--from", "2026-01", "--to", "2027-01")
        assert hub.run("audit", *period, "--json").last("audit")["totals"]["kits"] == 1


def test_annotations_of_a_list_are_not_believed(full):
    """index.json is edited to claim other counts: the manifest itself is what counts."""
    path = full.root / "registry" / "index.json"
    listed = json.loads(path.read_text())
    for entry in listed["manifests"]:
        if A_RECORDS in entry.get("annotations", {}):
            entry["annotations"][A_RECORDS] = "1000000"
    path.write_text(json.dumps(listed))
    full.sync()
    assert {item["records"] for item in full.run("query", "--json").items} == {20}


def test_two_registries_one_kit(full, tmp_path):
    from edgeprov.store.layout_registry import LayoutRegistry

    other = LayoutRegistry(tmp_path / "second", create=True)
    sealed = full.units["a1"].sealed[0]
    push_kit(other, full.units["a1"], sealed)
    run = full.run("sync", full.name, f"oci:{tmp_path}/second", "--json")
    assert [item["kits"] for item in run.items if item["type"] == "synced"] == [8, 0]
    assert len(full.run("query", "--json").items) == 8


def test_a_registry_that_is_down_does_not_stop_the_others(full, tmp_path):
    run = full.run("sync", "127.0.0.1:1/nothing", full.name, "--json")
    assert run.code >= 40
    assert run.last("synced")["kits"] == 8


def test_signatures_of_a_foreign_layout_are_found(full):
    """Another tool's index.json does not tell subjects: the manifests do."""
    path = full.root / "registry" / "index.json"
    listed = json.loads(path.read_text())
    for entry in listed["manifests"]:
        entry.get("annotations", {}).pop("dev.edgeprov.subject", None)
        entry.pop("artifactType", None)
    path.write_text(json.dumps(listed))
    full.sync()
    assert full.run("verify").code == 0


@pytest.mark.parametrize("name", ["", "http://host/x", "justaname", "a b:5000/x", "oci:"])
def test_names_that_are_no_registry(name):
    with pytest.raises(UsageError):
        parse_source(name)


def test_moments():
    assert parse_moment("2026-01", end=True) == "2026-02-01T00:00:00.000Z"
    assert parse_moment("2026-12", end=True) == "2027-01-01T00:00:00.000Z"
    assert parse_moment("2026-01-31", end=True) == "2026-02-01T00:00:00.000Z"
    assert parse_moment("2026-01-31T12:00:00+02:00") == "2026-01-31T10:00:00.000Z"
    with pytest.raises(UsageError):
        parse_moment("2026-13")


def test_tombstones_are_indexed(hub):
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=2))
    push_tombstone(hub.registry, unit, repo=data_repo(unit.sealed[0]))
    assert hub.run("sync", hub.name, "--json").last("synced")["tombstones"] == 1
    assert hub.run("verify").code == 0


def test_a_plain_query_shows_the_newest_verdicts(full):
    full.sync()
    full.run("verify")
    run = full.run("query", "--json", trust=False)
    assert {item["verdict"] for item in run.items} == {"ok"}
    assert len(full.run("query", "--verdict", "ok", "--json", trust=False).items) == 8
