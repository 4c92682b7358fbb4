# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Query: every filter alone and together, in every output; and what a sync shows, shares and survives."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeprov.fleet.ingest import sync as sync_module
from tests.support.fleet import fleet, push_kit, push_signatures
from tests.support.registries import docker_registry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mixed(judged):
    """Two devices, two models, two slots, labels, a tombstone and a refused kit."""
    new = judged.world.make_model("wdbc", b"model bytes, version 2")
    unit = judged.units["a1"]
    unit.reboot()
    unit.measure(new.digest)
    judged.newer = new
    judged.second = unit.seal(records=7, model=new)
    push_kit(judged.registry, unit, judged.second)
    judged.unsigned = judged.units["b2"].seal(records=4)
    push_kit(judged.registry, judged.units["b2"], judged.unsigned)
    judged.sync()
    with closing(sqlite3.connect(judged.fleet / "index.sqlite")) as db, db:
        db.execute("UPDATE artifacts SET slot = 'left' WHERE digest = ?", (str(judged.second.digest),))
    assert judged.run("verify").code == 0
    with closing(sqlite3.connect(judged.fleet / "index.sqlite")) as db, db:
        db.execute(
            "UPDATE verdicts SET verified = 0, step = 0, detail = 'a blob is rotten' WHERE digest = ?",
            (str(judged.unsigned.digest),),
        )
    return judged


def rows(hub, *filters: object) -> set[str]:
    """Digests, the same from JSON lines, CSV, table and count."""
    run = hub.run("query", *filters, "--json")
    assert run.code == 0, run.err
    found = {item["digest"] for item in run.items if item["type"] == "kit"}
    lines = list(csv.DictReader(io.StringIO(hub.run("query", *filters, "--csv").out)))
    assert {line["digest"] for line in lines} == found
    count = hub.run("query", *filters, "--count", "--json").last("counted")
    assert (count["kits"], count["records"]) == (len(found), sum(int(line["records"]) for line in lines))
    table = hub.run("query", *filters).out.splitlines()
    assert len(table) - 3 == len(found) or f"{len(found)} kits" in table[-2]
    assert f"{len(found)} kits and tombstones" in "\n".join(table)
    return found


def test_each_filter_and_some_together(mixed):
    every = rows(mixed)
    assert len(every) == 10
    one, other = str(mixed.second.digest), str(mixed.unsigned.digest)
    old, new = str(mixed.world.model.digest), str(mixed.newer.digest)
    assert rows(mixed, "--model", new) == {one}
    assert rows(mixed, "--model", new[7:15]) == {one}  # the start of a digest
    assert rows(mixed, "--model", "wdbc:1.0.0") == every - {one}  # a tag
    assert rows(mixed, "--model", "wdbc:1.0.0", "--model", new) == every
    assert rows(mixed, "--kit", one) == {one}
    assert rows(mixed, "--kit", one[7:17]) == {one}
    assert rows(mixed, "--kit", "0" * 64) == set()
    assert rows(mixed, "--device", "a1") | rows(mixed, "--device", "b2") == every
    assert rows(mixed, "--slot", "left") == {one}
    assert rows(mixed, "--verdict", "refused") == {other}
    assert rows(mixed, "--verdict", "ok") == every - {other}
    assert rows(mixed, "--labels") | rows(mixed, "--no-labels") == every
    assert not rows(mixed, "--labels") & rows(mixed, "--no-labels")
    assert rows(mixed, "--kind", "kit") == every
    assert rows(mixed, "--kind", "tombstone") == set()
    assert rows(mixed, "--from", "2026-02-03", "--to", "2026-02-03") == every
    assert rows(mixed, "--from", "2026-02-04") == set()
    assert rows(mixed, "--model", old, "--device", "b2", "--verdict", "ok", "--no-labels", "--from", "2026-02") == (
        rows(mixed, "--device", "b2") & rows(mixed, "--no-labels") - {other}
    )
    for wrong in (
        ("--kit", "xyz"),
        ("--limit", "0"),
        ("--limit", "-1"),
        ("--limit", "9" * 30),
        ("--from", "soon"),
        ("--model", "nobody"),
    ):
        assert mixed.run("query", *wrong).code == 2, wrong
    assert "refused, content" in mixed.run("query", "--verdict", "refused").out


def test_a_version_names_a_model_as_a_tag_does(judged):
    """`publish` writes both; a model may have many tags, and a tag may move on."""
    with closing(sqlite3.connect(judged.fleet / "index.sqlite")) as db, db:
        db.execute("UPDATE models SET version = '7.1'")
    assert len(rows(judged, "--model", "wdbc:7.1")) == 8
    assert len(rows(judged, "--model", "wdbc:1.0.0")) == 8
    assert len(rows(judged, "--model", "wdbc")) == 8
    assert judged.run("query", "--model", "wdbc:7.2").code == 2


def test_names_of_others_move_no_cursor(judged):
    """A model may be called anything: a terminal shows it, a spreadsheet does not run it."""
    with closing(sqlite3.connect(judged.fleet / "index.sqlite")) as db, db:
        db.execute("UPDATE models SET name = ?", ("\x1b[2J\x1b]0;owned\x07\u202ename",))
        db.execute("UPDATE artifacts SET slot = '=1+1'")
    for run in (
        judged.run("query"),
        judged.run("lineage", str(judged.world.model.digest)),
        judged.run("query", "--csv"),
    ):
        assert run.code == 0, run.err
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", run.out.replace("\r\n", "\n"))
    assert "'=1+1" in judged.run("query", "--csv").out
    audit = judged.run("audit", "--from", "2026-02", "--to", "2026-02")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", audit.out)


def test_the_documented_schema_answers_plain_sql(judged):
    """FLEET.md shows questions for any SQLite client; each runs, and says what query says."""
    text = (ROOT / "edgeprov/fleet/FLEET.md").read_text()
    blocks = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert blocks
    with closing(sqlite3.connect(f"file:{judged.fleet / 'index.sqlite'}?mode=ro", uri=True)) as db, db:
        for block in blocks:
            for statement in filter(str.strip, block.split(";")):
                found = db.execute(statement, {"model": str(judged.world.model.digest)}).fetchall()
                assert found, statement
        by_day = db.execute(blocks[0].split(";")[1], {"model": str(judged.world.model.digest)}).fetchall()
    assert by_day == [
        ("2026-02-03", judged.run("query", "--verdict", "ok", "--count", "--json").last("counted")["records"])
    ]


def test_a_progress_bar_for_a_person_only(full, monkeypatch):
    """On a terminal a long sync shows how far it is; a pipe and --json get none of it."""
    from edgeprov.cli import output
    from edgeprov.cli.fleet_main import main

    monkeypatch.setattr(sync_module, "BATCH", 2)
    moments = iter(range(10_000))  # each look at the clock is a second later: the work is long
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: float(next(moments))))
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            assert main(["sync", full.name, "--fleet", str(full.fleet)]) == 0
            terminal.write("between")
            assert main(["sync", full.name, "--fleet", str(full.fleet), "--json"]) == 0
            terminal.write("end")
            terminal.flush()
            text = ""
            while not text.endswith("end"):
                text += os.read(ours, 65536).decode()
    finally:
        os.close(ours)
    bar, _, json_mode = text.partition("between")
    assert json_mode == "end"
    drawn = [int(percent) for percent in re.findall(r"\rsync oci:\S+ \[[#.]{30}\] +(\d+) %", bar)]
    assert len(drawn) > 2
    assert drawn == sorted(drawn)
    assert drawn[-1] == 100
    assert bar.endswith("\r\x1b[K")  # and is gone at the end
    assert full.run("sync", full.name).err == ""


def test_several_registries_at_once_and_in_parallel(full, tmp_path, monkeypatch):
    """Kits of a registry are fetched side by side: two requests wait for each other, and both come through."""
    from edgeprov.fleet.registries.sources import open_registry, parse_source

    other = full.device("c3")
    with docker_registry(tmp_path / "registry") as host:
        registry = open_registry(parse_source(f"{host}/site"), create=True)
        for _ in range(6):
            sealed = other.seal(records=5)
            repo = f"site/data/{sealed.kit.model.hex}/202602"
            for blob in sealed.manifest.blobs:
                registry.push_blob(repo, blob, sealed.blobs[blob.digest])
            from edgeprov.formats.datakit import kit_tag

            registry.push_manifest(repo, sealed.manifest, tag=kit_tag("c3", sealed.kit.seq, sealed.digest))
            push_signatures(registry, repo, sealed.signatures)
        barrier, real = threading.Barrier(2, timeout=30), sync_module._Sync._fetch_one

        def paired(self, name):
            barrier.wait()
            return real(self, name)

        monkeypatch.setattr(sync_module._Sync, "_fetch_one", paired)
        run = full.run("sync", f"{host}/site", "--json")
        assert run.code == 0, run.err
        assert run.last("synced")["kits"] == 6
        monkeypatch.setattr(sync_module._Sync, "_fetch_one", real)
        both = full.run("sync", full.name, f"{host}/site", "--json")
        assert [item["kits"] for item in both.items if item["type"] == "synced"] == [8, 0]
        assert len(full.run("query", "--json").items) == 14
        # Later, without names: all that is known.
        again = full.run("sync", "--json")
        assert {item["source"] for item in again.items} == {full.name, f"{host}/site"}
    assert fleet("query", "--fleet", full.fleet, "--json", "--csv").code == 2


def test_json_lines_are_one_object_a_line(judged):
    out = judged.run("query", "--json").out
    assert all(json.loads(line)["type"] == "kit" for line in out.splitlines())


@pytest.mark.parametrize("verb", ["verify", "audit", "collect", "query"])
def test_a_mistyped_fleet_folder_is_not_an_empty_fleet(verb, judged):
    """An index made on the fly would let `verify` say that nothing was refused."""
    words = {"audit": ("--from", "2026-01", "--to", "2026-02"), "collect": ("-o", judged.root / "out")}.get(verb, ())
    run = fleet(verb, *words, "--fleet", judged.root / "flete", "--trust", judged.trust)
    assert run.code == 35, run.err
    assert "holds no fleet index" in run.err
    assert not (judged.root / "flete").exists()


def test_names_that_are_not_utf_8_are_a_usage_error(judged):
    run = judged.run("query", "--model", "\udcff")
    assert run.code == 2
    assert "not UTF-8" in run.err


def test_an_audit_of_nothing_says_so_in_every_form(hub):
    assert hub.sync().code == 0
    page = hub.root / "audit.html"
    period = ("--from", "2026-01", "--to", "2026-02")
    run = hub.run("audit", *period, "--html", page)
    assert run.code == 0, run.err
    assert "UNPROVED" in run.out
    assert "next: edgeprov-fleet prove" in run.out  # the page is there already
    assert page.is_file()
    assert hub.run("audit", *period, "--json").last("audit")["totals"]["kits"] == 0
    assert hub.run("audit", *period, "--csv").code == 0
