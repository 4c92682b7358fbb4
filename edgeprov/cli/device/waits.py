# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a person is told while a command waits for a link or a registry."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeprov.cli.output import Output, one_line

if TYPE_CHECKING:
    from edgeprov.errors import RegistryError


class Waits:
    """Tells each wait with its reason, and what to do about it once, not before each try."""

    def __init__(self, out: Output, clear: Callable[[], None]) -> None:
        """``clear`` takes a progress bar away, so that a line can be written."""
        self._out = out
        self._clear = clear
        self._advised = ""

    def told(self, seconds: float, error: RegistryError) -> None:
        """The next try comes in so many seconds."""
        self._clear()
        text = f"  {one_line(error.message)}; next try in {seconds:.0f} s"
        if error.advice != self._advised:
            text, self._advised = f"{text}\n  {error.advice}", error.advice
        values = {"code": error.exit_code, "message": error.message, "advice": error.advice}
        self._out.item("waiting", text, seconds=round(seconds, 1), **values)
        sys.stdout.flush()
