# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The command line in processes of its own, on a real swtpm: enrollment to upload, over a simulated reboot."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography import x509

from edgeprov.device.context import Context
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.datakit import parse_datakit, parse_evidence, parse_part
from edgeprov.formats.devicerecord import DeviceRecord, build_device_record, parse_attestation
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.head import parse_head
from edgeprov.formats.tpmt import COUNTER_INDEX, parse_public
from edgeprov.store.compress import decompress
from edgeprov.store.layout import Layout
from edgeprov.tpm import simulator
from edgeprov.verify.enrollment import VerifiedDevice, verify_device_record
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.head_check import verify_head
from edgeprov.verify.kit_evidence import evidence_of_kit
from edgeprov.verify.signature import SignatureArtifact
from tests.support import pki
from tests.support.site import CASES, Site, _only_file

pytestmark = pytest.mark.peer("swtpm")


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


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    simulator.stop(tmp_path / "state" / "tpm")


def test_command_line_over_a_reboot(box: Box) -> None:
    device = box.enroll()
    reference = box.site.publish().reference
    box.run("model", "install", reference)
    box.run("boot-check")
    (summary,) = box.run("infer", "--input", str(CASES), "--array", "X", "--quantize", "--quiet")
    assert (summary["first"], summary["last"]) == (1, 143)
    # The power goes; the records are sealed in the next boot, whose PCR holds nothing of the first.
    box.run("simulator", "reboot")
    box.run("infer", "--input", str(CASES), "--array", "X", "--quantize", "--quiet", code=55)
    first, _ = box.run("seal")
    assert first["records"] == 143
    box.run("boot-check")
    box.run("infer", "--input", str(CASES), "--array", "X", "--quantize", "--quiet")
    box.run("label", "--from", str(CASES), "--array", "y", "--first", "1")
    second, _ = box.run("seal")
    assert (second["records"], second["labels"], second["seq"]) == (143, 143, first["seq"] + 2)
    state = Layout.open(box.root / "state" / "layout", read_only=True)
    kits = [parse_digest(item["digest"]) for item in (first, second)]
    assert [box.verify(device, state, digest) for digest in kits] == [143, 143]

    head = parse_head(json.dumps(box.run("attest", "00112233445566778899")[0]).encode())
    verified = verify_head(head, bytes.fromhex("00112233445566778899"), device, box.site.world.policy)
    assert head.newest == kits[1]
    assert verified.seq == second["seq"]

    *_, upload = box.run("upload")
    assert (upload["sent"], upload["queued"]) == (2, 0)
    assert [box.verify(device, box.site.layout, digest) for digest in kits] == [143, 143]
    (status,) = box.run("status")
    assert (status["outbox"], status["head_seq"], status["assurance"]) == (0, second["seq"], "dev")
    assert {item["verdict"] for item in box.run("doctor")} <= {"ok", "note"}


@pytest.mark.slow
def test_killed_swtpm_is_a_new_boot(box: Box) -> None:
    """The PCR is gone while the run folder is not: nothing runs on the old verdict."""
    box.enroll()
    box.run("model", "install", box.site.publish().reference)
    np.save(box.root / "x.npy", np.zeros((1, 30), np.int8))
    box.run("infer", "--input", str(box.root / "x.npy"))
    simulator.stop(box.root / "state" / "tpm", power_cut=True)
    box.run("infer", "--input", str(box.root / "x.npy"), code=55)
    box.run("boot-check")
    box.run("infer", "--input", str(box.root / "x.npy"))


def test_simulator_is_refused_where_it_is_not_allowed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.site.config_file.write_text(box.site.config_file.read_text() + "\n[tpm]\nallow_simulator = false\n")
    if not Path("/dev/tpmrm0").exists():
        (error,) = box.run("identity", "create", code=21)
        assert error["error"] == "TpmUnavailable"
    assert isinstance(box.site.context, Context)
