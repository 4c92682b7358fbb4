# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What the TPM attests is what a verifier reads: ours, and tpm2-tools as an independent one."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edgeprov.errors import TpmError
from edgeprov.formats import tpmt
from edgeprov.formats.ecdsa import encode_ecdsa_der
from edgeprov.formats.tpmt import NvCertify, Quote, nv_name, parse_attest, parse_public, parse_signature
from edgeprov.tpm.csr import TpmPrivateKey, create_csr
from edgeprov.tpm.device import Tpm
from edgeprov.verify.public_keys import verify_ecdsa
from tests.tpm.conftest import SimulatedDevice

DIGEST = hashlib.sha256(b"a kit").digest()


def verify(tpm: Tpm, attestation: tpmt.Attestation) -> tpmt.Attest:
    der = encode_ecdsa_der(*parse_signature(attestation.signature))
    verify_ecdsa(parse_public(tpm.identity().ak_public).spki, der, hashlib.sha256(attestation.attest).digest())
    return parse_attest(attestation.attest)


def extended(*events: bytes) -> bytes:
    value = bytes(32)
    for event in events:
        value = hashlib.sha256(value + hashlib.sha256(event).digest()).digest()
    return value


def test_a_quote_holds_the_measurements_in_order(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        assert tpm.read_pcr() == bytes(32)
        tpm.pcr_event(b"first")
        tpm.pcr_event(b"second")
        attest = verify(tpm, tpm.quote(DIGEST))
        assert tpm.read_pcr() == extended(b"first", b"second")
    assert attest.extra_data == DIGEST
    assert isinstance(attest.info, Quote)
    assert attest.info.selection == ((tpmt.ALG_SHA256, (14,)),)
    assert attest.info.pcr_digest == hashlib.sha256(extended(b"first", b"second")).digest()


def test_an_event_reaches_all_banks_so_that_none_is_free_to_forge(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.pcr_event(b"model")
        answer = tpm._connection.esys.pcr_read("sha1:14+sha384:14")
        digests = bytes(answer[2].marshal())
    assert hashlib.sha1(bytes(20) + hashlib.sha1(b"model").digest()).digest() in digests
    assert hashlib.sha384(bytes(48) + hashlib.sha384(b"model").digest()).digest() in digests


def test_boot_pcrs_can_be_quoted_too(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    with device.open(quote_pcrs=(7, 0, 14)) as tpm:
        tpm.pcr_event(b"model")
        quoted = tpm.quote(DIGEST)
        attest = verify(tpm, quoted)
        value = tpm.read_pcr()
    assert isinstance(attest.info, Quote)
    assert attest.info.selection == ((tpmt.ALG_SHA256, (0, 7, 14)),)
    assert quoted.pcrs == ((0, bytes(32)), (7, bytes(32)), (14, value))


def test_a_quote_shows_the_values_that_are_there_and_not_those_that_were_expected(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        tpm.pcr_event(b"model")
        assert tpm.quote(DIGEST, model_pcr=extended(b"model")).pcrs == ((14, extended(b"model")),)
        assert tpm.quote(DIGEST, model_pcr=bytes(32)).pcrs == ((14, extended(b"model")),)


def test_pcrs_are_read_eight_at_a_time(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.pcr_event(b"model")
        values = tpm._connection.read_pcrs(range(24))
    assert [pcr for pcr, _ in values] == list(range(24))
    assert dict(values)[14] == extended(b"model")
    assert dict(values)[17] == b"\xff" * 32, "a PCR of a later locality"


def test_measurements_live_as_long_as_the_boot_and_no_longer(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.pcr_event(b"model")
        before = tpm.boot_id()
    with device.open() as tpm:
        assert tpm.read_pcr() == extended(b"model")
        assert tpm.boot_id() == before
    device.reboot()
    with device.open() as tpm:
        assert tpm.read_pcr() == bytes(32)
        assert tpm.boot_id() not in (None, before)


def test_the_counter_is_attested_under_its_rebuilt_name(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        base = tpm.create_identity().counter_value
        assert tpm.increment_counter() == base + 1
        attest = verify(tpm, tpm.certify_counter(DIGEST))
    assert isinstance(attest.info, NvCertify)
    assert attest.info.index_name == nv_name()
    assert (attest.info.offset, int.from_bytes(attest.info.contents, "big")) == (0, base + 1)
    assert attest.extra_data == DIGEST


def test_the_ak_vouches_for_the_sk(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        made = tpm.create_identity()
        attest = verify(tpm, tpm.certify_sk(DIGEST))
    assert isinstance(attest.info, tpmt.Certify)
    assert attest.info.name == parse_public(made.sk_public).name


def test_attestations_of_one_boot_agree_with_the_clock(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    device.reboot()
    device.reboot(power_cut=True)
    with device.open() as tpm:
        clock = tpm.clock()
        quote, counter = verify(tpm, tpm.quote(DIGEST)), verify(tpm, tpm.certify_counter(DIGEST))
    assert clock.reset_count == quote.reset_count == counter.reset_count == 3
    assert clock.restart_count == quote.restart_count == counter.restart_count


def test_too_long_input_is_refused_in_our_words(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        for use in (
            lambda: tpm.quote(bytes(65)),
            lambda: tpm.pcr_event(bytes(1025)),
            lambda: tpm.sign_digest(bytes(65)),
        ):
            with pytest.raises(TpmError):
                use()


@pytest.mark.peer("tpm2-tools")
def test_tpm2_checkquote_accepts_our_quote_and_no_changed_one(device: SimulatedDevice, tmp_path: Path) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        tpm.pcr_event(b"model")
        quote = tpm.quote(DIGEST)
        (tmp_path / "ak.pem").write_bytes(pem(parse_public(tpm.identity().ak_public).spki))
    (tmp_path / "sig").write_bytes(quote.signature)

    def check(attest: bytes, nonce: bytes) -> int:
        (tmp_path / "msg").write_bytes(attest)
        command = ["tpm2_checkquote", "-u", "ak.pem", "-m", "msg", "-s", "sig", "-q", nonce.hex(), "-g", "sha256"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    assert check(quote.attest, DIGEST) == 0
    assert check(quote.attest, bytes(32)) != 0
    assert check(quote.attest[:-1] + bytes([quote.attest[-1] ^ 1]), DIGEST) != 0


@pytest.mark.peer("openssl")
def test_openssl_verifies_the_sk_and_its_request(device: SimulatedDevice, tmp_path: Path) -> None:
    message = b"a kit"
    with device.open() as tpm:
        tpm.create_identity()
        (tmp_path / "sk.pem").write_bytes(pem(tpm.public_key_spki))
        (tmp_path / "sig").write_bytes(tpm.sign_digest(DIGEST))
        (tmp_path / "csr").write_bytes(create_csr(tpm, common_name="ward-7", uri="urn:edgeprov:device:ward-7"))
    (tmp_path / "message").write_bytes(message)
    verified = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", "sk.pem", "-signature", "sig", "message"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert verified.stdout.strip() == "Verified OK"
    shown = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-in", "csr", "-verify", "-noout", "-text"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0
    assert "CN=ward-7" in shown.stdout.replace(" = ", "=")  # as openssl 3.0 and as 3.5 write it
    assert "URI:urn:edgeprov:device:ward-7" in shown.stdout


def test_the_private_key_of_a_request_only_signs_sha256(device: SimulatedDevice) -> None:
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384

    with device.open() as tpm:
        tpm.create_identity()
        key = TpmPrivateKey(tpm.public_key_spki, tpm.sign_digest)
        key.public_key().verify(key.sign(b"a kit", ec.ECDSA(SHA256())), b"a kit", ec.ECDSA(SHA256()))
        key.public_key().verify(key.sign(DIGEST, ec.ECDSA(Prehashed(SHA256()))), b"a kit", ec.ECDSA(SHA256()))
        for use in (
            lambda: key.sign(b"a kit", ec.ECDSA(SHA384())),
            lambda: key.sign(b"short", ec.ECDSA(Prehashed(SHA256()))),
            key.private_numbers,
            lambda: key.private_bytes(None, None, None),
            lambda: key.exchange(ec.ECDH(), key.public_key()),
        ):
            with pytest.raises(TpmError):
                use()


def pem(spki: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

    return load_der_public_key(spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
