# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's own arithmetic and reports: a harness that cannot say SHORT proves nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import fields
from pathlib import Path

import pytest

from tests.bench import run
from tests.bench.harness import ROOT, Figure, alternate, environment, ratios, spread
from tests.bench.report import as_markdown, as_svg, as_table, parse_json, used, write_between

CONDITIONS = {"date": "2026-01-31", "machine": "2 cores of X", "python": "3.11.7", "load": 3.4}


@pytest.fixture
def bench(monkeypatch, capsys, tmp_path):
    """The real program on the planted case; gives exit code, what it printed, and its JSON."""
    monkeypatch.setattr(run, "CASES", {"planted_case": Path(sys.executable)})
    monkeypatch.setattr(run, "MODULES", "tests.unit.bench")

    def call(planted: str, *words: str) -> tuple[int, str, dict]:
        monkeypatch.setenv("PLANTED", planted)
        code = run.main(["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.svg"), *words])
        return code, capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())

    return call


def test_within_budget_ends_with_zero_and_writes_every_field(bench) -> None:
    code, table, document = bench("")
    assert code == 0
    assert "2 of 2 budgets met" in table
    assert set(document) == {"conditions", "figures"}
    assert {"date", "machine", "load", "python", "full"} == set(document["conditions"])
    names = {item.name for item in fields(Figure)} | {"verdict"}
    assert all(set(row) == names for row in document["figures"])
    assert [row["verdict"] for row in document["figures"]] == ["ok", "ok", "", "not measured"]


def test_a_planted_shortfall_ends_with_one_and_is_named(bench) -> None:
    code, table, document = bench("shortfall")
    assert code == 1
    assert document["figures"][0]["verdict"] == "SHORT"
    assert re.search(r"SHORT  planted: ours & peer: \S+ x, wanted <= 1", table)
    assert "1 of 2 budgets met" in table


def test_a_peer_that_is_missing_is_not_measured_with_its_reason_and_is_no_shortfall(bench) -> None:
    code, table, document = bench("")
    assert code == 0
    assert "not measured  planted: beside nobody, because nobody is not installed" in table
    assert document["figures"][3]["value"] is None


def test_a_case_that_breaks_is_said_and_ends_with_one(bench) -> None:
    code, table, _ = bench("crash")
    assert code == 1
    assert "planted_case: the case itself, because it ended with exit code 1: RuntimeError: planted" in table


def test_documents_get_their_tables_from_a_whole_run_and_none_from_a_broken_one(bench, monkeypatch, tmp_path) -> None:
    document = tmp_path / "README.md"
    document.write_text(text := "<!-- figures: headlines -->\n<!-- end of figures -->\n")
    monkeypatch.setattr(run, "DOCUMENTS", {document: "headlines"})
    assert bench("crash", "--markdown")[0] == 1
    assert document.read_text() == text
    assert bench("shortfall", "--markdown")[0] == 1
    assert "| a ratio |" in document.read_text()


def test_an_unknown_case_is_a_usage_error_that_lists_the_known_ones(bench, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["recording"])
    assert ended.value.code == 2
    assert "no such case: recording; choose from planted_case" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--markdown", "planted_case"], ["--from", "x.json", "planted_case"]])
def test_tables_of_documents_are_never_made_from_some_cases_only(bench, capsys, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(words)
    assert ended.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_the_terminal_and_cuts_nothing_off(width: int) -> None:
    long = "a figure with a name of many words, which says exactly what was measured, against whom and where"
    items = [
        Figure("some group", long, 3.0, "x", "<=", 1.0, 2.5, 3.5, ours="what it was for us, what it was for them " * 3),
        Figure(
            "some group", "short", None, "x", note="a peer is not installed, and here is how one would install it " * 3
        ),
    ]
    table = as_table(items, width)
    assert max(map(len, table.splitlines())) <= width
    words = re.sub(r"\s+", " ", table)
    assert all(word in words for word in [*long.split(), "3 x <= 1 SHORT" if width == 80 else "2.5..3.5"])
    assert f"SHORT some group: {long}: 3 x, wanted <= 1" in words
    assert ("for them" in words) == (width == 200)


def test_the_plot_is_well_formed_and_has_a_bar_for_each_budget(bench, tmp_path: Path) -> None:
    bench("shortfall")
    root = ET.parse(tmp_path / "out.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    bars = [item for item in root if item.tag.endswith("rect") and item.get("x")]
    assert [bar.get("fill") for bar in bars] == ["#b3372f", "#2b7a4b"]
    assert any("ours & peer" in (item.text or "") for item in root)
    height = float(root.get("height", "0"))
    assert all(0 < float(bar.get("y", "-1")) < height for bar in bars)
    ET.fromstring(as_svg([]))


def test_figures_of_earlier_runs_are_put_together_the_newest_counts(bench, tmp_path: Path, capsys) -> None:
    _, _, first = bench("")
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(first))
    first["figures"] = first["figures"][:1]
    first["figures"][0] |= {"value": 9.0}
    new.write_text(json.dumps(first))
    assert run.main(["--from", str(old), "--from", str(new)]) == 1
    table = capsys.readouterr().out
    assert "9 x, wanted <= 3" in table
    assert "at least" in table
    assert parse_json(old.read_text())[0][1] == Figure(
        "planted", "at least", 4.0, "x", ">=", 2.0, note="Bound by nothing."
    )


# -- arithmetic ---------------------------------------------------------------------------------


def test_ratios_are_round_by_round_and_their_spread_is_median_and_quartiles() -> None:
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == [2.0, 3.0, 1.0]
    assert spread([2.0, 3.0, 1.0]) == (2.0, 1.5, 2.5)
    assert spread([7.0]) == (7.0, 7.0, 7.0)
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])


def test_rounds_alternate_and_the_first_is_thrown_away() -> None:
    order: list[str] = []

    def call(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = alternate(2, {"ours": lambda: call("ours"), "peer": lambda: call("peer")})
    assert order == ["ours", "peer"] * 3
    assert samples == {"ours": [3.0, 5.0], "peer": [4.0, 6.0]}


@pytest.mark.parametrize(
    ("value", "sense", "limit", "verdict", "share"),
    [
        (1.0, "<=", 1.0, "ok", 1.0),
        (1.01, "<=", 1.0, "SHORT", 1.01),
        (4.0, ">=", 4.0, "ok", 1.0),
        (2.0, ">=", 4.0, "SHORT", 2.0),
        (0.0, ">=", 4.0, "SHORT", 9.0),
        (-0.5, "<=", 6.0, "ok", 0.0),
    ],
)
def test_verdict_and_share_of_the_budget(value, sense, limit, verdict, share) -> None:
    item = Figure("g", "n", value, "x", sense, limit)
    assert item.verdict == verdict
    assert used(item) == pytest.approx(share)


# -- documents ----------------------------------------------------------------------------------


FIGURES = [
    Figure(
        "g", "a|b", 1.234, "x", "<=", 1.0, ours="1 | 2", note="Bound by a | b. Nothing is left.", headline="a thing"
    ),
    Figure("g", "wide", None, "ms", "<=", 5.0, note="no peer", headline="another"),
    Figure("g", "plain", 12.0, "MB"),
]


def test_headlines_have_no_notes_and_only_what_has_a_headline() -> None:
    table = as_markdown(FIGURES, CONDITIONS, "headlines")
    assert "| a thing | 1.234 x | ≤ 1 | **short** |" in table
    assert "| another | not measured | ≤ 5 |  |" in table
    assert "plain" not in table
    assert "0 of 1 budgets met; as of 2026-01-31 on 2 cores of X, Python 3.11.7, beside other work (load 3)." in table


def test_the_whole_table_has_every_figure_and_cells_that_hold() -> None:
    rows = [line for line in as_markdown(FIGURES, CONDITIONS, "all").splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(FIGURES)
    assert all(len(re.split(r"(?<!\\)\|", row)) == 7 for row in rows)
    assert r"Bound by a \| b. Nothing is left." in rows[2]


def test_a_table_is_written_between_its_marks_again_and_again() -> None:
    document = "before\n<!-- figures: all -->\nold\n<!-- end of figures -->\nafter\n"
    once = write_between(document, "all", "| t |\n")
    assert once == "before\n<!-- figures: all -->\n\n| t |\n\n<!-- end of figures -->\nafter\n"
    assert write_between(once, "all", "| t |\n") == once
    with pytest.raises(ValueError, match="figures: headlines"):
        write_between(document, "headlines", "")


@pytest.mark.parametrize(("path", "kind"), run.DOCUMENTS.items(), ids=["README", "bench"])
def test_the_documents_have_their_marks_and_name_the_command(path: Path, kind: str) -> None:
    text = path.read_text()
    assert write_between(text, kind, "x") != text
    assert "tests/run bench" in text


def test_every_case_is_a_module_and_is_named_in_the_readme() -> None:
    text = (ROOT / "tests" / "bench" / "README.md").read_text()
    (listed,) = re.findall(r"Cases: `([a-z ]+)`", text)
    assert listed.split() == list(run.CASES)
    assert all((ROOT / "tests" / "bench" / "cases" / f"{name}.py").exists() for name in run.CASES)


@pytest.mark.parametrize("python", sorted(set(run.CASES.values())), ids=lambda path: path.parents[1].name)
def test_every_case_can_be_imported_in_its_environment(python: Path) -> None:
    names = [name for name, where in run.CASES.items() if where == python]
    body = "".join(f"import tests.bench.cases.{name}\n" for name in names)
    done = subprocess.run(
        [python, "-c", body], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "tests/bench/cases").glob("*.py")), ids=lambda path: path.stem)
def test_every_figure_of_a_case_is_explained_in_two_sentences(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        if getattr(call.func, "id", "") in ("figure", "Figure"):
            notes = [item.value for item in call.keywords if item.arg == "note"]
            starred = any(isinstance(item, ast.Starred) for item in call.args)
            assert notes or starred, f"line {call.lineno}: no words"
            if notes and isinstance(notes[0], ast.Constant):
                ends = re.findall(r"[.:;](?: |$)", str(notes[0].value))
                assert len(ends) >= 2, f"line {call.lineno}: {notes[0].value}"


def test_fs_verity_says_what_it_lacks_where_no_kernel_has_it(monkeypatch, tmp_path: Path) -> None:
    from tests.bench.cases import verity

    monkeypatch.setattr(verity.shutil, "which", lambda name, path: None if name == "debugfs" else name)
    times, why = verity.in_image(tmp_path)
    assert not times
    assert "debugfs" in why


# -- real cases -----------------------------------------------------------------------------------


def test_a_real_run_of_two_cases_keeps_the_budgets_that_no_machine_changes(tmp_path: Path) -> None:
    """As `tests/run bench size compact`, one case in each environment; how long things take is nobody's claim here."""
    words = [
        sys.executable,
        ROOT / "tests/bench/run.py",
        "size",
        "compact",
        "--json",
        tmp_path / "j",
        "--plot",
        tmp_path / "p",
    ]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    figures, conditions = parse_json((tmp_path / "j").read_text())
    assert all(item.value is not None and item.value > 0 for item in figures if "strip" not in item.note), done.stdout
    kept = {
        item.name: item.verdict for item in figures if item.unit == "kB" or item.name.startswith("bytes per record")
    }
    assert kept == dict.fromkeys(kept, "ok")
    assert len(kept) == 3
    assert done.returncode == (1 if any(item.verdict == "SHORT" for item in figures) else 0)
    assert "budgets met on this machine" in done.stdout
    assert conditions["full"] is False
    ET.fromstring((tmp_path / "p").read_text())


# -- real cases without their peers -------------------------------------------------------------


@pytest.mark.parametrize("name", ["transfer", "download", "install", "signatures"])
def test_a_real_case_without_its_peers_says_why(name: str, tmp_path: Path) -> None:
    env = environment({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    words = [sys.executable, "-m", f"tests.bench.cases.{name}", "--work", str(tmp_path / "work")]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = [Figure(**row) for row in json.loads(done.stdout.splitlines()[-1].removeprefix("FIGURES "))]
    assert figures
    assert {item.verdict for item in figures} == {"not measured"}
    assert all("not installed" in item.note for item in figures)
    assert os.sep + "bin" not in as_table(figures)
