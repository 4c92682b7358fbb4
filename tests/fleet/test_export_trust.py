# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""export-trust: the commands it writes are typed as they stand, with real cosign 2.6 and 3.1 and notation-go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.proof import encode_proof, parse_proof
from tests.support import pki
from tests.support.fleet import fleet, write_trust
from tests.support.peers import peer, referrers_registry
from tests.support.world import World, sign_notation
from tests.vectors.make import document

COMMANDS = "COMMANDS.txt"


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def exported(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    trust = write_trust(world, folder / "trust.d")
    done = fleet("export-trust", "--trust", trust, "-o", folder / "auditor")
    assert done.code == 0
    assert "cosign verify" in done.out
    return folder / "auditor"


def commands(folder: Path) -> list[str]:
    lines = (folder / COMMANDS).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_files(world, exported):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert names == {
        "publisher.pem",
        "device.pem",
        "policy.toml",
        "deny.txt",
        COMMANDS,
        "cosign/devices.trusted_root.json",
        "cosign/publishers.trusted_root.json",
        "cosign/collectors.trusted_root.json",
        "notation-devices/notation/trustpolicy.json",
        "notation-devices/notation/truststore/x509/ca/edgeprov-devices/1.pem",
        "notation-publishers/notation/trustpolicy.json",
        "notation-publishers/notation/truststore/x509/ca/edgeprov-publishers/1.pem",
    }
    root = json.loads((exported / "cosign/devices.trusted_root.json").read_text())
    assert root["tlogs"] == root["ctlogs"] == []
    assert len(root["certificateAuthorities"]) == 1


def test_issuing_ca_and_root_become_one_entry_each(world, tmp_path):
    middle = world.device_root.issue(pki.name("Issuing CA"), ca=True)
    files = world.policy_files | {"device-2.pem": middle.pem, "tsa.pem": pki.root("TSA Root").pem}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert fleet("export-trust", "--trust", tmp_path, "-o", tmp_path / "out").code == 0
    root = json.loads((tmp_path / "out/cosign/devices.trusted_root.json").read_text())
    assert sorted(len(item["certChain"]["certificates"]) for item in root["certificateAuthorities"]) == [1, 2]
    assert len(root["timestampAuthorities"]) == 1
    policy = json.loads((tmp_path / "out/notation-devices/notation/trustpolicy.json").read_text())["trustPolicies"][0]
    assert policy["trustStores"] == ["ca:edgeprov-devices", "tsa:edgeprov-devices"]
    assert policy["signatureVerification"] == {"level": "strict", "verifyTimestamp": "afterCertExpiry"}


@pytest.mark.parametrize("missing", ["device.pem", "policy.toml and all"])
def test_nothing_to_export(world, tmp_path, missing):
    trust = write_trust(world, tmp_path / "trust.d")
    if missing == "device.pem":
        (trust / missing).unlink()
    else:
        for path in trust.iterdir():
            path.unlink()
    assert fleet("export-trust", "--trust", trust, "-o", tmp_path / "out", "--json").code == 2
    assert fleet("export-trust", "--trust", tmp_path / "absent", "-o", tmp_path / "out", "--json").code == 35


@pytest.mark.slow
@pytest.mark.peer("cosign")
@pytest.mark.parametrize("version", ["cosign", "cosign2"])
def test_commands_as_written(world, exported, tmp_path, version):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cosign").symlink_to(peer(version))
    # The notation CLI does not install as a module; the shim calls our small program around notation-go.
    shim = f'#!/bin/sh\n[ "$1" = verify ] || exit 2\nexec {peer("notation-verify")} -config "$XDG_CONFIG_HOME/notation" -plain-http "$2"\n'
    program = "from edgeprov.cli.fleet_main import main; import sys; sys.exit(main(sys.argv[1:]))"
    for name, text in {
        "notation": shim,
        "edgeprov-fleet": f"#!/bin/sh\nexec {sys.executable} -c '{program}' \"$@\"\n",
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    with referrers_registry() as registry:
        unit = world.enroll("unit-0001")
        sealed = unit.seal(notation=True)
        kit = registry.push("data/kits", sealed.manifest, sealed.blobs)
        for signature in sealed.signatures:
            registry.attach("data/kits", signature)
        config = encode_json(
            {"manifestVersion": "1.0.0", "package": {"name": "wdbc"}, "model": {"path": "model.tflite"}}
        )
        blobs = {world.model.layers[0].digest: b"model bytes, version 1", world.model.config.digest: config}
        model = registry.push("models/wdbc", world.model, blobs)
        registry.attach("models/wdbc", world.sign_model())
        registry.attach("models/wdbc", sign_notation(world.model.descriptor, world.publisher))
        files = {
            "BUNDLE": sealed.signatures[0].blob,
            "BLOB": sealed.manifest.raw,
            "PROOF": json.dumps(document(unit, sealed)).encode(),
        }
        parse_proof(files["PROOF"])
        environment = {"KIT": kit, "MODEL": model, "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        environment |= {"TUF_ROOT": str(tmp_path / "tuf"), "PYTHONPATH": str(Path(__file__).parents[2])}
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
            environment[name] = str(tmp_path / name)

        def typed(command: str, **changes: str) -> subprocess.CompletedProcess[str]:
            env = os.environ | environment | changes
            return subprocess.run(
                ["bash", "-c", command], cwd=exported, env=env, capture_output=True, text=True, timeout=120, check=False
            )

        for command in commands(exported):
            if "$REPORT" in command:
                continue  # test_audit.py runs these, on a report
            done = typed(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        # The same commands on what nobody signed.
        unsigned = unit.seal()
        other = registry.push("data/kits", unsigned.manifest, unsigned.blobs)
        (tmp_path / "BLOB").write_bytes(unsigned.manifest.raw)
        (tmp_path / "PROOF").write_bytes(encode_proof(parse_proof(files["PROOF"])).replace(b'"index":0', b'"index":1'))
        for command in commands(exported):
            assert typed(command, KIT=other, MODEL=other).returncode != 0, command
