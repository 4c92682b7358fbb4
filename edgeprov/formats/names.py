# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Names that a vendor chooses: which strings are a device's serial number and a slot.

Without regular expressions: the boot check reads these names, and compiling a pattern costs more than the check.

Spec: FORMAT.md "Device URN" and "Slot".
"""

from __future__ import annotations

from typing import Final

_LOWER: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_ALL: Final = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")


def is_serial(text: str) -> bool:
    """Whether this is a serial: 1 to 48 of ``A-Za-z0-9_-`` (a dot separates the parts of a tag)."""
    return 0 < len(text) <= 48 and _ALL.issuperset(text)


def is_slot(text: str) -> bool:
    """Whether this is a slot: 1 to 32 of ``a-z0-9-``."""
    return 0 < len(text) <= 32 and _LOWER.issuperset(text)
