# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Names that people choose or type: which strings are a device's serial number, a slot, a number, a path in a kit.

Spec: FORMAT.md "Device URN", "Slot" and "Layer archives".
"""

from __future__ import annotations

import re
from typing import Final

from edgeprov.errors import FormatError, LimitError
from edgeprov.limits import LIMITS

SERIAL: Final = "[A-Za-z0-9][A-Za-z0-9_-]{0,47}"
"""Regular expression of a serial number: a dot would end it in a tag, and a tag does not begin with ``-``."""
SERIAL_RULE: Final = "1 to 48 letters, digits, '_' or '-', the first a letter or digit"

# What makers leave where a serial number should be: letters and digits only, in lower case. The layer's script
# edgeprov-serial.sh has the same list, since Python is too slow to start there; a test compares both.
FILLERS: Final = frozenset(
    (
        "tobefilledbyoem", "tobefilled", "filledbyoem", "defaultstring", "default", "systemserialnumber",
        "serialnumber", "systemserial", "chassisserialnumber", "baseboardserialnumber", "notspecified",
        "notapplicable", "notavailable", "notset", "notdefined", "unspecified", "undefined", "unknown", "invalid",
        "none", "null", "na", "nil", "empty", "oem", "sn", "serial", "test", "0123456789", "123456789", "1234567890",
        "12345678", "01234567", "012345678", "1234567", "0123456789abcdef", "123456789abcdef",
    )
)  # fmt: skip

_SERIAL = re.compile(SERIAL)
_SLOT = re.compile("[a-z0-9-]{1,32}")
_NUMBER = re.compile("[0-9]{1,18}")


def is_serial(text: str) -> bool:
    """Whether this is a serial number (SERIAL)."""
    return _SERIAL.fullmatch(text) is not None


def is_filler(text: str) -> bool:
    """Whether firmware's serial number names no device: a known filler, one character repeated, or nothing."""
    letters = "".join(character for character in text.lower() if character.isascii() and character.isalnum())
    return letters in FILLERS or len(set(letters)) < 2


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
