# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A vendor who already runs a CA: openssl issues every certificate from its CSR, edgeprov only takes them in.

The commands are those of edgeprov/fleet/ENROLLMENT.md.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from edgeprov.fleet.registries.sources import ArtifactReader, parse_source
from edgeprov.fleet.trust.folder import load_trust
from edgeprov.verify.enrollment import verify_device_record
from tests.fleet.test_enroll import request
from tests.support.fleet import fleet
from tests.support.peers import peer
from tests.support.softtpm import SoftTpm

ROOT_EXT = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
LEAF_EXT = "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=codeSigning\nsubjectAltName=URI:{name}\n"
SUBJECT = "/C=DE/ST=BY/O=Acme Medical/CN="
POLICY = '[roles]\nenroller = ["urn:edgeprov:enroller:line-7"]\n[device]\nassurance = ["dev"]\n'


class VendorCa:
    """What a vendor's certificate department does with openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "root.key")
        (folder / "root.ext").write_text(ROOT_EXT)
        self.openssl("req", "-new", "-key", "root.key", "-subj", SUBJECT + "Device Root", "-out", "root.csr")
        self.openssl(
            "x509",
            "-req",
            "-in",
            "root.csr",
            "-signkey",
            "root.key",
            "-days",
            "9000",
            "-extfile",
            "root.ext",
            "-out",
            "root.pem",
        )
        self.openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "enroller.key")
        self.openssl("req", "-new", "-key", "enroller.key", "-subj", SUBJECT + "line 7", "-out", "enroller.csr")
        self.issue("enroller.csr", "urn:edgeprov:enroller:line-7", "enroller.pem")
        (folder / "trust.d").mkdir()
        (folder / "trust.d" / "device.pem").write_bytes((folder / "root.pem").read_bytes())
        (folder / "trust.d" / "policy.toml").write_text(POLICY)

    def openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            [peer("openssl"), *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr

    def issue(self, csr: str, name: str, out: str, *, extensions: str = LEAF_EXT) -> Path:
        (self.folder / "leaf.ext").write_text(extensions.format(name=name))
        serial = int.from_bytes(out.encode()[:8], "big")
        command = [
            "x509",
            "-req",
            "-in",
            csr,
            "-CA",
            "root.pem",
            "-CAkey",
            "root.key",
            "-set_serial",
            str(serial),
            "-days",
            "9000",
        ]
        self.openssl(*command, "-sha256", "-extfile", "leaf.ext", "-out", out)
        path = self.folder / out
        path.write_bytes(path.read_bytes() + (self.folder / "root.pem").read_bytes())
        return path

    def issue_for(self, document: dict, name: str, **options: str) -> Path:
        """From the request file: its CSR in PEM, then the certificate."""
        (self.folder / "device.der").write_bytes(base64.b64decode(document["csr"]))
        self.openssl("req", "-inform", "DER", "-in", "device.der", "-verify", "-noout")
        self.openssl("req", "-inform", "DER", "-in", "device.der", "-out", "device.csr")
        return self.issue("device.csr", name, "device.pem", **options)

    def enroll(self, document: dict, issued: Path, *argv: object):
        (self.folder / "request.json").write_text(json.dumps(document))
        given = [
            "--issued",
            issued,
            "--enroller-certificate",
            self.folder / "enroller.pem",
            "--enroller-key",
            self.folder / "enroller.key",
        ]
        place = [
            "--to",
            f"oci:{self.folder}/registry",
            "-o",
            self.folder / "identity.json",
            "--trust",
            self.folder / "trust.d",
        ]
        state = ("--state", self.folder / "state")
        return fleet("enroll", self.folder / "request.json", *place, *given, *state, "--json", *argv)


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> VendorCa:
    return VendorCa(tmp_path_factory.mktemp("vendor"))


def test_certificate_of_the_vendors_own_ca(vendor):
    document = request(SoftTpm("ward-1"))
    issued = vendor.issue_for(document, "urn:edgeprov:device:ward-1")
    done = vendor.enroll(document, issued)
    assert done.code == 0, done.out
    reader = ArtifactReader(parse_source(f"oci:{vendor.folder}/registry"))
    manifest = reader.registry.fetch_manifest("devices", "ward-1")
    raw = reader.blob("devices", manifest.layers[0], max_bytes=1 << 20)
    trust = load_trust(vendor.folder / "trust.d")
    from edgeprov.cli.fleet.common import now

    verified = verify_device_record(manifest, raw, reader.signatures("devices", manifest.digest), trust.policy, now())
    assert verified.sk_identity.san == "urn:edgeprov:device:ward-1"
    assert verified.enroller.san == "urn:edgeprov:enroller:line-7"


@pytest.mark.parametrize(
    ("name", "extensions", "why"),
    [
        ("urn:edgeprov:device:ward-2", LEAF_EXT, "ward-2"),
        ("https://acme.example/ward-1", LEAF_EXT, "does not name a device"),
        ("urn:edgeprov:device:ward-1", LEAF_EXT.replace("codeSigning", "clientAuth"), "other uses"),
        (
            "urn:edgeprov:device:ward-1",
            LEAF_EXT.replace("critical,digitalSignature", "keyAgreement"),
            "digitalSignature",
        ),
        ("urn:edgeprov:device:ward-1", ROOT_EXT + "subjectAltName=URI:{name}\n", "is a CA"),
    ],
)
def test_certificate_of_the_wrong_shape_is_refused_before_anything_is_published(vendor, name, extensions, why):
    document = request(SoftTpm("ward-1"))
    done = vendor.enroll(document, vendor.issue_for(document, name, extensions=extensions))
    assert done.code == 18, done.out
    assert why in done.out


def test_certificate_for_another_request_or_of_another_ca(vendor, tmp_path):
    document, other = request(SoftTpm("ward-1")), request(SoftTpm("ward-2"), "ward-1")
    done = vendor.enroll(document, vendor.issue_for(other, "urn:edgeprov:device:ward-1"))
    assert done.code == 18
    foreign = VendorCa(tmp_path)
    done = vendor.enroll(document, foreign.issue_for(document, "urn:edgeprov:device:ward-1"))
    assert done.code == 18
    assert "no device trust anchor" in done.out


def test_half_of_the_options(vendor):
    (vendor.folder / "request.json").write_text("{}")
    place = [vendor.folder / "request.json", "--to", f"oci:{vendor.folder}/r", "-o", vendor.folder / "x", "--json"]
    for given in ([], ["--issued", "x.pem"], ["--ca", vendor.folder, "--issued", "x.pem"]):
        assert fleet("enroll", *place, *given).code == 2
