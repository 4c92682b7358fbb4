# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Keys are those of the enrolled TPM, or nothing is signed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from edgeprov.errors import IdentityError
from edgeprov.formats import tpmt
from edgeprov.formats.tpmt import parse_attest, parse_public
from edgeprov.tpm import simulator
from edgeprov.tpm.device_keys import AK, SK, create_primary
from edgeprov.tpm.esys import tss
from edgeprov.verify.public_keys import verify_ecdsa
from tests.tpm.conftest import SimulatedDevice

DIGEST = hashlib.sha256(b"a kit").digest()


def clear(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm._connection.esys.clear(tss.ESYS_TR.LOCKOUT)


def test_keys_have_the_attributes_that_a_verifier_demands(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        made = tpm.create_identity()
    assert parse_public(made.ak_public).attributes == tpmt.AK_ATTRIBUTES
    assert parse_public(made.sk_public).attributes == tpmt.SK_ATTRIBUTES


def test_creating_the_identity_again_changes_nothing(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        first = tpm.create_identity()
        before = tpm.read_counter()
    with device.open() as tpm:
        assert tpm.create_identity() == first
        assert tpm.read_counter() == before


@pytest.mark.parametrize("power_cut", [False, True])
def test_keys_survive_a_restart(device: SimulatedDevice, power_cut: bool) -> None:
    with device.open() as tpm:
        made = tpm.create_identity()
    device.reboot(power_cut=power_cut)
    with device.open() as tpm:
        verify_ecdsa(parse_public(made.sk_public).spki, tpm.sign_digest(DIGEST), DIGEST)
        assert parse_attest(tpm.quote(DIGEST).attest).extra_data == DIGEST


def test_keys_and_the_series_survive_a_tpm_clear(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        made = tpm.create_identity()
        before = tpm.increment_counter()
    clear(device)
    with device.open() as tpm:
        verify_ecdsa(parse_public(made.sk_public).spki, tpm.sign_digest(DIGEST), DIGEST)
        assert tpm.increment_counter() == before + 1
        assert tpm._connection.handles(0x81000000) == (AK.handle, SK.handle), "cached again"


def test_keys_work_where_the_owner_password_forbids_to_cache_them(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        made = tpm.create_identity()
    clear(device)
    with device.open() as tpm:
        tpm._connection.esys.hierarchy_change_auth(tss.ESYS_TR.OWNER, b"vendor secret")
    with device.open() as tpm:
        verify_ecdsa(parse_public(made.sk_public).spki, tpm.sign_digest(DIGEST), DIGEST)
        tpm.quote(DIGEST)
        assert tpm._connection.handles(0x81000000) == ()
    with device.open() as tpm:
        assert tpm._connection.handles(0x80000000) == (), "nothing stays in the three slots"


def test_another_tpm_is_refused_and_left_alone(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    simulator.stop(device.folder)
    (device.folder / "tpm2-00.permall").unlink()
    with device.open() as tpm:
        for use in (
            lambda: tpm.quote(DIGEST),
            lambda: tpm.sign_digest(DIGEST),
            tpm.increment_counter,
            tpm.read_counter,
        ):
            with pytest.raises(IdentityError):
                use()
        assert tpm._connection.handles(0x01000000) == (), "no counter was started in the wrong TPM"
        assert tpm._connection.handles(0x80000000) == ()
        with pytest.raises(IdentityError, match="another TPM"):
            tpm.create_identity()


def test_somebody_elses_key_at_our_handle_is_neither_used_nor_removed(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        esys = tpm._connection.esys
        other, _ = create_primary(tpm._connection, replace(SK, label="other").template, "make another key")
        esys.evict_control(tss.ESYS_TR.OWNER, other, SK.handle)
        esys.flush_context(other)
        made = tpm.create_identity()
        verify_ecdsa(parse_public(made.sk_public).spki, tpm.sign_digest(DIGEST), DIGEST)
    with device.open() as tpm:
        verify_ecdsa(parse_public(made.sk_public).spki, tpm.sign_digest(DIGEST), DIGEST)
        assert SK.handle in tpm._connection.handles(0x81000000)


def test_without_an_identity_nothing_is_signed(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        for use in (lambda: tpm.quote(DIGEST), lambda: tpm.sign_digest(DIGEST), tpm.increment_counter, tpm.identity):
            with pytest.raises(IdentityError, match="no identity"):
                use()


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b'{"v":1,"ak":"AAAA"', b'{"v":1,"ak":"AA==","sk":"AA==","counter_base":1,"simulated":true}']
)
def test_a_damaged_identity_file_is_kept_aside_and_can_be_made_again(device: SimulatedDevice, damage: bytes) -> None:
    with device.open() as tpm:
        made = tpm.create_identity()
    path = device.state / "identity.json"
    path.write_bytes(damage)
    with device.open() as tpm:
        with pytest.raises(IdentityError):
            tpm.quote(DIGEST)
        assert (device.state / "identity.json.damaged").read_bytes() == damage
        again = tpm.create_identity()
    assert (again.ak_public, again.sk_public) == (made.ak_public, made.sk_public)
