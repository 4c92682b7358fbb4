# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A timestamp authority on this machine: ``openssl ts`` with a certificate of a test CA. No server, no network."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support import pki
from tests.support.peers import peer

_CONFIG = """
[tsa]
default_tsa = here
[here]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
certs = {folder}/chain.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""


class Tsa:
    """``stamp`` answers a TimeStampReq."""

    def __init__(self, folder: Path, *, root: pki.Issued | None = None, **options: object) -> None:
        self.folder = folder
        self.root = root or pki.root("Test TSA Root")
        options = {"eku": [ExtendedKeyUsageOID.TIME_STAMPING], "eku_critical": True} | options
        self.leaf = self.root.issue(pki.name("Test TSA"), **options)  # type: ignore[arg-type]
        raw = self.leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "tsa.key").write_bytes(raw)
        (folder / "tsa.pem").write_bytes(self.leaf.pem)
        (folder / "chain.pem").write_bytes(self.root.pem)
        (folder / "serial").write_text("01")
        (folder / "ts.conf").write_text(_CONFIG.format(folder=folder))

    @property
    def command(self) -> list[str]:
        """Reads a request from stdin, writes the response to stdout."""
        reply = [peer("openssl"), "ts", "-reply", "-config", str(self.folder / "ts.conf"), "-section", "here"]
        return [*reply, "-queryfile", "/dev/stdin", "-out", "/dev/stdout"]

    def stamp(self, request: bytes) -> bytes:
        done = subprocess.run(self.command, input=request, capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout
