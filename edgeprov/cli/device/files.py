# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Files that the user names: read with a bound, written whole, `-` for standard streams."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeprov.errors import LimitError, UsageError
from edgeprov.store.atomic import save_bytes


def read_input(name: str, max_bytes: int) -> bytes:
    """The bytes of a file, or of standard input for ``-``.

    Raises:
        UsageError: It cannot be read.
        LimitError: It is larger than ``max_bytes``.
    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", advice="Check the file's name.") from error
    if len(data) > max_bytes:
        raise LimitError(f"{name} has more than {max_bytes} bytes")
    return data


def write_output(name: str | None, data: bytes) -> None:
    """Write a file whole, or to standard output.

    Raises:
        StoreError: It cannot be written.
    """
    if name in (None, "-"):
        sys.stdout.write(data.decode() + "\n")
    else:
        save_bytes(Path(str(name)), data, mode=0o644)
