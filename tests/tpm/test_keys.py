# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Keys are those of the enrolled TPM, or nothing is signed."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable

import pytest

from edgeprov.errors import IdentityError, TpmError
from edgeprov.formats import tpmt
from edgeprov.formats.tpmt import parse_attest, parse_public
from edgeprov.tpm import simulator
from edgeprov.tpm.device_keys import create_primary
from edgeprov.tpm.esys import tss
from edgeprov.tpm.key_template import AK, SK
from edgeprov.tpm.saved_documents import save_file
from edgeprov.tpm.saved_handles import HANDLES_FILE
from edgeprov.tpm.secret import SECRET_FILE, KeySecret
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
        other, _ = create_primary(
            tpm._connection, SK.template(KeySecret(bytes(32)), auth_policy=bytes(32)), "make another key"
        )
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


# -- lost and wrong secrets -----------------------------------------------------------------------
def test_a_lost_secret_is_told_from_a_lost_key(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        assert tpm.verify_keys() == ()
    path = device.state / SECRET_FILE
    kept = path.read_bytes()
    path.unlink()
    with device.open() as tpm:
        for use in (
            lambda: tpm.quote(DIGEST),
            lambda: tpm.sign_digest(DIGEST),
            tpm.increment_counter,
            tpm.read_counter,
            tpm.create_identity,
            tpm.verify_keys,
        ):
            with pytest.raises(IdentityError, match="secret of this device's TPM keys is lost"):
                use()
    assert not path.exists(), "a new secret would hide the loss"
    save_file(path, kept)
    clear(device)
    with device.open() as tpm:
        notes = tpm.verify_keys()
        assert "the AK is not at its handle" in notes[0]
        assert "the kit counter is not in the TPM" in notes[2]
        tpm.quote(DIGEST)
        tpm.sign_digest(DIGEST)
        tpm.increment_counter()
    with device.open() as tpm:
        assert tpm.verify_keys() == ()


@pytest.mark.parametrize("cached", [True, False])
def test_another_secret_is_refused_and_nothing_is_made_with_it(device: SimulatedDevice, cached: bool) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        before = tpm.increment_counter()
    path = device.state / SECRET_FILE
    kept = path.read_bytes()
    save_file(path, bytes(32))
    if not cached:
        (device.state / HANDLES_FILE).unlink(missing_ok=True)
    with device.open() as tpm:
        for use in (lambda: tpm.quote(DIGEST), lambda: tpm.sign_digest(DIGEST), tpm.increment_counter):
            with pytest.raises(IdentityError, match="does not accept the secret"):
                use()
    save_file(path, kept)
    with device.open() as tpm:
        assert tpm.increment_counter() == before + 1


def test_a_secret_that_others_can_read_or_that_is_cut_short_is_refused(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    path = device.state / SECRET_FILE
    path.chmod(0o640)
    with device.open() as tpm, pytest.raises(IdentityError, match="can be read by other users"):
        tpm.quote(DIGEST)
    save_file(path, b"short")
    with device.open() as tpm, pytest.raises(IdentityError, match="is damaged"):
        tpm.quote(DIGEST)


def test_a_wiped_state_gets_new_keys_in_the_places_of_the_old_and_the_counter_goes_on(device: SimulatedDevice) -> None:
    with device.open(slots=("default",)) as tpm:
        first = tpm.create_identity()
        last = tpm.increment_counter()
    for path in device.state.iterdir():
        path.unlink()
    with device.open(slots=("default",)) as tpm:
        second = tpm.create_identity()
        assert not {first.ak_public, first.sk_public} & {second.ak_public, second.sk_public}
        assert tpm.verify_keys() == ()
        assert second.counter_value > last
        assert tpm.floors_on_disk() == ()
        tpm.quote(DIGEST)
        tpm.sign_digest(DIGEST)


def test_a_golden_image_with_the_state_of_another_tpm_is_refused_by_name(
    device: SimulatedDevice, make_device: Callable[[str], SimulatedDevice]
) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    other = make_device("other")
    shutil.copytree(device.state, other.state, dirs_exist_ok=True)
    with other.open() as tpm:
        for use in (lambda: tpm.quote(DIGEST), lambda: tpm.sign_digest(DIGEST), tpm.increment_counter):
            with pytest.raises(IdentityError, match="not the TPM that holds this device's"):
                use()
        with pytest.raises(IdentityError, match="belongs to another TPM") as caught:
            tpm.create_identity()
        assert "move the state folder away" in caught.value.advice
        assert tpm._connection.handles(0x01000000) == ()


def test_a_tpm_that_refuses_the_template_is_told_by_name(device: SimulatedDevice) -> None:
    """A curve that this TPM does not know, as P-256 would be on a TPM without it."""
    unknown = SK.template(KeySecret(bytes(32))).replace(
        struct.pack(">HHH", tpmt.ALG_SHA256, tpmt.ECC_NIST_P256, tpmt.ALG_NULL), struct.pack(">HHH", 0x0B, 0x4444, 0x10)
    )
    with device.open() as tpm, pytest.raises(TpmError, match="refuses the template") as caught:
        create_primary(tpm._connection, unknown, "make its SK")
    assert "NIST P-256" in caught.value.advice


def test_a_password_of_the_endorsement_hierarchy_is_told_by_name(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm._connection.esys.hierarchy_change_auth(tss.ESYS_TR.ENDORSEMENT, b"somebody's")
    with device.open() as tpm, pytest.raises(TpmError, match="endorsement hierarchy has a password"):
        tpm.create_identity()


@pytest.mark.parametrize("first", ["read_counter", "increment_counter"])
def test_no_counter_is_started_in_another_tpm_by_saved_handles(device: SimulatedDevice, first: str) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        tpm.quote(DIGEST)
    assert (device.state / HANDLES_FILE).exists()
    simulator.stop(device.folder)
    (device.folder / "tpm2-00.permall").unlink()
    with device.open() as tpm, pytest.raises(IdentityError, match="not the TPM"):
        getattr(tpm, first)()
    with device.open() as tpm:
        assert tpm._connection.handles(0x01000000) == ()
