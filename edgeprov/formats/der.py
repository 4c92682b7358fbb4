# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A reader of DER, just large enough for timestamp tokens.

Spec: ITU-T X.690 (DER).
"""

from __future__ import annotations

from edgeprov.errors import FormatError


class Der:
    """A cursor over DER elements with single-byte tags and definite lengths."""

    __slots__ = ("_data", "_pos")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    @property
    def tag(self) -> int | None:
        """Tag of the next element, None at the end."""
        return self._data[self._pos] if self._pos < len(self._data) else None

    def element(self, tag: int | None = None) -> bytes:
        """The next element with its header."""
        start = self._pos
        self._read(tag)
        return self._data[start : self._pos]

    def take(self, tag: int) -> bytes:
        """The content of the next element.

        Raises:
            FormatError: It has another tag, or runs past the end.
        """
        return self._read(tag)

    def enter(self, tag: int) -> Der:
        """A cursor over the content of the next element."""
        return Der(self._read(tag))

    def _read(self, tag: int | None) -> bytes:
        data, pos = self._data, self._pos
        if len(data) - pos < 2 or (tag is not None and data[pos] != tag):
            raise FormatError("not the expected DER element")
        size, pos = data[pos + 1], pos + 2
        if size & 0x80:
            count = size & 0x7F
            if not 1 <= count <= 3 or len(data) - pos < count:
                raise FormatError("DER length out of range")
            size, pos = int.from_bytes(data[pos : pos + count], "big"), pos + count
        if size > len(data) - pos:
            raise FormatError("DER element is cut short")
        self._pos = pos + size
        return data[pos : self._pos]
