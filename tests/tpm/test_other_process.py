# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Another process of group tss: it may talk to the TPM, has tpm2-pytss, and has not the device's secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgeprov.tpm import simulator
from edgeprov.tpm.key_template import AK, SK
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


def other_process(device: SimulatedDevice, program: str = PROGRAM) -> list[list[str]]:
    child = subprocess.run(
        [sys.executable, "-c", program, str(device.folder / simulator.SOCKET), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
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
