# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, full or of another encoding, and words that are not UTF-8: never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprov.cli.device_main import VERBS
from edgeprov.cli.fleet_main import VERBS as FLEET_VERBS

ROOT = Path(__file__).parents[2]
DEVICE = "edgeprov.cli.device_main"
FLEET = "edgeprov.cli.fleet_main"
BUFFERING: tuple[dict[str, str], ...] = ({}, {"PYTHONUNBUFFERED": "1"})  # a full disk is noticed at the end, or at once


def shell(
    words: str,
    folder: Path,
    env: dict[str, str] | None = None,
    program: str = DEVICE,
    keep: tuple[int, ...] = (),
) -> subprocess.CompletedProcess[bytes]:
    """A command as a shell starts it, in an environment of its own; ``words`` may redirect."""
    config = folder / "edgeprov.toml"
    if not config.exists():
        config.write_text('[device]\nserial = "d1"\nstate_dir = "state"\nrun_dir = "run"\n')
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -m {program} {words}', sys.executable],
        cwd=folder,
        capture_output=True,
        pass_fds=keep,
        timeout=60,
        env={"PATH": os.environ["PATH"], "EDGEPROV_CONFIG": str(config), "PYTHONPATH": str(ROOT), **(env or {})},
        check=False,
    )
    for word in (b"Traceback", b"internal error", b"Exception ignored"):
        assert word not in done.stderr + done.stdout
    return done


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("status >&-", 0),
        ("status --json >&-", 0),
        ("--help >&-", 0),
        ("status --nonsense >&- 2>&-", 2),
        ("status <&- >&- 2>&-", 0),
        ("identity csr -o - >&-", 24),
        ("infer --input - <&-", 55),
        ("label --from - <&-", 0),
        ("record <&-", 0),
    ],
)
def test_a_closed_stream_is_an_empty_one(words: str, code: int, tmp_path: Path) -> None:
    assert shell(words, tmp_path).returncode == code


def end_of(program: str) -> subprocess.CompletedProcess[str]:
    """A process whose life is ``edgeprov --help``, after ``program``."""
    words = f"import sys\nsys.argv = ['edgeprov', '--help']\n{program}\nfrom {DEVICE} import main\nsys.exit(main())"
    return subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_what_was_left_for_the_end_is_done_at_the_end() -> None:
    done = end_of("import atexit\natexit.register(print, 'at the end')")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("at the end\n")
    assert done.stdout.count("at the end") == 1


def test_a_thread_finishes_its_work() -> None:
    done = end_of("import threading\nthreading.Timer(0.5, print, ('by a thread',)).start()")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("by a thread\n")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom edgeprov.cli.output import run_program\n"
        "run_program('p', '', 'edgeprov.cli.device', {'v': ''}, [])\n"
        "sys.exit(os.open('f', os.O_RDWR | os.O_CREAT))"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "{program}" <&- >&- 2>&-', sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode >= 3


HELP = [(program, words) for program in (DEVICE, FLEET) for words in ("", "--help", "-h", "--version")]
HELP += [(DEVICE, f"{verb} --help") for verb in VERBS] + [(DEVICE, "identity csr --help")]
HELP += [(FLEET, f"{verb} --help") for verb in FLEET_VERBS] + [(FLEET, "ca init --help")]


@pytest.mark.parametrize("buffering", BUFFERING)
@pytest.mark.parametrize(
    ("program", "words"), [*HELP, (DEVICE, "status"), (DEVICE, "status --json"), (DEVICE, "doctor")]
)
def test_a_full_output_is_said_on_stderr(program: str, words: str, buffering: dict[str, str], tmp_path: Path) -> None:
    done = shell(f"{words} >/dev/full", tmp_path, buffering, program)
    assert done.returncode == 30
    assert b"No space left" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("buffering", BUFFERING)
@pytest.mark.parametrize("program", [DEVICE, FLEET])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help >/dev/full 2>/dev/full", 30),
        ("nonsense 2>/dev/full", 2),
        ("nonsense --json >/dev/full 2>/dev/full", 2),
        ("--help >&-", 0),
        ("--version >&- 2>&-", 0),
    ],
)
def test_an_output_that_nobody_gets_leaves_the_exit_code(
    program: str, words: str, code: int, buffering: dict[str, str], tmp_path: Path
) -> None:
    done = shell(words, tmp_path, buffering, program)
    assert done.returncode == code
    assert done.stderr == b""


@pytest.mark.parametrize("buffering", BUFFERING)
@pytest.mark.parametrize(("program", "words"), [*HELP, (DEVICE, "status")])
def test_a_reader_that_went_away_is_no_error(
    program: str, words: str, buffering: dict[str, str], tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = shell(f"{words} >&{writer}", tmp_path, buffering, program, keep=(writer,))
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


def test_an_error_in_json_that_nobody_can_read_is_said_on_stderr(tmp_path: Path) -> None:
    done = shell("status --json --nonsense >/dev/full", tmp_path)
    assert done.returncode == 2
    assert b"--nonsense" in done.stderr


def test_json_is_utf_8_whatever_the_terminal_is(tmp_path: Path) -> None:
    done = shell("label --from ü☃ --json", tmp_path, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"})
    assert json.loads(done.stdout)["code"] == 2
    assert "ü☃" in done.stdout.decode()


def test_text_that_a_terminal_lacks_is_escaped(tmp_path: Path) -> None:
    done = shell("export ☃", tmp_path, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"})
    assert done.returncode == 0
    assert b"in \\u2603, " in done.stdout


@pytest.mark.parametrize("words", ["label --from", "identity install", "receipt install", "model install"])
def test_a_name_that_is_not_utf_8_gives_one_json_object(words: str, tmp_path: Path) -> None:
    name = tmp_path / "name"
    name.write_bytes(b"\xff\xfe/x")
    done = shell(f'{words} "$(cat name)" --json', tmp_path)
    assert json.loads(done.stdout)["type"] == "error"
    assert done.returncode not in (0, 1)
