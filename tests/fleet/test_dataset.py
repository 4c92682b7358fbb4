# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`collect --check`: a data set is what was signed, or the file that is not is named; neither index nor registry asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.fleet import Run, fleet


@pytest.fixture
def signed(full, tmp_path) -> Path:
    full.sync()
    assert fleet("ca", "init", tmp_path / "ca").code == 0
    assert full.run("collect", "-o", tmp_path / "set", "--ca", tmp_path / "ca").code == 0
    shutil.rmtree(full.fleet)
    shutil.rmtree(full.root / "registry")
    return tmp_path / "set"


def check(place: Path, *more: object) -> Run:
    return fleet("collect", "--check", "-o", place, "--trust", place.parent / "ca" / "trust.d", *more)


def test_whole(signed):
    run = check(signed, "--json")
    assert run.code == 0, run.err
    item = run.last("checked")
    assert (item["files"], item["rows"]) == (2, 160)
    assert item["signer"].startswith("urn:edgeprov:collector:")


def first_file(place: Path) -> Path:
    return min(place.rglob("*.parquet"))


def change_byte(place: Path) -> str:
    path = first_file(place)
    raw = bytearray(path.read_bytes())
    raw[40] ^= 1
    path.write_bytes(raw)
    return "part-0.parquet is not what"


def remove_file(place: Path) -> str:
    first_file(place).unlink()
    return "part-0.parquet is not what"


def add_file(place: Path) -> str:
    path = first_file(place)
    shutil.copy(path, path.with_name("part-1.parquet"))
    return "part-1.parquet is not what"


def change_list(place: Path) -> str:
    path = place / "_edgeprov" / "inputs.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    return "inputs.jsonl is not what"


def change_files_and_their_list(place: Path) -> str:
    path = first_file(place)
    listed = place / "_edgeprov" / "files.jsonl"
    listed.write_bytes(
        b"".join(line for line in listed.read_bytes().splitlines(True) if path.parent.name.encode() not in line)
    )
    path.unlink()
    return "files.jsonl is not what"


@pytest.mark.parametrize("attack", [change_byte, remove_file, add_file, change_list, change_files_and_their_list])
def test_what_is_not_as_signed_is_named(signed, attack):
    says = attack(signed)
    run = check(signed)
    assert run.code == 11, run.out
    assert says in run.err
    assert "Do not train on it" in run.err
    assert len(run.err.splitlines()) == 2


def test_not_signed(signed):
    (signed / "_edgeprov" / "statement.sigstore.json").unlink()
    run = check(signed)
    assert run.code == 12
    assert "is not signed" in run.err


def test_another_statement_than_the_signed_one(signed):
    path = signed / "_edgeprov" / "statement.json"
    path.write_bytes(path.read_bytes().replace(b'"rows":160', b'"rows":161'))
    assert check(signed).code != 0


def test_signed_by_a_stranger(signed, tmp_path):
    assert fleet("ca", "init", tmp_path / "theirs").code == 0
    run = fleet("collect", "--check", "-o", signed, "--trust", tmp_path / "theirs" / "trust.d")
    assert run.code == 13


def test_not_finished_or_none(signed, tmp_path):
    (signed / "_edgeprov" / "unfinished").write_bytes(b"")
    assert check(signed).code == 35
    assert fleet("collect", "--check", "-o", tmp_path / "x", "--trust", tmp_path / "ca" / "trust.d").code == 35


def test_only_the_newest_statement_of_a_place_stays_in_the_lineage(full, tmp_path, monkeypatch):
    full.sync()
    for epoch in ("1784000000", "1784000001", "1784000002"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        assert full.run("collect", "-o", tmp_path / "set").code == 0
    assert full.run("collect", "-o", tmp_path / "other", "--device", "a1").code == 0
    from edgeprov.fleet.index.database import Index

    with Index.open(full.fleet, write=False) as index:
        rows = index.rows("SELECT folder, created FROM collections ORDER BY folder")
    assert [(Path(row["folder"]).name, row["created"][-4:]) for row in rows] == [("other", ":22Z"), ("set", ":22Z")]
