# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The vendor's credential round, with our software TPM2_MakeCredential against the real TPM2_ActivateCredential."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from edgeprov.errors import EnrollmentRefused, FormatError, IdentityError
from edgeprov.fleet.enrollment.credential import make_credential, parse_ek_public
from edgeprov.formats.devicerecord import vouch_qualifying
from edgeprov.formats.tpmt import parse_public
from edgeprov.tpm import endorsement
from edgeprov.tpm.device import Tpm
from edgeprov.tpm.device_keys import create_primary
from edgeprov.tpm.endorsement import TEMPLATES, EkTemplate, EndorsementKey
from edgeprov.verify.certificates import certificate_spki
from edgeprov.verify.enrollment import verify_factory_certificate, verify_factory_key
from edgeprov.verify.policy import parse_policy
from tests.support import pki
from tests.support.factory import maker_root
from tests.support.peers import peer
from tests.tpm.conftest import SimulatedDevice

SECRET = bytes(range(32))


def with_key(tpm: Tpm, template: EkTemplate) -> None:
    handle, public = create_primary(tpm._connection, template.public, "make its EK")
    tpm._connection.flush(handle)
    vars(tpm)["_endorsement_key"] = EndorsementKey(template, public, None)


def challenge(tpm: Tpm, name: bytes) -> tuple[bytes, bytes]:
    return make_credential(parse_ek_public(tpm.ek_public()), name, SECRET, secrets.token_bytes(64))


@pytest.mark.parametrize("bus_protection", [False, True])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda item: item.name)
def test_the_tpm_opens_a_credential_for_each_standard_ek(
    device: SimulatedDevice, template: EkTemplate, bus_protection: bool
) -> None:
    with device.open(bus_protection=bus_protection) as tpm:
        ak = parse_public(tpm.create_identity().ak_public)
        with_key(tpm, template)
        assert tpm.activate_credential(*challenge(tpm, ak.name)) == SECRET
        assert tpm._connection.handles(0x80000000) == ()
        assert tpm._connection.handles(0x02000000) == tpm._connection.handles(0x03000000) == ()


def test_a_credential_for_another_ak_is_refused(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        sk = parse_public(tpm.create_identity().sk_public)
        with pytest.raises(EnrollmentRefused):
            tpm.activate_credential(*challenge(tpm, sk.name))
        assert tpm._connection.handles(0x80000000) == ()


def test_a_credential_for_another_tpm_is_refused(make_device: object) -> None:
    first, second = make_device("a"), make_device("b")  # type: ignore[operator]
    with first.open() as one, second.open() as two:
        name = parse_public(one.create_identity().ak_public).name
        two.create_identity()
        with pytest.raises(EnrollmentRefused):
            one.activate_credential(*challenge(two, name))


@pytest.mark.parametrize("flip", [0, 5, 40, -1])
def test_a_changed_credential_is_refused(device: SimulatedDevice, flip: int) -> None:
    with device.open() as tpm:
        ak = parse_public(tpm.create_identity().ak_public)
        blob, secret = challenge(tpm, ak.name)
        changed = bytearray(blob)
        changed[flip] ^= 1
        with pytest.raises(EnrollmentRefused):
            tpm.activate_credential(bytes(changed), secret)
        assert tpm.activate_credential(blob, secret) == SECRET, "and the right one still works"


def test_no_identity_no_activation(device: SimulatedDevice) -> None:
    with device.open() as tpm, pytest.raises(IdentityError):
        tpm.activate_credential(b"\0\0", b"\0\0")


def test_the_makers_certificate_is_found_and_fits_the_key(
    certified: SimulatedDevice, manufactured: tuple[Path, Path], tmp_path: Path
) -> None:
    with certified.open() as tpm:
        ak = parse_public(tpm.create_identity().ak_public)
        certificate = tpm.ek_certificate()
        assert certificate is not None
        assert parse_ek_public(tpm.ek_public()).spki == certificate_spki(certificate)
        assert tpm.activate_credential(*challenge(tpm, ak.name)) == SECRET
        assert tpm.assurance == "dev", "a software TPM stays one, whatever certificate it shows"
    (tmp_path / "ek.der").write_bytes(certificate)
    folder = manufactured[1]
    verified = subprocess.run(
        ["openssl", "verify", "-partial_chain", "-CAfile", str(folder / "issuercert.pem"), "-ignore_critical", str(tmp_path / "ek.der")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert verified.stdout.strip().endswith("OK"), verified.stderr


def test_assurance_follows_the_maker(
    certified: SimulatedDevice, make_device: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, simulated, expected in (
        ("IFX SLB9672", False, "hardware"),
        ("STM ST33KTPM2X", False, "hardware"),
        ("INTC Intel", False, "firmware"),
        ("XYZ unheard of", False, "firmware"),
        ("IBM SW   TPM", False, "dev"),
        ("IFX SLB9672", True, "dev"),
    ):
        with certified.open() as tpm:
            vars(tpm)["manufacturer"] = words
            tpm._simulated = simulated
            assert tpm.assurance == expected, words
    plain = make_device("plain")  # type: ignore[operator]
    with plain.open() as tpm:
        vars(tpm)["manufacturer"] = "IFX SLB9672"
        tpm._simulated = False
        assert tpm.assurance == "dev", "no certificate, no claim"


def test_a_certificate_of_another_key_is_not_taken(certified: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = EkTemplate("H-3", 0x01C00016, TEMPLATES[0].public, 0x000B, TEMPLATES[0].branches)
    monkeypatch.setattr(endorsement, "TEMPLATES", (wrong,))
    with certified.open() as tpm:
        assert tpm.ek_certificate() is None


def test_a_signing_key_is_no_ek(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        made = tpm.create_identity()
        ek = tpm.ek_public()
    for raw in (made.ak_public, made.sk_public, ek[:-1], ek + b"\0", b"", ek[:4] + bytes(4) + ek[8:]):
        with pytest.raises(FormatError):
            parse_ek_public(raw)


# TCG, Keys for Device Identity and Attestation, 7.3.4: H-2. What a factory does, with tpm2-tools.
IDEVID_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign"


def provision(device: SimulatedDevice, issuer: pki.Issued, *, swap: bool = False) -> None:
    """Leave IDevID and IAK with their certificates in a TPM, at the places that ST uses; ``swap`` mixes up the certificates."""
    with device.open() as tpm:
        tpm.create_identity()
    socket = f"{device.folder}/simulator.sock"
    environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={socket}"}

    def tool(*argv: str) -> None:
        subprocess.run([peer(argv[0]), *argv[1:]], env=environment, check=True, capture_output=True, timeout=60)

    work = device.folder.parent
    certificates = {}
    policy = work / "policy"
    policy.write_bytes(bytes(range(32)))  # stands for the maker's authPolicy
    for name, restricted, handle in (("IDEVID", "", "0x81020000"), ("IAK", "|restricted", "0x81020001")):
        tool("tpm2_createprimary", "-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-a", IDEVID_ATTRIBUTES + restricted,
             "-L", str(policy), "-c", str(work / name))  # fmt: skip
        tool("tpm2_evictcontrol", "-C", "o", "-c", str(work / name), handle)
        tool("tpm2_readpublic", "-c", handle, "-f", "der", "-o", str(work / f"{name}.der"))
        tool("tpm2_flushcontext", "-t")
        key = load_der_public_key((work / f"{name}.der").read_bytes())
        certificates[name] = issuer.issue(pki.name(name), public_key=key).der  # type: ignore[arg-type]
    if swap:
        certificates["IAK"] = issuer.issue(pki.name("IAK"), public_key=pki.root("another key").key.public_key()).der
    for name, index in (("IDEVID", "0x01c90200"), ("IAK", "0x01c90100")):
        (work / "cert").write_bytes(certificates[name] + b"\xff" * 40)  # makers pad the index
        size = str(len(certificates[name]) + 40)
        tool("tpm2_nvdefine", index, "-C", "o", "-s", size, "-a", "ownerread|authread|ownerwrite|authwrite|no_da")
        tool("tpm2_nvwrite", index, "-C", "o", "-i", str(work / "cert"))


@pytest.mark.slow
@pytest.mark.peer("tpm2_createprimary")
def test_the_factory_key_is_found_and_vouches(device: SimulatedDevice) -> None:
    issuer, nonce = maker_root(), secrets.token_bytes(16)
    provision(device, issuer)
    with device.open() as tpm:
        factory = tpm.factory_key(vouch_qualifying(nonce))
        assert factory is not None
        ak = parse_public(tpm.identity().ak_public)
        assert tpm._connection.handles(0x80000000) == ()
        assert tpm.assurance == "dev", "a software TPM stays one, whatever it holds"
    assert b"IAK" in factory.certificate, "the IDevID is not restricted: never taken"
    verify_factory_key(factory, ak, nonce)
    policy = parse_policy({"idevid-hardware.pem": issuer.pem})
    assert verify_factory_certificate(factory.certificate, policy, pki.NOW) == "hardware"
    with pytest.raises(EnrollmentRefused):
        verify_factory_key(factory, ak, b"another nonce")
    other = parse_policy({"idevid-hardware.pem": pki.root("Another Maker").pem})
    with pytest.raises(EnrollmentRefused):
        verify_factory_certificate(factory.certificate, other, pki.NOW)


@pytest.mark.slow
@pytest.mark.peer("tpm2_createprimary")
def test_a_factory_key_without_its_certificate_is_passed_over(device: SimulatedDevice) -> None:
    provision(device, maker_root(), swap=True)
    with device.open() as tpm:
        assert tpm.factory_key(bytes(32)) is None


def test_no_factory_key(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        assert tpm.factory_key(bytes(32)) is None
