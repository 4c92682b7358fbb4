# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The steps of `tests/run`, each a process in a session of its own: progress, logs, and an end that leaves nothing.

    steps.py fast|all LOGS         checks, then the tests of both environments side by side
    steps.py paths LOGS PATH ...   these tests, with their output
    steps.py command LOGS ARG ...  one command, with its output (hil/run)
    steps.py total LOGS            the sum of LOGS/*.xml

SIGTERM is what a script sends on Ctrl-C (hil/common.sh). pytest gets SIGINT then, so that fixtures end their
servers; what is left after some seconds, orphans included, is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import IO

DEVICE, FLEET = ".venv/device/bin/python", ".venv/fleet/bin/python"
# These need the packages of the fleet side or its linters; all others run on the device side.
FLEET_PATHS = ("tests/fleet", "tests/vectors", "tests/layer")
CHECKED = ("edgeprov", "tests", "hil")
CHECKS = {
    "format": ("ruff", "format", "--check", *CHECKED),
    "lint": ("ruff", "check", *CHECKED),
    "types": ("mypy",),
    "layers": ("lint-imports",),
    "spelling": ("codespell", *CHECKED, "README.md", "CHANGELOG.md", "meta-provenance"),
}
TEARDOWN_S = 5.0
TELL_S = 30.0  # between two lines about progress, where there is no terminal
PROGRESS = re.compile(r"^([.sxXFE]+)(?: +\[ *\d+%\])?$", re.MULTILINE)
running: list[subprocess.Popen[bytes]] = []


class Interrupted(BaseException):
    """SIGTERM came."""


def start(command: Sequence[str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    errors = subprocess.PIPE if output == subprocess.PIPE else subprocess.STDOUT
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True)
    running.append(process)
    return process


def end(process: subprocess.Popen[bytes]) -> int:
    code = process.wait()
    running.remove(process)
    return code


def end_all() -> None:
    """Let what runs end in order, then kill what is left."""
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + TEARDOWN_S
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(FileNotFoundError):  # a kernel without CONFIG_PROC_CHILDREN
        while pids := children.read_text().split():
            for pid in map(int, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def check(logs: Path) -> list[str]:
    """Run the checks over the tree; the names of those that failed."""
    failed = []
    for name, (program, *arguments) in CHECKS.items():
        with (logs / name).open("wb") as log:
            code = end(start([f".venv/fleet/bin/{program}", *arguments], log))
        text = (logs / name).read_text(errors="replace")
        last = (text.splitlines() or [""])[-1][:100]
        print(f"{name:12} ok     {last}" if code == 0 else f"{name:12} FAILED\n{text}", flush=True)
        failed += [name] if code else []
    return failed


def test(logs: Path, *options: str) -> list[str]:
    """Run both environments side by side: one process each, and most tests wait more than they compute."""
    ignored = [f"--ignore={path}" for path in (*FLEET_PATHS, "tests/bench")]
    suites = {"device": [DEVICE, "tests", *ignored], "fleet": [FLEET, *FLEET_PATHS]}
    processes = {}
    for name, (python, *paths) in suites.items():
        command = [python, "-m", "pytest", "-q", "--junitxml", str(logs / f"{name}.xml"), *paths, *options]
        with (logs / name).open("wb") as log:
            processes[name] = start(command, log)
    show_progress(logs, processes)
    failed = [name for name, process in processes.items() if end(process)]
    for name in suites:
        lines = (logs / name).read_text(errors="replace").splitlines()
        for line in lines if name in failed else lines[-15:]:
            print(f"[{name}] {line}")
    return failed


def show_progress(logs: Path, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Until they end, say how far they are: on a terminal each second, elsewhere now and then."""
    terminal = sys.stderr.isatty()
    started = told = time.monotonic()
    while any(process.poll() is None for process in processes.values()):
        time.sleep(1)
        now = time.monotonic()
        if not terminal and now - told < TELL_S:
            continue
        told = now
        parts = []
        for name in processes:
            done = "".join(PROGRESS.findall((logs / name).read_text(errors="replace")))
            bad = done.count("F") + done.count("E")
            parts.append(f"{name}: {done.count('.')} passed" + (f", {bad} FAILED" if bad else ""))
        line = f"{now - started:4.0f} s  {'; '.join(parts)}"
        sys.stderr.write(f"\r\033[K{line}" if terminal else f"tests: {line}\n")
        sys.stderr.flush()
    if terminal:
        sys.stderr.write("\r\033[K")


def relay(command: Sequence[str]) -> int:
    """Run a command with its output passed on; after an interrupt nobody reads its last words."""
    process = start(command, subprocess.PIPE)
    threads = [
        threading.Thread(target=pass_on, args=(ours, theirs), daemon=True)
        for ours, theirs in ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer))
    ]
    for thread in threads:
        thread.start()
    code = process.wait()
    for thread in threads:
        thread.join(2)  # a server that a test left may hold the other end
    running.remove(process)
    return code


def pass_on(source: IO[bytes] | None, target: IO[bytes]) -> None:
    assert source is not None
    while data := os.read(source.fileno(), 65536):
        if not stopping.is_set():
            try:
                target.write(data)
                target.flush()
            except BrokenPipeError:  # the reader went away (| head)
                stopping.set()


def total(logs: Path) -> None:
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for path in logs.glob("*.xml"):
        for suite in ET.parse(path).iter("testsuite"):
            for key in counts:
                counts[key] += int(suite.get(key, 0))
    failed = counts["failures"] + counts["errors"]
    print(f"{counts['tests'] - failed - counts['skipped']} passed, {failed} failed, {counts['skipped']} skipped")


def main() -> int:
    level, logs, *words = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
    if level == "total":
        total(logs)
        return 0
    if level == "command":
        return relay(words)
    if level == "paths":
        failed = []
        for path in words:
            python = FLEET if path.startswith(FLEET_PATHS) else DEVICE
            colour = "--color=yes" if sys.stdout.isatty() else "--color=no"
            failed += [path] if relay([python, "-m", "pytest", "-q", colour, path]) else []
    else:
        failed = check(logs) + test(logs, *(("-m", "not slow") if level == "fast" else ()))
    if failed:
        print(f"tests: failed: {' '.join(failed)}")
    return 1 if failed else 0


def interrupt(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping.set()
    raise Interrupted


stopping = threading.Event()
if __name__ == "__main__":
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become children, and are ended too
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    code = 130
    try:
        code = main()
        sys.stdout.flush()
    except Interrupted:
        pass
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 141
    finally:
        end_all()
    sys.exit(code)
