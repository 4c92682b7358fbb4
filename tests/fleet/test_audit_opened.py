# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What an audit learns from tombstones and kits themselves: told in each form, and read once."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from edgeprov.fleet.audit import audit_kits
from edgeprov.fleet.audit.audit_kits import _merged, _overlap
from edgeprov.formats.head import encode_head
from edgeprov.formats.label import Label
from tests.fleet.conftest import Hub
from tests.support.browser import browser
from tests.support.fleet import data_repo, fleet, push_kit, push_tombstone

PERIOD = ("--from", "2026-02-01", "--to", "2026-02-28")


@pytest.fixture
def buried(hub: Hub) -> Hub:
    """One device with a kit, then a tombstone of each reason, then a kit."""
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=3))
    repo = data_repo(unit.sealed[0])
    push_tombstone(hub.registry, unit, repo=repo)
    push_tombstone(hub.registry, unit, repo=repo, reason="damaged", lost=[(3, 5), (9, 9)])
    push_tombstone(hub.registry, unit, repo=repo, reason="discarded", lost=[(10, 34)])
    push_kit(hub.registry, unit, unit.seal(records=2))
    hub.sync()
    return hub


def test_the_reason_of_each_tombstone_is_in_every_form_of_the_report(buried: Hub, tmp_path: Path) -> None:
    found = buried.run("audit", *PERIOD, "--json", "--html", tmp_path / "page.html").last("audit")
    told = found["devices"][0]["series"]["tombstones"]
    assert [(item["seq"], item["numbers"], item["lost"], item["lost_records"]) for item in told] == [
        (104, [[103, "crash"]], [], 0),
        (106, [[105, "damaged"]], [[3, 5], [9, 9]], 4),
        (108, [[107, "discarded"]], [[10, 34]], 25),
    ]
    totals = found["totals"]
    assert [totals[f"voided{name}"] for name in ("", "_crash", "_damaged", "_discarded")] == [6, 1, 1, 1]
    assert totals["lost_records"] == 29
    sentence = (
        "103 (crash), 104 (tombstone), 105 (damaged), 106 (damaged: records 3-5, 9 lost), "
        "107 (discarded), 108 (discarded: records 10-34 lost)"
    )
    text = buried.run("audit", *PERIOD).out
    assert f"voided {sentence}" in text
    assert "voided by a signed tombstone (1 damaged, 1 discarded: 29 records lost)" in text
    rows = list(csv.DictReader(io.StringIO(buried.run("audit", *PERIOD, "--csv").out)))
    assert {(row["voided_why"], row["lost_records"]) for row in rows} == {(sentence, "29")}
    with browser() as page:
        page.open((tmp_path / "page.html").as_uri())
        shown = page.js("document.body.textContent")
    assert f"voided by tombstone: {sentence}" in shown
    assert "29records lost (signed)" in shown


def test_a_number_that_the_device_cannot_explain_is_a_doubt(hub: Hub, tmp_path: Path) -> None:
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=3))
    hub.sync()
    assert hub.run("audit", *PERIOD, "--json").last("audit")["verdict"] == "headless"
    push_tombstone(hub.registry, unit, repo=data_repo(unit.sealed[0]), reason="unknown")
    push_kit(hub.registry, unit, unit.seal(records=2))
    hub.sync()
    found = hub.run("audit", *PERIOD, "--json", "--html", tmp_path / "page.html").last("audit")
    series = found["devices"][0]["series"]
    assert (found["verdict"], found["totals"]["unknown_numbers"]) == ("gaps", 1)
    assert (series["unknown"], series["missing"], series["voided"]) == ([103], [], [103, 104])
    text = hub.run("audit", *PERIOD).out
    assert "unexplained 103" in text
    assert "0 numbers missing, 1 unexplained" in text
    assert "unexplained by the device: 103" in (tmp_path / "page.html").read_text()


def test_two_tombstones_of_unknown_numbers_are_two_doubts(hub: Hub) -> None:
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=3))
    for _ in range(2):
        push_tombstone(hub.registry, unit, repo=data_repo(unit.sealed[0]), reason="unknown")
    hub.sync()
    found = hub.run("audit", *PERIOD, "--json").last("audit")
    assert (found["verdict"], found["totals"]["unknown_numbers"], found["totals"]["missing"]) == ("gaps", 2, 0)


@pytest.fixture
def labelled(hub: Hub) -> Hub:
    """A month of two kits; the label kit comes later, and one kit reaches over the end of the period."""
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=20))
    labels = [Label(n=n, value=n % 2, source="lab", labelled_at_ns=10**18 + n) for n in (1, 2, 3, 7, 11)]
    push_kit(hub.registry, unit, unit.seal(records=20, labels=labels))
    hub.sync()
    assert hub.run("verify").code == 0
    return hub


def test_a_second_audit_opens_nothing(labelled: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = labelled.run("query", "--json").items[1]["recorded_first"]
    period = ("--from", "2026-02-01T00:00:00Z", "--to", moment[:-2] + "9Z")  # within the second kit
    first = labelled.run("audit", *period, "--json").last("audit")
    assert (first["totals"]["labels"], first["models"][0]["labels_exact"]) == (5, True)

    opened: list[object] = []
    real = audit_kits.open_kit
    monkeypatch.setattr(audit_kits, "open_kit", lambda *args: opened.append(args) or real(*args))
    again = labelled.run("audit", *period, "--json").last("audit")
    assert again["devices"] == first["devices"]
    assert opened == []
    # Another period asks another question of the kit at its end, and the same one of the labels.
    labelled.run("audit", *period[:3], moment[:-2] + "8Z", "--json")
    assert len(opened) == 1


def test_an_index_that_cannot_be_written_is_asked_all_the_same(labelled: Hub) -> None:
    from datetime import UTC, datetime

    from edgeprov.fleet.audit.fleet_audit import audit
    from edgeprov.fleet.index.database import Index
    from edgeprov.fleet.index.query import Query
    from edgeprov.fleet.trust.folder import load_trust

    trust = load_trust(labelled.trust)
    query = Query(since="2026-02-01T00:00:00.000Z", to="2026-03-01T00:00:00.000Z", policy=trust.digest)
    with Index.open(labelled.fleet, write=False) as index:
        assert audit(index, query, trust, now=datetime.now(UTC)).totals["labels"] == 5
        assert index.rows("SELECT count(*) FROM opened")[0][0] == 0


@pytest.mark.parametrize(
    ("spans", "wanted", "count"),
    [
        ([], [(0, 9)], 0),
        ([(3, 5)], [(0, 2), (6, 9)], 0),
        ([(3, 5), (5, 8), (1, 1)], [(0, 9)], 7),
        ([(0, 100)], [(5, 5), (7, 9)], 4),
        ([(2, 4), (6, 6), (9, 12)], [(4, 9)], 3),
        ([(1, 2)], [(1, 1), (1, 2)], 3),
    ],
)
def test_labels_are_matched_with_results_by_ranges(
    spans: list[tuple[int, int]], wanted: list[tuple[int, int]], count: int
) -> None:
    numbers = {n for first, last in spans for n in range(first, last + 1)}
    assert sum(n in numbers for first, last in wanted for n in range(first, last + 1)) == count
    assert _overlap(_merged(spans), wanted) == count


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--from", "2026-02", "--to", "2026-01"), "lies before --from"),
        ((*PERIOD, "--device", "a11"), "knows no device 'urn:edgeprov:device:a11'"),
        ((*PERIOD, "--html", "/nowhere/at/all/page.html"), "/nowhere/at/all is no folder"),
        ((*PERIOD, "--nonce", "00"), "--nonce needs --head"),
        ((*PERIOD, "--head", "head.json"), "--head needs --nonce"),
        ((*PERIOD, "--sign", "statement.json"), "--sign needs --report"),
    ],
)
def test_a_question_that_makes_no_sense_is_no_empty_report(
    labelled: Hub, words: tuple[str, ...], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = labelled.run("audit", *words)
    assert (run.code, run.out) == (2, "")
    assert why in run.err


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("-1", "'-1' is not a whole number from 1"),
        ("0", "'0' is not a whole number from 1"),
        ("1025", "--workers is more than 1024"),
        ("99999999999", "--workers is more than 1024"),
    ],
)
def test_workers_are_a_number_that_a_machine_can_start(labelled: Hub, number: str, why: str) -> None:
    run = fleet("verify", "--fleet", labelled.fleet, "--trust", labelled.trust, "--workers", number)
    assert (run.code, run.out) == (2, "")
    assert why in run.err


def test_heads_may_lie_in_a_folder_and_a_device_is_asked_with_its_own(hub: Hub, tmp_path: Path) -> None:
    """The page names the command of each device: with the heads of all of them it would grow with their square."""
    nonce, heads = "00" * 16, tmp_path / "heads"
    heads.mkdir()
    for serial in ("a1", "b2", "c3"):
        unit = hub.device(serial)
        push_kit(hub.registry, unit, unit.seal(records=2))
        if serial != "c3":
            (heads / f"{serial}.json").write_bytes(encode_head(unit.head(bytes.fromhex(nonce))))
    hub.sync()
    page = tmp_path / "page.html"
    given = ("--head", heads, "--nonce", nonce)
    found = hub.run("audit", *PERIOD, *given, "--html", page, "--json").last("audit")
    assert [device["series"]["head"] is None for device in found["devices"]] == [False, False, True]
    text = page.read_text()
    assert text.count("--head /") == text.count(f"--head {heads} --nonce") + 2
    for serial in ("a1", "b2"):
        assert text.count(f"--device {serial} --head {heads / serial}.json --nonce {nonce}") == 1
    (tmp_path / "none").mkdir()
    assert hub.run("audit", *PERIOD, "--head", tmp_path / "none", "--nonce", nonce).code == 2
