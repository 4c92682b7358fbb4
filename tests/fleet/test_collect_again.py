# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A collect over an earlier one gives what a clean one gives, whoever wrote there meanwhile, and whatever broke."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from edgeprov.errors import StoreBusy
from edgeprov.fleet.dataset import collect, parquet_file
from edgeprov.fleet.dataset.destination import open_destination
from edgeprov.formats.label import Label
from tests.support.fleet import push_kit


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1784000000")
    yield
    MemoryFileSystem.store.clear()


def files_of(name: str) -> dict[str, bytes]:
    """Of a folder, or of a URL in this process."""
    if "://" not in name:
        return {str(path.relative_to(name)): path.read_bytes() for path in Path(name).rglob("*") if path.is_file()}
    fs, root = fsspec.filesystem("memory"), "/" + name.partition("://")[2]
    return {path.removeprefix(root + "/"): fs.cat_file(path) for path in fs.find(root)}


def write(name: str, path: str, data: bytes) -> None:
    if "://" in name:
        fsspec.filesystem("memory").pipe_file(f"/{name.partition('://')[2]}/{path}", data)
    else:
        (Path(name) / path).write_bytes(data)


def collected(hub, name: object, *more: object) -> dict:
    run = hub.run("collect", "-o", name, *more, "--json")
    assert run.code == 0, run.err
    return run.last("collected")


def clean(hub, tmp_path: Path, *more: object) -> dict[str, bytes]:
    """What a first run into an empty place gives."""
    collected(hub, tmp_path / "clean", *more)
    files = files_of(str(tmp_path / "clean"))
    shutil.rmtree(tmp_path / "clean")
    return files


@pytest.mark.parametrize("name", ["memory://set", "DIR"])
def test_a_file_that_somebody_changed_is_made_again(full, tmp_path, name):
    """One byte of the data, footer and size as they were: nothing in the file tells."""
    name = name.replace("DIR", f"{tmp_path}/set")
    full.sync()
    collected(full, name)
    whole = files_of(name)
    path = min(path for path in whole if path.endswith(".parquet"))
    for place in (4, 5, 40, 300):
        changed = bytearray(whole[path])
        changed[place] ^= 1
        write(name, path, bytes(changed))
        assert collected(full, name)["reused"] == 1
        assert files_of(name) == whole == clean(full, tmp_path)


def test_a_file_of_the_same_inputs_is_not_believed_without_the_index(full, tmp_path):
    """The index went with what this user knows: a good file costs time then, a bad one nothing more."""
    full.sync()
    collected(full, tmp_path / "set")
    whole = files_of(str(tmp_path / "set"))
    shutil.rmtree(full.fleet)
    full.sync()
    assert collected(full, tmp_path / "set")["reused"] == 0
    assert files_of(str(tmp_path / "set")) == whole


def test_duplicates_are_counted_again_though_nothing_is_written(hub, tmp_path):
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=20))
    unit.next_n -= 5
    push_kit(hub.registry, unit, unit.seal(records=10))
    hub.sync()
    assert collected(hub, tmp_path / "set")["rows"] == 25
    first = files_of(str(tmp_path / "set"))
    (line,) = first["_edgeprov/files.jsonl"].splitlines()
    assert json.loads(line)["duplicates"] == 5
    assert collected(hub, tmp_path / "set")["reused"] == 1
    assert files_of(str(tmp_path / "set")) == first


def test_another_type_of_labels_gives_what_a_clean_run_gives(full, tmp_path):
    """Wider when a device's labels ask for it, narrower again when they are not asked for."""
    full.sync()
    assert collected(full, tmp_path / "set")["labelled"] == 10
    unit = full.units["b2"]
    push_kit(
        full.registry,
        unit,
        unit.seal(records=1, labels=[Label(n=7, value="cat", source="lab", labelled_at_ns=10**18)]),
    )
    full.sync()
    item = collected(full, tmp_path / "set")
    assert (item["labelled"], item["reused"]) == (11, 0)
    assert files_of(str(tmp_path / "set")) == clean(full, tmp_path)
    collected(full, tmp_path / "set", "--device", "a1")
    assert files_of(str(tmp_path / "set")) == clean(full, tmp_path, "--device", "a1")
    assert collected(full, tmp_path / "set", "--device", "a1")["reused"] == 1


def test_labelled_kits_are_opened_once(full, tmp_path, monkeypatch):
    """And one of them once more, to learn what labels are: the next run knows."""
    full.sync()
    assert full.run("verify").code == 0
    real, opened = parquet_file.open_kit, []

    def counting(reader, repo, manifest):
        opened.append(manifest.digest)
        return real(reader, repo, manifest)

    monkeypatch.setattr(parquet_file, "open_kit", counting)
    collected(full, tmp_path / "set")
    kits = {sealed.digest for unit in full.units.values() for sealed in unit.sealed}
    assert len(opened) == len(kits) + 1
    assert set(opened) == kits
    push_kit(full.registry, full.units["a1"], full.units["a1"].seal(records=1))
    full.sync()
    opened.clear()
    collected(full, tmp_path / "set")
    assert len(opened) == 5  # of the device that has a new kit


@pytest.mark.parametrize(
    ("kind", "expected"), [("records", (140, 5, 1)), ("evidence", (140, 5, 1)), ("labels", (120, 0, 2))]
)
def test_a_kit_counts_entirely_or_not_at_all(full, tmp_path, kind, expected):
    """The last kit of each device labels records of the first: if it rots anywhere, its labels go too.

    The labels of both are the same bytes, so one blob.
    """
    full.sync()
    assert full.run("verify").code == 0
    sealed = full.units["a1"].sealed[3]
    (layer,) = (part.layer for part in sealed.kit.parts if part.kind == kind)
    path = full.root / "registry" / "blobs" / "sha256" / layer.digest.hex
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    item = collected(full, tmp_path / "set")
    assert (item["rows"], item["labelled"], item["refused"]) == expected
    left_out = [json.loads(line) for line in files_of(str(tmp_path / "set"))["_edgeprov/refused.jsonl"].splitlines()]
    assert (left_out[0]["kit"], left_out[0]["error"]) == (str(sealed.digest), "DigestMismatch")
    assert len(left_out) == expected[2]


def test_a_kit_that_breaks_after_its_first_rows_leaves_none(full, tmp_path, monkeypatch):
    full.sync()
    bad = str(full.units["a1"].sealed[1].digest)
    real = parquet_file.ContentCheck.finish

    def finish(check):
        if str(check._kit.manifest.digest) == bad:
            raise parquet_file.FormatError("the end of the kit is not what it should be")
        real(check)

    monkeypatch.setattr(parquet_file.ContentCheck, "finish", finish)
    item = collected(full, tmp_path / "set")
    assert (item["rows"], item["labelled"], item["refused"], item["files"]) == (140, 10, 1, 2)
    assert bad.encode() not in files_of(str(tmp_path / "set"))["_edgeprov/inputs.jsonl"]


def test_a_fork_is_left_out_though_its_twin_is_not_asked_for(full, tmp_path):
    unit = full.units["a1"]
    unit.measure(full.world.model.digest, slot="other")
    before = unit.prev
    push_kit(full.registry, unit, unit.seal(records=5))
    unit.tpm.counter -= 2
    unit.prev = before
    unit.slot = "other"
    push_kit(full.registry, unit, unit.seal(records=6))
    full.sync()
    assert full.run("verify").code == 0
    item = collected(full, tmp_path / "set", "--slot", "default")
    assert (item["rows"], item["refused"]) == (160, 1)


def test_nothing_is_removed_where_kits_have_no_verdict(full, tmp_path, monkeypatch):
    full.sync()
    collected(full, tmp_path / "set")
    before = files_of(str(tmp_path / "set"))
    push_kit(full.registry, full.units["a1"], full.units["a1"].seal(records=1))
    full.sync()
    from edgeprov.fleet.verification import verify_kits

    monkeypatch.setattr(verify_kits, "check", lambda *_args, **_options: None)
    assert full.run("collect", "-o", tmp_path / "set").code == 2
    assert files_of(str(tmp_path / "set")) == before


def test_two_runs_into_one_folder_do_not_meet(full, tmp_path):
    full.sync()
    whole = clean(full, tmp_path)
    place = tmp_path / "set"
    with open_destination(str(place)).alone():
        run = full.run("collect", "-o", place)
        assert run.code == StoreBusy.exit_code
        assert "another collect writes there" in run.err
        assert not files_of(str(place))
    collected(full, place)
    assert files_of(str(place)) == whole


def test_lists_come_in_batches_as_in_one(full, tmp_path, monkeypatch):
    """However work is cut: the lists are in the order of devices and numbers."""
    full.sync()
    whole = clean(full, tmp_path)
    monkeypatch.setattr(collect, "_BATCH_KITS", 1)
    assert clean(full, tmp_path) == whole
