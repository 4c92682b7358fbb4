# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Canonical msgpack: same value, same bytes; and strict, bounded reading. The only importer of msgpack.

Canonical form: shortest integer and length forms, float64 only, str and bin kept apart, map keys are
strings in ascending order of their UTF-8 bytes. No extension types, nothing behind the value.

Spec: msgpack/spec.md; FORMAT.md section "Canonical msgpack".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import msgpack

from edgeprov.errors import FormatError, LimitError

Buffer = bytes | bytearray | memoryview

_DEPTH: Final = 16
_ITEMS: Final = 65_536
_CONTAINERS: Final = (list, dict)

_PAIR: Final = b"\x92\xc4"  # an array of two, whose first item is a byte string with one byte of length
_PAIR_BYTES: Final = 5
# One packer for all: msgpack.packb makes one for each call, which would add 7 % to what recording costs an
# inference (`./tests/run bench tricks`).
pack_plain: Final = msgpack.Packer(use_bin_type=True).pack
"""Pack a value that holds no map: the recorder's path. Raises msgpack's own errors."""


def pack(value: Any) -> bytes:
    """The canonical bytes of a value made of None, bool, int, float, str, bytes, list, tuple and dict.

    Raises:
        FormatError: A type, an integer or a nesting that the format has no form for.
    """
    try:
        return bytes(pack_plain(_sorted(value, 0)))
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"not packable: {error}") from error


def unpack(data: Buffer, *, max_bytes: int, what: str) -> Any:
    """Read one value; anything but its canonical bytes is refused.

    Args:
        data: The whole value, nothing behind it.
        max_bytes: Bound on ``data``; a decoded value takes up to 64 times as much memory.
        what: Name of the input in messages.

    Raises:
        LimitError: Longer than ``max_bytes``.
        FormatError: Not msgpack, not canonical, or bytes that follow.
    """
    if len(data) > max_bytes:
        raise LimitError(f"{what} has {len(data)} bytes, more than {max_bytes}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_pairs,
            ext_hook=_no_extension,
            max_ext_len=0,
            max_array_len=_ITEMS,
            max_map_len=_ITEMS,
        )
        # The hook saw that keys are in order, so packing as it stands gives the canonical bytes.
        canonical = pack_plain(value) == data
    except FormatError as error:
        raise FormatError(f"{what}: {error.message}") from error
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise FormatError(f"{what} is not valid msgpack: {error}") from error
    if not canonical:
        raise FormatError(f"{what} is not canonical msgpack")
    if _depth(value) > _DEPTH:
        raise LimitError(f"{what} is nested deeper than {_DEPTH}")
    return value


def unpack_rows(rows: Sequence[bytes], *, width: int, what: str) -> list[tuple[Any, ...]]:
    """Read many array rows of one width in one go; each must be its own canonical encoding.

    Raises:
        FormatError: A row is not canonical msgpack, not one array, or has another width.
    """
    decoded = _decode_rows(b"".join(rows), width, what)
    # Rows seldom hold a map; only then is the slower, sorting encoder needed.
    maps = any(isinstance(row[-1], dict) for row in decoded)
    if list(map(pack if maps else _pack_row, decoded)) != list(rows):
        raise FormatError(f"{what} is not canonical msgpack")
    return decoded


def _decode_rows(data: Buffer, width: int, what: str) -> list[tuple[Any, ...]]:
    try:
        unpacker = msgpack.Unpacker(
            raw=False, use_list=False, max_buffer_size=max(len(data), 1), max_ext_len=0, ext_hook=_no_extension
        )
        unpacker.feed(data)
        decoded: list[tuple[Any, ...]] = list(unpacker)
        rest = len(data) - unpacker.tell()
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise FormatError(f"{what} is not valid msgpack: {error}") from error
    if rest:
        raise FormatError(f"{what} is cut short")
    if set(map(type, decoded)) - {tuple} or set(map(len, decoded)) - {width}:
        raise FormatError(f"{what} is not an array of {width}")
    return decoded


def _pack_row(row: tuple[Any, ...]) -> bytes:
    try:
        return bytes(pack_plain(row))
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"not packable: {error}") from error


class Cursor:
    """Reads canonical msgpack piece by piece; binary values come back as views of the input, uncopied."""

    __slots__ = ("_pos", "_view", "_what")

    def __init__(self, data: Buffer, what: str) -> None:
        """Start at the first byte."""
        self._view = memoryview(data).cast("B")
        self._pos = 0
        self._what = what

    @property
    def at_end(self) -> bool:
        """Whether everything was read."""
        return self._pos == len(self._view)

    def end(self) -> None:
        """Nothing may follow."""
        if not self.at_end:
            raise FormatError(f"{self._what}: {len(self._view) - self._pos} bytes follow")

    def array(self, maximum: int) -> int:
        """Enter an array; returns the number of its items."""
        return self._count("array", 0x90, 0xDC, maximum)

    def map(self, maximum: int) -> int:
        """Enter a map; returns the number of its keys."""
        return self._count("map", 0x80, 0xDE, maximum)

    def text(self, maximum: int = 1_024) -> str:
        """A string of at most ``maximum`` UTF-8 bytes."""
        lead = self._uint(1)
        if 0xA0 <= lead <= 0xBF:
            size = lead & 0x1F
        elif 0xD9 <= lead <= 0xDB:
            size = self._length(lead - 0xD9, 0x20)
        else:
            self._fail("is not a string")
        try:
            return str(self._take(size, maximum), "utf-8")
        except UnicodeDecodeError:
            self._fail("holds text that is not UTF-8")

    def binary(self, maximum: int) -> memoryview:
        """A binary value of at most ``maximum`` bytes, as a view."""
        lead = self._uint(1)
        if not 0xC4 <= lead <= 0xC6:
            self._fail("is not binary")
        return self._take(self._length(lead - 0xC4, 0), maximum)

    def uint(self, maximum: int = 2**63 - 1) -> int:
        """A non-negative integer."""
        lead = self._uint(1)
        if lead < 0x80:
            value = lead
        elif 0xCC <= lead <= 0xCF:
            width = 1 << (lead - 0xCC)
            value = self._uint(width)
            if value < (0x80 if width == 1 else 1 << (4 * width)):
                self._fail("has an integer that is not in its shortest form")
        else:
            self._fail("is not an unsigned integer")
        if value > maximum:
            self._fail(f"has the integer {value}, more than {maximum}")
        return value

    def value(self, max_bytes: int) -> Any:
        """Any value of at most ``max_bytes``; measured before it is built."""
        window = self._view[self._pos : self._pos + max_bytes + 1]
        try:
            size = _measure(window)
        except msgpack.OutOfData:
            if len(window) > max_bytes:
                raise LimitError(f"{self._what} has a value of more than {max_bytes} bytes") from None
            raise FormatError(f"{self._what} is cut short") from None
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
            raise FormatError(f"{self._what} is not valid msgpack: {error}") from error
        self._pos += size
        return unpack(window[:size], max_bytes=max_bytes, what=self._what)

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._pos

    def since(self, position: int) -> memoryview:
        """What was read from ``position`` to here."""
        return self._view[position : self._pos]

    def window(self, size: int, *, take: bool = False) -> memoryview:
        """The next ``size`` bytes, or fewer at the end; read only with ``take``."""
        part = self._view[self._pos : self._pos + size]
        if take:
            self._pos += len(part)
        return part

    def rest(self) -> memoryview:
        """All that follows, still unread."""
        return self._view[self._pos :]

    def skip_rest(self) -> None:
        """Go to the end: what follows was read by other means."""
        self._pos = len(self._view)

    def rows(self, width: int, max_bytes: int) -> list[tuple[Any, ...]]:
        """All that follows, as arrays of ``width`` and at most ``max_bytes`` each; inner arrays come as tuples."""
        rest = self._view[self._pos :]
        _measure_rows(rest, max_bytes, self._what)
        decoded = _decode_rows(rest, width, self._what)
        if b"".join(map(_pack_row, decoded)) != rest:
            raise FormatError(f"{self._what} is not canonical msgpack")
        self._pos = len(self._view)
        return decoded

    def _count(self, name: str, short: int, wide: int, maximum: int) -> int:
        lead = self._uint(1)
        if short <= lead <= short | 0x0F:
            count = lead & 0x0F
        elif lead in (wide, wide + 1):
            count = self._uint(2 if lead == wide else 4)
            if count < (0x10 if lead == wide else 0x1_0000):
                self._fail("has a count that is not in its shortest form")
        else:
            self._fail(f"is not {name}" if name == "map" else "is not an array")
        if count > maximum:
            raise LimitError(f"{self._what} has {count} items, more than {maximum}")
        return count

    def _length(self, form: int, minimum: int) -> int:
        size = self._uint(1 << form)
        if size < (minimum, 0x100, 0x1_0000)[form]:
            self._fail("has a length that is not in its shortest form")
        return size

    def _uint(self, width: int) -> int:
        return int.from_bytes(self._take(width, width), "big")

    def _take(self, size: int, maximum: int) -> memoryview:
        if size > maximum:
            raise LimitError(f"{self._what} has a value of {size} bytes, more than {maximum}")
        end = self._pos + size
        if end > len(self._view):
            self._fail("is cut short")
        part = self._view[self._pos : end]
        self._pos = end
        return part

    def _fail(self, reason: str) -> NoReturn:
        raise FormatError(f"{self._what} {reason}")


class Feeder:
    """Reads values from a live stream, as they arrive, from programs that need not write canonical msgpack.

    Only for requests (FORMAT.md "Recording protocol"): what is stored is encoded anew.
    """

    __slots__ = ("_fed", "_read", "_unpacker", "_what")

    def __init__(self, *, max_bytes: int, what: str) -> None:
        """Hold at most ``max_bytes`` that are not a whole value yet; ``what`` names the stream in messages."""
        self._unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=True, max_buffer_size=max_bytes, max_ext_len=0, ext_hook=_no_extension
        )
        self._what = what
        self._fed = self._read = 0  # bytes taken, and those of whole values

    def feed(self, data: Buffer) -> Iterator[Any]:
        """The values that ``data`` completes.

        Raises:
            LimitError: A value is longer than the bound.
            FormatError: Not msgpack; the stream is of no further use.
        """
        try:
            self._unpacker.feed(data)
            self._fed += memoryview(data).nbytes
            for value in self._unpacker:
                self._read = self._unpacker.tell()
                yield value
        except msgpack.BufferFull as error:
            raise LimitError(f"{self._what} has a value that is too long") from error
        except FormatError:
            raise
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
            raise FormatError(f"{self._what} is not valid msgpack: {error}") from error

    def verify_end(self) -> None:
        """At the end of the stream.

        Raises:
            FormatError: It ended within a value.
        """
        if self._fed != self._read:
            raise FormatError(f"{self._what} ends within a value")


def _measure(window: memoryview) -> int:
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(window), 1))
    unpacker.feed(window)
    unpacker.skip()
    return int(unpacker.tell())


def _measure_rows(window: memoryview, max_bytes: int, what: str) -> None:
    # Each value is measured before any is built: a decoded value can take 64 times its bytes.
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(window), 1))
    unpacker.feed(window)
    skip, tell, start = unpacker.skip, unpacker.tell, 0
    try:
        while start < len(window):
            skip()
            end = tell()
            if end - start > max_bytes:
                raise LimitError(f"{what} has a value of more than {max_bytes} bytes")
            start = end
    except msgpack.OutOfData:
        raise FormatError(f"{what} is cut short") from None
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise FormatError(f"{what} is not valid msgpack: {error}") from error


def _sorted(value: Any, depth: int) -> Any:
    if isinstance(value, msgpack.ExtType | msgpack.Timestamp):
        raise FormatError("extension types are not used")
    if isinstance(value, Mapping):
        _check_depth(depth)
        if not all(isinstance(key, str) for key in value):
            raise FormatError("a map key is not a string")
        # Code point order is the order of the UTF-8 bytes.
        return {key: _sorted(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, list | tuple):
        _check_depth(depth)
        return [_sorted(item, depth + 1) for item in value]
    return value


def unpack_pair(data: bytes) -> tuple[bytes, bytes] | None:
    """Two byte strings, in their canonical form, of at most 255 bytes each; None for all else, which unpack reads."""
    if data[:2] != _PAIR or len(data) < _PAIR_BYTES:
        return None
    middle = 3 + data[2]
    if data[middle : middle + 1] != _PAIR[1:] or len(data) < middle + 2 or len(data) != middle + 2 + data[middle + 1]:
        return None
    return data[3:middle], data[middle + 2 :]


def _check_depth(depth: int) -> None:
    if depth >= _DEPTH:
        raise LimitError(f"nested deeper than {_DEPTH}")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if type(item) in _CONTAINERS]:
        depth += 1
        level = [child for item in level for child in (item.values() if type(item) is dict else item)]
    return depth


def _pairs(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    last: str | None = None
    for key, _ in pairs:
        if not isinstance(key, str):
            raise FormatError("a map key is not a string")
        if last is not None and key <= last:
            raise FormatError(f"map key {key[:40]!r} is out of order or twice there")
        last = key
    return dict(pairs)


def _no_extension(code: int, _data: bytes) -> NoReturn:
    raise FormatError(f"extension type {code} is not used")
