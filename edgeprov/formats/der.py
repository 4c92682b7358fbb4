# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A strict reader of DER, just large enough for certificates, keys and timestamp tokens.

Spec: ITU-T X.690 (DER): single-byte tags, definite lengths in their shortest form.
"""

from __future__ import annotations

from typing import Final

from edgeprov.errors import FormatError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTETS: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
SEQUENCE: Final = 0x30
SET: Final = 0x31
_OID_BYTES: Final = 63
_ARC_BYTES: Final = 4  # RFC 5280 appendix B asks for arcs below 2**28


class Der:
    """A cursor over DER elements."""

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

    def explicit(self, tag: int, inner: int) -> Der:
        """A cursor over the content of the one element that an explicit tag holds.

        Raises:
            FormatError: Another tag, or more than one element.
        """
        return whole_der(self._read(tag), inner)

    def integer(self) -> int:
        """An INTEGER in its shortest form.

        Raises:
            FormatError: Anything else.
        """
        return parse_integer(self._read(INTEGER))

    def boolean(self) -> bool:
        """A BOOLEAN that is not the default: only TRUE is ever written.

        Raises:
            FormatError: Anything else.
        """
        if self._read(BOOLEAN) != b"\xff":
            raise FormatError("DER boolean is not TRUE")
        return True

    def bits(self) -> bytes:
        """A BIT STRING of whole bytes.

        Raises:
            FormatError: Anything else.
        """
        value = self._read(BIT_STRING)
        if not value or value[0]:
            raise FormatError("DER bit string does not hold whole bytes")
        return value[1:]

    def oid(self) -> bytes:
        """The content of an OBJECT IDENTIFIER.

        Raises:
            FormatError: Anything else.
        """
        return parse_oid(self._read(OID))

    def end(self) -> None:
        """Require that nothing follows.

        Raises:
            FormatError: Something does.
        """
        if self._pos != len(self._data):
            raise FormatError("bytes follow the last DER element")

    def _read(self, tag: int | None) -> bytes:
        data, pos = self._data, self._pos
        if len(data) - pos < 2 or (tag is not None and data[pos] != tag) or data[pos] & 0x1F == 0x1F:
            raise FormatError("not the expected DER element")
        size, pos = data[pos + 1], pos + 2
        if size & 0x80:
            count = size & 0x7F
            if not 1 <= count <= 3 or len(data) - pos < count:
                raise FormatError("DER length out of range")
            size, pos = int.from_bytes(data[pos : pos + count], "big"), pos + count
            if size < 0x80 or size < 1 << 8 * (count - 1):
                raise FormatError("DER length is not in its shortest form")
        if size > len(data) - pos:
            raise FormatError("DER element is cut short")
        self._pos = pos + size
        return data[pos : self._pos]


def whole_der(data: bytes, tag: int = SEQUENCE) -> Der:
    """A cursor over the content of the one element that the data is.

    Raises:
        FormatError: Another tag, or bytes follow.
    """
    outer = Der(data)
    body = outer.enter(tag)
    outer.end()
    return body


def parse_integer(content: bytes) -> int:
    """Read the content of an INTEGER.

    Raises:
        FormatError: Empty, or not in its shortest form.
    """
    if not content or (len(content) > 1 and (content[0], content[1] >> 7) in ((0, 0), (0xFF, 1))):
        raise FormatError("DER integer is not in its shortest form")
    return int.from_bytes(content, "big", signed=True)


def parse_oid(content: bytes) -> bytes:
    """Check the content of an OBJECT IDENTIFIER and return it.

    Raises:
        FormatError: Malformed, or with an arc of 2**28 or more.
    """
    if not 1 <= len(content) <= _OID_BYTES:
        raise FormatError("object identifier is empty or too long")
    length = 0
    for byte in content:
        if length == 0 and byte == 0x80:
            raise FormatError("object identifier is not in its shortest form")
        length = length + 1 if byte & 0x80 else 0
        if length >= _ARC_BYTES:
            raise FormatError("object identifier has an arc that is too large")
    if length:
        raise FormatError("object identifier is cut short")
    return content


def oid_text(content: bytes) -> str:
    """The dotted form of an object identifier that parse_oid accepted."""
    arcs, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
