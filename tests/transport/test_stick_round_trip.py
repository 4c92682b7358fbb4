# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The technician's whole way, command by command: out on a stick that is pulled, in at the desk, back with a receipt."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import edgeprov
from edgeprov.cli.device_main import main as device_main
from edgeprov.device.context import Context
from edgeprov.errors import (
    DigestMismatch,
    FormatError,
    NotStored,
    RegistryNotFound,
    Rollback,
    SignatureInvalid,
    SignerUntrusted,
    StoreError,
    UsageError,
)
from edgeprov.formats.mediatypes import ANNOTATION_REF_NAME
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.push_order import attach
from edgeprov.store import atomic
from edgeprov.store.layout import Layout
from tests.support import pki
from tests.support.peers import peer, run
from tests.support.registries import docker_registry
from tests.support.site import WDBC, Published, Site

DESK = Path(__file__).parents[2] / ".venv/fleet/bin/edgeprov-fleet"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An enrolled device with a model, on which every command runs as a person types it."""
    site = Site(tmp_path / "device", settings="[seal]\nmax_records = 3\nmin_kit_interval_s = 0\n")
    for name in ("tpm", "boot_tpm"):
        monkeypatch.setattr(Context, name, lambda context: site.open_tpm(context))  # noqa: PLW0108 - binds as a method
    monkeypatch.setattr(Context, "boot_id", lambda _self: site.boot_id)
    monkeypatch.setattr(Context, "now", lambda _self: pki.NOW)
    monkeypatch.setenv("EDGEPROV_CONFIG", str(site.config_file))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(pki.NOW.timestamp())))
    site.install_identity()
    return site


class Typed:
    """What a device command printed, and its exit status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *argv: object) -> None:
        capsys.readouterr()
        self.code = device_main([*map(str, argv), "--json"])
        self.items = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def last(self, kind: str) -> dict[str, Any]:
        return [item for item in self.items if item["type"] == kind][-1]


def pulled_after(operations: int, stick: Path) -> Callable[..., None]:
    """The system's answer from the moment on at which the stick is gone."""
    left = operations

    def hook(operation: str, path: str, *_: object) -> None:
        nonlocal left
        if path.startswith(f"{stick}/") and operation in ("write", "create", "rename", "sync"):
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    return hook


def desk(*argv: object) -> list[dict[str, Any]]:
    """A command at the vendor's desk, in its own environment; what it printed."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(int(pki.NOW.timestamp()))}
    text = run([str(DESK), *map(str, argv)], env=environment)
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def enroller_files(site: Site, folder: Path) -> list[object]:
    signer = site.world.importer
    (folder / "enroller.key").write_bytes(signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    chain = [signer.pem, *(item.public_bytes(Encoding.PEM) for item in signer.above)]
    (folder / "enroller.pem").write_bytes(b"".join(chain))
    return ["--key", folder / "enroller.key", "--certificate", folder / "enroller.pem"]


def cosign_the_stick(stick: Path, trust: Path, environment: dict[str, str]) -> list[str]:
    """Each kit of the stick by cosign alone, with the command that `export-trust` wrote down; their digests."""
    text = next(line for line in (trust / "COMMANDS.txt").read_text().splitlines() if "verify-blob-attestation" in line)
    index = json.loads((stick / "index.json").read_text())
    blobs = stick / "blobs" / "sha256"
    checked = []
    for entry in index["manifests"]:
        name = entry.get("annotations", {}).get(ANNOTATION_REF_NAME, "")
        if not re.search(r":unit-1\.\d{10}\.", name):
            continue
        for other in index["manifests"]:
            signature = json.loads((blobs / other["digest"].removeprefix("sha256:")).read_bytes())
            if signature.get("subject", {}).get("digest") != entry["digest"]:
                continue
            layer = signature["layers"][0]
            if "sigstore.bundle" not in layer["mediaType"]:
                continue
            files = {
                "BUNDLE": blobs / layer["digest"].removeprefix("sha256:"),
                "BLOB": blobs / entry["digest"].removeprefix("sha256:"),
            }
            words = [re.sub(r"\$(\w+)", lambda name: str(files[name[1]]), word) for word in shlex.split(text)]
            run([peer("cosign"), *words[1:]], env=environment, cwd=trust)
            checked.append(entry["digest"])
    return checked


@pytest.mark.slow
@pytest.mark.peer("cosign")
def test_kits_travel_on_a_stick_and_are_freed_by_the_receipt(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install()
    sealed = []
    for number in range(3):
        with edgeprov.open_device() as device:
            model = device.load_model()
            for value in range(3):
                model.run(np.full((1, 30), 3 * number + value, np.int8))
        sealed += [item["digest"] for item in Typed(capsys, "seal").items if item["type"] == "kit"]
    assert len(sealed) == 3
    stick, trust = tmp_path / "stick", tmp_path / "trust"
    state = site.context.state()

    with monkeypatch.context() as gone:  # 1. pulled in the middle: said clearly, nothing counts as exported
        gone.setattr(atomic, "hook", pulled_after(40, stick))
        typed = Typed(capsys, "export", stick)
    error = typed.last("error")
    assert typed.code == StoreError.exit_code
    assert str(stick) in error["message"]
    assert "again" in error["advice"]
    assert {entry.state for entry in state.outbox()} == {"sealed"}
    before = sum(file.stat().st_size for file in stick.rglob("blobs/sha256/*"))
    assert before > 0

    typed = Typed(capsys, "export", stick, "--verify")  # 2. put in again: goes on, and is read back
    told = typed.last("export")
    whole = sum(file.stat().st_size for file in stick.rglob("blobs/sha256/*"))
    assert (typed.code, told["count"], told["verified"]) == (0, 3, True)
    assert 0 < told["bytes"] < whole
    assert len(state.outbox()) == 3  # a stick can be lost

    folder = tmp_path / "policy.d"  # 3. cosign alone, with what `export-trust` wrote
    folder.mkdir()
    for name, data in site.world.policy_files.items():
        (folder / name).write_bytes(data)
    desk("export-trust", "--trust", folder, "-o", trust)
    home = {"HOME": str(tmp_path), "TUF_ROOT": str(tmp_path / "tuf"), "HTTPS_PROXY": "http://127.0.0.1:9"}
    assert sorted(cosign_the_stick(stick, trust, home)) == sorted(sealed)

    with docker_registry(tmp_path / "desk") as host:  # 4. at the desk
        command = ["import", stick, "--to", f"{host}/hospital", *enroller_files(site, tmp_path), "--json"]
        (taken,) = desk(*command)
        assert (taken["kits"], taken["faults"]) == (3, 0)
        (again,) = desk(*command)  # the same stick once more: nothing is sent twice
        assert (again["known"], again["bytes"]) == (3, 0)
        there = OrasRegistry(host, settings=RegistrySettings(plain_http=True))
        for entry in state.outbox():
            found = there.head_manifest(f"hospital/{entry.repo}", entry.tag)
            assert found is not None
            assert found.digest == entry.digest
            assert len(there.list_referrers(f"hospital/{entry.repo}", entry.digest)) == len(entry.info["signatures"])
    receipt = stick / "receipts" / "unit-1.receipt.json"
    assert taken["receipts"] == [str(receipt)]

    held = sum(file.stat().st_size for file in (site.root / "state").rglob("blobs/sha256/*"))  # 5. back on the device
    typed = Typed(capsys, "receipt", "install", receipt)
    told = typed.last("receipt")
    assert (typed.code, told["freed"], told["unknown"]) == (0, 3, 0)
    assert not state.outbox()
    left = sum(file.stat().st_size for file in (site.root / "state").rglob("blobs/sha256/*"))
    assert held - left == told["bytes"] > 0
    assert Typed(capsys, "receipt", "install", receipt).last("receipt")["unknown"] == 3
    assert Typed(capsys, "upload").code == 0  # the outbox is empty: there is nothing to do


FLOOR = 2


def some_models(site: Site) -> dict[str, tuple[Published, set[int]]]:
    """Models with the exit statuses that `model install` may give for them, wherever they come from."""

    def publish(version: str, floor: int = FLOOR, **options: Any) -> Published:
        return site.publish(version=version, parameters={"securityVersion": floor}, **options)

    stranger = pki.publisher_certificate(pki.root("Somebody else"))
    unsigned = publish("1.0.2", sign=False)
    path = unsigned.reference.rpartition("@")[0]
    absent = f"{path}@sha256:{'f' * 64}"
    return {
        "good": (publish("1.0.0"), {0}),
        "damaged": (publish("1.0.1", weights=WDBC.read_bytes() + b"longer"), {DigestMismatch.exit_code}),
        "unsigned": (unsigned, {SignatureInvalid.exit_code}),
        "by a stranger": (publish("1.0.3", signer=stranger), {SignerUntrusted.exit_code}),
        "too old": (publish("1.0.4", floor=FLOOR - 1), {Rollback.exit_code}),
        "no model": (publish("1.0.5", weights=b"no model at all"), {FormatError.exit_code}),
        "absent": (replace(unsigned, reference=absent), {NotStored.exit_code, RegistryNotFound.exit_code}),
        "by tag": (replace(unsigned, reference=f"{path}:1.0.2"), {UsageError.exit_code}),
    }


@contextmanager
def on_stick(site: Site, models: dict[str, tuple[Published, set[int]]]) -> Iterator[str]:
    flip(site.layout.blob_path(models["damaged"][0].manifest.layers[0].digest))
    yield f"oci:{site.registry}//"


@contextmanager
def in_registry(site: Site, models: dict[str, tuple[Published, set[int]]]) -> Iterator[str]:
    with docker_registry(site.root / "network") as host:
        registry = OrasRegistry(host, settings=RegistrySettings(plain_http=True))
        for descriptor in site.layout.manifests():
            manifest = site.layout.load_manifest(descriptor.digest)
            blobs = [site.layout.load_blob(blob, max_bytes=2**24) for blob in manifest.blobs]
            if manifest.subject is not None:
                attach(
                    registry,
                    "models/wdbc",
                    manifest,
                    {blob.digest: data for blob, data in zip(manifest.blobs, blobs, strict=True)},
                )
                continue
            for blob, data in zip(manifest.blobs, blobs, strict=True):
                registry.push_blob("models/wdbc", blob, data)
            registry.push_manifest("models/wdbc", manifest)
        victim = models["damaged"][0].manifest.layers[0].digest.hex
        flip(next((site.root / "network" / "data").rglob(f"blobs/sha256/{victim[:2]}/{victim}/data")))
        yield f"{host}/"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("way", [on_stick, in_registry])
def test_a_model_from_a_stick_passes_the_checks_of_one_from_a_registry(
    site: Site, capsys: pytest.CaptureFixture[str], way: Callable[..., Any]
) -> None:
    site.config_file.write_text(site.config_file.read_text().replace("[trust]", "plain_http = true\n[trust]"))
    site.tpm.floors = {"default": FLOOR}
    site.registry = site.root.with_name("stick")
    site.layout = Layout.create(site.registry)
    models = some_models(site)
    with way(site, models) as prefix:
        for name, (model, expected) in models.items():
            typed = Typed(capsys, "model", "install", prefix + model.reference.partition("//")[2])
            assert typed.code in expected, (name, typed.items)
    listed = [item["model"] for item in Typed(capsys, "model", "list").items if item["type"] == "model"]
    assert listed == [str(models["good"][0].manifest.digest)]  # of the others nothing is left
