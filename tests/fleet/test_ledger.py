# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The ledger's rows, its open day, and what closing makes of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import pytest

import edgeprov.formats
from edgeprov.errors import ConfigError, FormatError, LimitError, StoreError
from edgeprov.fleet.ledger import open_day
from edgeprov.fleet.ledger.close import Closer
from edgeprov.fleet.ledger.ledger_folder import DayPart, LedgerFolder, day_of_ns, first_gap, outermost
from edgeprov.fleet.ledger.members import MEMBERS, DeviceAct, FoundSignature
from edgeprov.fleet.ledger.open_day import LedgerWriter, append_rows
from edgeprov.fleet.ledger.rows import (
    ROW_CLASSES,
    ActRow,
    BackRow,
    GoneRow,
    ListingRow,
    NoiseRow,
    SightingRow,
    SignerRow,
    VerdictRow,
)
from edgeprov.fleet.ledger.table_columns import BY_NAME, LITERAL, SCHEMA_DIGEST, columns_of
from edgeprov.fleet.ledger.tables import encode_parquet, load_table, make_table
from edgeprov.fleet.ledger.views import ask, open_view
from tests.support.ledger import BASIS, DAY_NS, NOW_NS, collector, content, digest, kit, make_folder
from tests.support.readers import readers_python

FORMAT = (Path(edgeprov.formats.__file__).parent / "FORMAT.md").read_text()


def test_classes_and_columns_agree() -> None:
    for name, kind in ROW_CLASSES.items():
        assert {item.name for item in fields(kind)} | {"row"} == {column.field for column in columns_of(name)}, name
    for name, kind in MEMBERS.items():
        assert kind._fields == tuple(column.name for column in BY_NAME[name].members), name


def test_format_md_has_the_literal_of_the_schema() -> None:
    assert LITERAL.strip() in FORMAT.replace("\\\n", "")
    assert SCHEMA_DIGEST in FORMAT


@pytest.mark.parametrize(
    "row",
    [
        kit(7),
        kit(8, events=(DeviceAct("clock-step", NOW_NS, True, None, '{"by":1}'),), verdict=None, segments=None),
        VerdictRow(seen_ns=NOW_NS, digest=digest("a"), verdict="refused", rule="4", leaves=()),
        ActRow(seen_ns=NOW_NS, act="denial", value="model sha256:00", since_ns=NOW_NS + 3),
        NoiseRow(seen_ns=NOW_NS, source="r", repo="x", count=3, sample=(digest("b"),)),
        ListingRow(seen_ns=NOW_NS, source="r", repo="x", count=2**63 - 1),
    ],
    ids=lambda row: row.row,
)
def test_a_row_comes_back_exactly(tmp_path: Path, row) -> None:
    folder = make_folder(tmp_path, [[row]])
    assert ask({"own": folder}, lambda view: list(view.rows([row.row]))) == [row]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (kit(2**63), LimitError),
        (kit(1, records=2**64), LimitError),
        (kit(1, records=-1), FormatError),
        (kit(1, clock_ms=2**63), LimitError),
        (kit(1, digest=b"short"), FormatError),
        (kit(1, slot="x" * 5000), LimitError),
        (kit(1, verdict="ok"), FormatError),
        (kit(1, model=None), FormatError),
        (kit(1, labelled=((0, None, False),)), FormatError),
        (kit(1, missing=("m",) * 100_001), LimitError),
        (ActRow(seen_ns=1, act="party"), FormatError),
        (NoiseRow(seen_ns=1, source="r", repo="x", count=1, sample=(digest("b"),) * 101), LimitError),
    ],
    ids=["2^63", "2^64", "negative", "member-2^63", "short-digest", "long-text", "verdict", "no-model", "null-member",
         "long-list", "act", "noise-sample"],
)  # fmt: skip
def test_a_value_that_readers_refuse_is_not_written(tmp_path: Path, row, error) -> None:
    folder = LedgerFolder(tmp_path)
    with pytest.raises(error):
        append_rows(folder, [kit(3), row], NOW_NS)
    assert folder.list_parts() == ()


def test_equal_rows_give_equal_bytes() -> None:
    rows = [kit(number) for number in range(1, 40)]
    assert encode_parquet(make_table(rows)) == encode_parquet(make_table(rows))


def test_an_artifact_stands_once_and_what_is_new_becomes_a_row_of_its_own(tmp_path: Path) -> None:
    other = {"source": "mirror.example", "seen_ns": NOW_NS + 5}
    folder = make_folder(
        tmp_path,
        [
            [kit(1, verdict=None), kit(2), kit(2, **other), kit(1, seen_ns=NOW_NS + 9, rule=None)],
            [
                kit(1, **other, verdict="refused", rule="7"),
                kit(2, verdict=None),
                SightingRow(seen_ns=NOW_NS, digest=kit(2).digest, source="mirror.example", repo=kit(2).repo),
                kit(3),
            ],
        ],
    )

    def counted(view) -> dict[str, int]:
        return dict(view.query("SELECT row, count(*) FROM ledger GROUP BY 1"))

    # Sightings: kit 2 on the mirror (first day), kit 1 on the mirror (second day). Kit 1 was verified on the first
    # day, so a refusal of the same rules on the second says less.
    assert ask({"own": folder}, counted) == {"kit": 3, "sighting": 2}
    kits = ask({"own": folder}, lambda view: {row.number: row for row in view.merged(["kit"])})
    assert kits[1].verdict == "verified"
    assert kits[1].seen_ns == NOW_NS
    assert kits[2].source == "registry.example"


def test_a_later_verdict_brings_its_facts_and_verified_beats_refused_beats_not_judged(tmp_path: Path) -> None:
    bare = dict.fromkeys(
        ("segments", "open", "stops", "signatures", "record", "firmware", "edgeprov", "assurance", "depth")
    )
    late = FoundSignature(digest("late signature"), digest("signer u1"), None, None)
    folder = make_folder(
        tmp_path,
        [
            [
                kit(1, verdict=None, basis=None, rule="no signature", **bare),
                kit(2),
                kit(4, verdict="refused", rule="6"),
            ],
            [kit(1, verdict="refused", rule="2"), kit(2, verdict="refused", rule="2")],
            [kit(1, signatures=(late,)), kit(4, basis=digest("rules 0"))],
        ],
    )
    rows = ask({"own": folder}, lambda view: {row.number: row for row in view.merged(["kit"])}, basis=BASIS)
    assert rows[1].verdict == rows[2].verdict == "verified"
    assert rows[1].rule is None
    assert rows[1].segments == kit(1).segments
    assert late in rows[1].signatures
    assert rows[4].verdict == "refused"  # the reader's own rules count before others
    older = ask(
        {"own": folder}, lambda view: {row.number: row for row in view.merged(["kit"])}, basis=digest("rules 0")
    )
    assert older[4].verdict == "verified"


def test_gone_until_a_later_back(tmp_path: Path) -> None:
    place = {"digest": kit(1).digest, "source": "registry.example", "repo": kit(1).repo}
    folder = make_folder(tmp_path, [[kit(1), kit(2)], [GoneRow(seen_ns=NOW_NS + DAY_NS, **place)]])
    question = "SELECT number, epoch_ns(gone_since) FROM kits ORDER BY 1"
    assert ask({"own": folder}, lambda view: view.query(question)) == [(1, NOW_NS + DAY_NS), (2, None)]
    append_rows(folder, [BackRow(seen_ns=NOW_NS + 2 * DAY_NS, **place)], NOW_NS + 2 * DAY_NS)
    assert ask({"own": folder}, lambda view: view.query(question)) == [(1, None), (2, None)]


def test_noise_and_listings_are_one_row_a_repository_and_day(tmp_path: Path) -> None:
    def noise(first: int, count: int) -> NoiseRow:
        sample = tuple(digest(f"junk {number}") for number in range(first, first + min(count, 100)))
        return NoiseRow(seen_ns=NOW_NS + first, source="r", repo="data", count=count, sample=sample)

    listing = ListingRow(seen_ns=NOW_NS, source="r", repo="data", count=5)
    rows = [noise(0, 100_000), noise(50, 90_000), replace(noise(0, 2), repo="other"), listing,
            replace(listing, seen_ns=NOW_NS + 8, count=6)]  # fmt: skip
    folder = make_folder(tmp_path, [rows])
    found = ask({"own": folder}, lambda view: sorted(view.rows(["noise", "listing"]), key=lambda row: row.repo))
    assert [(row.repo, row.row, row.count) for row in found] == [
        ("data", "noise", 100_000),
        ("data", "listing", 6),
        ("other", "noise", 2),
    ]
    assert len(found[0].sample) == 100


def test_two_chains_are_a_union(tmp_path: Path) -> None:
    one = make_folder(tmp_path / "one", [[kit(1, seen_ns=NOW_NS + 50), kit(2, verdict="refused", rule="3")]])
    two = make_folder(tmp_path / "two", [[kit(1, verdict=None), kit(2), kit(3)]], who="other")
    with open_view({"one": one, "two": two}, basis=BASIS) as view:
        found = view.query("SELECT number, verdict, epoch_ns(seen) FROM kits ORDER BY 1")
        assert found == [(1, "verified", NOW_NS), (2, "verified", NOW_NS), (3, "verified", NOW_NS)]
        assert view.query("SELECT chain, count(*) FROM known GROUP BY 1 ORDER BY 1") == [("one", 2), ("two", 3)]


def test_signer_rows_stand_once(tmp_path: Path) -> None:
    row = SignerRow(seen_ns=NOW_NS, digest=digest("s"), identity="urn:x", key=digest("k"), anchor=digest("a"))
    folder = make_folder(tmp_path, [[row, row, kit(1)], [row, kit(2)]])
    assert len(ask({"own": folder}, lambda view: list(view.rows(["signer"])))) == 1


# -- the open day ---------------------------------------------------------------------------------
def test_a_batch_after_500_rows_or_at_the_end(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path)
    with LedgerWriter(folder, lambda: NOW_NS) as writer:
        writer.add(kit(number) for number in range(1, 1201))
        assert sum(load_table([part.path]).num_rows for part in folder.list_parts()) >= 1000
    assert len(content(folder)["kits"]) == 1200


def test_parts_are_merged_and_readers_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_day, "MAX_PARTS", 8)
    monkeypatch.setattr(open_day, "KEPT_S", 0)
    folder = LedgerFolder(tmp_path)
    done, wrong = threading.Event(), []

    def read() -> None:
        before = 0
        while not done.is_set():
            now = len(content(folder)["kits"])
            if now < before:
                wrong.append((before, now))
            before = now

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 60):
            append_rows(folder, [kit(number)], NOW_NS)
    finally:
        done.set()
        reader.join()
    assert wrong == []
    assert content(folder)["kits"] == sorted((kit(n).digest, n, "verified") for n in range(1, 60))
    assert len(folder.snapshot().parts) <= 10


def test_which_parts_count() -> None:
    parts = [
        DayPart("d", 1, 8, Path()),
        DayPart("d", 3, 3, Path()),
        DayPart("d", 9, 9, Path()),
        DayPart("e", 1, 1, Path()),
    ]
    assert [(part.day, part.first) for part in outermost(parts)] == [("d", 1), ("d", 9), ("e", 1)]
    assert first_gap(outermost(parts)) is None
    assert first_gap([parts[0], DayPart("d", 10, 10, Path())]) == "d.000009"
    assert first_gap([DayPart("d", 2, 2, Path())]) == "d.000001"


def test_a_missing_part_is_told_and_not_passed_over(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path)
    for number in (1, 2, 3):
        append_rows(folder, [kit(number)], NOW_NS)
    folder.list_parts()[1].path.unlink()
    with pytest.raises(StoreError, match="000002 is missing"):
        folder.snapshot()


def test_a_clock_that_jumps_back_writes_into_no_closed_day(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [[kit(1)]])
    closed = folder.day_path("2026-09-21").read_bytes()
    append_rows(folder, [kit(2, seen_ns=5)], 5)
    append_rows(folder, [kit(3)], NOW_NS)
    assert Closer(folder=folder, signer=collector()).close_due(5) == ()
    Closer(folder=folder, signer=collector()).close_due(NOW_NS + 2 * DAY_NS)
    assert [day for day, _ in folder.list_days()] == ["2026-09-21", "2026-09-22"]
    assert folder.day_path("2026-09-21").read_bytes() == closed
    assert sorted(number for _, number, _ in content(folder)["kits"]) == [1, 2, 3]


def test_a_clock_that_jumps_back_proves_nothing_early(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [[kit(1)]])
    append_rows(folder, [kit(2, seen_ns=5)], 5)
    append_rows(folder, [kit(3, seen_ns=NOW_NS + DAY_NS)], NOW_NS + DAY_NS)
    append_rows(folder, [kit(4, seen_ns=5)], 5)
    rows = ask({"own": folder}, lambda view: {row.number: row.seen_ns for row in view.rows(["kit"])})
    assert rows == {1: NOW_NS, 2: NOW_NS, 3: NOW_NS + DAY_NS, 4: NOW_NS + DAY_NS}


def test_a_batch_over_midnight_goes_into_the_new_day(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path)
    midnight = NOW_NS // DAY_NS * DAY_NS + DAY_NS
    append_rows(folder, [kit(1, seen_ns=midnight - 2)], midnight - 1)
    append_rows(folder, [kit(2, seen_ns=midnight - 1), kit(3, seen_ns=midnight)], midnight + 1)
    closer = Closer(folder=folder, signer=collector())
    first = closer.close_due(midnight + 1)
    second = closer.close_due(midnight + DAY_NS)
    assert [day.day for day in (*first, *second)] == [day_of_ns(midnight - 1), day_of_ns(midnight)]
    assert first[0].until_ns <= second[0].since_ns


def test_a_clock_that_jumps_ahead_is_refused_until_it_is_confirmed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [[kit(1)]])
    far = NOW_NS + 200 * DAY_NS
    with pytest.raises(ConfigError, match="clock"):
        append_rows(folder, [kit(2)], far)
    append_rows(folder, [kit(2)], NOW_NS + DAY_NS)
    closer = Closer(folder=folder, signer=collector())
    with pytest.raises(ConfigError, match="clock"):
        closer.close_due(far)
    assert append_rows(folder, [kit(3)], far, confirm_clock=True) == day_of_ns(far)
    assert [day.day for day in closer.close_due(far, confirm_clock=True)] == ["2026-09-22"]


# -- readers of others ----------------------------------------------------------------------------
def test_the_connection_reads_no_other_file_and_loads_nothing(tmp_path: Path) -> None:
    import duckdb

    folder = make_folder(tmp_path / "ledger", [[kit(1)]])
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with open_view({"own": folder}) as view:
        for question in (
            f"SELECT * FROM '{tmp_path}/secret.csv'",
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            f"ATTACH '{tmp_path}/x.db' (TYPE sqlite)",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET autoinstall_known_extensions = true",
        ):
            with pytest.raises(duckdb.Error):
                view.connection.execute(question)
        settings = dict(view.query("SELECT name, value FROM duckdb_settings()"))
    assert settings["autoinstall_known_extensions"] == settings["autoload_known_extensions"] == "false"


def test_an_empty_ledger_answers(tmp_path: Path) -> None:
    with open_view({"own": LedgerFolder(tmp_path / "none")}) as view:
        assert view.query("SELECT count(*) FROM kits") == [(0,)]


def test_a_read_only_folder_is_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "ledger", [[kit(1)]])
    append_rows(folder, [kit(2)], NOW_NS + DAY_NS)
    for path in (tmp_path / "ledger").rglob("*"):
        path.chmod(0o444 if path.is_file() else 0o555)
    (tmp_path / "ledger").chmod(0o555)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "assert not os.access(sys.argv[1] + '/open', os.W_OK)\n"
        "from edgeprov.fleet.ledger.ledger_folder import LedgerFolder\n"
        "from edgeprov.fleet.ledger.views import ask\n"
        "folder = LedgerFolder(Path(sys.argv[1]))\n"
        "print(ask({'own': folder}, lambda view: view.query('SELECT count(*) FROM kits'))[0][0])\n"
    )
    words = [sys.executable, "-c", code, tmp_path / "ledger"]
    if os.getuid() == 0:  # root without the right to pass over permissions
        rights = "-dac_override,-dac_read_search"
        words = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *words]
    done = subprocess.run(words, capture_output=True, text=True)
    for path in [tmp_path / "ledger", *(tmp_path / "ledger").rglob("*")]:
        path.chmod(0o755)
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr


@pytest.mark.parametrize("name", ["duckdb", "pandas", "polars"])
def test_the_recipes_of_other_readers(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path, [[kit(1), kit(2)], [kit(1, source="m"), kit(1, unit="u2")]])
    code = re.search(rf"```python\nimport {name}\n.*?```", FORMAT, re.DOTALL)
    assert code is not None
    rows = {
        "duckdb": "found.fetchall()",
        "pandas": "found.reset_index().values.tolist()",
        "polars": "found.rows()",
    }[name]
    text = code[0].removeprefix("```python\n").removesuffix("```")
    done = subprocess.run(
        [readers_python(), "-c", f"{text}\nimport json\nprint(json.dumps(sorted(list(map(str, row)) for row in {rows})))"],
        cwd=folder.path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["u1", "2", "20"], ["u2", "1", "10"]]
