# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device accepts models that unmodified cosign v2.6 and v3 signed, with key and certificate, and not those of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import edgeprov
from edgeprov.cli.device_main import main as device_main
from edgeprov.device.context import Context
from edgeprov.errors import SignerUntrusted, SubjectMismatch
from edgeprov.formats.jsonx import encode_json
from edgeprov.verify.policy import parse_policy
from edgeprov.verify.signature import signature_kind, verify_model_signature
from tests.support import pki
from tests.support.kits import KITS, golden_kit
from tests.support.peers import peer, run
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.peer("cosign")]


class Publisher:
    """Someone with a key, a certificate and cosign."""

    def __init__(self, folder: Path, offline: dict[str, str], root: pki.Issued) -> None:
        self.folder, self.env, self.root = folder, offline | {"COSIGN_PASSWORD": "test"}, root
        self.middle = root.issue(pki.name("Issuing CA"), ca=True, path_length=0)
        self.leaf = pki.publisher_certificate(self.middle)
        raw = self.leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "raw.pem").write_bytes(raw)
        (folder / "leaf.pem").write_bytes(self.leaf.pem)
        (folder / "chain.pem").write_bytes(self.middle.pem + root.pem)
        command = [peer("cosign"), "import-key-pair", "--key", "raw.pem", "--output-key-prefix", "cosign"]
        run(command, cwd=folder, env=self.env)

    def sign(self, version: str, reference: str, *, certificate: bool) -> None:
        command = [
            peer(version),
            "sign",
            "--yes",
            "--key",
            "cosign.key",
            "--tlog-upload=false",
            "--allow-http-registry",
        ]
        if version == "cosign":
            command.append("--use-signing-config=false")
        if certificate:
            command += ["--certificate", "leaf.pem", "--certificate-chain", "chain.pem"]
        run([*command, reference], cwd=self.folder, env=self.env)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory, offline, world) -> Publisher:
    return Publisher(tmp_path_factory.mktemp("publisher"), offline, world.publisher_root)


@pytest.mark.parametrize("certificate", [False, True], ids=["key", "certificate"])
@pytest.mark.parametrize("version", ["cosign", "cosign2"])
def test_model_signed_by_cosign(world, registry, publisher, version, certificate):
    repo = f"models/{version}-{certificate}".lower()
    config = encode_json({"manifestVersion": "1.0.0", "package": {"name": "wdbc"}, "model": {"path": "model.tflite"}})
    blobs = {world.model.layers[0].digest: b"model bytes, version 1", world.model.config.digest: config}
    reference = registry.push(repo, world.model, blobs)
    publisher.sign(version, reference, certificate=certificate)
    signatures = registry.signatures(repo, world.model.digest)
    kinds = {signature_kind(item.manifest) for item in signatures}
    assert kinds == ({"bundle"} if version == "cosign" else {"simple"})

    policy = world.policy
    if not certificate:
        policy = parse_policy(
            world.policy_files | {"publisher-key.pem": (publisher.folder / "cosign.pub").read_bytes()}
        )
    identity = verify_model_signature(world.model, signatures, policy, pki.NOW)
    assert identity.san.startswith(
        "https://acme.example/models" if not identity.san.startswith("key:") else "key:sha256:"
    )

    # The same signature under another anchor, and on another model.
    others = parse_policy(world.policy_files | {"publisher.pem": pki.root("Foreign").pem})
    with pytest.raises(SignerUntrusted):
        verify_model_signature(world.model, signatures, others, pki.NOW)
    with pytest.raises(SubjectMismatch):
        verify_model_signature(world.make_model("other", b"other"), signatures, policy, pki.NOW)


def push(tool: str, layout: Path, host: str, repo: str, digest: str) -> None:
    """A kit from its OCI layout to a registry, by somebody else's program."""
    if tool == "skopeo":
        options = ["--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"]
        run([peer(tool), *options, f"oci:{layout}", f"docker://{host}/{repo}:packed"])
    elif tool == "oras":
        options = ["cp", "--from-oci-layout", "--to-plain-http"]
        run([peer(tool), *options, f"{layout}@{digest}", f"{host}/{repo}:packed"])
    else:
        run([peer(tool), "push", "--insecure", str(layout), f"{host}/{repo}:packed"])


@pytest.mark.parametrize(
    ("kit", "tool", "version"),
    [
        ("kit-1.7-tar", "skopeo", "cosign"),
        ("kit-1.7-gzip", "oras", "cosign2"),
        ("kit-1.11-tar", "crane", "cosign"),
        ("kit-1.11-gzip", "skopeo", "cosign2"),
        ("kit-1.11-modelpack-gzip", "oras", "cosign"),
    ],
)
def test_a_model_that_others_packed_pushed_and_signed_is_installed_and_runs(
    registry, publisher, tmp_path, monkeypatch, capsys, kit, tool, version
):
    """No program of ours touches it before the device does: kit, skopeo or oras or crane, cosign."""
    site = Site(tmp_path / "device", settings="")
    site.config_file.write_text(site.config_file.read_text().replace("[trust]", "plain_http = true\n[trust]"))
    for name in ("tpm", "boot_tpm"):
        monkeypatch.setattr(Context, name, lambda context: site.open_tpm(context))  # noqa: PLW0108 - binds as a method
    monkeypatch.setattr(Context, "boot_id", lambda _self: site.boot_id)
    monkeypatch.setattr(Context, "now", lambda _self: pki.NOW)
    monkeypatch.setenv("EDGEPROV_CONFIG", str(site.config_file))
    site.install_identity()
    manifest, _, _ = golden_kit(kit)
    reference = f"{registry.host}/models/{kit}@{manifest.digest}"
    push(tool, KITS / kit, registry.host, f"models/{kit}", str(manifest.digest))
    assert device_main(["model", "install", reference, "--json"]) == 12  # nobody signed it yet
    publisher.sign(version, reference, certificate=True)
    capsys.readouterr()
    assert device_main(["model", "install", reference, "--json"]) == 0
    (told,) = [item for item in map(json.loads, capsys.readouterr().out.splitlines()) if item["type"] == "installed"]
    assert told["model"] == str(manifest.digest)
    assert device_main(["model", "activate", str(manifest.digest)]) == 0
    with edgeprov.open_device() as device:
        assert device.load_model().run(np.zeros((1, 30), np.int8)) is not None
