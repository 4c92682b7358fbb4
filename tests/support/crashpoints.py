# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Stops a piece of work at each of its changes to the disk in turn, in two ways.

``in_child`` forks, and the store's hook kills the child (or makes the call fail) at the n-th change:
fast enough to be exhaustive. ``strace`` does the same to a real program at its system calls, which
shows that no change escapes the hook.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprov.errors import EdgeprovError
from edgeprov.store import atomic

TOTALS: Counter[str] = Counter()
"""Printed at the end of the test run."""

EVERYTHING = os.environ.get("EDGEPROV_CRASH") == "all"
"""Unset, the longest tests take every n-th stop; set, they take each (an hour and more)."""

# What can change the disk. openat is missing on purpose: a file that was only created is what the
# next of these calls finds, so a stop there is a stop here. Standard output is written with write.
CHANGING = (
    "pwrite64", "write", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat",
    "mkdir", "mkdirat", "ftruncate", "fallocate", "link", "linkat", "ioctl",
)  # fmt: skip


@dataclass(frozen=True)
class Stopped:
    """How a run ended.

    Attributes:
        acknowledged: What it told before it ended, in order.
        finished: It ran to its end: there was no n-th change.
        error: It ended with an error of ours, as its exit code.
    """

    acknowledged: list[str]
    finished: bool
    error: int | None = None


def in_child(
    work: Callable[[Callable[[str], None]], None], number: int, *, code: int | None = None, sticky: bool = False
) -> Stopped:
    """Run ``work`` in a forked child that is killed before its change ``number`` (from 0).

    Args:
        work: Gets a function to acknowledge with.
        number: Which change.
        code: Let that change fail with this errno instead of killing.
        sticky: And all later ones that need space, as on a disk that stays full.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        status = 99
        try:
            os.close(reader)
            status = _child(work, number, code, writer, sticky=sticky)
        except BaseException as error:
            os.write(writer, f"CRASHED {error!r}\n".encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        told = stream.read().splitlines()
    _, status = os.waitpid(pid, 0)
    assert not [line for line in told if line.startswith("CRASHED")], told[-1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return Stopped(told, finished=False)
    result = os.WEXITSTATUS(status)
    return Stopped(told, finished=result == 0, error=result or None)


def under_strace(
    work: Callable[[Callable[[str], None]], None],
    *options: str | Path,
    counts: Counter[str] | None = None,
    but: str = "\0",
) -> Stopped:
    """Run ``work`` in a forked child that strace is attached to before it begins.

    Args:
        work: As for in_child.
        options: What strace shall do.
        counts: Gets how often each operation passed the store's hook,
        but: except on paths that hold this.
    """
    gate, opener = os.pipe()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        status = 99
        try:
            os.close(reader)
            os.read(gate, 1)
            if counts is not None:
                atomic.hook = lambda operation, path, *_: counts.update(() if but in path else (operation,))
            work(lambda text: os.write(writer, f"{text}\n".encode()) and None)
            for operation, number in (counts or Counter()).items():
                os.write(writer, f"HOOK {operation} {number}\n".encode())
            status = 0
        except EdgeprovError as error:
            status = error.exit_code
        finally:
            os._exit(status)
    os.close(writer)
    tracer = subprocess.Popen(["strace", "-f", "-qq", *options, "-p", str(pid)], stderr=subprocess.DEVNULL)
    while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
        assert tracer.poll() is None, "strace could not attach"
    os.write(opener, b"g")
    os.close(opener)
    os.close(gate)
    with os.fdopen(reader) as stream:
        told = stream.read().splitlines()
    _, status = os.waitpid(pid, 0)
    tracer.wait()
    for line in told:
        if line.startswith("HOOK ") and counts is not None:
            counts[line.split()[1]] = int(line.split()[2])
    told = [line for line in told if not line.startswith("HOOK ")]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return Stopped(told, finished=False)
    result = os.WEXITSTATUS(status)
    assert result != 99, "the child failed"
    return Stopped(told, finished=result == 0, error=result or None)


def _child(
    work: Callable[[Callable[[str], None]], None], number: int, code: int | None, writer: int, *, sticky: bool
) -> int:
    seen = 0

    def hook(operation: str, path: str, *_: object) -> None:
        nonlocal seen
        if operation == "tpm" and code is not None:
            return  # a TPM does not run out of disk
        seen += 1
        if seen <= number:
            return
        if code is None:
            os.kill(os.getpid(), signal.SIGKILL)
        elif seen == number + 1 or (sticky and operation in ("create", "write", "allocate", "mkdir")):
            raise OSError(code, os.strerror(code), path)

    atomic.hook = hook
    try:
        work(lambda text: os.write(writer, f"{text}\n".encode()) and None)
    except EdgeprovError as error:
        return error.exit_code
    return 0 if seen <= number else 98  # an error that nobody noticed


def count_calls(argv: Sequence[str], log: Path, *, env: dict[str, str] | None = None, but: str = "\0") -> Counter[str]:
    """How often a program makes each of the changing calls; ``but`` as for calls_in."""
    subprocess.run(
        ["strace", "-f", "-qq", *trace_changes(log), *argv],
        check=True,
        env=env,
        stdout=subprocess.DEVNULL,
    )
    return calls_in(log, but=but)


def trace_changes(log: Path) -> tuple[str | Path, ...]:
    """Options of strace for a log that calls_in reads."""
    return "-y", "-o", log, "-e", "trace=" + ",".join(f"?{name}" for name in CHANGING)


def calls_in(log: Path, *, but: str = "\0") -> Counter[str]:
    """How often each changing call is in a log of strace; calls that name a path with ``but`` in it are left out."""
    found: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(?:\d+ +)?(\w+)\(", line)
        if match and but not in line:
            found[match[1]] += 1
    return found


def strace(
    argv: Sequence[str], call: str, number: int, *, error: str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program that is killed at the ``number``-th ``call`` (from 1), or whose call fails there."""
    how = f"error={error}" if error else "signal=KILL"
    return subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{how}:when={number}", *argv],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def program(module: str, *arguments: str) -> list[str]:
    """A Python module of the tests as a program."""
    return [sys.executable, "-B", "-m", module, *arguments]
