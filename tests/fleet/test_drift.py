# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Drift: spreads and accuracy are what a plain count over the records gives."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from edgeprov.fleet.dataset.drift import drift
from edgeprov.formats.label import Label
from edgeprov.formats.record import parse_record
from tests.support.browser import browser
from tests.support.fleet import fleet, push_kit


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def test_spread_and_accuracy(hub, tmp_path):
    unit = hub.device("a1")
    old, new = hub.world.model, hub.world.make_model("wdbc", b"version 2")
    push_kit(hub.registry, unit, unit.seal(records=40, model=old))
    labels = [Label(n=n, value=n % 2, source="x", labelled_at_ns=10_000) for n in range(30)]
    push_kit(hub.registry, unit, unit.seal(records=0, labels=labels, model=old))
    unit.reboot()
    unit.measure(new.digest)
    push_kit(hub.registry, unit, unit.seal(records=50, model=new))
    hub.sync()
    assert hub.run("collect", "-o", tmp_path / "out").code == 0
    report = drift(str(tmp_path / "out"))
    first, second = report["models"]
    records = [parse_record(row) for row in unit.sealed[0].rows]
    decided = [int(signed(r.outputs[0][1]) > signed(r.outputs[0][0])) for r in records]
    assert first["spread"] == {str(k): v for k, v in sorted(Counter(decided).items())}
    right = sum(decided[record.n] == record.n % 2 for record in records if record.n < 30)
    assert (first["labelled"], first["right"]) == (30, right)
    assert first["accuracy"] == pytest.approx(right / 30, abs=1e-4)
    assert (second["rows"], second["labelled"], second["accuracy"]) == (50, 0, None)
    assert report["pairs"][0]["from"] == str(old.digest)
    page = tmp_path / "audit.html"
    run = hub.run("audit", "--from", "2026-02", "--to", "2026-02", "--data", tmp_path / "out", "--html", page)
    assert run.code == 0, run.err
    assert "Model versions compared" in page.read_text()


def test_a_data_set_behind_a_url(hub, tmp_path):
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=9))
    hub.sync()
    for name in (f"file://{tmp_path}/out", "memory://drift"):
        assert hub.run("collect", "-o", name).code == 0
        run = hub.run("audit", "--from", "2026-02", "--to", "2026-02", "--data", name, "--json")
        assert run.code == 0, run.err
        assert [model["rows"] for model in run.last("audit")["drift"]["models"]] == [9]


def test_not_a_data_set(tmp_path, hub):
    push_kit(hub.registry, hub.device("a1"), hub.units["a1"].seal(records=2))
    hub.sync()
    assert hub.run("audit", "--from", "2026-02", "--to", "2026-02", "--data", tmp_path).code == 35
    assert fleet("audit", "--data", tmp_path).code == 2


@pytest.fixture(scope="module")
def regressed(tmp_path_factory):
    """A made fleet whose third model version is a regression, collected."""
    from tests.bench.fleetgen.fleet import Settings, make_fleet

    root = tmp_path_factory.mktemp("regressed")
    made = make_fleet(root / "made", Settings(devices=12, days=45, seed=7, faults=False))
    options = ("--fleet", root / "fleet", "--trust", made.trust)
    assert fleet("sync", *made.registries, "--fleet", root / "fleet").code == 0
    assert fleet("collect", "-o", root / "data", *options).code == 0
    return root, options


def counted(folder, since_ns: int, to_ns: int) -> dict[str, dict]:
    """The same numbers row by row, without a line of the code under test."""
    import pyarrow.parquet as pq

    models: dict[str, dict] = {}
    for path in folder.glob("model=*/device=*/part-0.parquet"):
        model = models.setdefault(
            "sha256:" + path.parent.parent.name.removeprefix("model="),
            {
                "rows": 0,
                "labelled": 0,
                "right": 0,
                "spread": Counter(),
                "first": None,
                "of": Counter(),
                "hit": Counter(),
            },
        )
        table = pq.read_table(path)
        moments = table["recorded_at"].cast("int64").to_pylist()
        for moment, (value,), label in zip(
            moments, table["output_0"].to_pylist(), table["label"].to_pylist(), strict=True
        ):
            if not since_ns <= moment < to_ns:
                continue
            model["rows"] += 1
            model["first"] = min(moment, model["first"] or moment)
            model["spread"][str(min(19, max(0, math.floor((value + 128) * 20 / 255))))] += 1
            if label is not None:
                decided = value > -0.5
                model["labelled"] += 1
                model["right"] += decided == bool(label)
                model["of"][int(label)] += 1
                model["hit"][int(label)] += decided == bool(label)
    return {name: model for name, model in models.items() if model["rows"]}


def test_every_number_is_that_of_a_count_row_by_row(regressed):
    root, options = regressed
    run = fleet("audit", "--from", "2026-01-05", "--to", "2026-02-14", *options, "--data", root / "data", "--json")
    found = run.last("audit")["drift"]
    day_ns, start_ns = 86_400 * 10**9, 1_767_225_600 * 10**9
    truth = counted(root / "data", start_ns + 4 * day_ns, start_ns + 45 * day_ns)
    assert [model["model"] for model in found["models"]] == sorted(truth, key=lambda name: truth[name]["first"])
    for model in found["models"]:
        own = truth[model["model"]]
        assert {name: model[name] for name in ("rows", "labelled", "right")} == {
            name: own[name] for name in ("rows", "labelled", "right")
        }
        assert model["spread"] == {name: count for name, count in own["spread"].items() if count}
        assert model["accuracy"] == pytest.approx(own["right"] / own["labelled"], abs=1e-4)
        assert {item["label"]: (item["rows"], item["right"]) for item in model["recall"]} == {
            label: (own["of"][label], own["hit"][label]) for label in own["of"]
        }
        assert model["edges"] == pytest.approx([0.0, 255 / 256])  # real values of the quantised output
        # Wilson's interval holds exactly the shares p that the count does not contradict: (x - p)^2 <= z^2 p (1 - p) / n.
        share, n = own["right"] / own["labelled"], own["labelled"]
        for bound, inward in zip(model["accuracy_interval"], (1e-3, -1e-3), strict=True):
            for p, inside in ((bound + inward, True), (bound - inward, False)):
                assert ((share - p) ** 2 <= 1.96**2 * p * (1 - p) / n) is inside
    for pair in found["pairs"]:
        before, after = truth[pair["from"]], truth[pair["to"]]
        psi = 0.0
        for place in range(20):
            p = max(before["spread"][str(place)] / before["rows"], 1e-4)
            q = max(after["spread"][str(place)] / after["rows"], 1e-4)
            psi += (q - p) * (math.log(q) - math.log(p))
        assert pair["psi"] == pytest.approx(psi, abs=1e-4)
        assert pair["shifted"] is (psi > 0.25)
        # The same test as a chi-squared one of the two by two table.
        (a, n), (b, m) = ((part["right"], part["labelled"]) for part in (before, after))
        chi2 = (n + m) * (a * (m - b) - b * (n - a)) ** 2 / (n * m * (a + b) * (n + m - a - b))
        sign = "worse" if b / m < a / n else "better"
        assert pair["accuracy"] == (sign if chi2 > 3.8415 else "same")


def test_an_engineer_sees_why_to_retrain(regressed, tmp_path):
    root, options = regressed
    page = tmp_path / "audit.html"
    question = ("audit", "--from", "2026-01", "--to", "2026-02-14", *options, "--data", root / "data", "--html", page)
    text = fleet(*question).out
    reason = next(line.strip() for line in text.splitlines() if "a reason to retrain" in line)
    assert reason.startswith("wdbc:1.2.0 is right in ")
    assert ", wdbc:1.1.0 in " in reason
    with browser() as tab:
        tab.size(1360, 900)
        tab.open(page.as_uri())
        assert reason in tab.js("document.querySelector('[aria-labelledby=drift] .bad').textContent")
        pictures = [node["name"] for node in tab.tree() if node["role"] == "image"]
        assert len(pictures) == 3
        assert all(name.startswith("Spread of outputs: 0 to ") for name in pictures)
        # The line of the version before is drawn where there is one.
        assert (
            tab.js("document.querySelectorAll('.spread').length - document.querySelectorAll('.spread polyline').length")
            == 1
        )
        tab.size(400, 800)
        assert tab.js("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("labels", "type_", "whole"),
    [
        ([1, None, -3], "int64", [1, None, -3]),
        ([True, False, None], "bool", [1, 0, None]),
        (["1", "benign", "-2", "", "9" * 30], "string", [1, None, -2, None, None]),
        ([1.0, 0.5, None, 1e300, float("nan")], "float64", [1, None, None, None, None]),
        ([None, None], "null", [None, None]),
    ],
)
def test_labels_that_can_be_compared(labels, type_, whole):
    import pyarrow as pa

    from edgeprov.fleet.dataset.tables_summary import _whole_numbers

    array = pa.array(labels, getattr(pa, {"bool": "bool_"}.get(type_, type_))())
    assert _whole_numbers(array).to_pylist() == whole
