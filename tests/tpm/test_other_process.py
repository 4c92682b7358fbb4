# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Another process of group tss: it may talk to the TPM, has tpm2-pytss, and has not the device's secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeprov.errors import TpmError, UsageError
from edgeprov.tpm import simulator
from edgeprov.tpm.boot_tpm import BootTpm
from edgeprov.tpm.key_template import AK, SK
from edgeprov.tpm.protection import Protection
from edgeprov.tpm.secret import SECRET_FILE, KeySecret
from tests.tpm.conftest import SimulatedDevice

ROOT = Path(__file__).parents[2]
# Prints for each attempt its name and the TPM's response code without handle and parameter; 0 is success.
PROGRAM = r"""
import struct, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from edgeprov.formats.tpmt import parse_public
from edgeprov.tpm.client import Client
from edgeprov.tpm.key_template import AK, SK
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.response_codes import response_code
from edgeprov.tpm.secret import KeySecret
from edgeprov.tpm.transport import SocketTransport

esys = Connection(SocketTransport(Path(sys.argv[1])), lock_path=Path("/nonexistent"), shared=False).esys
SCHEME = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
TICKET = tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
DIGEST, NOTHING = tss.TPM2B_DIGEST(bytes(32)), tss.TPM2B_DATA(bytes(32))

def attempt(name, command):
    try:
        command()
        print(name, 0)
    except tss.TSS2_Exception as error:
        print(name, hex(response_code(int(error.rc))))

def persistent(kind, password):
    handle = esys.tr_from_tpmpublic(kind.handle)
    esys.tr_set_auth(handle, password)
    return handle

def made(kind, unique):
    # The public template, with whatever an attacker may put into unique, and a password of its own.
    template = kind.template(KeySecret(bytes(32)))[:-68] + struct.pack(f">H{len(unique)}sH{len(unique)}s", len(unique), unique, len(unique), unique)
    area = tss.TPM2B_PUBLIC.unmarshal(len(template).to_bytes(2, "big") + template)[0]
    handle, public = esys.create_primary(tss.TPM2B_SENSITIVE_CREATE(), area, tss.ESYS_TR.ENDORSEMENT)[:2]
    name = parse_public(bytes(public.marshal())[2:]).name.hex()
    esys.flush_context(handle)
    return name

for password in (b"", b"edgeprov", bytes(32)):
    attempt("quote", lambda: esys.quote(persistent(AK, password), "sha256:14", NOTHING, SCHEME))
    attempt("sign", lambda: esys.sign(persistent(SK, password), DIGEST, SCHEME, validation=TICKET))
counter = esys.tr_from_tpmpublic(0x01800100)
attempt("increment", lambda: esys.nv_increment(counter))
attempt("certify", lambda: esys.nv_certify(persistent(AK, b""), counter, NOTHING, SCHEME, 8))
attempt("raise", lambda: esys.nv_increment(esys.tr_from_tpmpublic(0x01800110)))
for kind in (AK, SK):
    for unique in (b"", b"edgeprov." + kind.label.encode(), bytes(32)):
        print("made", kind.label, made(kind, unique))
    # What ReadPublic tells of the key's point is not what made it.
    public = esys.read_public(esys.tr_from_tpmpublic(kind.handle))[0]
    point = parse_public(bytes(public.marshal())[2:])
    print("made", kind.label, made(kind, point.x))
print("lockout", int.from_bytes(bytes(esys.get_capability(tss.TPM2_CAP.TPM_PROPERTIES, 0x20E, 1)[1].marshal())[-4:], "big"))
"""


def other_process(device: SimulatedDevice, program: str = PROGRAM, *, whole: bool = True) -> list[list[str]]:
    child = subprocess.run(
        [sys.executable, "-c", program, str(device.folder / simulator.SOCKET), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0 or not whole, child.stderr
    return [line.split() for line in child.stdout.splitlines()]


def test_another_process_can_neither_make_nor_use_the_keys(device: SimulatedDevice) -> None:
    with device.open(slots=("default",)) as tpm:
        tpm.create_identity()
        names = {tpm._keys.identity.ak.name.hex(), tpm._keys.identity.sk.name.hex()}
    lines = other_process(device)
    tried = [line for line in lines if line[0] not in ("made", "lockout")]
    assert {name for name, _ in tried} == {"quote", "sign", "increment", "certify", "raise"}
    assert {code for _, code in tried} == {"0xa2"}, "authorization failure, without dictionary-attack counting"
    made = {line[2] for line in lines if line[0] == "made"}
    assert len(made) == 8
    assert not made & names, "the public template makes other keys"
    assert ["lockout", "0"] in lines
    with device.open() as tpm:
        tpm.sign_digest(bytes(32))


def test_the_same_secret_makes_the_same_keys_again_and_another_one_does_not(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        secret = KeySecret((device.state / SECRET_FILE).read_bytes())
        for kind, public in ((AK, tpm._keys.identity.ak), (SK, tpm._keys.identity.sk)):
            for given, same in ((secret, True), (KeySecret(bytes(32)), False)):
                tpm._keys._secret = given
                handle, made = tpm._keys._create_primary(kind)
                tpm._connection.flush(handle)
                assert (made.name == public.name) is same


def test_the_secret_is_made_once_and_for_the_service_alone(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        first = (device.state / SECRET_FILE).read_bytes()
        tpm.create_identity()
    assert (device.state / SECRET_FILE).read_bytes() == first
    assert len(first) == 32
    assert first != bytes(32)
    assert (device.state / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    assert not any(first in path.read_bytes() for path in device.state.iterdir() if path.name != SECRET_FILE)


# -- the TPM's owner and lockout --------------------------------------------------------------------
DELETE = r"""
import struct, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.response_codes import response_code
from edgeprov.tpm.transport import SocketTransport

esys = Connection(SocketTransport(Path(sys.argv[1])), lock_path=Path("/nonexistent"), shared=False).esys

def attempt(name, command):
    try:
        command()
        print(name, 0)
    except tss.TSS2_Exception as error:
        print(name, hex(response_code(int(error.rc))))

def define(number, attributes):
    raw = struct.pack(">IHIHH", number, 0x000B, attributes, 0, 8)
    esys.nv_define_space(b"", tss.TPM2B_NV_PUBLIC.unmarshal(len(raw).to_bytes(2, "big") + raw)[0], tss.ESYS_TR.OWNER)

for hierarchy in ("LOCKOUT", "PLATFORM"):
    handle = getattr(tss.ESYS_TR, "RH_" + hierarchy, None) or getattr(tss.ESYS_TR, hierarchy)
    attempt("allow-clear", lambda: esys.clear_control(handle, disable=False))
    attempt("clear", lambda: esys.clear(handle))
for number in (0x01800100, 0x01800110, 0x01800118):
    index = esys.tr_from_tpmpublic(number)
    attempt("delete", lambda: esys.nv_undefine_space(index, tss.ESYS_TR.OWNER))
    attempt("lower", lambda: esys.nv_write(index, tss.TPM2B_MAX_NV_BUFFER(bytes(8))))
    attempt("lower", lambda: esys.nv_write(index, tss.TPM2B_MAX_NV_BUFFER(bytes(8)), auth_handle=tss.ESYS_TR.OWNER))
    attempt("define", lambda: define(number, 0x02060004))
attempt("define", lambda: define(0x01800140, 0x02060014))
for number in (0x81010020, 0x81010021):
    key = esys.tr_from_tpmpublic(number)
    attempt("evict", lambda: esys.evict_control(tss.ESYS_TR.OWNER, key, number))
for name in ("OWNER", "LOCKOUT"):
    handle = getattr(tss.ESYS_TR, "RH_" + name, None) or getattr(tss.ESYS_TR, name)
    attempt("password", lambda: esys.hierarchy_change_auth(handle, tss.TPM2B_AUTH(b"mine")))
"""
WAYS = [
    Protection(owner=b"vendor's owner", lockout=b"vendor's lockout"),
    Protection(forget=True),
    Protection(owner=b"vendor's owner", forget=True, disable_clear=True),
    Protection(owner=b"vendor's owner", lockout=b"vendor's lockout", disable_clear=True),
]


@pytest.mark.parametrize("protection", WAYS)
def test_without_the_passwords_nothing_can_be_cleared_deleted_or_lowered(
    device: SimulatedDevice, protection: Protection
) -> None:
    with device.open(slots=("default",)) as tpm:
        assert len(tpm.weaknesses()) == 2
        tpm.create_identity(protection)
        assert tpm.weaknesses() == ()
        tpm.raise_floor("default", 3)
        last = tpm.increment_counter()
    device.reboot(power_cut=True)
    with BootTpm(device.settings(slots=("default",))) as boot:
        boot.close_platform()  # as each boot check does
        assert boot.floor("default") == 3
    lines = other_process(device, DELETE)
    assert {name for name, _ in lines} == {"allow-clear", "clear", "delete", "lower", "define", "evict", "password"}
    assert [line for line in lines if line[1] == "0"] == []
    with device.open(slots=("default",)) as tpm:
        assert tpm.floor("default") == 3
        assert tpm.increment_counter() == last + 1
        assert tpm.verify_keys() == ()
        tpm.raise_floor("default", 4)
        assert tpm.floor("default") == 4
        tpm.quote(bytes(32))
        tpm.create_identity(Protection())


def test_the_test_above_can_fail(device: SimulatedDevice) -> None:
    with device.open(slots=("default",)) as tpm:
        tpm.create_identity()
    assert ["clear", "0"] in other_process(device, DELETE, whole=False)


def test_set_passwords_are_used_and_wrong_ones_refused(device: SimulatedDevice) -> None:
    given = Protection(owner=b"vendor's owner", lockout=b"vendor's lockout")
    with device.open(slots=("default",)) as tpm:
        tpm.create_identity(given)
    with device.open(slots=("default", "later")) as tpm:
        tpm.create_identity(Protection())
        assert tpm.floors_on_disk() == ("later",), "its index cannot be made without the owner's password"
        tpm.raise_floor("later", 2)
        assert tpm.floor("later") == 2
    with device.open(slots=("default", "later")) as tpm:
        tpm.create_identity(given)
        assert tpm.floors_on_disk() == ()
        assert tpm.floor("later") == 2
    with device.open() as tpm, pytest.raises(TpmError, match="owner's password that was given"):
        tpm.create_identity(Protection(owner=b"wrong"))
    for path in device.state.iterdir():
        path.unlink()
    with device.open(slots=("default",)) as tpm:
        with pytest.raises(TpmError) as caught:
            tpm.create_identity()  # the old counter is in the way, and the owner has a password
        assert "--owner-auth" in caught.value.advice
        tpm.create_identity(given)
        tpm.increment_counter()


@pytest.mark.parametrize("password", [b"", b"x" * 33])
def test_a_password_has_a_length_that_a_tpm_takes(password: bytes) -> None:
    with pytest.raises(UsageError, match="1 to 32"):
        Protection(owner=password)
