# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The scripts of the tree: help without an install, one line for a wrong word, a scrubbed environment, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANTED = "tests/unit/planted_environment.py"
SCRIPTS = ("hil/demo", "hil/run", "hil/setup", "tests/run", "tests/peers/install")
FOREIGN = {
    "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": "/nowhere",
    "PIP_CERT": "/nowhere", "PIP_INDEX_URL": "https://nowhere.example", "SSL_CERT_FILE": "/nowhere",
    "SSL_CERT_DIR": "/nowhere", "REQUESTS_CA_BUNDLE": "/nowhere", "LANG": "tr_TR.UTF-8", "LC_ALL": "C",
    "http_proxy": "http://nowhere.example", "COLUMNS": "40", "EDGEPROV_CONFIG": "/nowhere", "RUST_BACKTRACE": "1",
}  # fmt: skip


@pytest.fixture
def watched_tools(tmp_path: Path) -> dict[str, str]:
    """An environment in which each tool that installs something leaves its name in ``installed``."""
    for name in ("apt-get", "sudo", "pip", "pip3", "python3", "go"):
        tool = tmp_path / "tools" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\necho {name} "$@" >>"{tmp_path}/installed"\nexit 1\n')
        tool.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    return {"PATH": f"{tmp_path}/tools:/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}


def copy_scripts(folder: Path) -> Path:
    """The scripts in a tree without environments, so that none of them could say that all is there."""
    for name in (*SCRIPTS, "hil/common.sh", "hil/boards/qemu-x86_64.yaml"):
        place = folder / "tree" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((ROOT / name).read_bytes())
        place.chmod(0o755)
    return folder / "tree"


def left(folder: Path) -> list[str]:
    """What a script made: folders and environments, and the tools that it called."""
    made = [*(folder / "tmp").iterdir(), folder / "tree/.venv", folder / ".cache", folder / "installed"]
    return [str(path) for path in made if path.exists()]


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_installs_nothing(script: str, option: str, watched_tools: dict[str, str], tmp_path: Path) -> None:
    tree = copy_scripts(tmp_path)
    done = subprocess.run([tree / script, option], env=watched_tools, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert script in done.stdout
    assert "SPDX" not in done.stdout
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        "hil/demo --kep DIR", "hil/demo --keep", "hil/demo --keep /usr", "hil/demo more", "hil/run --bord x",
        "hil/run --arch", "hil/run --arch mips", "hil/run --board", "hil/run --board nosuch.yaml", "hil/run --image x",
        "hil/run -q", "hil/setup nosuch", "hil/setup tests more", "tests/run --fast", "tests/run nosuch.py",
        "tests/run fast more", "tests/run --no-setup --fast", "tests/peers/install nosuch", "tests/peers/install -x",
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_line_before_anything_is_installed(
    words: str, watched_tools: dict[str, str], tmp_path: Path
) -> None:
    tree = copy_scripts(tmp_path)
    script, *arguments = words.split()
    done = subprocess.run([tree / script, *arguments], env=watched_tools, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert left(tmp_path) == []


def test_a_test_sees_nothing_of_the_callers_environment(tmp_path: Path) -> None:
    told = tmp_path / "told"
    known = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "CI": "true", "HYPOTHESIS_PROFILE": str(told)}
    done = subprocess.run(
        [ROOT / "tests/run", "--no-setup", f"{PLANTED}::test_tell"], env=FOREIGN | known, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {name: value for name, value in json.loads(told.read_text()).items() if not name.startswith("PYTEST_")}
    assert seen.pop("TMPDIR").endswith("/t")
    assert seen.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python's own, where nothing says what the locale is
    assert seen == {**known, "PATH": known["PATH"] + ":/usr/sbin:/sbin"}


def interrupted(
    command: list[str | Path], environment: dict[str, str], ready: Callable[[str], bool], *, terminal: bool
) -> tuple[int, str]:
    """Start a script as the group of a terminal, press Ctrl-C when ``ready`` says so of its output; code and output."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, process_group=0
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    output = ""
    pressed = 0.0
    started = time.monotonic()
    while True:
        try:
            data = os.read(ours, 65536)
        except BlockingIOError:
            data = None
        except OSError:  # how a terminal says that nobody is there any more
            data = b""
        if data:
            output += data.decode()
        if data == b"":
            break
        if not pressed and ready(output):
            pressed = time.monotonic()
            output = ""
            os.killpg(process.pid, signal.SIGINT)
        assert time.monotonic() - started < 120, output
        time.sleep(0.02)
    os.close(ours)
    code = process.wait(10)
    assert pressed, output
    assert time.monotonic() - pressed < 20  # five of them are what tests get for their end
    return code, output


def processes_with(text: str) -> list[str]:
    """Command lines and environments of processes that name ``text``."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                words = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            except OSError:
                continue
            if text.encode() in words:
                found.append(words[:200].decode(errors="replace"))
    return found


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_ends_tests_with_one_line(terminal: bool, tmp_path: Path) -> None:
    told = tmp_path / "told"
    (tmp_path / "tmp").mkdir()
    environment = {
        "PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "HYPOTHESIS_PROFILE": str(told),
        "TMPDIR": str(tmp_path / "tmp"),
    }  # fmt: skip
    command = [ROOT / "tests/run", "--no-setup", f"{PLANTED}::test_hang"]
    code, output = interrupted(command, environment, lambda _: told.exists(), terminal=terminal)
    assert code == 130
    assert output.replace("\r\033[K", "").strip() == "tests: interrupted"
    assert processes_with(str(told)) == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("step", [" 1. ", " 4. ", " 8. "])
def test_ctrl_c_ends_the_demo_with_one_line(step: str, terminal: bool, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    place = tmp_path / "kept"
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TMPDIR": str(tmp_path / "tmp")}
    command = [ROOT / "hil/demo", *(["--keep", place] if step == " 4. " else [])]
    code, output = interrupted(command, environment, lambda output: step in output, terminal=terminal)
    lines = output.replace("\r\033[K", "").replace("\r", "").splitlines()
    assert code == 130
    assert lines[-1] == "demo: interrupted"
    assert "Traceback" not in output
    assert [line for line in lines[:-1] if line and not line.startswith("    ")] == []
    assert processes_with(str(tmp_path)) == []
    assert [path for path in (place, tmp_path / "tmp") if path.exists() and any(path.iterdir())] == []


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_ends_an_install_with_one_line(terminal: bool, tmp_path: Path) -> None:
    """With stand-ins for apt-get and its like that never end: what the shell does with them is at stake."""
    tree = copy_scripts(tmp_path)
    (tmp_path / "tmp").mkdir()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in {
        "dpkg-query": "exit 0",
        "id": "echo 0",
        "apt-get": f'echo $$ >>"{tmp_path}/pids"; sleep 7072 & wait',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    code, output = interrupted(
        [tree / "hil/demo"], environment, lambda _: (tmp_path / "pids").exists(), terminal=terminal
    )
    assert code == 130
    assert output.replace("\r\033[K", "").strip().splitlines()[-1] == "demo: interrupted"
    assert processes_with(str(tmp_path)) == []
    assert not (tree / ".venv").exists()
    assert list((tmp_path / "tmp").iterdir()) == []
