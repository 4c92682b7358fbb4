# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The web page of the service, in a real browser: what a person sees, types, clicks and downloads."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.support.browser import browser
from tests.support.fleet import fleet
from tests.support.service import TOKEN, serving

ROWS = "document.querySelectorAll('#results tbody tr').length"
TOLD = "document.querySelector('#told').textContent"
FAULT = "document.querySelector('#fault').hidden ? '' : document.querySelector('#fault').textContent"


def test_search_a_kit_its_chain_and_its_proof(judged, tmp_path):
    digest = str(judged.units["b2"].sealed[1].digest)
    with serving(judged) as service, browser() as tab:
        tab.download_to(tmp_path)
        tab.open(service.url)
        tab.wait(f"{ROWS} === 8")
        assert "8 verified" in tab.js("document.querySelector('#status').textContent")
        # By digest: the whole, its start, a model's.
        for text, count in ((digest, 1), (digest[7:19], 1), (str(judged.world.model.digest), 8), ("wdbc:1.0.0", 8)):
            tab.type("#f-what", text)
            tab.click("#search button")
            tab.wait(f"{TOLD}.startsWith('{count} of {count} kits')")
        # By device, and time.
        tab.click("#clear")
        tab.wait(f"{ROWS} === 8")
        tab.type("#f-device", "b2")
        tab.type("#f-from", "2026-02-03")
        tab.type("#f-to", "2026-02-03")
        tab.key("Enter")
        tab.wait(f"{ROWS} === 4")
        assert "device=b2" in tab.js("location.hash")
        assert tab.js("[...document.querySelectorAll('#devices option')].map(o => o.value)") == ["a1", "b2"]
        # One kit: chain, verdict, neighbours; and the way back.
        tab.click(f"#results a[href*='{digest[7:]}']")
        tab.wait("!document.querySelector('#kit').hidden")
        assert tab.js("document.querySelector('#kit-name').textContent") == "Kit number 104 of b2"
        assert tab.js("document.activeElement.id") == "kit"
        assert tab.js("[...document.querySelectorAll('.chain b')].map(b => b.textContent.trim())") == [
            "kit",
            "device",
            "model",
        ]
        assert tab.js("[...document.querySelectorAll('.chain .v-ok')].length") == 3
        tab.click(".walk a:last-of-type")
        tab.wait("document.querySelector('#kit-name').textContent.startsWith('Kit number 106')")
        tab.js("history.back()")
        tab.wait("document.querySelector('#kit-name').textContent.startsWith('Kit number 104')")
        # The proof, checked by the command that the page tells.
        tab.click("#kit-body form button")
        tab.wait(f"{TOLD}.startsWith('Proof downloaded')")
        words = tab.js(TOLD).partition("edgeprov-fleet ")[2].split()
        file = tmp_path / words[1]
        for _ in range(500):
            if file.exists():
                break
            time.sleep(0.02)
        run = fleet(words[0], file, "--trust", judged.trust, "--json")
        assert run.code == 0, run.err
        # Lineage, as text.
        tab.click("#models button")
        tab.wait("!document.querySelector('#lineage').hidden")
        assert "Model wdbc: 160 records in 8 kits (8 verified) of 2 devices" in tab.js(
            "document.querySelector('#lineage').textContent"
        )
        # A link to one kit opens it.
        tab.open(f"{service.url}#kit={digest}")
        tab.wait("!document.querySelector('#kit').hidden")
        assert tab.errors == []
        assert all(url.startswith((service.url, "blob:")) for url in tab.requests)


def test_a_refused_kit_and_what_is_not_there(judged):
    """What is wrong is said where a person looks, and the page goes on."""
    with closing(sqlite3.connect(judged.fleet / "index.sqlite")) as db, db:
        digest = db.execute("SELECT digest FROM artifacts WHERE device LIKE '%a1' ORDER BY seq LIMIT 1").fetchone()[0]
        db.execute(
            "UPDATE verdicts SET verified = 0, step = 3, detail = 'the quote is of another kit' WHERE digest = ?",
            (digest,),
        )
    with serving(judged) as service, browser() as tab:
        tab.open(f"{service.url}#verdict=refused")
        tab.wait(f"{ROWS} === 1")
        tab.click("#results a")
        tab.wait("!document.querySelector('#kit').hidden")
        text = tab.js("document.querySelector('#kit').innerText")
        assert "refused, step 3: the quote is of another kit" in text
        assert "Download proof" not in text
        for hash_, message in (
            ("kit=sha256:" + "0" * 64, "the index holds no kit"),
            ("kit=nonsense", "not"),
            ("what=" + "a" * 12, "No kit and no model begins with"),
            ("what=nobody", "knows no model"),
            ("from=yesterday", "is not a time"),
            ("verdict=perhaps", ""),
        ):
            tab.js(f"location.hash = {hash_!r}")
            tab.wait(f"({FAULT}).includes({message!r})")
        tab.click("#clear")
        tab.wait(f"{ROWS} === 8 && ({FAULT}) === ''")
        (judged.fleet / "index.sqlite").rename(judged.fleet / "gone")
        tab.type("#f-device", "b2")
        tab.click("#search button")
        tab.wait(f"({FAULT}).includes('the index is not there now')")
        (judged.fleet / "gone").rename(judged.fleet / "index.sqlite")
        tab.click("#search button")
        tab.wait(f"{ROWS} === 4 && ({FAULT}) === ''")


def test_a_token_is_asked_for(judged):
    tokens = judged.root / "tokens"
    tokens.write_text(TOKEN + "\n")
    with serving(judged, "--token-file", tokens) as service, browser() as tab:
        tab.open(service.url)
        tab.wait("!document.querySelector('#login').hidden")
        tab.wait(f"({FAULT}).includes('asks for an access token')")
        assert tab.js("document.activeElement.id") == "token"
        tab.type("#token", "a-wrong-token-of-some-length")
        tab.key("Enter")
        tab.wait(f"({FAULT}).includes('not accepted')")
        tab.type("#token", TOKEN)
        tab.key("Enter")
        tab.wait(f"{ROWS} === 8 && document.querySelector('#login').hidden && ({FAULT}) === ''")
        assert TOKEN not in tab.js("location.href")
        tab.open(service.url + "#device=a1")
        tab.wait(f"{ROWS} === 4")  # remembered for this tab
        assert [error for error in tab.errors if "401" not in error] == []


def test_hostile_values_are_text(judged):
    """Names come from kits of others: shown, never run."""
    markup = "<img src=x onerror=document.title='owned'><b>bold</b>"
    with closing(sqlite3.connect(judged.fleet / "index.sqlite")) as db, db:
        db.execute("UPDATE models SET name = ?, version = ?", (markup, markup))
        db.execute(
            "UPDATE artifacts SET device = 'urn:edgeprov:device:' || ?, slot = ?, repo = ? WHERE device LIKE '%a1'",
            (markup,) * 3,
        )
        db.execute("UPDATE verdicts SET detail = ?, assurance = ?", (markup, markup))
        db.execute("UPDATE sources SET name = ?, synced_at = ?", (markup, markup))
    with serving(judged) as service, browser() as tab:
        tab.open(service.url)
        tab.wait(f"{ROWS} === 8")
        tab.js(
            "[...document.querySelectorAll('#results tbody tr')].find(r => r.textContent.includes('onerror')).querySelector('a').click()"
        )
        tab.wait("!document.querySelector('#kit').hidden")
        assert "onerror" in tab.js("document.querySelector('#kit').innerText")
        tab.click("#models button")
        tab.wait("!document.querySelector('#lineage').hidden")
        assert tab.js("document.querySelectorAll('main img, main td b, dd b').length") == 0
        assert tab.js("document.title") == "edgeprov fleet"
        assert tab.errors == []
        # Even a hole in the page could neither run a script nor ask another server.
        tab.js(
            "document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:1/x onerror=document.title=1>')"
        )
        tab.wait("true")
        assert any("Content Security Policy" in error for error in tab.errors)
        assert tab.js("document.title") == "edgeprov fleet"


def test_on_a_telephone_in_the_dark_and_by_keyboard(judged):
    with serving(judged) as service, browser() as tab:
        tab.size(400, 800)
        tab.prefer("dark")
        tab.open(service.url)
        tab.wait(f"{ROWS} === 8")
        tab.click("#results a")
        tab.wait("!document.querySelector('#kit').hidden")
        assert tab.js("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        assert tab.js("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        tab.size(1360, 900)
        tab.open(service.url)
        tab.wait(f"{ROWS} === 8")
        order = []
        for _ in range(11):
            tab.key("Tab")
            order.append(
                tab.js(
                    "document.activeElement.id || document.activeElement.textContent || document.activeElement.className"
                )
            )
            assert tab.js("getComputedStyle(document.activeElement).outlineStyle") == "solid", order
        assert order[:9] == ["skip", "f-what", "f-device", "f-from", "f-to", "f-verdict", "f-labels", "Search", "clear"]
        tree = tab.tree()
        assert all(
            node["name"] for node in tree if node["role"] in ("searchbox", "combobox", "button", "region", "link")
        )
        assert {"main", "search", "status", "columnheader", "table"} <= {node["role"] for node in tree}
        if folder := os.environ.get("EDGEPROV_SCREENSHOTS"):
            tab.screenshot(Path(folder) / "hub.png")
