# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Names that people choose or type: which strings are a device's serial number, a slot, a number, a path in a kit.

Spec: FORMAT.md "Device URN", "Slot" and "Layer archives".
"""

from __future__ import annotations

import re

from edgeprov.errors import FormatError, LimitError
from edgeprov.limits import LIMITS

_SERIAL = re.compile("[A-Za-z0-9_-]{1,48}")
_SLOT = re.compile("[a-z0-9-]{1,32}")
_NUMBER = re.compile("[0-9]{1,18}")


def is_serial(text: str) -> bool:
    """Whether this is a serial: 1 to 48 of ``A-Za-z0-9_-`` (a dot separates the parts of a tag)."""
    return _SERIAL.fullmatch(text) is not None


def is_slot(text: str) -> bool:
    """Whether this is a slot: 1 to 32 of ``a-z0-9-``."""
    return _SLOT.fullmatch(text) is not None


def is_number(text: str) -> bool:
    """Whether this is a whole number of at most 18 ASCII digits."""
    return _NUMBER.fullmatch(text) is not None


def check_path(path: str) -> str:
    """Return the path if it is relative, clean and printable.

    Raises:
        FormatError: Empty, absolute, with ``.``, ``..``, empty parts, backslash or control characters.
        LimitError: Too long.
    """
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise FormatError("path is not valid Unicode") from None
    if length > LIMITS.path_bytes:
        raise LimitError(f"path has {length} bytes, more than {LIMITS.path_bytes}")
    if not path or path.startswith("/"):
        raise FormatError(f"path {path[:80]!r} is empty or absolute")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise FormatError(f"path {path[:80]!r} has a part that is empty, '.' or '..'")
    if "\\" in path or not path.isprintable():
        raise FormatError(f"path {path[:80]!r} has a backslash or a control character")
    return path
