# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""``edgeprov-fleet publish`` with a key that never leaves its place, by the commands of ENROLLMENT.md: a PKCS#11 token and a TPM."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from edgeprov.fleet.registries.sources import ArtifactReader, parse_source
from edgeprov.formats.digest import parse_digest
from edgeprov.verify.signature import verify_model_signature
from tests.fleet.test_publish import write_kit
from tests.support import pki
from tests.support.fleet import fleet
from tests.support.peers import peer, run
from tests.support.world import World

pytestmark = pytest.mark.slow
DOCUMENT = Path(__file__).parents[2] / "edgeprov" / "fleet" / "ENROLLMENT.md"
MODULE = "/usr/lib/softhsm/libsofthsm2.so"


def documented(word: str) -> str:
    """The signing command of ENROLLMENT.md that begins with ``word``, on one line."""
    (command,) = re.findall(rf"'({word} [^']*)'", DOCUMENT.read_text())
    return " ".join(command.split())


def publish(tmp_path: Path, world: World, public_key: object, command: str):
    leaf = pki.publisher_certificate(world.publisher_root, public_key=public_key)
    (tmp_path / "publisher.pem").write_bytes(leaf.pem)
    kit = tmp_path / "kit"
    if not kit.exists():
        write_kit(kit)
    to = f"oci:{tmp_path}/registry"
    return fleet(
        "publish", kit, "--to", to, "--certificate", tmp_path / "publisher.pem", "--sign-command", command, "--json"
    )


def accepted_by_a_device(tmp_path: Path, world: World, item: dict) -> bool:
    reader = ArtifactReader(parse_source(f"oci:{tmp_path}/registry"))
    digest = parse_digest(item["digest"])
    manifest = reader.manifest(item["repo"], digest)
    signatures = reader.signatures(item["repo"], digest)
    return verify_model_signature(manifest, signatures, world.policy, pki.NOW).san == "https://acme.example/models"


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A softhsm2 token with a P-256 key pair, made as a person would; its public key."""
    util, tool = peer("softhsm2-util"), peer("pkcs11-tool")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    run([util, "--init-token", "--free", "--label", "publisher", "--pin", "1234", "--so-pin", "5678"])
    login = [tool, "--module", MODULE, "--login", "--pin", "1234", "--id", "01"]
    run([*login, "--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign"])
    run([*login, "--read-object", "--type", "pubkey", "--output-file", str(tmp_path / "public.der")])
    return load_der_public_key((tmp_path / "public.der").read_bytes())


@pytest.mark.peer("softhsm2")
def test_key_in_a_pkcs11_token(token, tmp_path: Path):
    world = World()
    done = publish(tmp_path, world, token, documented("pkcs11-tool"))
    assert done.code == 0, done.out + done.err
    assert accepted_by_a_device(tmp_path, world, done.last("published"))


@pytest.mark.peer("softhsm2")
@pytest.mark.parametrize("change", [("1234", "9999"), ("--id 01", "--id 02")], ids=["pin", "id"])
def test_token_that_refuses_publishes_nothing(token, tmp_path: Path, change: tuple[str, str]):
    done = publish(tmp_path, World(), token, documented("pkcs11-tool").replace(*change))
    assert done.code == 3
    assert "pkcs11-tool" in done.last("error")["message"]
    assert not (tmp_path / "registry" / "index.json").exists() or not ArtifactReader(
        parse_source(f"oci:{tmp_path}/registry")
    ).registry.list_tags("models/demo")


@pytest.mark.peer("softhsm2")
def test_another_key_of_the_token_is_found_at_once(token, tmp_path: Path):
    login = [peer("pkcs11-tool"), "--module", MODULE, "--login", "--pin", "1234"]
    run([*login, "--id", "02", "--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign"])
    done = publish(tmp_path, World(), token, documented("pkcs11-tool").replace("--id 01", "--id 02"))
    assert done.code == 3
    assert "is it the key of the certificate" in done.last("error")["message"]


@contextmanager
def swtpm(folder: Path) -> Iterator[str]:
    """A software TPM for tpm2-tools; its TCTI."""
    folder.mkdir()
    socket = folder / "s"
    process = subprocess.Popen(
        [peer("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--server", f"type=unixio,path={socket}",
         "--ctrl", f"type=unixio,path={socket}.ctrl", "--flags", "not-need-init,startup-clear"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield f"swtpm:path={socket}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.peer("swtpm", "tpm2_sign")
def test_key_in_a_tpm_behind_tpm2_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World()
    monkeypatch.chdir(tmp_path)
    with swtpm(tmp_path / "t") as tcti:
        monkeypatch.setenv("TPM2TOOLS_TCTI", tcti)
        run([peer("tpm2_createprimary"), "-C", "e", "-G", "ecc256:ecdsa-sha256", "-a",
             "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|noda", "-c", "key.ctx"])  # fmt: skip
        run([peer("tpm2_evictcontrol"), "-C", "o", "-c", "key.ctx", "0x81000010"])
        run([peer("tpm2_flushcontext"), "-t"])
        run([peer("tpm2_readpublic"), "-c", "0x81000010", "-f", "pem", "-o", "public.pem"])
        key = load_pem_public_key((tmp_path / "public.pem").read_bytes())
        done = publish(tmp_path, world, key, documented("tpm2_sign"))
        assert done.code == 0, done.out + done.err
        assert accepted_by_a_device(tmp_path, world, done.last("published"))
        wrong = pki.publisher_certificate(world.publisher_root)
        refused = publish(tmp_path, world, wrong.key.public_key(), documented("tpm2_sign"))
        assert refused.code == 3
    gone = publish(tmp_path, world, key, documented("tpm2_sign"))
    assert gone.code == 3
    assert "tpm2_sign" in gone.last("error")["message"]
