# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The audit against a fleet whose truth is known; and the page, in a real browser."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprov.formats.head import Head
from edgeprov.formats.segment import parse_segment_header
from edgeprov.formats.standing import OpenSegment, Standing
from tests.bench.fleetgen.fleet import Settings, make_fleet
from tests.fleet.conftest import Hub
from tests.support.browser import browser
from tests.support.fleet import Run, data_repo, fleet, push_head, push_kit
from tests.support.peers import peer
from tests.support.world import START_NS


class Made:
    """A generated fleet with planted faults, synced and judged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made = make_fleet(root / "made", Settings(devices=8, days=21, seed=1))
        self.truth = {device["serial"]: device for device in self.made.truth["devices"]}
        assert fleet("sync", *self.made.registries, "--fleet", root / "fleet").code == 0

    def run(self, *argv: object) -> Run:
        return fleet("audit", "--fleet", self.root / "fleet", "--trust", self.made.trust, "--workers", "1", *argv)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def report(made: Made) -> dict:
    run = made.run("--from", "2026-01", "--to", "2026-01", "--json", *made.made.head_options)
    assert run.code == 0, run.err
    return run.last("audit")


def test_planted_faults_are_found_and_nothing_else(made, report):
    devices = {device["serial"]: device for device in report["devices"]}
    for serial, truth in made.truth.items():
        found = devices[serial]
        if not truth["enrolled"]:
            assert "unknown device" in found["record_fault"]
            assert found["results"] == 0
            continue
        series = found["series"]
        missing = [n for first, last in series["missing"] for n in range(first, last + 1)]
        assert missing == truth["lost"], serial
        assert series["head"] == truth["last_seq"], serial
        assert series["voided"] == truth["voided"], serial
        assert series["forks"] == truth["forks"], serial
        assert {item["kit"] for item in found["refused"]} == set(truth["refused"]), serial
        assert found["record_fault"] is None


def test_totals_add_up(report):
    assert report["totals"]["results"] == sum(device["results"] for device in report["devices"])
    assert report["totals"]["results"] == sum(model["results"] for model in report["models"])
    assert report["verdict"] == "gaps"
    assert (
        sum(sum(day["models"].values()) for device in report["devices"] for day in device["days"].values())
        == report["totals"]["results"]
    )


def test_a_narrower_question(made, report):
    one = made.run("--from", "2026-01", "--to", "2026-01", "--device", "unit0001", "--json").last("audit")
    assert [device["serial"] for device in one["devices"]] == ["unit0001"]
    assert one["devices"][0]["results"] == next(d["results"] for d in report["devices"] if d["serial"] == "unit0001")
    by_model = made.run("--from", "2026-01", "--to", "2026-01", "--model", "wdbc:1.1.0", "--json").last("audit")
    assert [model["name"] for model in by_model["models"]] == ["wdbc:1.1.0"]
    assert by_model["totals"]["results"] == next(m["results"] for m in report["models"] if m["name"] == "wdbc:1.1.0")
    nothing = made.run("--from", "2031", "--to", "2031-02", "--json")
    assert nothing.code == 2
    empty = made.run("--from", "2031-01", "--to", "2031-02", "--json").last("audit")
    assert empty["verdict"] == "unproved"


def test_days_add_up_to_the_month(made, report):
    """Kits over midnight are opened and counted record by record."""
    total = 0
    for first, last in (("2026-01-01", "2026-01-10"), ("2026-01-11", "2026-01-31")):
        part = made.run("--from", first, "--to", last, "--json").last("audit")
        assert not any(i["approximate"] for d in part["devices"] for i in d["intervals"])
        total += part["totals"]["results"]
    assert total == report["totals"]["results"]


def test_text_and_csv(made):
    text = made.run("--from", "2026-01", "--to", "2026-01").out
    assert "WITH GAPS" in text
    assert "wdbc:1.1.0" in text
    lines = made.run("--from", "2026-01", "--to", "2026-01", "--csv").out.splitlines()
    assert lines[0].startswith("device,assurance,slot,model")
    assert made.run("--to", "2026-01").code == 2


def test_a_signed_report_is_checked_later(made, tmp_path):
    assert fleet("ca", "init", tmp_path / "ca").code == 0
    files = ("--report", tmp_path / "audit.json", "--sign", tmp_path / "audit.sigstore.json")
    assert made.run("--from", "2026-01", "--to", "2026-01", "--ca", tmp_path / "ca", *files).code == 0
    check = (
        "--check",
        tmp_path / "audit.sigstore.json",
        "--report",
        tmp_path / "audit.json",
        "--trust",
        tmp_path / "ca/trust.d",
    )
    run = fleet("audit", *check, "--json")
    assert run.last("checked")["signer"].startswith("urn:edgeprov:collector:")
    raw = (tmp_path / "audit.json").read_bytes()
    (tmp_path / "audit.json").write_bytes(raw.replace(b'"refused":', b'"refused": ', 1))
    assert fleet("audit", *check).code == 14
    (tmp_path / "audit.json").write_bytes(raw)
    assert fleet("audit", *check[:-1], made.made.trust).code == 13


def test_a_head_closes_the_series(hub):
    """Kits withheld at the end show only against an attested head."""
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=3))
    withheld = unit.seal(records=4)
    hub.sync()
    period = ("--from", "2026-02", "--to", "2026-02", "--json")
    before = hub.run("audit", *period).last("audit")
    assert before["devices"][0]["series"]["missing"] == []
    from edgeprov.formats.head import encode_head

    nonce = bytes(range(16))
    (hub.root / "head.json").write_bytes(encode_head(unit.head(nonce)))
    asked = ("--head", hub.root / "head.json", "--nonce", nonce.hex())
    after = hub.run("audit", *period, *asked).last("audit")
    assert after["devices"][0]["series"]["missing"] == [[withheld.kit.seq - 1, withheld.kit.seq]], (
        "its segment and the kit"
    )
    assert hub.run("audit", *period, "--head", hub.root / "head.json", "--nonce", "00" * 16).code == 15
    push_kit(hub.registry, unit, withheld)
    hub.sync()
    closed = hub.run("audit", *period, *asked).last("audit")["devices"][0]["series"]
    assert closed["missing"] == []
    assert closed["closed_until"] == withheld.kit.seq


def test_two_devices_with_one_identity_are_named(hub):
    first = hub.device("a1")
    push_kit(hub.registry, first, first.seal(records=3))
    second = hub.device("a2", tpm=first.tpm)
    push_kit(hub.registry, second, second.seal(records=3))
    hub.sync()
    found = hub.run("audit", "--from", "2026-02", "--to", "2026-02", "--json").last("audit")
    assert all("one TPM is enrolled as" in device["identity_doubts"][0] for device in found["devices"])
    assert found["verdict"] == "gaps"


def test_a_clock_in_the_future_is_in_doubt_and_not_counted_as_sure(hub, monkeypatch):
    from tests.support import world

    monkeypatch.setattr(world, "START_NS", 4_000_000_000_000_000_000)  # the year 2096
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=3))
    hub.sync()
    found = hub.run("audit", "--from", "2096-10", "--to", "2096-10", "--json").last("audit")
    assert found["totals"]["results"] == 0
    assert "future" in found["devices"][0]["clock"]["doubts"][0]
    assert found["devices"][0]["doubtful"][0]["why"].startswith("its clock says 2096")


@pytest.fixture(scope="module")
def page(made, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "audit.html"
    assert made.run("--from", "2026-01", "--to", "2026-01", "--html", path).code == 0
    return path


def test_the_page_is_self_contained_and_escaped(page, made):
    text = page.read_text()
    assert "<script src" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text
    from edgeprov.fleet.audit.render.commands import Commands
    from edgeprov.fleet.audit.render.page_html import encode_html

    evil = json.loads(made.run("--from", "2026-01", "--to", "2026-01", "--json").out.splitlines()[-1])
    evil["models"][0]["name"] = "<img src=x onerror=alert(1)>"
    evil["devices"][0]["serial"] = '"><script>alert(2)</script>'
    evil["devices"][0]["refused"] = [
        {"kit": "sha256:" + "0" * 64, "seq": 1, "step": 2, "why": "</table><script>x</script>"}
    ]
    evil["sources"][0]["name"] = "oci:<img src=y>"
    commands = Commands(period=("--from", "<b>"), place=("--fleet", "a b;<img src=z>"))
    html = encode_html(evil, commands).decode()
    assert "'a b;&lt;img src=z&gt;'" in html.replace("&#x27;", "'")
    assert "<img" not in html
    assert "<script>alert" not in html
    assert "<script>x" not in html


def test_the_page_in_a_browser(page):
    with browser() as tab:
        tab.size(1360, 1400)
        tab.open(page.as_uri())
        assert tab.errors == []
        assert tab.requests == [page.as_uri()]
        assert "Which model version produced the results of 2026-01-01 to 2026-01-31?" in tab.js(
            "document.querySelector('h1').textContent"
        )
        # The answer is on the first screen.
        assert tab.js("document.querySelector('.answer').getBoundingClientRect().bottom < innerHeight")
        assert tab.js("document.querySelectorAll('#grid tbody tr').length") == 9
        # Keyboard: one stop, arrows move, what is reached is told, Enter opens the device.
        assert tab.js("document.querySelectorAll('#grid td[tabindex=\"0\"]').length") == 1
        tab.js("document.querySelector('#grid td[tabindex=\"0\"]').focus()")
        tab.key("ArrowRight")
        tab.key("ArrowDown")
        told = tab.js("document.querySelector('#say').textContent")
        assert told.startswith("unit0001, 2026-01-02:")
        assert "results of wdbc:1.0.0" in told
        # A screen reader reads the reached cell out.
        assert any(node["role"] == "gridcell" and node["name"] == told for node in tab.tree())
        tab.key("End")
        assert tab.js("document.activeElement.cellIndex == document.activeElement.parentElement.cells.length - 1")
        tab.key("Enter")
        assert tab.js("document.activeElement.closest('details').open")
        assert tab.js("document.activeElement.closest('details').dataset.device") == "unit0001"
        # Filters.
        tab.js(
            "document.querySelector('#find').value='unit0003'; document.querySelector('#find').dispatchEvent(new Event('input'))"
        )
        assert tab.js("[...document.querySelectorAll('#grid tbody tr')].filter(r => !r.hidden).length") == 1
        assert tab.js("document.querySelector('#shown').textContent") == "1 of 9 devices shown"
        tab.js(
            "document.querySelector('#find').value=''; document.querySelector('#only').checked=true; document.querySelector('#only').dispatchEvent(new Event('input'))"
        )
        shown = tab.js(
            "[...document.querySelectorAll('details')].filter(r => !r.hidden && r.dataset.device).map(r => r.dataset.doubt)"
        )
        assert set(shown) == {"1"}
        # A screen reader is told of landmarks, headings and the grid.
        tree = tab.tree()
        roles = {node["role"] for node in tree}
        assert {"main", "heading", "grid", "columnheader", "rowheader", "status", "region", "table"} <= roles
        assert all(node["name"] for node in tree if node["role"] in ("region", "grid", "combobox", "checkbox", "image"))
        regions = [node["name"] for node in tree if node["role"] == "region"]
        assert len(regions) == len(set(regions))
        assert any(node["role"] == "searchbox" and node["name"] == "Device" for node in tree)
        # Light and dark differ, and both have contrast.
        tab.prefer("light")
        light = tab.js("getComputedStyle(document.body).backgroundColor")
        tab.prefer("dark")
        assert tab.js("getComputedStyle(document.body).backgroundColor") != light
        assert tab.pdf().startswith(b"%PDF")


def test_contrast_of_text_on_every_model_colour(page):
    """WCAG AA: 4.5 to 1, in both schemes, for letters on cells and for text on the page."""
    script = """
    (() => { const lum = c => { const [r,g,b] = c.match(/[0-9.]+/g).map(Number).map(v => { v/=255; return v <= .03928 ? v/12.92 : ((v+.055)/1.055)**2.4; }); return .2126*r+.7152*g+.0722*b; };
      const ratio = (a,b) => { const [x,y] = [lum(a),lum(b)].sort((p,q)=>q-p); return (x+.05)/(y+.05); };
      const out = []; for (let i=0;i<8;i++) { const t=document.createElement('span'); t.className='key m'+i; document.body.append(t); const s=getComputedStyle(t); out.push(ratio(s.color,s.backgroundColor)); t.remove(); }
      const body = getComputedStyle(document.body); for (const c of ['.dim','.verdict','.doubt','h1']) { const e = document.querySelector(c); if (e) out.push(ratio(getComputedStyle(e).color, body.backgroundColor)); }
      return Math.min(...out); })()
    """
    with browser() as tab:
        tab.open(page.as_uri())
        for scheme in ("light", "dark"):
            tab.prefer(scheme)
            assert tab.js(script) >= 4.5, scheme


def test_the_page_works_without_scripts(page):
    with browser() as tab:
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.open(page.as_uri())
        names = [node["name"] for node in tab.tree() if node["role"] == "StaticText"]
        assert any("results on" in name for name in names)


def test_labels_are_counted_result_by_result(made, report, tmp_path):
    """Labels come weeks later, in kits of another month: what counts is in which results they lie."""
    run = fleet("collect", "-o", tmp_path / "out", "--fleet", made.root / "fleet", "--trust", made.made.trust)
    assert run.code == 0, run.err
    import pyarrow.parquet as pq

    part = made.run("--from", "2026-01-01", "--to", "2026-01-10", "--json").last("audit")
    day_ns, start_ns = 86_400 * 10**9, 1_767_225_600 * 10**9  # 2026-01-01
    for found, days in ((report, 31), (part, 10)):
        left_out = {item["kit"] for device in found["devices"] for item in device["doubtful"]}
        rows, labelled = Counter[str](), Counter[str]()
        for path in sorted((tmp_path / "out").glob("model=*/device=*/part-0.parquet")):
            model = "sha256:" + path.parent.parent.name.removeprefix("model=")
            table = pq.read_table(path, columns=["recorded_at", "labelled_at", "kit"])
            moments = table["recorded_at"].cast("int64").to_pylist()
            for moment, label, kit in zip(
                moments, table["labelled_at"].is_valid().to_pylist(), table["kit"].to_pylist(), strict=True
            ):
                if start_ns <= moment < start_ns + days * day_ns and kit not in left_out:
                    rows[model] += 1
                    labelled[model] += label
        assert {model["digest"]: model["results"] for model in found["models"]} == dict(rows)
        assert {model["digest"]: model["labels"] for model in found["models"]} == dict(labelled)
        assert 0 < found["totals"]["labels"] < found["totals"]["results"]
        for model in found["models"]:
            assert model["labels_exact"]
            assert model["unlabelled_share"] == pytest.approx(1 - model["labels"] / model["results"], abs=1e-4)
    bound = made.run("--from", "2026-01-01", "--to", "2026-01-10", "--approximate", "--json").last("audit")
    assert not all(model["labels_exact"] for model in bound["models"])
    assert bound["totals"]["labels"] >= part["totals"]["labels"]


def test_a_silent_device_is_listed(hub):
    """The question was about all devices: one that sent nothing in the period is an answer too."""
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=3))
    hub.device("b2")
    hub.sync()
    found = hub.run("audit", "--from", "2026-03", "--to", "2026-03", "--json").last("audit")
    assert [device["serial"] for device in found["devices"]] == ["a1", "b2"]
    assert found["totals"]["silent_devices"] == 2
    assert "nothing in this period" in hub.run("audit", "--from", "2026-03", "--to", "2026-03").out
    before = hub.run("audit", "--from", "2025-03", "--to", "2025-03", "--json").last("audit")
    assert before["devices"] == []  # not enrolled yet


def test_the_commands_of_the_page_give_its_numbers(made, page, tmp_path, monkeypatch):
    """As a reader would: copied from the page, run, and looked up where the page says."""
    monkeypatch.chdir(tmp_path)
    with browser() as tab:
        tab.open(page.as_uri())
        rows = tab.js(
            "[...document.querySelectorAll('#commands tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
        tiles = tab.js("[...document.querySelectorAll('.tiles li')].map(t => t.firstChild.textContent)")
        device = tab.js("document.querySelector('details[data-device=unit0001] .commands').textContent")
        shown = tab.js("document.querySelector('details[data-device=unit0001] summary').textContent")
    answers: dict[str, dict] = {}
    for what, value, where, command in rows:
        if command not in answers:
            words = shlex.split(command)
            assert words[0] == "edgeprov-fleet"
            run = fleet(*words[1:])
            assert run.code == 0, (command, run.err)
            answers[command] = run.items[-1]
        item = answers[command]
        for name in where.split("."):
            item = item[int(name)] if isinstance(item, list) else item.get(name, 0)
        assert str(item) == value, what
    from edgeprov.fleet.audit.render.page_html import _TILES

    value_of = {where.removeprefix("totals."): value for _, value, where, _ in rows if where.startswith("totals.")}
    value_of |= {what.removeprefix("kits "): value for what, value, where, _ in rows if where == "kits"}
    assert [tile.replace(",", "") for tile in tiles] == [value_of[name] for name, _, _ in _TILES]
    audit, query, verify, prove = (fleet(*shlex.split(line)[1:]) for line in device.splitlines())
    one = audit.items[-1]["devices"][0]
    assert f"{one['results']:,} results" in shown
    assert {item["device"] for item in query.items} == {one["device"]}
    # All that the device ever sent is judged again, record by record; refused kits are told by the exit code.
    assert verify.code == (10 if verify.items[-1]["refused"] else 0), verify.err
    assert prove.code == 0, prove.err
    proof = next(tmp_path.glob("*.proof.json"))
    assert fleet("check-proof", proof, "--trust", made.made.trust).code == 0


def test_the_page_is_signed_with_the_report(made, tmp_path):
    """Later and elsewhere: only the files and the trust folder."""
    assert fleet("ca", "init", tmp_path / "ca").code == 0
    page = tmp_path / "audit.html"
    files = ("--report", tmp_path / "audit.json", "--sign", tmp_path / "audit.sigstore.json", "--html", page)
    assert made.run("--from", "2026-01", "--to", "2026-01", "--ca", tmp_path / "ca", *files).code == 0
    check = ("audit", "--check", tmp_path / "audit.sigstore.json", "--trust", tmp_path / "ca/trust.d", "--report")
    assert fleet(*check, page).code == 0
    assert fleet(*check, tmp_path / "audit.json").code == 0
    # And without us: cosign, by the command that export-trust writes for the auditor.
    auditor = tmp_path / "auditor"
    assert fleet("export-trust", "--trust", tmp_path / "ca/trust.d", "-o", auditor).code == 0
    command = next(line for line in (auditor / "COMMANDS.txt").read_text().splitlines() if "$REPORT" in line)
    tools = f"{Path(peer('cosign')).parent}:{os.environ['PATH']}"
    for report, ok in ((page, True), (tmp_path / "audit.json", True), (tmp_path / "audit.sigstore.json", False)):
        values = {"PATH": tools, "HOME": str(tmp_path), "STATEMENT": str(tmp_path / "audit.sigstore.json")}
        done = subprocess.run(
            ["sh", "-c", command], cwd=auditor, env=values | {"REPORT": str(report)}, capture_output=True, text=True
        )
        assert (done.returncode == 0) is ok, done.stderr
    assert b"audit --check audit.sigstore.json --report PAGE --trust" in page.read_bytes()  # it tells how
    page.write_bytes(page.read_bytes().replace(b"WITH GAPS", b"COMPLETE", 1))
    assert fleet(*check, page).code == 14


def test_the_page_on_a_telephone_and_on_paper(page):
    with browser() as tab:
        tab.size(400, 800)
        tab.open(page.as_uri())
        assert tab.js("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        assert tab.js("document.querySelector('.answer').getBoundingClientRect().bottom < innerHeight")
        # What is wider scrolls by itself, and the keyboard reaches it.
        assert tab.js(
            "[...document.querySelectorAll('main .scroll')].filter(e => e.scrollWidth > e.clientWidth).every(e => e.tabIndex === 0)"
        )
        tab.js("document.querySelector('details').open = true")
        assert tab.js("document.documentElement.scrollWidth <= innerWidth"), "an open device widens the page"
        tab.call("Emulation.setEmulatedMedia", media="print")
        assert tab.js("getComputedStyle(document.querySelector('.filters')).display") == "none"
        assert tab.js("getComputedStyle(document.querySelector('.wrap')).overflow") == "visible"
        assert tab.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_tab_order_and_a_focus_that_is_seen(page):
    with browser() as tab:
        tab.size(1360, 900)
        tab.open(page.as_uri())
        seen = []
        for _ in range(8):
            tab.key("Tab")
            seen.append(
                tab.js(
                    "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
                )
            )
            outline = tab.js(
                "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth"
            )
            assert outline == "solid3px", seen
        assert seen[:5] == ["skip", "scroll", "find", "model", "only"]
        assert tab.js("document.querySelector('#grid').contains(document.activeElement)") or "m0" in seen[5]
        assert seen[6] == "SUMMARY"
        # Typing filters, and the count is told.
        tab.js("document.querySelector('#find').focus()")
        tab.call("Input.insertText", text="unit0002")
        assert tab.js("document.querySelector('#shown').textContent") == "1 of 9 devices shown"
        tab.js("document.querySelector('#only').focus()")
        tab.key(" ")
        assert tab.js("document.querySelector('#only').checked")


def test_a_head_from_before_the_enrollment_is_refused(hub):
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=3))
    hub.sync()
    unit.tpm.counter, unit.prev = 99, None  # the counter that the enrollment certified stood at 100
    from edgeprov.formats.head import encode_head

    nonce = bytes(range(16))
    (hub.root / "head.json").write_bytes(encode_head(unit.head(nonce)))
    period = ("--from", "2026-02", "--to", "2026-02")
    told = hub.run("audit", *period, "--head", hub.root / "head.json", "--nonce", nonce.hex())
    assert (told.code, "below the enrollment's base" in told.err) == (15, True)


class Left:
    """A device with a kit of February, whose heads nobody asked for."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.unit = hub, hub.device("a1")
        self.kit = self.unit.seal(records=3)
        push_kit(hub.registry, self.unit, self.kit)

    def leave(self, at: str, *, standing: Standing | None = None, claimed: str = "") -> Head:
        """``claimed`` takes the place of the time that the TPM attested."""
        head = replace(self.unit.head(None, at=at, standing=standing), at=claimed or at)
        push_head(self.hub.registry, data_repo(self.kit), head)
        return head

    def audit(self) -> dict[str, Any]:
        self.hub.sync()
        run = self.hub.run("audit", "--from", "2026-02", "--to", "2026-02", "--json")
        assert run.code == 0, run.err
        return run.last("audit")


MARCH = "2026-03-02T00:00:00.000Z"


@pytest.fixture
def left(hub: Hub) -> Left:
    return Left(hub)


def test_a_head_that_nobody_asked_for_closes_the_period(left):
    assert left.audit()["verdict"] == "headless"
    left.leave(MARCH)
    report = left.audit()
    assert report["verdict"] == "complete"
    assert (report["totals"]["headless"], report["totals"]["closed_by_clock"]) == (0, 1)
    assert report["devices"][0]["series"]["head_at"] == MARCH
    withheld = left.unit.seal(records=4)
    left.leave("2026-03-03T00:00:00.000Z")
    report = left.audit()
    assert report["devices"][0]["series"]["missing"] == [[withheld.kit.seq - 1, withheld.kit.seq]]
    assert report["verdict"] == "gaps"


@pytest.mark.parametrize(
    "why", ["before the end", "doubtful clock", "open records", "older than a kit", "forged", "seen before the end"]
)
def test_a_head_closes_no_period_that_it_does_not_reach(left, why):
    standing = Standing(at_ns=START_NS, newest=left.unit.prev_segment)
    if why == "before the end":
        left.leave("2026-02-27T23:59:59.000Z")
    elif why == "doubtful clock":
        left.leave(MARCH, standing=replace(standing, doubt=True))
    elif why == "open records":
        header = parse_segment_header(left.unit.open_segment().header)
        segment = OpenSegment(
            number=header.number, header=header.sha256, slot="default", first=3, last=3, leaf=bytes(32),
            least_ns=START_NS, greatest_ns=START_NS,
        )  # fmt: skip
        left.leave(MARCH, standing=replace(standing, newest=header.sha256, open=(segment,)))
    elif why == "older than a kit":
        left.leave(MARCH)
        push_kit(left.hub.registry, left.unit, left.unit.seal(records=2))
    elif why == "forged":
        left.leave("2026-02-27T23:59:59.000Z", claimed=MARCH)
    elif why == "seen before the end":
        left.leave(MARCH)
        left.hub.sync()
        with sqlite3.connect(left.hub.fleet / "index.sqlite") as base:
            assert base.execute("UPDATE heads SET found_at = '2026-02-27T00:00:00.000Z'").rowcount == 1
    report = left.audit()
    assert (report["verdict"], report["totals"]["closed_by_clock"]) == ("headless", 0)
