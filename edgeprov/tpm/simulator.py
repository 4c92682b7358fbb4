# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A private swtpm for machines without a TPM: everything works, and all of it says `assurance: dev`.

A simulated device is a folder. Its swtpm runs in the background, so that PCRs live through all
commands of one simulated boot; `reboot` is the only way to a new boot, apart from its death. It is
reached over unix sockets in that folder, never over a port. The parent binds and listens before
swtpm starts, so nobody waits for a file to appear; swtpm inherits a lock that tells whether it lives.

Spec: swtpm(8), swtpm_ioctls(3).
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edgeprov.errors import TpmUnavailable
from edgeprov.tpm.transport import PairTransport, SocketTransport

SOCKET: Final = "simulator.sock"
_CONTROL: Final = "simulator.sock.ctrl"  # this name makes the folder usable with tpm2-tools, too
_LOCK: Final = "simulator.lock"
_BOOT: Final = "simulator.boot"  # locked by swtpm while it lives; holds the id of the simulated boot
_PID: Final = "simulator.pid"
_LOG: Final = "simulator.log"
_START_S: Final = 20.0
_STOP_S: Final = 10.0
_DYING_S: Final = 2.0
_READ_CLOCK: Final = bytes.fromhex("80010000000a00000181")
_SHUTDOWN: Final = bytes.fromhex("80010000000c000001450000")  # TPM2_Shutdown(CLEAR)
_FLAGS: Final = ("--tpm2", "--flags", "not-need-init,startup-clear")


def start(folder: Path) -> SocketTransport:
    """Power the simulated TPM on, unless it is; a dead one is replaced, which is a new boot.

    Raises:
        TpmUnavailable: swtpm is not installed or does not start.
    """
    with _locked(folder):
        if not _answers(folder):
            _spawn(folder)
    return SocketTransport(folder / SOCKET)


def stop(folder: Path, *, power_cut: bool = False) -> None:
    """Power the simulated TPM off, and wait until it is.

    Args:
        folder: The simulated device.
        power_cut: Kill it as a pulled plug would, without TPM2_Shutdown.

    Raises:
        TpmUnavailable: It does not end.
    """
    if not folder.is_dir():
        return
    with _locked(folder):
        if not _alive(folder):
            return
        pid = _pid(folder)
        if not power_cut:
            with suppress(TpmUnavailable):
                _ask(folder, _SHUTDOWN)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if power_cut else signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while _alive(folder):
            if time.monotonic() > deadline:
                raise TpmUnavailable(f"the TPM simulator (process {pid}) does not end")
            time.sleep(0.002)
        for name in (SOCKET, _CONTROL, _PID):
            (folder / name).unlink(missing_ok=True)


def reboot(folder: Path, *, power_cut: bool = False) -> str:
    """Power off and on again: PCRs start at zero, keys and counters stay.

    Returns:
        The id of the new boot.

    Raises:
        TpmUnavailable: swtpm does not end or does not start.
    """
    stop(folder, power_cut=power_cut)
    start(folder)
    found = boot_id(folder)
    if found is None:
        raise TpmUnavailable("the TPM simulator ended right after its start")
    return found


def boot_id(folder: Path) -> str | None:
    """The id of the running simulated boot; None when this simulated TPM is off."""
    if not _alive(folder):
        return None
    return (folder / _BOOT).read_text(encoding="ascii").strip() or None


class PrivateSimulator(PairTransport):
    """A swtpm of this process alone, over a socket pair; it ends with this object. For tests."""

    def __init__(self, folder: Path) -> None:
        """Start it on the state in ``folder``.

        Raises:
            TpmUnavailable: swtpm is not installed.
        """
        import subprocess  # as below: not for the boot check, whose simulated TPM runs already

        program = _program()
        ours, theirs = socket.socketpair()
        with theirs:
            state = _open_folder(folder)
            try:
                command = [program, "socket", *_FLAGS, "--tpmstate", f"dir=/proc/self/fd/{state},mode=0600"]
                command += ["--fd", str(theirs.fileno())]
                self._too_late = subprocess.TimeoutExpired
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(state, theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            finally:
                os.close(state)
        super().__init__(ours, f"private swtpm in {folder}")

    def kill(self) -> None:
        """Cut its power."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the socket, on which swtpm ends, and wait for that."""
        super().close()
        try:
            self._process.wait(timeout=_STOP_S)
        except self._too_late:
            self.kill()


def _spawn(folder: Path) -> None:
    import subprocess
    import uuid

    program = _program()
    for name in (SOCKET, _CONTROL, _PID, _LOG):
        (folder / name).unlink(missing_ok=True)
    state = _open_folder(folder)
    try:
        with (
            _listen(state, SOCKET) as data,
            _listen(state, _CONTROL) as control,
            (folder / _BOOT).open("w", encoding="ascii") as boot,
            (folder / _PID).open("w", encoding="ascii") as pid,
        ):
            fcntl.flock(boot, fcntl.LOCK_EX)
            boot.write(f"{uuid.uuid4()}\n")
            boot.flush()
            passed = (state, data.fileno(), control.fileno(), boot.fileno(), pid.fileno())
            # Descriptors instead of paths: no path is too long or holds a comma, and none can be swapped.
            command = [program, "socket", *_FLAGS, "--daemon"]
            command += ["--tpmstate", f"dir=/proc/self/fd/{state},mode=0600"]
            command += ["--server", f"type=unixio,fd={data.fileno()}"]
            command += ["--ctrl", f"type=unixio,fd={control.fileno()}"]
            command += ["--pid", f"fd={pid.fileno()}", "--log", f"file=/proc/self/fd/{state}/{_LOG}"]
            result = subprocess.run(
                command,
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_START_S,
                check=False,
            )
        if result.returncode != 0:
            raise TpmUnavailable(f"swtpm does not start{_last_words(folder)}")
        try:
            _ask(folder, _READ_CLOCK)
        except TpmUnavailable as error:
            raise TpmUnavailable(f"swtpm does not start{_last_words(folder)}") from error
    except OSError as error:
        raise TpmUnavailable(f"TPM simulator in {folder}: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise TpmUnavailable("swtpm does not start: it hangs") from error
    finally:
        os.close(state)


def _program() -> str:
    import shutil

    program = shutil.which("swtpm")
    if program is None:
        raise TpmUnavailable(
            "this machine has no TPM, and swtpm is not installed",
            advice="Install the package `swtpm` for a simulated TPM (assurance dev), or set tpm.tcti.",
        )
    return program


def _open_folder(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TpmUnavailable(f"TPM simulator in {folder}: {error.strerror}") from error


def _listen(folder: int, name: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(f"/proc/self/fd/{folder}/{name}")
        server.listen(64)
    except OSError:
        server.close()
        raise
    return server


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    os.close(_open_folder(folder))
    try:
        with (folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for the start or stop of one swtpm, both bounded
            yield
    except OSError as error:
        raise TpmUnavailable(f"TPM simulator in {folder}: {error.strerror or error}") from error


def _alive(folder: Path) -> bool:
    try:
        with (folder / _BOOT).open("rb") as boot:
            fcntl.flock(boot, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _answers(folder: Path) -> bool:
    """False when it is off, also when it was killed a moment ago and is not quite gone yet."""
    if not _alive(folder):
        return False
    try:
        _ask(folder, _READ_CLOCK)
    except TpmUnavailable:
        deadline = time.monotonic() + _DYING_S
        while _alive(folder):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        return False
    return True


def _pid(folder: Path) -> int:
    try:
        return int((folder / _PID).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError) as error:
        raise TpmUnavailable(f"TPM simulator in {folder} runs, but its process id is lost") from error


def _ask(folder: Path, command: bytes) -> None:
    link = SocketTransport(folder / SOCKET)
    try:
        link.send(command)
        link.receive(_START_S)
    finally:
        link.close()


def _last_words(folder: Path) -> str:
    try:
        lines = (folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f": {lines[-1][:200]}" if lines else ""
