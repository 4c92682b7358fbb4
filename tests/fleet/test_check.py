# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verification of many kits: any changed byte is refused, verdicts are cached, cut lines are no verdicts."""

from __future__ import annotations

import random

import pytest

from edgeprov.errors import RegistryError
from edgeprov.fleet.registries.sources import ArtifactReader
from edgeprov.fleet.verification import verify_kits as check_module
from edgeprov.formats.digest import Digest
from tests.support.fleet import push_device, push_kit


def test_good_kits_verify_once(full):
    full.sync()
    first = full.run("verify", "--json").last("verified")
    assert (first["ok"], first["refused"], first["cached"]) == (8, 0, 0)
    second = full.run("verify", "--json").last("verified")
    assert (second["ok"], second["cached"]) == (8, 8)


def test_a_deeper_look_is_a_new_look(full):
    full.sync()
    full.run("verify", "--evidence-only")
    assert full.run("verify", "--json").last("verified")["cached"] == 0
    assert full.run("verify", "--records", "--json").last("verified")["cached"] == 0
    assert full.run("verify", "--json").last("verified")["cached"] == 8


def test_another_policy_is_another_verdict(full):
    full.sync()
    assert full.run("verify").code == 0
    policy = full.trust / "policy.toml"
    policy.write_text(policy.read_text().replace('"dev"', '"hardware"'))
    run = full.run("verify", "--json")
    assert run.code == 10
    assert run.last("verified")["reasons"] == {"step 1: PolicyDenied": 8}


def test_an_empty_trust_folder_denies_everything(full, tmp_path):
    full.sync()
    (tmp_path / "empty").mkdir()
    run = full.run("verify", "--trust", tmp_path / "empty", "--json", trust=False)
    assert run.code == 10
    assert run.last("verified")["ok"] == 0
    assert full.run("verify", "--trust", tmp_path / "missing", trust=False).code == 35


def blobs_of(sealed) -> list[Digest]:
    found = [sealed.digest, *(blob.digest for blob in sealed.manifest.blobs)]
    for signature in sealed.signatures:
        found += [signature.manifest.digest, signature.manifest.layers[0].digest]
    return found


def test_every_changed_byte_is_refused(hub):
    """A random byte of each blob of a kit: manifest, config, records, evidence, signature."""
    unit = hub.device("a1")
    sealed = unit.seal(records=30)
    push_kit(hub.registry, unit, sealed)
    hub.sync()
    assert hub.run("verify").code == 0
    pick = random.Random(7)
    blobs = hub.root / "registry" / "blobs" / "sha256"
    for digest in blobs_of(sealed):
        path = blobs / digest.hex
        good = path.read_bytes()
        for position in {0, len(good) - 1, *(pick.randrange(len(good)) for _ in range(6))}:
            path.chmod(0o644)
            path.write_bytes(good[:position] + bytes([good[position] ^ 1 << pick.randrange(8)]) + good[position + 1 :])
            run = hub.run("verify", "--again", "--json")
            assert run.code == 10, f"byte {position} of {digest}"
        path.write_bytes(good)
    assert hub.run("verify", "--again").code == 0


def test_missing_and_truncated_blobs_are_refused(hub):
    unit = hub.device("a1")
    sealed = unit.seal(records=30)
    push_kit(hub.registry, unit, sealed)
    hub.sync()
    path = hub.root / "registry" / "blobs" / "sha256" / sealed.manifest.layers[0].digest.hex
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1])
    assert hub.run("verify").code == 10
    path.unlink()
    assert hub.run("verify", "--again").code == 10


def test_a_kit_of_an_unknown_device_is_refused_at_step_1(hub):
    stranger = hub.world.enroll("stranger")
    push_kit(hub.registry, stranger, stranger.seal(records=3))
    hub.sync()
    run = hub.run("verify", "--json")
    assert run.last("verdict")["step"] == 1
    push_device(hub.registry, stranger)
    hub.sync()
    assert hub.run("verify", "--again").code == 0


def test_a_cut_line_is_no_verdict(full, monkeypatch):
    full.sync()

    def cut(*_args):
        raise RegistryError("connection reset")

    real = ArtifactReader.manifest
    monkeypatch.setattr(ArtifactReader, "manifest", cut)
    run = full.run("verify", "--json")
    assert run.code == 40
    assert run.last("verified")["unreachable"] == 8
    told = full.run("verify").out
    assert "NOT READABLE NOW" in told
    assert "REFUSED" not in told
    monkeypatch.setattr(ArtifactReader, "manifest", real)
    assert full.run("verify", "--json").last("verified")["cached"] == 0


def test_the_merkle_root_is_checked_where_records_are_read(hub, monkeypatch):
    from edgeprov.formats import merkle

    unit = hub.device("a1")
    honest = merkle.root
    monkeypatch.setattr("tests.support.world.merkle.root", lambda rows: honest(list(rows)[:-1]))
    push_kit(hub.registry, unit, unit.seal(records=5))
    hub.sync()
    assert hub.run("verify").code == 0  # the bytes are what the device signed ...
    run = hub.run("verify", "--records", "--json")  # ... but they do not lead to the root it named
    assert run.code == 10
    assert [item["error"] for item in run.items if item.get("kind") == "kit"] == ["DigestMismatch"]


def test_old_records_explain_old_kits(hub):
    """After a second enrollment (another TPM) the kits of the first one still verify."""
    first = hub.device("a1")
    push_kit(hub.registry, first, first.seal(records=3))
    hub.sync()
    from tests.support.softtpm import SoftTpm

    second = hub.world.enroll("a1", tpm=SoftTpm("replacement"))
    push_device(hub.registry, second)
    push_kit(hub.registry, second, second.seal(records=4))
    hub.sync()
    assert hub.run("verify", "--json").last("verified")["ok"] == 2


@pytest.mark.slow
def test_a_pool_gives_the_same_verdicts(full, monkeypatch):
    monkeypatch.setattr(check_module, "BATCH", 2)
    full.sync()
    from tests.support.fleet import fleet

    run = fleet("verify", "--fleet", full.fleet, "--trust", full.trust, "--workers", "2", "--json")
    assert run.last("verified")["ok"] == 8


def test_one_bit_of_any_blob_of_a_registry_is_noticed(hub, tmp_path):
    """Kit, both signatures, device record and its signature, model and its signature, and the shared `{}`."""
    from tests.support.fleet import fleet, push_signatures

    assert fleet("ca", "init", tmp_path / "ca", "--name", "Other").code == 0
    from tests.fleet.test_publish import KIT

    model_policy = tmp_path / "ca" / "trust.d" / "publisher.pem"
    assert fleet("publish", KIT, "--to", hub.name, "--ca", tmp_path / "ca").code == 0
    (hub.trust / "publisher-2.pem").write_bytes(model_policy.read_bytes())
    policy = hub.trust / "policy.toml"
    policy.write_text(policy.read_text().replace("publisher = [", 'publisher = ["urn:edgeprov:publisher:other", '))
    unit = hub.device("a1")
    sealed = unit.seal(records=30, notation=True)
    repo = push_kit(hub.registry, unit, sealed)
    push_signatures(hub.registry, repo, [])
    hub.sync()
    clean = hub.run("verify", "--json")
    assert clean.code == 0, clean.out
    assert {item["kind"] for item in clean.items if item["type"] == "verdict"} == {"kit", "device", "model"}
    pick = random.Random(3)
    blobs = sorted((hub.root / "registry" / "blobs" / "sha256").iterdir())
    assert len(blobs) > 15
    for path in blobs:
        good = path.read_bytes()
        path.chmod(0o644)
        position = pick.randrange(len(good))
        path.write_bytes(good[:position] + bytes([good[position] ^ 1 << pick.randrange(8)]) + good[position + 1 :])
        assert hub.run("verify", "--again").code == 10, path.name
        path.write_bytes(good)
    assert hub.run("verify", "--again").code == 0
