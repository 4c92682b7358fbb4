# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One connection to a TPM: commands with retries, errors in our words, one lock, nothing left behind.

Runs on tpm2-pytss 2.3 and 3.0. Structures cross the border as bytes only: a field of a temporary
pytss object is a dangling pointer, bytes are not.

Spec: TPM 2.0 Library, Part 2, 6.6 (response codes); TCG TSS 2.0 Enhanced System API.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from edgeprov.errors import StoreError, TpmBusy, TpmError, TpmLockout, TpmUnavailable
from edgeprov.limits import LIMITS
from edgeprov.tpm.transport import Transport

# The C library writes to stderr unless told otherwise before it is loaded.
os.environ.setdefault("TSS2_LOG", "all+none")

import tpm2_pytss as tss
from tpm2_pytss.TCTI import PyTCTI

__all__ = [
    "RC_AUTH_FAIL",
    "RC_BAD_AUTH",
    "RC_HANDLE",
    "RC_INTEGRITY",
    "RC_NV_DEFINED",
    "RC_NV_UNINITIALIZED",
    "RC_VALUE",
    "Channel",
    "Connection",
    "lock_within",
    "response_code",
    "tss",
]

T = TypeVar("T")

RC_NV_UNINITIALIZED: Final = 0x14A
RC_NV_DEFINED: Final = 0x14C
RC_HANDLE: Final = 0x08B  # format one, without its handle number
RC_AUTH_FAIL: Final = 0x08E
RC_BAD_AUTH: Final = 0x0A2
RC_VALUE: Final = 0x084
RC_INTEGRITY: Final = 0x09F
_RC_INITIALIZE: Final = 0x100
_RC_FAILURE: Final = 0x101
_RC_MEMORY: Final = frozenset((0x902, 0x903))  # object and session slots
_RC_BUSY: Final = _RC_MEMORY | {0x908, 0x920, 0x922, 0x923}  # yielded, NV rate, retry, NV unavailable
_RC_LOCKOUT: Final = 0x921
_CREATE_COMMANDS: Final = frozenset((0x131, 0x153))
_CAP_HANDLES: Final = 1
_CAP_PROPERTIES: Final = 6
_TRANSIENT: Final = 0x80000000
_SESSIONS: Final = (0x02000000, 0x03000000)  # HMAC and policy sessions that are loaded


class Channel(PyTCTI):  # type: ignore[misc]  # pytss has no types
    """Carries ESAPI's commands over a Transport; keeps the first failure, after which nothing more is sent."""

    def __init__(self, link: Transport) -> None:
        """Take over ``link``."""
        super().__init__()
        self.link = link
        self.failure: TpmUnavailable | None = None
        self._timeout_s = LIMITS.tpm_command_s

    def do_transmit(self, command: bytes) -> None:
        """Called by ESAPI with one command."""
        code = int.from_bytes(command[6:10], "big")
        self._timeout_s = LIMITS.tpm_keygen_s if code in _CREATE_COMMANDS else LIMITS.tpm_command_s
        self._guard(lambda: self.link.send(command))

    def do_receive(self, timeout: int) -> bytes:  # noqa: ARG002 - ESAPI always says -1: for ever
        """Called by ESAPI for the response."""
        return self._guard(lambda: self.link.receive(self._timeout_s))

    def _guard(self, step: Callable[[], T]) -> T:
        if self.failure is not None:
            raise self.failure
        try:
            return step()
        except TpmUnavailable as error:
            self.failure = error
            raise


class Connection:
    """An ESAPI context. For one thread at a time."""

    def __init__(self, link: Transport, *, lock_path: Path, shared: bool) -> None:
        """Start to talk.

        Args:
            link: Carries the commands; closed with this connection.
            lock_path: File of the lock that all processes of this device share.
            shared: True behind a resource manager, which gives each process its own slots.
        """
        self._channel = Channel(link)
        self._lock_path = lock_path
        self._lock_fd = -1
        self._lock_depth = 0
        self._in_use = 0
        self._shared = shared
        self.esys = tss.ESAPI(self._channel)

    @property
    def name(self) -> str:
        """Where the TPM is, for messages."""
        return self._channel.link.name

    def close(self) -> None:
        """End the connection. Never raises."""
        self.esys.close()
        self._channel.link.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # -- commands -------------------------------------------------------------------------------
    def run(self, what: str, command: Callable[[], T]) -> T:
        """Run one command; a busy TPM is asked again for a while.

        Args:
            what: For messages, as in "TPM cannot ``what``".
            command: Calls ESAPI and returns plain values.

        Raises:
            TpmUnavailable: No TPM answers.
            TpmLockout: Dictionary-attack lockout; never asked again.
            TpmBusy: Still busy at the end.
            TpmError: Anything else.
        """
        found, value = self.attempt(what, command, ())
        assert found  # noqa: S101 - no code was declared to be an answer
        return value  # type: ignore[return-value]

    def attempt(self, what: str, command: Callable[[], T], negative: Collection[int]) -> tuple[bool, T | None]:
        """As `run`, but the response codes in ``negative`` mean "no": (False, None).

        Format-one codes in ``negative`` are given without parameter, handle or session number.
        """
        deadline = time.monotonic() + LIMITS.tpm_busy_s
        pause = 0.004
        while True:
            try:
                return True, command()
            except tss.TSS2_Exception as error:
                code = response_code(int(error.rc))
                if self._channel.failure is not None:
                    raise self._channel.failure from error
                if code in negative:
                    return False, None
                if code not in _RC_BUSY or time.monotonic() > deadline:
                    raise self._translate(what, code, error) from error
                if code in _RC_MEMORY:
                    self._reclaim()
            except TpmUnavailable as error:
                self._channel.failure = self._channel.failure or error
                raise
            except (IndexError, ValueError, TypeError, RuntimeError) as error:
                if self._channel.failure is not None:
                    raise self._channel.failure from error
                raise TpmError(f"TPM cannot {what}: {error}") from error
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, 0.5)

    def _translate(self, what: str, code: int, error: Exception) -> TpmError:
        text = f"TPM cannot {what}: 0x{code:03x} {str(error).removeprefix('tpm:')}"
        if code == _RC_LOCKOUT:
            return TpmLockout(text)
        if code in _RC_BUSY:
            return TpmBusy(text)
        if code == _RC_INITIALIZE:
            return TpmUnavailable(text, advice="The firmware did not start the TPM; power-cycle the device.")
        if code == _RC_FAILURE:
            return TpmUnavailable(text, advice="The TPM is in failure mode; power-cycle the device.")
        if code in (RC_AUTH_FAIL, RC_BAD_AUTH):
            return TpmError(text, advice="The TPM's owner password is set: provision before setting it.")
        return TpmError(text)

    # -- lock and slots -------------------------------------------------------------------------
    @contextmanager
    def group(self) -> Iterator[None]:
        """Keep other edgeprov processes off the TPM for the body; may be nested.

        Raises:
            TpmBusy: Another process keeps the lock.
            StoreError: The lock file cannot be made.
        """
        if self._lock_depth == 0:
            self._lock()
        self._lock_depth += 1
        try:
            yield
        finally:
            self._lock_depth -= 1
            if self._lock_depth == 0:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _lock(self) -> None:
        try:
            if self._lock_fd < 0:
                self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            lock_within(self._lock_fd, fcntl.LOCK_EX, LIMITS.tpm_busy_s)
        except TimeoutError as error:
            raise TpmBusy("another process keeps the TPM's lock") from error
        except OSError as error:
            raise StoreError(f"{self._lock_path}: {error.strerror}") from error

    def _reclaim(self) -> None:
        # Without a resource manager, objects of a killed process stay in the TPM. Only while we hold the
        # lock is it sure that nobody uses them; ours are never loaded while another command needs a slot.
        if self._shared or self._lock_depth == 0 or self._in_use:
            return
        for first in (_TRANSIENT, *_SESSIONS):
            for handle in self.handles(first):
                try:
                    self.esys.flush_context(self.esys.tr_from_tpmpublic(handle))
                except tss.TSS2_Exception:
                    continue

    @contextmanager
    def loaded(self, handle: Any) -> Iterator[Any]:
        """Flush a transient object or a session after the body, whatever happens in it."""
        self._in_use += 1
        try:
            yield handle
        finally:
            self._in_use -= 1
            self.flush(handle)

    def flush(self, handle: Any) -> None:
        """Free a slot. A TPM that is gone has freed it by itself."""
        if self._channel.failure is None:
            try:
                self.esys.flush_context(handle)
            except (tss.TSS2_Exception, TpmUnavailable):
                return

    # -- capabilities ---------------------------------------------------------------------------
    def handles(self, first: int) -> tuple[int, ...]:
        """Handles in use from ``first`` on, within its range."""
        raw = self._capability(_CAP_HANDLES, first, 64)
        count = int.from_bytes(raw[4:8], "big")
        found = (int.from_bytes(raw[8 + 4 * i : 12 + 4 * i], "big") for i in range(count))
        return tuple(handle for handle in found if handle >> 24 == first >> 24)

    def tpm_property(self, number: int) -> int:
        """One fixed property (TPM_PT); 0 when the TPM does not know it."""
        raw = self._capability(_CAP_PROPERTIES, number, 1)
        if int.from_bytes(raw[4:8], "big") == 1 and int.from_bytes(raw[8:12], "big") == number:
            return int.from_bytes(raw[12:16], "big")
        return 0

    def _capability(self, kind: int, first: int, count: int) -> bytes:
        def command() -> bytes:
            answer = self.esys.get_capability(tss.TPM2_CAP(kind), first, count)
            return bytes(answer[1].marshal())

        return self.run("tell its properties", command)


def lock_within(fd: int, kind: int, seconds: float) -> None:
    """Take a flock with a deadline.

    Raises:
        TimeoutError: Another holder kept it.
        OSError: As flock(2).
    """
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        try:
            return fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def response_code(rc: int) -> int:
    """A TPM's own response code without handle, parameter and session numbers; -1 for the library's errors."""
    if rc >> 16 not in (0, 0xB):  # 0xB: the TPM's code, passed on by a resource manager
        return -1
    code = rc & 0xFFFF
    return code & 0xBF if code & 0x80 else code
