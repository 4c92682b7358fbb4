# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The bench itself: a board file is checked without hardware, and no process outlives a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HIL = Path(__file__).resolve().parents[1]
EXAMPLE = HIL / "boards/example-board.yaml"
VIRTUAL = HIL / "boards/qemu-x86_64.yaml"

# Switches a device on as a test does, tells the processes, and waits to be killed.
RUN = """
import sys, time
from pathlib import Path
from harness.bench import make_tpm
from labgrid import Environment
power = Environment(config_file=sys.argv[1]).get_target("main").get_driver("HilQemuDriver")
folder = Path(sys.argv[2])
power.prepare(folder, registry_port=1, serial="left-1")
make_tpm(folder / "tpm")
power.on()
print(power._qemu.pid, power._swtpm.pid, flush=True)
time.sleep(600)
"""


def check_dry(board: Path) -> subprocess.CompletedProcess[str]:
    """The dry check of a board file."""
    return subprocess.run(
        [sys.executable, str(HIL / "harness/dry.py"), str(board)], capture_output=True, text=True, check=False
    )


def is_running(pid: int) -> bool:
    """Whether a process lives; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.smoke
def test_the_example_board_serves_every_need_with_a_driver_of_real_hardware() -> None:
    result = check_dry(EXAMPLE)
    assert result.returncode == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["power", "NetworkPowerDriver"],
        ["console", "SerialDriver"],
        ["commands", "ShellDriver,", "SSHDriver"],
        ["network", "cable", "HttpDigitalOutputDriver"],
        ["strategy", "EdgeprovStrategy"],
    ]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        pytest.param("      - NetworkPowerDriver: {}\n", "", "PowerProtocol", id="no relay"),
        pytest.param("      - SSHDriver:\n", "      - SSHDriwer:\n", "SSHDriwer", id="a word misspelled"),
        pytest.param("      - EdgeprovStrategy: {}\n", "", "EdgeprovStrategy", id="no strategy"),
        pytest.param("  main:\n", "  ward:\n", "main", id="no target"),
        pytest.param("targets:\n", "targets: [\n", "board.yaml", id="no YAML"),
    ],
)
def test_a_wrong_board_file_is_refused_in_one_line_that_names_what_is_wrong(
    tmp_path: Path, old: str, new: str, word: str
) -> None:
    text = EXAMPLE.read_text()
    assert old in text
    board = tmp_path / "board.yaml"
    board.write_text(text.replace(old, new))
    result = check_dry(board)
    assert result.returncode == 1
    assert result.stderr.startswith("hil: ")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert word in result.stderr


@pytest.mark.smoke
@pytest.mark.virtual
def test_no_process_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(VIRTUAL), str(tmp_path)], cwd=HIL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert run.stdout is not None
        pids = [int(word) for word in run.stdout.readline().split()]
        assert len(pids) == 2, "QEMU and swtpm"
        assert all(is_running(pid) for pid in pids)
    finally:
        run.kill()
        run.wait()
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
