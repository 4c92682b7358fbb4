# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""prove and check-proof: one result, offline, without showing any other record."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import EMPTY_CONFIG
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.store.layout import Layout
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.verify.policy import parse_policy
from tests.support import pki
from tests.support.fleet import fleet, push_device, push_kit, push_signatures, write_trust
from tests.support.world import World


class Site:
    """A layout with a model, two devices and their kits, synced, and what export-trust writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World()
        Layout.create(folder / "registry")
        self.registry = LayoutRegistry(folder / "registry")
        self.push_model()
        self.units = [self.world.enroll("unit-0001"), self.world.enroll("unit-0002")]
        self.sealed = []
        for unit in self.units:
            push_device(self.registry, unit)
            for count in (5, 1, 13):
                sealed = unit.seal(records=count)
                push_kit(self.registry, unit, sealed)
                self.sealed.append(sealed)
        self.trust = write_trust(self.world, folder / "trust.d")
        assert fleet("sync", f"oci:{folder}/registry", "--fleet", folder / "fleet").code == 0

    def push_model(self) -> None:
        model = self.world.model
        config = encode_json(
            {"manifestVersion": "1.0.0", "package": {"name": "wdbc"}, "model": {"path": "model.tflite"}}
        )
        self.registry.push_blob("models/wdbc", EMPTY_CONFIG, EMPTY_BLOB)
        self.registry.push_blob("models/wdbc", model.config, config)
        self.registry.push_blob("models/wdbc", model.layers[0], b"model bytes, version 1")
        self.registry.push_manifest("models/wdbc", model, tag="1")
        push_signatures(self.registry, "models/wdbc", [self.world.sign_model()])

    def prove(self, record: str, name: str = "proof.json") -> Path:
        done = fleet("prove", record, "-o", self.folder / name, "--fleet", self.folder / "fleet", "--trust", self.trust)
        assert done.code == 0, done.err
        return self.folder / name


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("n", [0, 4, 5, 6, 12, 18])
def test_any_record_of_any_kit(site, n):
    path = site.prove(f"unit-0002/default/{n}")
    done = fleet("check-proof", path, "--trust", site.trust, "--json")
    assert done.code == 0, done.out
    verdict = done.last("proof")
    assert (verdict["verified"], verdict["n"], verdict["device"]) == (True, n, "urn:edgeprov:device:unit-0002")
    assert verdict["model"] == str(site.world.model.digest)
    assert verdict["publisher"] == "https://acme.example/models"
    assert [step["step"] for step in verdict["steps"]] == list(range(1, 13))


def test_proof_is_checked_without_registry_index_or_state(site, tmp_path, monkeypatch):
    raw = site.prove("unit-0001/3").read_bytes()
    (tmp_path / "p.json").write_bytes(raw)
    exported = tmp_path / "auditor"
    assert fleet("export-trust", "--trust", site.trust, "-o", exported).code == 0
    monkeypatch.chdir(tmp_path)
    done = fleet("check-proof", "p.json", "--trust", "auditor")
    assert done.code == 0
    assert "proved     record 3 of urn:edgeprov:device:unit-0001" in done.out


def test_proof_shows_no_other_record(site):
    raw = site.prove("unit-0001/7").read_bytes()
    plain = b"".join(base64.b64decode(text) for text in _strings(json.loads(raw)))
    kit = site.sealed[2]
    shown = [row for row in kit.rows if row in plain]
    assert shown == [kit.rows[1]]
    for part in kit.kit.parts:
        if part.kind != "evidence":
            assert kit.blobs[part.layer.digest] not in plain


def _strings(value):
    if isinstance(value, str):
        try:
            base64.b64decode(value, validate=True)
        except ValueError:
            return
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def test_record_that_is_in_no_kit(site):
    for record, code in (
        ("unit-0001/999", 35),
        ("unit-0009/1", 35),
        ("unit-0001/left/1", 35),
        ("unit-0001", 2),
        ("a/b/c/d", 2),
    ):
        done = fleet(
            "prove", record, "-o", site.folder / "x", "--fleet", site.folder / "fleet", "--trust", site.trust, "--json"
        )
        assert done.code == code, (record, done.out)
        assert not (site.folder / "x").exists()


def test_no_proof_is_made_that_we_would_refuse(site, tmp_path):
    foreign = dict(site.world.policy_files, **{"device.pem": pki.root("Foreign").pem})
    for name, data in foreign.items():
        (tmp_path / name).write_bytes(data)
    done = fleet(
        "prove", "unit-0001/3", "-o", tmp_path / "x", "--fleet", site.folder / "fleet", "--trust", tmp_path, "--json"
    )
    assert done.code == 13
    assert not (tmp_path / "x").exists()


def changed(site, edit) -> tuple[int, dict]:
    document = json.loads(site.prove("unit-0001/7").read_bytes())
    other = json.loads(site.prove("unit-0002/7", "other.json").read_bytes())
    edit(document, other)
    path = site.folder / "changed.json"
    path.write_text(json.dumps(document))
    done = fleet("check-proof", path, "--trust", site.trust, "--json")
    return done.code, done.items[-1]


def flip(text: str, position: int = -8) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[position] ^= 1
    return base64.b64encode(raw).decode()


REFUSED = {
    "changed record": (lambda d, o: d.update(record=flip(d["record"], -4)), 11),
    "record of another kit": (lambda d, o: d.update(record=o["record"][:-8] + "AMDAwA=="), None),
    "another place": (lambda d, o: d.update(index=d["index"] + 1), 11),
    "place outside": (lambda d, o: d.update(index=13), 11),
    "changed path": (lambda d, o: d["path"].__setitem__(0, flip(d["path"][0])), 11),
    "shorter path": (lambda d, o: d["path"].pop(), 11),
    "longer path": (lambda d, o: d["path"].append(d["path"][0]), 11),
    "kit of another device": (lambda d, o: d.update(kit=o["kit"]), 1),
    "record of another device": (lambda d, o: d.update(device=o["device"]), 1),
    "unsigned kit": (lambda d, o: d["kit"].update(signatures=[]), 2),
    "signatures of another kit": (lambda d, o: d["kit"].update(signatures=o["kit"]["signatures"]), 2),
    "unsigned device record": (lambda d, o: d["device"].update(signatures=[]), 1),
    "no device record": (lambda d, o: d["device"].pop("layer"), 1),
    "unsigned model": (lambda d, o: d["model"].update(signatures=[]), 12),
    "another model": (lambda d, o: d["model"].update(manifest=d["kit"]["manifest"]), 12),
    "evidence of another kit": (lambda d, o: d.update(evidence=o["evidence"]), None),
    "evidence layer of another kit": (lambda d, o: d.update(evidenceLayer=o["evidenceLayer"]), 11),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(site, case):
    edit, step = REFUSED[case]
    code, verdict = changed(site, edit)
    assert code in (4, *range(10, 20)), verdict
    if step:
        assert verdict["verified"] is False
        failed = [item["step"] for item in verdict["steps"] if item["verdict"] == "failed"]
        assert failed[0] == step, verdict


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b'{"v":2}', b"\xff", b'{"v":1,"mediaType":"application/vnd.edgeprov.proof.v1+json"}']
)
def test_what_is_no_proof(site, tmp_path, raw):
    path = tmp_path / "p.json"
    path.write_bytes(raw)
    done = fleet("check-proof", path, "--trust", site.trust, "--json")
    assert done.code == 4
    assert done.items[-1]["type"] == "error"


def test_policy_of_the_auditor_decides(site, tmp_path):
    toml = site.world.policy_files["policy.toml"].replace(b'assurance = ["dev"]', b'assurance = ["hardware"]')
    assert parse_policy({"policy.toml": toml}).assurance == {"hardware"}
    for name, data in dict(site.world.policy_files, **{"policy.toml": toml}).items():
        (tmp_path / name).write_bytes(data)
    done = fleet("check-proof", site.prove("unit-0001/3"), "--trust", tmp_path, "--json")
    assert done.code == 19
    assert "accepts: hardware" in json.dumps(done.items[-1])
