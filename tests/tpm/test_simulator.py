# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The simulated device: one swtpm per folder, started by whoever comes first, and no trace of it afterwards."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from edgeprov.errors import TpmUnavailable
from edgeprov.tpm import simulator
from edgeprov.tpm.device import TpmSettings, open_tpm
from tests.support.tpm import stop_simulators
from tests.tpm.conftest import SimulatedDevice


def running(root: Path) -> list[str]:
    """Command lines of living processes that name a file below ``root`` or have one open."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            targets = []
            try:
                for item in (process / "fd").iterdir():
                    with suppress(FileNotFoundError):  # it was closed since it was listed
                        targets.append(os.readlink(item))
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "swtpm" in command and any(target.startswith(str(root)) for target in targets):
                found.append(command)
    return found


def open_and_measure(settings: TpmSettings, results: multiprocessing.SimpleQueue[str | None]) -> None:
    with open_tpm(settings) as tpm:
        tpm.pcr_event(b"event")
        results.put(tpm.boot_id())


def test_many_first_users_start_one_simulator(device: SimulatedDevice) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[str | None] = context.SimpleQueue()
    workers = [context.Process(target=open_and_measure, args=(device.settings(), results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len({results.get() for _ in workers}) == 1
    assert len(running(device.folder)) == 1


def test_it_listens_on_no_port_and_nobody_else_can_reach_it(device: SimulatedDevice) -> None:
    with device.open():
        pid = int((device.folder / "simulator.pid").read_text())
        assert stat.S_IMODE(device.folder.stat().st_mode) == 0o700
        listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
        assert f"pid={pid}," not in listening
        output = [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)]
    assert output == ["/dev/null"] * 3, "a pipe that it inherited would never end"


def test_stopping_leaves_no_process_and_no_socket(device: SimulatedDevice) -> None:
    with device.open():
        assert len(running(device.folder)) == 1
    simulator.stop(device.folder)
    assert running(device.folder) == []
    assert simulator.boot_id(device.folder) is None
    assert not [item for item in device.folder.iterdir() if item.is_socket()]
    simulator.stop(device.folder)
    simulator.stop(device.folder / "missing")


def test_a_dead_simulator_is_started_again_as_a_new_boot(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.pcr_event(b"event")
        before = tpm.boot_id()
    os.kill(int((device.folder / "simulator.pid").read_text()), 9)
    with device.open() as tpm:
        assert tpm.boot_id() not in (None, before)
        assert tpm.read_pcr() == bytes(32)


def test_what_a_crashed_host_left_behind_is_no_obstacle(device: SimulatedDevice) -> None:
    device.folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(device.folder / "simulator.sock"))
    (device.folder / "simulator.boot").write_text("0d9b2d9e-5f0b-4b1e-a1a9-000000000000\n")
    (device.folder / "simulator.pid").write_text("1")
    assert simulator.boot_id(device.folder) is None
    with device.open() as tpm:
        assert tpm.boot_id() != "0d9b2d9e-5f0b-4b1e-a1a9-000000000000"


@pytest.mark.parametrize("name", ["x" * 200, "with, comma=and space", "ünï"])
def test_any_folder_name_will_do(device: SimulatedDevice, name: str) -> None:
    folder = device.state / name / name
    with device.open(tcti=f"simulator:{folder}") as tpm:
        tpm.create_identity()
    with device.open(tcti=f"private:{folder}-2"):
        pass


def test_two_devices_are_two_tpms(make_device: object) -> None:
    first, second = make_device("a"), make_device("b")  # type: ignore[operator]
    with first.open() as one, second.open() as two:
        assert one.create_identity().ak_public != two.create_identity().ak_public
        one.pcr_event(b"event")
        assert two.read_pcr() == bytes(32)


def test_auto_simulates_where_there_is_no_tpm_and_says_dev(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprov.tpm.tcti.RESOURCE_MANAGER", device.state / "tpmrm0")
    with device.open(tcti="auto") as tpm:
        tpm.create_identity()
        assert tpm.assurance == "dev"
        assert tpm.boot_id() == simulator.boot_id(device.state)


def test_a_folder_that_cannot_be_used_is_told(device: SimulatedDevice) -> None:
    device.folder.write_text("a file")
    with pytest.raises(TpmUnavailable, match="TPM simulator"):
        device.open()


def test_damaged_tpm_state_is_told_with_swtpms_own_words(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    simulator.stop(device.folder)
    (device.folder / "tpm2-00.permall").write_bytes(b"\x00" * 100)
    with pytest.raises(TpmUnavailable, match="swtpm does not start"):
        device.open()
    assert running(device.folder) == []


def test_the_private_one_ends_with_its_user(device: SimulatedDevice) -> None:
    with device.open(tcti=f"private:{device.folder}") as tpm:
        tpm.create_identity()
        link = tpm._connection._link
    assert link._process.returncode is not None  # type: ignore[attr-defined]


@pytest.mark.peer("tpm2-tools")
def test_tpm2_tools_reach_the_same_tpm(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        value = tpm.increment_counter()
        short = Path("/tmp") / f"edgeprov-{os.getpid()}"
        short.symlink_to(device.folder)
        try:
            tcti = {"TPM2TOOLS_TCTI": f"swtpm:path={short}/simulator.sock"}
            read = subprocess.run(
                ["tpm2_nvread", "-C", "o", "0x1800100"], env={**os.environ, **tcti}, capture_output=True, check=True
            )
        finally:
            short.unlink()
    assert int.from_bytes(read.stdout, "big") == value


def test_cleaning_up_finds_every_simulator(tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        simulator.start(tmp_path / name)
    stop_simulators(tmp_path)
    assert running(tmp_path) == []
    shutil.rmtree(tmp_path)
