# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A TPM that is absent, dying, slow, busy, locked out or no TPM at all: one clear error each, and no hang."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprov.errors import ConfigError, TpmBusy, TpmError, TpmLockout, TpmUnavailable
from edgeprov.formats.tpmt import NO_DA
from edgeprov.limits import LIMITS
from edgeprov.tpm import client, device_lock, esys, simulator, transport
from edgeprov.tpm.device import Tpm, TpmSettings, open_tpm
from edgeprov.tpm.device_keys import create_primary
from edgeprov.tpm.esys import tss
from edgeprov.tpm.key_template import AK, SK
from edgeprov.tpm.quote import sign_digest
from edgeprov.tpm.secret import KeySecret
from tests.tpm.conftest import SimulatedDevice

DIGEST = hashlib.sha256(b"a kit").digest()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def be_impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on every wait is short; what must succeed comes before it."""

    def shorten() -> None:
        short = type("Short", (type(LIMITS),), dict.fromkeys(("tpm_command_s", "tpm_keygen_s", "tpm_busy_s"), 0.3))()
        monkeypatch.setattr(client, "LIMITS", short)
        monkeypatch.setattr(device_lock, "LIMITS", short)
        monkeypatch.setattr(esys, "LIMITS", short)
        monkeypatch.setattr(transport, "LIMITS", short)

    return shorten


@pytest.fixture
def impatient(be_impatient: Callable[[], None]) -> None:
    be_impatient()


# -- absent -------------------------------------------------------------------------------------
def test_no_tpm_and_no_simulator_allowed(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprov.tpm.tcti.RESOURCE_MANAGER", device.state / "tpmrm0")
    with pytest.raises(TpmUnavailable, match="no TPM"):
        device.open(tcti="auto", allow_simulator=False)
    assert not list(device.state.iterdir()), "nothing was started"


def test_no_tpm_and_no_swtpm_installed(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprov.tpm.tcti.RESOURCE_MANAGER", device.state / "tpmrm0")
    monkeypatch.setenv("PATH", str(device.state))
    with pytest.raises(TpmUnavailable, match="not installed") as caught:
        device.open(tcti="auto")
    assert "swtpm" in caught.value.advice
    with pytest.raises(TpmUnavailable, match="not installed"):
        device.open(tcti=f"private:{device.folder}")


def test_a_simulator_never_replaces_a_tpm_that_was_enrolled(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprov.tpm.tcti.RESOURCE_MANAGER", device.state / "tpmrm0")
    with device.open(tcti="auto") as tpm:
        tpm.create_identity()
    path = device.state / "identity.json"
    path.write_text(path.read_text().replace('"simulated":true', '"simulated":false'))
    with pytest.raises(TpmUnavailable, match="enrolled"):
        device.open(tcti="auto")


@pytest.mark.parametrize("tcti", ["device:/dev/no-such-tpm", "device:/dev/null", "swtpm:path=/nonexistent/socket"])
def test_no_tpm_where_one_was_named(device: SimulatedDevice, tcti: str, impatient: None) -> None:
    with pytest.raises(TpmUnavailable), device.open(tcti=tcti) as tpm:
        tpm.clock()


@pytest.mark.parametrize("tcti", ["", "mssim", "device:", "swtpm:host=127.0.0.1,port=2321", "tabrmd", "simulator:"])
def test_an_unknown_tcti_is_a_configuration_error_and_nothing_is_probed(device: SimulatedDevice, tcti: str) -> None:
    with pytest.raises(ConfigError, match=r"tpm\.tcti"):
        device.open(tcti=tcti)


# -- dying --------------------------------------------------------------------------------------
def test_a_tpm_that_dies_is_unavailable_and_stays_so(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        simulator.stop(device.folder, power_cut=True)
        for use in (
            lambda: tpm.quote(DIGEST),
            tpm.increment_counter,
            lambda: tpm.sign_digest(DIGEST),
            tpm.clock,
            tpm.read_pcr,
        ):
            with pytest.raises(TpmUnavailable):
                use()
    with device.open() as tpm:
        tpm.quote(DIGEST)


def test_a_private_tpm_that_dies_in_the_middle(device: SimulatedDevice) -> None:
    with device.open(tcti=f"private:{device.folder}") as tpm:
        tpm.create_identity()
        tpm._connection._link.kill()  # type: ignore[attr-defined]
        with pytest.raises(TpmUnavailable):
            tpm.quote(DIGEST)


def test_a_tpm_that_stops_answering_does_not_hang_the_device(
    device: SimulatedDevice, be_impatient: Callable[[], None]
) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        tpm.quote(DIGEST)
        be_impatient()
        pid = int((device.folder / "simulator.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TpmUnavailable, match="no answer"):
                tpm.quote(DIGEST)
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """Something that listens and is no TPM: says the bytes of the list, one per connection, then hangs up."""
    path = tmp_path / "impostor"
    answers: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(8)

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(4096)
                    client.sendall(answers[0])

        thread = threading.Thread(target=serve)
        thread.start()
        yield path, answers
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x80\x01",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes.fromhex("80010000000a000001"),
        bytes.fromhex("8001ffffffff00000000"),
        bytes.fromhex("80010000000900000000"),
        bytes.fromhex("80010000000a00000100"),  # TPM_RC_INITIALIZE for everything
    ],
)
def test_what_is_no_tpm_is_refused(
    device: SimulatedDevice, impostor: tuple[Path, list[bytes]], answer: bytes, impatient: None
) -> None:
    path, answers = impostor
    answers.append(answer)
    with pytest.raises(TpmUnavailable), device.open(tcti=f"swtpm:path={path}") as tpm:
        tpm.clock()


# -- locked out, busy ---------------------------------------------------------------------------
def guess_password(tpm: Tpm) -> None:
    """Sign with a key whose password counts (no noDA), giving a wrong one."""
    context = tpm._connection.esys
    template = replace(SK, attributes=SK.attributes & ~NO_DA).template(KeySecret(bytes(32)))
    area = tss.TPM2B_PUBLIC.unmarshal(len(template).to_bytes(2, "big") + template)[0]
    sensitive = tss.TPM2B_SENSITIVE_CREATE(tss.TPMS_SENSITIVE_CREATE(userAuth=b"right"))
    key = context.create_primary(sensitive, area, tss.ESYS_TR.ENDORSEMENT)[0]
    context.tr_set_auth(key, b"wrong")
    try:
        tpm._connection.run("sign", lambda: sign_digest(tpm._connection, key, DIGEST))
    finally:
        context.flush_context(key)


def lock_out(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        for _ in range(40):
            try:
                guess_password(tpm)
            except TpmLockout:
                return
            except TpmError:
                continue
    pytest.fail("the TPM does not lock")


def test_kits_go_on_during_a_lockout(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    lock_out(device)
    with device.open() as tpm:
        before = tpm.read_counter()
        tpm.quote(DIGEST)
        tpm.sign_digest(DIGEST)
        assert tpm.increment_counter() == before + 1
        tpm.certify_counter(DIGEST)


def test_a_lockout_is_told_and_not_retried(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_out(device)
    monkeypatch.setattr(client.time, "sleep", lambda seconds: pytest.fail("a lockout is not waited for"))
    with device.open() as tpm, pytest.raises(TpmLockout) as caught:
        guess_password(tpm)
    assert not caught.value.retryable


def test_power_cuts_never_lock_the_tpm(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    for _ in range(5):
        with device.open() as tpm:
            tpm.sign_digest(DIGEST)
            tpm.quote(DIGEST)
            tpm.increment_counter()
        simulator.stop(device.folder, power_cut=True)
    with device.open() as tpm:
        assert tpm._connection.tpm_properties(0x20E, 1) == {0x20E: 0}, "TPM_PT_LOCKOUT_COUNTER"


def fill_slots(device: SimulatedDevice) -> None:
    """What a killed process leaves in a TPM without a resource manager."""
    with device.open() as tpm:
        for number in range(3):
            create_primary(tpm._connection, AK.template(KeySecret(bytes([number] * 32))), "leak")


def test_slots_that_a_killed_process_left_are_taken_back(device: SimulatedDevice) -> None:
    fill_slots(device)
    with device.open() as tpm:
        assert len(tpm._connection.handles(0x80000000)) == 3
        tpm.create_identity()
        assert tpm._connection.handles(0x80000000) == ()
        tpm.quote(DIGEST)


def test_slots_are_left_alone_while_another_process_has_the_lock(
    device: SimulatedDevice, be_impatient: Callable[[], None]
) -> None:
    fill_slots(device)
    with device.open() as tpm, device.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        be_impatient()
        with pytest.raises(TpmBusy, match="lock"):
            tpm.create_identity()
        assert len(tpm._connection.handles(0x80000000)) == 3


def test_a_busy_tpm_is_asked_again_and_then_reported(device: SimulatedDevice, be_impatient: Callable[[], None]) -> None:
    with device.open() as tpm:
        answers = iter([0x922, 0x923, 0x920, 0])

        def sometimes() -> str:
            code = next(answers)
            if code:
                raise tss.TSS2_Exception(code)
            return "done"

        assert tpm._connection.run("do it", sometimes) == "done"

        def never() -> None:
            raise tss.TSS2_Exception(0x922)

        be_impatient()
        with pytest.raises(TpmBusy):
            tpm._connection.run("do it", never)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(0x921, TpmLockout), (0x101, TpmUnavailable), (0x9A2, TpmError), (0xB0902, TpmBusy), (0x70001, TpmError)],
)
def test_each_code_has_its_error(
    device: SimulatedDevice, be_impatient: Callable[[], None], code: int, kind: type[TpmError]
) -> None:
    def refuse() -> None:
        raise tss.TSS2_Exception(code)

    with device.open() as tpm:
        be_impatient()
        with pytest.raises(kind) as caught:
            tpm._connection.run("do it", refuse)
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message


# -- several processes --------------------------------------------------------------------------
def work(settings: TpmSettings, rounds: int, results: multiprocessing.SimpleQueue[list[int]]) -> None:
    given = []
    with open_tpm(settings) as tpm:
        for _ in range(rounds):
            with tpm.group():
                given.append(tpm.increment_counter())
                tpm.certify_counter(DIGEST)
                tpm.quote(DIGEST)
                tpm.sign_digest(DIGEST)
            tpm.ek_public()
    results.put(given)


def test_processes_take_turns_and_no_number_is_given_twice(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        base = tpm.create_identity().counter_value
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[list[int]] = context.SimpleQueue()
    workers = [context.Process(target=work, args=(device.settings(), 8, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    given = sorted(number for _ in workers for number in results.get())
    assert given == list(range(base + 1, base + 25))


def test_verifiers_do_not_load_the_tpm_library() -> None:
    code = "import sys, edgeprov.tpm.simulator, edgeprov.verify.evidence, edgeprov.formats.tpmt; sys.exit('tpm2_pytss' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
