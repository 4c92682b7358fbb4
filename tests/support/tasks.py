# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Tasks for engines: worker processes must be able to import them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from edgeprov.errors import UsageError


def square(number: int) -> int:
    return number * number


def die_once(argument: tuple[str, int]) -> int:
    folder, number = argument
    marker = Path(folder) / "died"
    if number == 5 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def refuse(number: int) -> int:
    raise UsageError(f"no {number}")
