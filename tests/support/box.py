# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device with a real swtpm, used through its command line in processes of their own."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from cryptography import x509

from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.datakit import parse_datakit, parse_evidence, parse_part
from edgeprov.formats.devicerecord import DeviceRecord, build_device_record, parse_attestation
from edgeprov.formats.digest import Digest
from edgeprov.formats.tpmt import COUNTER_INDEX, parse_public
from edgeprov.store.compress import decompress
from edgeprov.store.layout import Layout
from edgeprov.verify.enrollment import VerifiedDevice, verify_device_record
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.kit_evidence import evidence_of_kit
from edgeprov.verify.signature import SignatureArtifact
from tests.support import pki
from tests.support.site import Site, _only_file


class Box:
    """A device that is only used through its command line."""

    def __init__(self, root: Path) -> None:
        self.site = Site(root)
        self.root = root

    def run(self, *argv: str, code: int = 0) -> list[dict]:
        child = subprocess.run(
            [sys.executable, "-m", "edgeprov.cli.device_main", "--json", *argv],
            env={"EDGEPROV_CONFIG": str(self.site.config_file), "PATH": "/usr/bin:/bin:/usr/sbin"},
            capture_output=True,
            text=True,
        )
        assert child.returncode == code, (argv, child.stdout, child.stderr)
        return [json.loads(line) for line in child.stdout.splitlines()]

    def enroll(self) -> VerifiedDevice:
        world = self.site.world
        self.run("identity", "create")
        self.run("identity", "csr", "--nonce", "00" * 16, "-o", str(self.root / "request.json"))
        request = json.loads((self.root / "request.json").read_text())
        csr = x509.load_der_x509_csr(base64.b64decode(request["csr"]))
        assert csr.is_signature_valid
        key = SimpleNamespace(public_key=csr.public_key)
        certificate = pki.device_certificate(world.device_root, "unit-1", key)
        (self.root / "chain.pem").write_bytes(certificate.pem + world.device_root.pem)
        self.run("identity", "install", str(self.root / "chain.pem"))
        record = DeviceRecord(
            device=request["device"],
            ak=parse_public(parse_b64(request["ak"], "ak")),
            sk=parse_public(parse_b64(request["sk"], "sk")),
            certificates=certificate.certificate_chain,
            certify=parse_attestation(request, "certify", "request"),
            counter=parse_attestation(request, "counter", "request"),
            nonce=bytes.fromhex(request["nonce"]),
            assurance="dev",
            counter_base=request["counter_base"],
            counter_index=COUNTER_INDEX,
            enrolled_at="2026-01-02T03:04:05Z",
            proof="none",
        )
        manifest, raw = build_device_record(record)
        return verify_device_record(manifest, raw, [world.vouch(manifest, record)], world.policy, pki.NOW)

    def verify(self, device: VerifiedDevice, layout: Layout, digest: Digest) -> int:
        """All ten steps; returns the number of records."""
        manifest = layout.load_manifest(digest)
        signatures = [
            SignatureArtifact(manifest=referrer, blob=layout.load_blob(blob, max_bytes=2**20))
            for entry in layout.referrers(digest)
            for referrer in [layout.load_manifest(entry.digest)]
            for blob in referrer.layers
        ]
        kit = parse_datakit(manifest, layout.load_blob(manifest.config, max_bytes=2**20))
        plain = {
            part.name: decompress(_only_file(layout.load_blob(part.layer, max_bytes=2**26)), 2**28)
            for part in kit.parts
        }
        evidence = evidence_of_kit(kit, signatures, parse_evidence(plain.pop("evidence")))
        verify_kit(evidence, device, self.site.world.policy, pki.NOW)
        return sum(block.count for data in plain.values() for block in parse_part(data).blocks)
