# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The web service over a real socket, and its page in a real browser."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import closing

import pytest

from edgeprov.fleet.service.app import Limiter
from tests.support.fleet import fleet, push_kit
from tests.support.service import ROOT, TOKEN, serving


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


def cursor(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/kits?nonsense=1", 400),
        ("/api/v1/kits?limit=0", 400),
        ("/api/v1/kits?limit=501", 400),
        ("/api/v1/kits?limit=-1", 400),
        ("/api/v1/kits?limit=%C2%B2", 400),
        ("/api/v1/kits?limit=" + "9" * 30, 400),
        ("/api/v1/kits?cursor=AAAA", 400),
        ("/api/v1/kits?cursor=" + cursor(["urn:edgeprov:device:a1", 2**70, ""]), 400),
        ("/api/v1/kits?cursor=" + cursor(["\ud800", 1, ""]), 400),
        ("/api/v1/kits?cursor=" + cursor(["a", -1, "b"]), 400),
        ("/api/v1/kits?cursor=" + cursor({"a": 1, "b": 2, "c": 3}), 400),
        ("/api/v1/kits?digest=xyz", 400),
        ("/api/v1/kits?digest=12345", 400),
        ("/api/v1/kits?slot=%00&device=%ff%fe", 200),
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
    if code == 200:
        return
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


def test_the_description_is_true(judged, tmp_path):
    """A real validator takes it, each address is in it, and each answer is what it says."""
    from jsonschema import Draft202012Validator
    from openapi_spec_validator import OpenAPIV31SpecValidator, validate

    assert fleet("ca", "init", tmp_path / "ca").code == 0
    assert judged.run("collect", "-o", tmp_path / "out", "--ca", tmp_path / "ca").code == 0
    kit = ROOT / "hil" / "model" / "kit"
    options = ("--to", judged.name, "--ca", tmp_path / "ca", "--dataset", tmp_path / "out")
    published = fleet("publish", kit, *options, "--json").last("published")
    judged.sync()
    digest = str(judged.units["a1"].sealed[1].digest)
    with serving(judged, "--rate", "1000") as service:
        document = service.json("/openapi.json")
        validate(document, cls=OpenAPIV31SpecValidator)

        def check(address: str, path: str, status: int = 200) -> None:
            answer = document["paths"][address]["get"]["responses"][str(status)]
            schema = answer["content"]["application/json"]["schema"] | {"components": document["components"]}
            code, _, body = service.ask(path)
            assert code == status, (path, body)
            value = json.loads(body)
            Draft202012Validator(schema).validate(value)
            told(schema, value, path)

        def told(schema: dict, value: object, where: str) -> None:
            """No member that the description does not name."""
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            if isinstance(value, dict) and "properties" in schema:
                assert value.keys() <= schema["properties"].keys(), where
                for name, item in value.items():
                    told(schema["properties"][name], item, f"{where} {name}")
            if isinstance(value, list):
                for item in value:
                    told(schema["items"], item, where)

        asked = {
            "/healthz": "/healthz",
            "/openapi.json": "/openapi.json",
            "/api/v1/status": "/api/v1/status",
            "/api/v1/kits": "/api/v1/kits?limit=3",
            "/api/v1/kits/{digest}": f"/api/v1/kits/{digest}",
            "/api/v1/models": "/api/v1/models",
            "/api/v1/devices": "/api/v1/devices",
            "/api/v1/lineage/{model}": "/api/v1/lineage/wdbc:1.0.0",
            "/api/v1/proofs/{device}/{slot}/{number}": "/api/v1/proofs/a1/default/3",
        }
        assert asked.keys() == document["paths"].keys()
        for address, path in asked.items():
            check(address, path)
        assert service.json("/api/v1/lineage/wdbc:1.0.0")["items"][0]["after"][0]["next_models"]
        check("/api/v1/kits", "/api/v1/kits?limit=x", 400)
        check("/api/v1/kits/{digest}", "/api/v1/kits/" + "0" * 64, 404)
        # Each parameter that it names is taken, and no other.
        values = {"from": "2026-01", "to": "2026-03", "limit": "1", "labels": "true", "verdict": "ok", "kind": "kit"}
        values |= {
            "model": "wdbc",
            "trained": published["digest"],
            "digest": digest[7:20],
            "device": "a1",
            "slot": "default",
            "cursor": cursor(["", 0, ""]),
        }
        named = {item["name"] for item in document["paths"]["/api/v1/kits"]["get"]["parameters"]}
        assert named == values.keys()
        for name, value in values.items():
            assert service.ask(f"/api/v1/kits?{name}={value}")[0] == 200, name


def test_another_name_for_this_machine_is_not_answered(shared):
    """A web site could point its own name at 127.0.0.1, and read the answers in a visitor's browser."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert shared.ask("/api/v1/kits", Host=host)[0] in (400, 421), host
        assert shared.ask("/", Host=host)[0] in (400, 421), host
    for host in ("localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"):
        assert shared.ask("/api/v1/kits", Host=host)[0] == 200, host


def test_the_index_goes_and_comes_back(judged):
    index = judged.fleet / "index.sqlite"
    with serving(judged) as service:
        index.rename(judged.fleet / "away")
        status, _, body = service.ask("/api/v1/kits")
        assert (status, json.loads(body)["message"]) == (503, "the index is not there now")
        index.write_bytes(b"no database" * 1000)
        status, _, body = service.ask("/api/v1/kits")
        assert (status, json.loads(body)["error"]) == (503, "StoreCorrupt")
        (judged.fleet / "away").rename(index)
        assert service.json("/api/v1/kits")["total"]["kits"] == 8


def test_reading_while_a_sync_writes(judged):
    """Many readers at once while kits come in: every answer is whole, and none ever shows less than one before."""
    failures: list[object] = []
    counts: list[list[int]] = [[] for _ in range(4)]
    done = threading.Event()

    def read(seen: list[int]) -> None:
        while not done.is_set() or len(seen) < 5:
            status, _, body = service.ask("/api/v1/kits?limit=500")
            if status != 200:
                failures.append((status, body))
                return
            page = json.loads(body)
            if len(page["items"]) != page["total"]["kits"]:
                failures.append("the page and its total are of two moments")
            seen.append(page["total"]["kits"])

    with serving(judged, "--rate", "100000") as service:
        readers = [threading.Thread(target=read, args=(seen,)) for seen in counts]
        for reader in readers:
            reader.start()
        try:
            for _ in range(12):
                unit = judged.units["a1"]
                push_kit(judged.registry, unit, unit.seal(records=3))
                assert judged.sync().code == 0
                assert judged.run("verify").code == 0
        finally:
            done.set()
            for reader in readers:
                reader.join(timeout=60)
        assert failures == []
        for seen in counts:
            assert seen == sorted(seen)
            assert len(seen) >= 5
        assert service.json("/api/v1/status")["kits"] == 20
        assert service.json("/api/v1/status")["verdicts"]["ok"] == 20


def test_a_locked_index_is_waited_for_and_told(judged, monkeypatch):
    """Another program that holds the whole file, as a backup may: told as busy, not as a bug."""
    import sqlite3

    from edgeprov.errors import StoreBusy
    from edgeprov.fleet.index import database as index_module
    from edgeprov.fleet.service.answers import Hub
    from edgeprov.fleet.trust.folder import load_trust

    monkeypatch.setattr(index_module, "_BUSY_S", 0.2)
    hub = Hub(folder=judged.fleet, trust=load_trust(judged.trust))
    with closing(sqlite3.connect(judged.fleet / "index.sqlite", isolation_level=None)) as db, db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy, match="in use by another process"):
            hub.kits({})
        db.execute("ROLLBACK")
    assert hub.kits({})["total"]["kits"] == 8


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
    # An auditor's own index tells the same: it is read back from the registry.
    other = ("--fleet", tmp_path / "other")
    assert fleet("sync", judged.name, *other).code == 0
    elsewhere = fleet("lineage", published["digest"], "--json", *other).last("lineage")
    assert elsewhere["before"] == back["before"]
    assert "training set" in fleet("lineage", "wdbc:1.0.0", *other).out
    # And which kits the model was trained on: those of the list, no other.
    inputs = [json.loads(line)["kit"] for line in (tmp_path / "out/_edgeprov/inputs.jsonl").read_text().splitlines()]
    found = kits_of(fleet("query", "--trained", published["digest"], "--json", *other))
    assert {item["digest"] for item in found} == set(inputs)
    push_kit(judged.registry, judged.units["a1"], judged.units["a1"].seal(records=2))
    assert fleet("sync", *other).code == 0
    assert len(kits_of(fleet("query", "--trained", published["digest"], "--json", *other))) == len(inputs)
    assert fleet("query", "--trained", "wdbc:1.0.0", *other).code == 2
    assert judged.run("lineage", "nothing").code == 2


def kits_of(run):
    return [item for item in run.items if item["type"] == "kit"]


def test_a_forged_training_set_is_not_believed(judged, tmp_path):
    """Anybody may attach a list to a model: only the statement that the publisher signed counts."""
    from dataclasses import replace

    from edgeprov.fleet.publishing.publish import collection_artifact, load_collection
    from edgeprov.fleet.registries.sources import open_registry, parse_source
    from edgeprov.registry.push_order import attach

    assert fleet("ca", "init", tmp_path / "ca").code == 0
    assert judged.run("collect", "-o", tmp_path / "out", "--ca", tmp_path / "ca").code == 0
    kit = ROOT / "hil" / "model" / "kit"
    options = ("--ca", tmp_path / "ca", "--dataset", tmp_path / "out", "--json")
    published = fleet("publish", kit, "--to", f"oci:{tmp_path}/two", *options).last("published")
    source = parse_source(f"oci:{tmp_path}/two")
    registry = open_registry(source)
    model = registry.fetch_manifest(published["repo"], published["tag"])
    honest = load_collection(str(tmp_path / "out"))
    for item in registry.list_referrers(published["repo"], model.digest):
        if registry.fetch_manifest(published["repo"], item.digest).artifact_type.endswith("collection.v1+json"):
            registry.layout.remove_manifest(item.digest)
    lying = replace(honest, inputs=honest.inputs.splitlines(keepends=True)[0])
    attach(registry, published["repo"], *collection_artifact(model, lying, "2026-02-03T04:05:06Z"))
    run = fleet("sync", f"oci:{tmp_path}/two", "--fleet", tmp_path / "index", "--json")
    assert run.code == 0
    assert any("not about the list of kits" in item["why"] for item in run.items if item["type"] == "fault")
    assert fleet("query", "--trained", published["digest"], "--fleet", tmp_path / "index").code == 2
