# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, full, or of an encoding that lacks a character: never a traceback."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Final, TextIO

from edgeprov.errors import StoreError, StoreFull

FULL: Final = (28, 122)  # ENOSPC, EDQUOT on Linux


def mend(*, as_json: bool) -> None:
    """Streams that take whatever is written: closed ones become /dev/null, characters they lack are escaped.

    A closed descriptor is given to the next file that is opened: who prints then would write into the spool.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - os's own signature
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        # JSON is UTF-8 whatever the terminal is; of a file name that is not, \udcXX is left, as JSON writes it.
        sys.stdout.reconfigure(encoding="utf-8" if as_json else None, errors="backslashreplace")


def put(text: str, *, flush: bool = False) -> None:
    """Write to stdout.

    Raises:
        StoreFull: It is a file on a full disk.
        StoreError: Another failure of the file behind it.
        BrokenPipeError: Its reader went away.
    """
    try:
        sys.stdout.write(text)
        if flush:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        kind = StoreFull if error.errno in FULL else StoreError
        told = f"standard output: {error.strerror}; send it elsewhere and repeat the command: what was done stays done"
        raise kind(told, advice="") from error


def discard(stream: TextIO) -> None:
    """Throw away what ``stream`` holds: Python flushes it at exit, and would end with 120 instead of our code."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
