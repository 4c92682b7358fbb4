# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A lock file with a deadline."""

from __future__ import annotations

import fcntl
import time


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


def unlock(fd: int) -> None:
    """Give the lock back."""
    fcntl.flock(fd, fcntl.LOCK_UN)
