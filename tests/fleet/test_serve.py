# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The web service over a real socket, and its page in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeprov.fleet.hub_app import Limiter
from tests.support.browser import browser
from tests.support.fleet import fleet, push_signatures

TOKEN = "a-token-of-some-length"
ROOT = Path(__file__).parents[2]


class Service:
    def __init__(self, url: str) -> None:
        self.url = url
        self.netloc = url.split("/")[2]

    def ask(self, path: str, *, method: str = "GET", **headers: str):
        connection = http.client.HTTPConnection(self.netloc, timeout=30)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, path: str, **headers: str):
        status, _, body = self.ask(path, **headers)
        assert status == 200, (path, status, body)
        return json.loads(body)


@contextmanager
def serving(hub, *argv: object) -> Iterator[Service]:
    command = [sys.executable, "-m", "edgeprov.cli.fleet_main", "serve", "--listen", "127.0.0.1:0", "--json"]
    command += ["--fleet", str(hub.fleet), "--trust", str(hub.trust), *map(str, argv)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Service(json.loads(line)["url"])
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture
def judged(full):
    repo = "models/wdbc"
    for blob, data in ((full.world.model.layers[0], b"model bytes, version 1"), (full.world.model.config, None)):
        if data is None:
            data = json.dumps(
                {"manifestVersion": "1.0.0", "package": {"name": "wdbc"}, "model": {"path": "model.tflite"}},
                sort_keys=True,
                separators=(",", ":"),
            ).encode()
        full.registry.push_blob(repo, blob, data)
    full.registry.push_manifest(repo, full.world.model, tag="1.0.0")
    push_signatures(full.registry, repo, [full.world.sign_model()])
    full.sync()
    assert full.run("verify").code == 0
    return full


def test_the_service(judged):
    with serving(judged) as service:
        status = service.json("/api/v1/status")
        assert (status["kits"], status["verdicts"]["ok"], status["records"]) == (8, 8, 160)
        # Pages join to the whole, in order, without a gap.
        seen, path = [], "/api/v1/kits?limit=3"
        while path:
            page = service.json(path)
            seen += [item["digest"] for item in page["items"]]
            path = f"/api/v1/kits?limit=3&cursor={page['next']}" if page["next"] else ""
        assert len(seen) == len(set(seen)) == 8
        assert page["total"]["kits"] == 8
        code, headers, _ = service.ask("/api/v1/kits?limit=3")
        assert 'rel="next"' in headers["link"]
        # ETag.
        code, headers, body = service.ask("/api/v1/kits?limit=3")
        assert service.ask("/api/v1/kits?limit=3", If_None_Match=headers["etag"])[0] == 304
        assert service.ask("/api/v1/kits?limit=4", If_None_Match=headers["etag"])[0] == 200
        # Filters.
        assert service.json("/api/v1/kits?device=a1")["total"]["kits"] == 4
        assert service.json("/api/v1/kits?device=a1&labels=true")["total"]["kits"] == 1
        assert service.json("/api/v1/kits?model=wdbc:1.0.0&from=2026-02&to=2026-02")["total"]["kits"] == 8
        assert service.json("/api/v1/kits?verdict=refused")["total"]["kits"] == 0
        # One kit, its chain, and the proof of one result.
        kit = service.json(f"/api/v1/kits/{seen[1]}")
        assert [link["link"] for link in kit["chain"]] == ["kit", "device", "model"]
        assert {link["verdict"] for link in kit["chain"]} == {"ok"}
        assert (kit["prev"], kit["after"]) == (seen[0], [seen[2]])
        code, headers, body = service.ask("/api/v1/proofs/a1/default/3")
        assert code == 200, body
        assert "attachment" in headers["content-disposition"]
        proof = judged.root / "one.proof.json"
        proof.write_bytes(body)
        assert fleet("check-proof", proof, "--trust", judged.trust).code == 0
        assert service.ask("/api/v1/proofs/a1/default/99999")[0] == 404
        # Models, devices, lineage, description.
        assert service.json("/api/v1/models")["items"][0]["signed"] is True
        assert len(service.json("/api/v1/devices")["items"]) == 2
        assert service.json("/api/v1/lineage/wdbc:1.0.0")["items"][0]["model"]["records"] == 160
        description = service.json("/openapi.json")
        assert description["openapi"] == "3.1.0"
        for address, methods in description["paths"].items():
            assert set(methods) == {"get"}, address


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/kits?nonsense=1", 400),
        ("/api/v1/kits?limit=0", 400),
        ("/api/v1/kits?limit=501", 400),
        ("/api/v1/kits?limit=-1", 400),
        ("/api/v1/kits?cursor=AAAA", 400),
        ("/api/v1/kits?device=a&device=b", 400),
        ("/api/v1/kits?from=yesterday", 400),
        ("/api/v1/kits?model=nothing", 400),
        ("/api/v1/kits?verdict=perhaps", 400),
        ("/api/v1/kits/sha256:zz", 400),
        ("/api/v1/kits/sha256:" + "0" * 64, 404),
        ("/api/v1/lineage/nothing", 400),
        ("/api/v1/proofs/a1/default/x", 404),
        ("/api/v1/proofs/..%2f..%2fetc/default/1", 404),
        ("/nothing", 404),
        ("/api/v1/kits?model=" + "x" * 5000, 414),
    ],
)
def test_bad_questions_get_short_answers(shared, path, code):
    status, headers, body = shared.ask(path)
    assert status == code, body
    assert "traceback" not in body.decode().lower()
    assert headers["x-content-type-options"] == "nosniff"
    assert "message" in json.loads(body)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    from edgeprov.store.layout_registry import LayoutRegistry
    from tests.fleet.conftest import Hub
    from tests.support.fleet import push_kit, write_trust
    from tests.support.world import World

    root, world = tmp_path_factory.mktemp("shared"), World()
    write_trust(world, root / "trust.d")
    hub = Hub(root, world, LayoutRegistry(root / "registry", create=True))
    unit = hub.device("a1")
    push_kit(hub.registry, unit, unit.seal(records=3))
    hub.sync()
    with serving(hub, "--rate", "10000") as service:
        yield service


def test_only_reading(shared):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert shared.ask("/api/v1/kits", method=method)[0] == 405
    assert shared.ask("/api/v1/kits", method="HEAD")[0] == 200


def test_tokens(judged):
    tokens = judged.root / "tokens"
    tokens.write_text(f"# auditors\n{TOKEN}\n")
    with serving(judged, "--token-file", tokens) as service:
        assert service.ask("/healthz")[0] == 200
        assert service.ask("/")[0] == 200
        for path in ("/api/v1/status", "/api/v1/kits", "/openapi.json", "/api/v1/proofs/a1/default/3"):
            assert service.ask(path)[0] == 401
            assert service.ask(path, Authorization="Bearer wrong-token-of-length")[0] == 401
            assert service.ask(path, Authorization=f"Basic {TOKEN}")[0] == 401
        assert service.ask("/api/v1/status", Authorization=f"Bearer {TOKEN}")[0] == 200
    tokens.write_text("short\n")
    command = ("serve", "--fleet", judged.fleet, "--trust", judged.trust)
    assert fleet(*command, "--token-file", tokens).code == 3
    assert fleet(*command, "--listen", "0.0.0.0:0").code == 2
    assert fleet(*command, "--listen", "nowhere").code == 2


def test_the_limiter_gives_tokens_back_with_time():
    now = [0.0]
    limiter = Limiter(2.0, 3.0, clock=lambda: now[0])
    assert [limiter.wait("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limiter.wait("b") == 0.0
    now[0] = 1.0
    assert [limiter.wait("a") for _ in range(3)] == [0.0, 0.0, 0.5]
    assert limiter.wait("a", 100.0) > 0  # dearer than a bucket: only from a full one


def test_too_many_requests(judged):
    with serving(judged, "--rate", "1") as service:
        codes = [service.ask("/healthz") for _ in range(6)]
        refused = [answer for answer in codes if answer[0] == 429]
        assert refused
        assert int(refused[0][1]["retry-after"]) >= 1


def test_the_page_in_a_browser(judged):
    tokens = judged.root / "tokens"
    tokens.write_text(TOKEN + "\n")
    with serving(judged, "--token-file", tokens) as service, browser() as tab:
        tab.open(service.url)
        wait = (
            "new Promise(done => { const t = setInterval(() => { if (%s) { clearInterval(t); done(true); } }, 20); })"
        )
        assert tab.js(wait % "!document.querySelector('#login').hidden")
        tab.js(f"document.querySelector('#token').value = '{TOKEN}'; document.querySelector('#login button').click()")
        assert tab.js(wait % "document.querySelectorAll('#results tbody tr').length == 8")
        assert "8 verified" in tab.js("document.querySelector('#status').textContent")
        tab.js("document.querySelector('#f-device').value = 'b2'; document.querySelector('#search button').click()")
        assert tab.js(wait % "document.querySelectorAll('#results tbody tr').length == 4")
        tab.js("document.querySelector('#results tbody button').click()")
        assert tab.js(wait % "!document.querySelector('#kit').hidden")
        assert "number 101 of b2" in tab.js("document.querySelector('#kit-name').textContent")
        assert tab.js("[...document.querySelectorAll('.chain b')].map(b => b.textContent.trim())") == [
            "kit",
            "device",
            "model",
        ]
        tab.js("document.querySelector('#kit-body form button').click()")
        assert tab.js(wait % "document.querySelector('#told').textContent.startsWith('Proof downloaded')")
        tab.js("document.querySelector('#models tbody button').click()")
        assert tab.js(wait % "!document.querySelector('#lineage').hidden")
        assert [error for error in tab.errors if "401" not in error] == []
        assert all(url.startswith((service.url, "blob:")) for url in tab.requests)
        labels = [node["name"] for node in tab.tree() if node["role"] in ("searchbox", "combobox", "button")]
        assert all(labels)
        if folder := os.environ.get("EDGEPROV_SCREENSHOTS"):
            tab.size(1360, 1100)
            tab.screenshot(Path(folder) / "hub.png")


def test_lineage_closes_the_loop(judged, tmp_path):
    assert fleet("ca", "init", tmp_path / "ca").code == 0
    assert judged.run("collect", "-o", tmp_path / "out", "--ca", tmp_path / "ca").code == 0
    kit = ROOT / "hil" / "model" / "kit"
    published = fleet(
        "publish", kit, "--to", judged.name, "--ca", tmp_path / "ca", "--dataset", tmp_path / "out", "--json"
    ).last("published")
    judged.sync()
    found = judged.run("lineage", "wdbc:1.0.0", "--json").last("lineage")
    assert found["after"][0]["statement"] == published["trained_on"]
    assert [model["digest"] for model in found["after"][0]["next_models"]] == [published["digest"]]
    back = judged.run("lineage", published["digest"], "--json").last("lineage")
    assert back["before"][0]["models"] == [str(judged.world.model.digest)]
    text = judged.run("lineage", "wdbc:1.0.0").out
    assert "training set" in text
    assert judged.run("lineage", "nothing").code == 2
