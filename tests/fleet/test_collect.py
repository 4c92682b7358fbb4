# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Collect: every verified record once, with its label, exactly as it was recorded; the rest listed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from edgeprov.formats.label import Label
from edgeprov.formats.record import parse_record
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.fleet import fleet, push_kit
from tests.support.world import OUTPUTS


def table(folder: Path):
    return ds.dataset(folder, partitioning="hive").to_table().sort_by([("device", "ascending"), ("n", "ascending")])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_the_records(full, tmp_path):
    full.sync()
    run = full.run("collect", "-o", tmp_path / "out", "--json")
    assert run.code == 0, run.err
    item = run.last("collected")
    assert (item["rows"], item["labelled"], item["kits"], item["refused"]) == (160, 10, 8, 0)
    rows = table(tmp_path / "out").to_pylist()
    expected = [
        (serial, parse_record(raw), str(sealed.digest))
        for serial in ("a1", "b2")
        for sealed in full.units[serial].sealed
        for raw in sealed.rows
    ]
    assert len(rows) == len(expected)
    for row, (serial, record, kit) in zip(rows, expected, strict=True):
        assert (row["device"], row["n"], row["kit"], row["duration_ns"]) == (serial, record.n, kit, record.duration_ns)
        assert bytes(value % 256 for value in row["output_0"]) == record.outputs[0]
        assert row["label"] == (record.n % 2 if record.n < 5 else None)
        assert row["label_source"] == ("lab" if record.n < 5 else None)
    assert all(row["model"] == full.world.model.digest.hex for row in rows)


def test_tensor_facts_stand_in_the_schema(full, tmp_path):
    full.sync()
    full.run("collect", "-o", tmp_path / "out", "--dequantise")
    found = table(tmp_path / "out")
    facts = json.loads(found.schema.field("output_0").metadata[b"tensor"])
    assert facts == {"name": "p", "shape": [1, 2], "dtype": "int8", "scale": [1 / 256], "zero_point": [-128], "axis": 0}
    quantised, real = found["output_0"].to_pylist(), found["output_0_real"].to_pylist()
    scale, zero = OUTPUTS[0].scale[0], OUTPUTS[0].zero_point[0]
    for before, after in zip(quantised, real, strict=True):
        assert after == pytest.approx([scale * (value - zero) for value in before])


def test_the_newest_label_wins_and_types_are_kept(hub, tmp_path):
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=4))
    push_kit(
        hub.registry,
        unit,
        unit.seal(
            records=1,
            labels=[
                Label(n=0, value=0.5, source="a", labelled_at_ns=10_000),
                Label(n=1, value=1, source="a", labelled_at_ns=10_000),
            ],
        ),
    )
    push_kit(
        hub.registry,
        unit,
        unit.seal(
            records=0,
            labels=[
                Label(n=0, value=2, source="b", labelled_at_ns=20_000),
                Label(n=1, value=None, source=None, labelled_at_ns=5_000),
            ],
        ),
    )
    hub.sync()
    assert hub.run("collect", "-o", tmp_path / "out").code == 0
    rows = table(tmp_path / "out").to_pylist()
    assert [row["label"] for row in rows] == [2.0, None, None, None, None]
    assert [row["label_source"] for row in rows][:2] == ["b", None]
    assert [row["labelled_at"] is None for row in rows][:2] == [False, True]


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ([True, False], "bool", [True, False]),
        ([1, 2], "int64", [1, 2]),
        (["cat", "dog"], "string", ["cat", "dog"]),
        ([1, "dog"], "string", ["1", '"dog"']),
        ([[1, 2], b"\x00"], "string", ["[1, 2]", '"AA=="']),
    ],
)
def test_label_types(hub, tmp_path, values, kind, read):
    unit = hub.device("a1")
    labels = [Label(n=n, value=value, source="x", labelled_at_ns=1) for n, value in enumerate(values)]
    push_kit(hub.registry, unit, unit.seal(records=2, labels=labels))
    hub.sync()
    assert hub.run("collect", "-o", tmp_path / "out").code == 0
    found = table(tmp_path / "out")
    assert str(found.schema.field("label").type) == kind
    assert found["label"].to_pylist() == read


def test_refused_kits_and_forks_are_left_out_and_listed(full, tmp_path):
    unit = full.units["a1"]
    before = unit.prev
    fork = unit.seal(records=5)
    unit.tpm.counter -= 2
    unit.prev = before
    twin = unit.seal(records=6)
    for item in (fork, twin):
        push_kit(full.registry, unit, item)
    unsigned = full.units["b2"].seal(records=7)
    unsigned.signatures.clear()
    push_kit(full.registry, full.units["b2"], unsigned)
    full.sync()
    item = full.run("collect", "-o", tmp_path / "out", "--json").last("collected")
    assert (item["rows"], item["refused"]) == (160, 3)
    refused = {row["kit"]: row for row in lines(tmp_path / "out/_edgeprov/refused.jsonl")}
    assert set(refused) == {str(fork.digest), str(twin.digest), str(unsigned.digest)}
    assert refused[str(unsigned.digest)]["step"] == 2
    assert "fork" in refused[str(twin.digest)]["why"]


def test_the_statement_covers_every_file(full, tmp_path):
    full.sync()
    assert fleet("ca", "init", tmp_path / "ca").code == 0
    full.run("collect", "-o", tmp_path / "out", "--ca", tmp_path / "ca")
    own = tmp_path / "out" / "_edgeprov"
    statement = json.loads((own / "statement.json").read_text())
    for subject in statement["subject"]:
        assert (
            hashlib.sha256((tmp_path / "out" / subject["name"]).read_bytes()).hexdigest() == subject["digest"]["sha256"]
        )
    for row in lines(own / "files.jsonl"):
        assert "sha256:" + hashlib.sha256((tmp_path / "out" / row["path"]).read_bytes()).hexdigest() == row["digest"]
    assert {row["kit"] for row in lines(own / "inputs.jsonl")} == {
        str(s.digest) for u in full.units.values() for s in u.sealed
    }
    from edgeprov.formats.bundle import parse_bundle

    assert parse_bundle((own / "statement.sigstore.json").read_bytes()).payload == (own / "statement.json").read_bytes()


def test_same_inputs_same_bytes_and_only_changes_are_rewritten(full, tmp_path):
    full.sync()
    full.run("collect", "-o", tmp_path / "one")
    full.run("collect", "-o", tmp_path / "two")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet"))
    assert len(files) == 2
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    push_kit(full.registry, full.units["a1"], full.units["a1"].seal(records=9))
    full.sync()
    item = full.run("collect", "-o", tmp_path / "one", "--json").last("collected")
    assert (item["reused"], item["rows"]) == (1, 169)
    narrower = full.run("collect", "-o", tmp_path / "one", "--device", "b2", "--json").last("collected")
    assert (narrower["files"], narrower["rows"]) == (1, 80)
    assert len(list((tmp_path / "one").rglob("*.parquet"))) == 1


def test_foreign_folders_are_not_touched(full, tmp_path):
    full.sync()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert full.run("collect", "-o", tmp_path / "mine").code == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_a_kit_that_rots_after_its_verdict_is_left_out(full, tmp_path):
    full.sync()
    assert full.run("verify").code == 0
    sealed = full.units["a1"].sealed[1]
    path = full.root / "registry" / "blobs" / "sha256" / sealed.manifest.layers[0].digest.hex
    path.chmod(0o644)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    item = full.run("collect", "-o", tmp_path / "out", "--json").last("collected")
    assert (item["rows"], item["refused"]) == (140, 1)
    assert str(sealed.digest) not in {row["kit"] for row in lines(tmp_path / "out/_edgeprov/inputs.jsonl")}
    # A second run tells the same; it looks again at the file that lacks a kit, and at no other.
    again = full.run("collect", "-o", tmp_path / "out", "--json").last("collected")
    assert (again["rows"], again["refused"], again["reused"]) == (140, 1, 1)
    path.write_bytes(whole)
    healed = full.run("collect", "-o", tmp_path / "out", "--json").last("collected")
    assert (healed["rows"], healed["refused"]) == (160, 0)


def test_a_data_set_closes_the_loop(full, tmp_path):
    full.sync()
    assert fleet("ca", "init", tmp_path / "ca").code == 0
    full.run("collect", "-o", tmp_path / "out", "--ca", tmp_path / "ca")
    kit = Path(__file__).parents[2] / "hil" / "model" / "kit"
    run = fleet("publish", kit, "--to", full.name, "--ca", tmp_path / "ca", "--dataset", tmp_path / "out", "--json")
    assert run.code == 0, run.err
    published = run.last("published")
    statement = (tmp_path / "out/_edgeprov/statement.json").read_bytes()
    assert published["trained_on"] == "sha256:" + hashlib.sha256(statement).hexdigest()
    manifest = LayoutRegistry(full.root / "registry").fetch_manifest(published["repo"], published["digest"])
    assert manifest.annotations["dev.edgeprov.collection"] == published["trained_on"]
    (tmp_path / "out/_edgeprov/statement.json").write_bytes(statement.replace(b'"rows":160', b'"rows":161'))
    assert fleet("publish", kit, "--to", full.name, "--ca", tmp_path / "ca", "--dataset", tmp_path / "out").code == 4


def test_an_interrupted_run_leaves_no_half_file(full, tmp_path, monkeypatch):
    full.sync()
    from edgeprov.fleet.dataset import collect, parquet_file

    real, calls = parquet_file._PartitionWork._add, []

    def dying(self, path, kit, block, inputs):
        calls.append(kit)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, path, kit, block, inputs)

    monkeypatch.setattr(collect, "_BATCH_KITS", 1)
    monkeypatch.setattr(parquet_file._PartitionWork, "_add", dying)
    assert full.run("collect", "-o", tmp_path / "out").code == 130
    done = list((tmp_path / "out").rglob("part-0.parquet"))
    assert len(done) == 1
    assert not (tmp_path / "out/_edgeprov/statement.json").exists()
    assert [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")] == []
    monkeypatch.setattr(parquet_file._PartitionWork, "_add", real)
    assert full.run("collect", "-o", tmp_path / "out", "--json").last("collected")["reused"] == 1


def test_kits_without_verdict_are_never_taken(full, tmp_path):
    full.sync()
    from datetime import UTC, datetime

    from edgeprov.errors import UsageError
    from edgeprov.fleet.dataset.collect import collect
    from edgeprov.fleet.dataset.destination import open_destination
    from edgeprov.fleet.engines.local import LocalEngine
    from edgeprov.fleet.index.database import Index
    from edgeprov.fleet.index.query import Query
    from edgeprov.fleet.trust.folder import load_trust

    trust = load_trust(full.trust)
    with Index.open(full.fleet, write=True) as index, pytest.raises(UsageError, match="no verdict"):
        collect(
            index,
            Query(policy=trust.digest),
            trust,
            LocalEngine(0),
            open_destination(str(tmp_path / "x")),
            now=datetime.now(UTC),
        )


def test_row_groups_are_bounded(full, tmp_path, monkeypatch):
    from edgeprov.fleet.dataset import record_tables

    monkeypatch.setattr(record_tables, "ROW_GROUP_ROWS", 30)
    full.sync()
    full.run("collect", "-o", tmp_path / "out")
    footer = pq.read_metadata(next((tmp_path / "out").rglob("*.parquet")))
    assert footer.num_row_groups > 1
    assert max(footer.row_group(i).num_rows for i in range(footer.num_row_groups)) < 60
