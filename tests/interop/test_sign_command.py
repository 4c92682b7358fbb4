# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Publishing with a key that stays where it is: behind openssl, and in a TPM (swtpm); a wrong key is found at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key

from edgeprov.errors import ConfigError
from edgeprov.fleet.trust.signers import load_command_signer, signature_artifact
from edgeprov.formats.in_toto import encode_model_statement
from edgeprov.formats.mediatypes import COSIGN_SIGN_PREDICATE
from edgeprov.verify.signature import SignatureArtifact, verify_model_signature
from tests.support import pki
from tests.support.peers import peer
from tests.support.softtpm import soft_key
from tests.support.world import World

TPM_PROGRAM = """
import sys
from pathlib import Path
from edgeprov.tpm.device import TpmSettings, open_tpm
folder = Path(sys.argv[1])
with open_tpm(TpmSettings(tcti=f"private:{folder}", state_dir=folder, pcr=14, lock_path=folder / "lock")) as tpm:
    if sys.argv[2] == "create":
        sys.stdout.buffer.write(tpm.create_identity().sk_public)
    else:
        sys.stdout.buffer.write(tpm.sign_digest(sys.stdin.buffer.read()))
"""


def publish(world: World, certificate: Path, command: str) -> str:
    signer = load_command_signer(command, certificate)
    statement = encode_model_statement(world.model.digest)
    manifest, blob = signature_artifact(signer, world.model.descriptor, statement, COSIGN_SIGN_PREDICATE, None)
    return verify_model_signature(
        world.model, [SignatureArtifact(manifest=manifest, blob=blob)], world.policy, pki.NOW
    ).san


def write_key(folder: Path, key, certificate: bytes) -> tuple[Path, str]:
    (folder / "leaf.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    command = f"{peer('openssl')} pkeyutl -sign -inkey '{folder}/key.pem' -pkeyopt digest:sha256 -in /dev/stdin"
    return folder / "leaf.pem", command


def test_key_behind_openssl(world, tmp_path):
    certificate, command = write_key(tmp_path, world.publisher.key, world.publisher.pem)
    assert publish(world, certificate, command) == "https://acme.example/models"


@pytest.mark.slow
@pytest.mark.peer("swtpm")
def test_key_in_a_tpm(world, tmp_path):
    import subprocess

    from edgeprov.formats.tpmt import parse_public

    peer("swtpm")
    (tmp_path / "signer.py").write_text(TPM_PROGRAM)
    (tmp_path / "tpm").mkdir(mode=0o700)
    command = [sys.executable, str(tmp_path / "signer.py"), str(tmp_path / "tpm")]
    area = parse_public(subprocess.run([*command, "create"], capture_output=True, check=True, timeout=60).stdout)
    leaf = pki.publisher_certificate(world.publisher_root, public_key=load_der_public_key(area.spki))
    (tmp_path / "leaf.pem").write_bytes(leaf.pem)
    assert publish(world, tmp_path / "leaf.pem", " ".join([*command, "sign"])) == "https://acme.example/models"


def test_refused(world, tmp_path):
    certificate, command = write_key(tmp_path, soft_key("another key"), world.publisher.pem)
    with pytest.raises(ConfigError, match="is it the key of the certificate"):
        publish(world, certificate, command)
    for wrong, match in (
        ("false", "failed: 1"),
        ("/nonexistent", "cannot be run"),
        ("echo nonsense", "is it the key"),
        ("", "is empty"),
        ("'", "cannot be split"),
    ):
        with pytest.raises(ConfigError, match=match):
            publish(world, certificate, wrong)
    with pytest.raises(ConfigError):
        load_command_signer("true", tmp_path / "key.pem")
