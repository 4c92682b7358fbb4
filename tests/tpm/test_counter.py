# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers only rise: over power cuts, deletion, TPM2_Clear and a disk that was put back."""

from __future__ import annotations

import struct

import pytest

from edgeprov.errors import TpmError
from edgeprov.formats.tpmt import COUNTER_INDEX
from edgeprov.tpm import simulator
from edgeprov.tpm.boot_tpm import BootTpm
from edgeprov.tpm.device import Tpm
from edgeprov.tpm.esys import tss
from edgeprov.tpm.floor import BASE_INDEX, FLOOR_FILE
from edgeprov.tpm.protection import Protection, protect
from tests.tpm.conftest import SimulatedDevice


def define_plain_index(tpm: Tpm, number: int) -> None:
    raw = struct.pack(">IHIHH", number, 0x000B, (1 << 1) | (1 << 2) | (1 << 17) | (1 << 18) | (1 << 25), 0, 8)
    public = tss.TPM2B_NV_PUBLIC.unmarshal(len(raw).to_bytes(2, "big") + raw)[0]
    handle = tpm._connection.esys.nv_define_space(b"", public, tss.ESYS_TR.OWNER)
    tpm._connection.esys.nv_write(handle, (5).to_bytes(8, "big"))


def undefine(tpm: Tpm, number: int) -> None:
    esys = tpm._connection.esys
    esys.nv_undefine_space(esys.tr_from_tpmpublic(number), tss.ESYS_TR.OWNER)


def test_each_kit_gets_the_next_number_over_power_cuts(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        base = tpm.create_identity().counter_value
    given = []
    for _ in range(3):
        with device.open() as tpm:
            given += [tpm.increment_counter(), tpm.increment_counter()]
            simulator.stop(device.folder, power_cut=True)
    assert given == [base + step for step in range(1, 7)]


def test_a_deleted_counter_goes_on_above_its_last_value(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        last = [tpm.increment_counter() for _ in range(5)][-1]
        undefine(tpm, COUNTER_INDEX)
    with device.open() as tpm:
        assert tpm.increment_counter() == last + 1


def test_an_ordinary_index_in_place_of_the_counter_is_refused(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        undefine(tpm, COUNTER_INDEX)
        define_plain_index(tpm, COUNTER_INDEX)
    with device.open() as tpm:
        for use in (
            tpm.increment_counter,
            tpm.read_counter,
            lambda: tpm.certify_counter(bytes(32)),
            tpm.create_identity,
        ):
            with pytest.raises(TpmError, match="not by edgeprov"):
                use()


def test_kits_can_be_numbered_where_the_owner_password_is_set(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        base = tpm.create_identity().counter_value
        tpm._connection.esys.hierarchy_change_auth(tss.ESYS_TR.OWNER, b"vendor secret")
    device.reboot()
    with device.open() as tpm:
        assert tpm.increment_counter() == base + 1
        tpm.certify_counter(bytes(32))


def test_the_floor_starts_at_zero_and_only_rises(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        assert tpm.floor("default") == 0
        assert tpm._connection.handles(0x01000000) == (), "asking defines nothing"
        tpm.create_identity()
        for _ in range(3):
            tpm.increment_counter()
        tpm.raise_floor("default", 2)
        tpm.raise_floor("default", 1)
        assert tpm.floor("default") == 2
    device.reboot(power_cut=True)
    with device.open() as tpm:
        assert tpm.floor("default") == 2


def test_the_floor_survives_a_disk_that_was_put_back(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.raise_floor("default", 3)
    (device.state / FLOOR_FILE).unlink()
    with device.open() as tpm:
        assert tpm.floor("default") == 3
    (device.state / FLOOR_FILE).write_text("garbage")
    with device.open() as tpm:
        assert tpm.floor("default") == 3


def test_the_floor_survives_a_tpm_clear_and_can_rise_on(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.raise_floor("default", 3)
        tpm._connection.esys.clear(tss.ESYS_TR.LOCKOUT)
    with device.open() as tpm:
        assert tpm.floor("default") == 3
        tpm.raise_floor("default", 3)
        tpm.raise_floor("default", 4)
        assert tpm.floor("default") == 4
    (device.state / FLOOR_FILE).unlink()
    with device.open() as tpm:
        assert tpm.floor("default") == 4, "the TPM knows it again"


def test_a_floor_that_would_wear_out_the_tpm_is_refused(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        with pytest.raises(TpmError, match="steps at once"):
            tpm.raise_floor("default", 1_000_000)
        assert tpm.floor("default") == 0


def test_the_base_of_the_floor_cannot_be_written_again(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.raise_floor("default", 2)
        with pytest.raises(TpmError):
            tpm._floor._index(BASE_INDEX, "default").write_once(bytes(16))
        assert tpm.floor("default") == 2


# -- a wiped disk ---------------------------------------------------------------------------------
def wipe(device: SimulatedDevice) -> None:
    for path in device.state.iterdir():
        path.unlink()


@pytest.mark.parametrize("protection", [Protection(), Protection(forget=True)])
def test_a_wiped_state_lowers_no_floor_before_or_after_a_new_identity(
    device: SimulatedDevice, protection: Protection
) -> None:
    slots = ("default", "audio")
    with device.open(slots=slots) as tpm:
        tpm.create_identity()
        tpm.raise_floor("default", 3)
        tpm.raise_floor("audio", 1)
        protect(tpm._connection, protection)
    wipe(device)
    with BootTpm(device.settings(slots=slots)) as boot:
        assert [boot.floor(slot) for slot in (*slots, "another")] == [3, 1, 0]
    if protection.forget:
        # The counter cannot be replaced without the owner's password: no identity, and no lower floor either.
        with device.open(slots=slots) as tpm, pytest.raises(TpmError, match="delete NV index 0x01800100"):
            tpm.create_identity()
    else:
        with device.open(slots=slots) as tpm:
            tpm.create_identity()
            assert tpm.floors_on_disk() == ()
            tpm.raise_floor("audio", 2)
    expected = 1 if protection.forget else 2
    with device.open(slots=slots) as tpm:
        assert (tpm.floor("default"), tpm.floor("audio")) == (3, expected)
        assert tpm._connection.handles(0x02000000) == (), "no session stays in the three slots"
    (device.state / FLOOR_FILE).unlink(missing_ok=True)
    with BootTpm(device.settings(slots=slots)) as boot:
        assert [boot.floor(slot) for slot in slots] == [3, expected]


def test_a_place_cannot_be_passed_off_as_that_of_another_slot(device: SimulatedDevice) -> None:
    with device.open(slots=("default", "audio")) as tpm:
        tpm.create_identity()
        tpm.raise_floor("default", 3)
    path = device.state / FLOOR_FILE
    path.write_text(path.read_text().replace('"places":{"audio":1,"default":0}', '"places":{"audio":0,"default":1}'))
    assert '"default":1' in path.read_text()
    path.write_text(path.read_text().replace('"default":3', '"default":0'))
    with BootTpm(device.settings()) as boot:
        assert (boot.floor("default"), boot.floor("audio")) == (3, 0)
