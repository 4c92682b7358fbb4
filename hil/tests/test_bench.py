# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The bench itself: boards and foreign images are checked first, evidence is kept, nothing outlives a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.qemu import PATIENCE_S
from harness.qemu import run as run_tool
from harness.sockets import SocketFolder, remove_stale

HIL = Path(__file__).resolve().parents[1]
EXAMPLE = HIL / "boards/example-board.yaml"

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
print(power._sockets.path, power._qemu.pid, power._swtpm.pid, flush=True)
time.sleep(600)
"""

# A test that fails while its device runs.
FAILING = """
def test_that_fails_on_purpose(device):
    device.run("echo the last words of a device >/dev/console; logger -t bench the last line of a journal")
    assert False, "on purpose"
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
def test_a_dry_check_builds_nothing_and_needs_no_privilege(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    # Root without its capabilities is nobody's root: it can neither chown nor mount.
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    result = subprocess.run(
        [*drop, str(HIL / "run"), "--board", str(EXAMPLE), "--dry"], capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == check_dry(EXAMPLE).stdout
    assert result.stderr == ""
    assert not list(cache.iterdir()), "no layer of an image"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("image", "kernel", "word"),
    [
        pytest.param("absent", "good", "no such file", id="no such image"),
        pytest.param("empty", "good", "is empty", id="empty"),
        pytest.param("qcow2", "good", "convert it to raw", id="not raw"),
        pytest.param("good", "absent", "no such file", id="no such kernel"),
        pytest.param("good", "elf", "vmlinux", id="vmlinux"),
        pytest.param("good", None, "--kernel", id="no kernel"),
    ],
)
def test_a_foreign_image_that_cannot_boot_is_refused_in_one_line(
    tmp_path: Path, image: str, kernel: str | None, word: str
) -> None:
    contents = {"empty": b"", "qcow2": b"QFI\xfb" + bytes(2000), "elf": b"\x7fELF" + bytes(2000)}
    contents["good"] = bytes(0x202) + b"HdrS" + bytes(1080 - 0x206) + b"\x53\xef" + bytes(1000)  # either magic
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    words = ["--image", str(tmp_path / image), *(["--kernel", str(tmp_path / kernel)] if kernel else [])]
    result = subprocess.run([str(HIL / "run"), *words], capture_output=True, text=True, check=False)
    assert result.returncode == (1 if kernel else 2), "2: an option is missing"
    assert result.stderr.startswith("hil: ")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert word in result.stderr


@pytest.mark.full
@pytest.mark.virtual
def test_an_image_that_was_built_elsewhere_takes_the_place_of_ours(tmp_path: Path, saved: Path) -> None:
    given = {"--image": "LG_ROOT", "--kernel": "LG_KERNEL", "--initrd": "LG_INITRD"}
    words = []
    for option, name in given.items():
        copy = tmp_path / f"foreign{option}"
        run_tool("cp", "--sparse=always", os.environ[name], copy)
        words += [option, str(copy)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LG_")}
    environment["LG_SAVED"] = str(saved)  # a first boot does not use it
    result = subprocess.run(
        [str(HIL / "run"), "smoke", *words, "-k", "first_boot_measures"], capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


@pytest.mark.full
@pytest.mark.virtual
def test_a_failed_test_keeps_serial_log_journal_and_tpm_and_says_where(
    tmp_path: Path, saved: Path, request: pytest.FixtureRequest
) -> None:
    failing = tmp_path / "test_fails.py"
    failing.write_text(FAILING)
    environment = {
        **os.environ, "LG_SAVED": str(saved), "LG_RUNS": str(tmp_path / "runs"), "LG_LEVEL": "full",
        "PYTHONPATH": f"{HIL}:{HIL / 'tests'}",
    }  # fmt: skip
    board = str(request.config.getoption("lg_env"))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(HIL / "pytest.ini"), "--rootdir", str(HIL), "-p", "conftest",
         "--lg-env", board, str(failing)],
        cwd=HIL, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout + result.stderr
    said = [line for line in result.stdout.splitlines() if line.startswith("kept of test_that_fails_on_purpose: ")]
    assert said, result.stdout
    folder = Path(said[0].partition(": ")[2])
    assert "the last words of a device" in (folder / "serial-0.log").read_text(errors="replace")
    assert "the last line of a journal" in (folder / "journal.txt").read_text()
    assert (folder / "tpm/tpm2-00.permall").stat().st_size > 1000
    assert (folder / "data.qcow2").exists()


@pytest.mark.smoke
@pytest.mark.virtual
def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    board = str(request.config.getoption("lg_env"))
    in_use = SocketFolder()
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, board, str(tmp_path)], cwd=HIL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert run.stdout is not None
        folder, *words = run.stdout.readline().split()
        pids = [int(word) for word in words]
        assert len(pids) == 2, "QEMU and swtpm"
        assert all(is_running(pid) for pid in pids)
    finally:
        run.kill()
        run.wait()
    deadline = time.monotonic() + PATIENCE_S
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    # The sockets could not be removed by the dead; whoever starts next does it, and leaves those in use.
    assert Path(folder).exists()
    remove_stale()
    assert not Path(folder).exists()
    assert in_use.path.exists()
    in_use.remove()
