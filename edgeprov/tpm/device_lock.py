# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The lock that all edgeprov processes of a device share around groups of TPM commands."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprov.errors import StoreError, TpmBusy
from edgeprov.limits import LIMITS


class DeviceLock:
    """A lock file with a deadline; may be taken again by who has it."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self._lock_path = path
        self._lock_fd = -1
        self.lock_depth = 0

    def close(self) -> None:
        """Give the lock back, and close its file."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @contextmanager
    def group(self) -> Iterator[None]:
        """Keep other edgeprov processes off the TPM for the body; may be nested.

        Raises:
            TpmBusy: Another process keeps the lock.
            StoreError: The lock file cannot be made.
        """
        if self.lock_depth == 0:
            self._lock()
        self.lock_depth += 1
        try:
            yield
        finally:
            self.lock_depth -= 1
            if self.lock_depth == 0:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _lock(self) -> None:
        try:
            if self._lock_fd < 0:
                self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            lock_within(self._lock_fd, LIMITS.tpm_busy_s)
        except TimeoutError as error:
            raise TpmBusy("another process keeps the TPM's lock") from error
        except OSError as error:
            raise StoreError(f"{self._lock_path}: {error.strerror}") from error


def lock_within(fd: int, seconds: float) -> None:
    """Take an exclusive flock with a deadline.

    Raises:
        TimeoutError: Another holder kept it.
        OSError: As flock(2).
    """
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
