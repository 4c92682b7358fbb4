# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The class's work outside BitBake: real kits, packed by the real kit, in and what a device reads out."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from oeprov import bake

from edgeprov.config import Config, DeviceConfig, TrustConfig
from edgeprov.device.boot import verify_model
from edgeprov.device.context import Context
from edgeprov.device.model_store import load_weights
from edgeprov.fleet.trust.signers import signature_artifact
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.in_toto import encode_model_statement
from edgeprov.formats.mediatypes import COSIGN_SIGN_PREDICATE, KIT_ARTIFACT
from edgeprov.registry.push_order import attach
from edgeprov.store.layout import Layout
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support import pki

ROOT = Path(__file__).parents[2]
LAYER = ROOT / "meta-provenance"
KITS = ROOT / "tests/data/kits"
REAL = ["kit-1.7-tar", "kit-1.7-gzip", "kit-1.11-tar", "kit-1.11-gzip", "kit-1.11-modelpack-gzip"]
AT = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
EXAMPLE = "sha256:b46c509d1a7f4a4881658ca41365119bf0542142d813b81acea535efa84e4c0a"
ANCHOR = pki.root("Publisher Root", seed="layer")
PUBLISHER = "https://acme.example/models"


def manifest_of(layout: Path) -> Digest:
    index = json.loads((layout / "index.json").read_text())
    kits = [m["digest"] for m in index["manifests"] if "sigstore" not in m.get("artifactType", "")]
    return parse_digest(kits[0])


def sign(folder: Path, digest: Digest, signer: pki.Issued) -> None:
    manifest = Layout.open(folder).load_manifest(digest)
    statement = encode_model_statement(digest)
    artifact, blob = signature_artifact(
        signer, manifest.descriptor, statement, COSIGN_SIGN_PREDICATE, "2026-01-01T00:00:00Z"
    )
    attach(LayoutRegistry(folder), "models/m", artifact, {artifact.layers[0].digest: blob})


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    folder = tmp_path / "trust.d"
    folder.mkdir()
    (folder / "publisher.pem").write_bytes(ANCHOR.pem)
    (folder / "policy.toml").write_text(f'[roles]\npublisher = ["{PUBLISHER}"]\n')
    return folder


def copy_kit(tmp_path: Path, name: str) -> tuple[Path, Digest]:
    folder = tmp_path / "kits" / name
    shutil.copytree(KITS / name, folder)
    return folder, manifest_of(folder)


def context(models: Path, trust: Path, tmp_path: Path) -> Context:
    return Context(
        Config(
            device=DeviceConfig(models_dir=models, state_dir=tmp_path / "state", run_dir=tmp_path / "run"),
            trust=TrustConfig(dir=trust, time_floor=AT),
        )
    )


@pytest.mark.parametrize("name", REAL)
def test_a_signed_kit_of_the_real_kit_is_baked_and_a_device_verifies_it(name: str, tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, name)
    sign(folder, digest, pki.publisher_certificate(ANCHOR))
    out = tmp_path / "models"
    report = bake.bake([("default", tmp_path / "kits", str(digest))], trust, AT, out)
    model = report["models"]["default"]
    assert (model["digest"], model["signer"]) == (str(digest), PUBLISHER)
    # The device's own boot check, reading the image's layout and the image's anchors.
    stored = verify_model(context(out, trust, tmp_path), None, digest, 0)
    assert stored.source == "image"
    assert len(load_weights(stored)) > 1000
    resolved = Layout.open(out, read_only=True).resolve("slot.default")
    assert resolved is not None
    assert resolved.digest == digest


def test_the_layers_example_is_right_and_trusted_by_its_own_anchors(tmp_path: Path) -> None:
    recipe = (LAYER / "recipes-provenance/models/provenance-models_1.0.bb").read_text()
    assert f'PROVENANCE_MODEL_DIGEST ?= "{EXAMPLE}"' in recipe
    report = bake.bake(
        [("default", LAYER / "files/example-kit", EXAMPLE)], LAYER / "files/example-trust.d", AT, tmp_path / "m"
    )
    assert report["models"]["default"]["signer"].startswith("key:sha256:")


def test_the_result_holds_nothing_else_and_nobody_may_write_it(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    sign(folder, digest, pki.publisher_certificate(ANCHOR))
    stray = folder / "blobs/sha256" / ("0" * 64)
    stray.write_text("not asked for")
    out = tmp_path / "models"
    report = bake.bake([("default", folder, str(digest))], trust, AT, out)
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    layout = Layout.open(out, read_only=True)
    wanted = {"index.json", "oci-layout"}
    for entry in layout.manifests():
        manifest = layout.load_manifest(entry.digest)
        wanted |= {f"blobs/sha256/{item.digest.hex}" for item in (entry, *manifest.blobs)}
    assert names == wanted
    assert all(path.stat().st_mode & 0o222 == 0 for path in out.rglob("*") if path.is_file())
    again = bake.bake([("default", folder, str(digest))], trust, AT, tmp_path / "again")
    assert again == report, "the same input gives the same report, whenever it is built"
    assert (tmp_path / "again/index.json").read_bytes() == (out / "index.json").read_bytes()


def test_several_slots_share_one_layout(tmp_path: Path, trust: Path) -> None:
    signer = pki.publisher_certificate(ANCHOR)
    requests = []
    for slot, name in (("camera", "kit-1.7-tar"), ("audio", "kit-1.11-gzip"), ("spare", "kit-1.7-tar")):
        folder = tmp_path / "kits" / slot / "layout"
        shutil.copytree(KITS / name, folder)
        sign(folder, manifest_of(folder), signer)
        requests.append((slot, tmp_path / "kits" / slot, str(manifest_of(folder))))
    bake.bake(requests, trust, AT, tmp_path / "models")
    layout = Layout.open(tmp_path / "models", read_only=True)
    for slot, _, digest in requests:
        resolved = layout.resolve(f"slot.{slot}")
        assert resolved is not None
        assert str(resolved.digest) == digest


def refused(requests: list[tuple[str, Path, str]], trust: Path, tmp_path: Path, at: dt.datetime = AT) -> str:
    with pytest.raises(bake.BakeError) as caught:
        bake.bake(requests, trust, at, tmp_path / "models")
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_digest_that_the_layout_does_not_hold(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    line = refused([("default", folder, "sha256:" + "0" * 64)], trust, tmp_path)
    assert line.startswith("PROVENANCE_MODEL_DIGEST: ")
    assert str(digest) in line, "what the layout does hold is the likely answer"


def test_a_tag_is_no_pin(tmp_path: Path, trust: Path) -> None:
    folder, _ = copy_kit(tmp_path, "kit-1.7-tar")
    assert refused([("default", folder, "v1")], trust, tmp_path).startswith("PROVENANCE_MODEL_DIGEST: ")


def test_an_unsigned_kit(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.11-tar")
    line = refused([("default", folder, str(digest))], trust, tmp_path)
    assert line.startswith("PROVENANCE_MODEL_LAYOUT: ")
    assert "no signature" in line
    assert "oras copy -r" in line


def test_a_kit_signed_under_another_root(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    sign(folder, digest, pki.publisher_certificate(pki.root("Another Root", seed="other")))
    assert refused([("default", folder, str(digest))], trust, tmp_path).startswith("PROVENANCE_TRUST_DIR: ")


def test_a_kit_signed_by_a_name_that_the_policy_does_not_list(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    sign(folder, digest, pki.publisher_certificate(ANCHOR, "https://acme.example/interns"))
    line = refused([("default", folder, str(digest))], trust, tmp_path)
    assert line.startswith("PROVENANCE_TRUST_DIR: ")
    assert "interns" in line


def test_a_device_may_not_sign_models(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    sign(folder, digest, pki.enroller_certificate(ANCHOR))
    line = refused([("default", folder, str(digest))], trust, tmp_path)
    assert line.startswith(("PROVENANCE_TRUST_DIR: ", "PROVENANCE_MODEL_LAYOUT: "))


def test_a_signature_of_another_kit(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    _, other_digest = copy_kit(tmp_path, "kit-1.11-tar")
    signer = pki.publisher_certificate(ANCHOR)
    statement = encode_model_statement(other_digest)
    manifest = Layout.open(folder).load_manifest(digest)
    artifact, blob = signature_artifact(
        signer, manifest.descriptor, statement, COSIGN_SIGN_PREDICATE, "2026-01-01T00:00:00Z"
    )
    attach(LayoutRegistry(folder), "models/m", artifact, {artifact.layers[0].digest: blob})
    assert refused([("default", folder, str(digest))], trust, tmp_path).startswith("PROVENANCE_MODEL_LAYOUT: ")


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_a_changed_byte_anywhere(which: str, tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    sign(folder, digest, pki.publisher_certificate(ANCHOR))
    manifest = Layout.open(folder).load_manifest(digest)
    target = {"manifest": digest, "config": manifest.config.digest, "layer": manifest.layers[-1].digest}[which]
    path = folder / "blobs/sha256" / target.hex
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)
    assert refused([("default", folder, str(digest))], trust, tmp_path).startswith("PROVENANCE_MODEL_LAYOUT: ")


def test_a_missing_layer(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    sign(folder, digest, pki.publisher_certificate(ANCHOR))
    layer = Layout.open(folder).load_manifest(digest).layers[0]
    (folder / "blobs/sha256" / layer.digest.hex).unlink()
    assert refused([("default", folder, str(digest))], trust, tmp_path).startswith("PROVENANCE_MODEL_LAYOUT: ")


def test_no_layout_at_all(tmp_path: Path, trust: Path) -> None:
    (tmp_path / "empty").mkdir()
    line = refused([("default", tmp_path / "empty", EXAMPLE)], trust, tmp_path)
    assert line.startswith("PROVENANCE_MODEL_LAYOUT: there is no OCI layout")


def test_no_anchor_and_a_broken_anchor(tmp_path: Path, trust: Path) -> None:
    folder, digest = copy_kit(tmp_path, "kit-1.7-tar")
    (trust / "publisher.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert refused([("default", folder, str(digest))], trust, tmp_path).startswith("PROVENANCE_TRUST_DIR: ")
    (trust / "publisher.pem").unlink()
    assert "no publisher anchor" in refused([("default", folder, str(digest))], trust, tmp_path)


def test_the_slot_is_named_when_there_are_several(tmp_path: Path, trust: Path) -> None:
    good, digest = copy_kit(tmp_path, "kit-1.7-tar")
    sign(good, digest, pki.publisher_certificate(ANCHOR))
    bad, unsigned = copy_kit(tmp_path, "kit-1.11-tar")
    requests = [("camera", good, str(digest)), ("audio", bad, str(unsigned))]
    assert refused(requests, trust, tmp_path).startswith("PROVENANCE_MODEL_LAYOUT[audio]: ")


def test_a_data_kit_is_no_model(tmp_path: Path, trust: Path) -> None:
    from tests.support.world import World

    sealed = World().enroll("dev-1").seal(records=3)
    layout = Layout.create(tmp_path / "data")
    for blob in sealed.blobs.values():
        layout.save_blob(blob, "application/octet-stream")
    layout.save_blob(sealed.config, sealed.manifest.config.media_type)
    layout.save_manifest(sealed.manifest)
    assert sealed.manifest.artifact_type == KIT_ARTIFACT
    line = refused([("default", tmp_path / "data", str(sealed.digest))], trust, tmp_path)
    assert line.startswith("PROVENANCE_MODEL_")


def test_the_command_ends_with_one_line_and_status_1(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "oeprov.bake", "--trust", str(LAYER / "files/example-trust.d"), "--at", "1780000000",
        "--out", str(tmp_path / "models"),
    ]  # fmt: skip
    environment = {"PYTHONPATH": f"{LAYER / 'lib'}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    good = subprocess.run(
        [*command, f"default={LAYER / 'files/example-kit'}@{EXAMPLE}"], env=environment, capture_output=True, text=True
    )
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["models"]["default"]["digest"] == EXAMPLE
    bad = subprocess.run(
        [*command, f"default={LAYER / 'files/example-kit'}@sha256:{'0' * 64}"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert bad.returncode == 1
    assert bad.stderr.count("\n") == 1
    assert bad.stderr.startswith("PROVENANCE_MODEL_DIGEST: ")


def test_the_native_python_needs_no_zstd_and_nothing_of_the_device() -> None:
    program = (
        "import sys; sys.modules['zstandard'] = None\n"
        "import oeprov.bake\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'oras', 'requests', 'numpy', 'tpm2_pytss', 'tflite_runtime', 'ai_edge_litert', 'pyarrow', 'yaml'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": f"{LAYER / 'lib'}:{ROOT}"}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr
