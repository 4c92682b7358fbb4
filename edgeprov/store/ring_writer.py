# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The application's end of a ring: a record exists as soon as its frame and the position are stored.

A fork is met twice: a hook of the interpreter closes the ring in the child, and a page that the kernel
clears in a child (MADV_WIPEONFORK) tells of a fork that the interpreter did not see. Both come before the
first store, so that no child ever writes into its parent's ring. (MADV_DONTFORK is not used: the child's
interpreter would later unmap a range that may hold something else by then.)

Spec: FORMAT.md section "Ring".
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from zlib import crc32

from edgeprov.errors import FormatError, LimitError, StoreError, StoreFull, UsageError
from edgeprov.store.atomic import translated
from edgeprov.store.frames import CHECKSUM_OF_KIND, FRAME, INPUT, RECORD, encode_frame, verify_length
from edgeprov.store.ring import ATTENTION_OFFSET, FLOOR_OFFSET, LIMIT_OFFSET, NEW_FLOOR_OFFSET, PAGE_BYTES, POSITIONS

_MADV_WIPEONFORK: Final = 18  # no name in Python 3.11
_writers: weakref.WeakSet[RingWriter] = weakref.WeakSet()


class NumbersMoved(Exception):
    """The next record has another number than the row that was to be appended: build the row again."""


class RingWriter:
    """Appends rows to a ring. Where several threads share it, the caller holds a lock around each call.

    Attributes:
        next_n: Number that the next row must carry.
        control: Not 0 when the owner has something to say: told_floor_ns(), or ended.
    """

    __slots__ = (
        "__weakref__", "_alive", "_allowed", "_attention", "_before", "_data", "_floor", "_head", "_limit",
        "_make_room", "_map", "_news", "_position", "_size", "_wake", "control", "next_n",
    )  # fmt: skip

    def __init__(
        self, fd: int, size_bytes: int, next_n: int, *, wake: Callable[[], object], make_room: Callable[[int], object]
    ) -> None:
        """Map a ring and close the descriptor.

        Args:
            fd: Of the ring.
            size_bytes: Of its data.
            next_n: Number of the first row.
            wake: Called after an append when the owner sleeps.
            make_room: Called with the bytes of a frame when the limit is reached; returns when the owner has copied
                what was in the ring and moved the limit, or raises why it cannot. It sets ``next_n`` where the owner
                gave another number.

        Raises:
            StoreError: The process may map no more.
            FormatError: The file is shorter than ``size_bytes``.
        """
        try:
            with translated("ring"):
                self._map = mmap.mmap(fd, PAGE_BYTES + size_bytes)
        except ValueError as error:
            raise FormatError(f"the ring has not the {size_bytes} bytes that its owner told") from error
        finally:
            os.close(fd)
        try:
            with translated("ring"):
                self._alive = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except StoreError:
            self._map.close()
            raise
        self._alive[0] = 1
        with suppress(OSError):  # a kernel before 4.14; the interpreter's hook is still there
            self._alive.madvise(_MADV_WIPEONFORK)
        view = memoryview(self._map)
        self._head = view[:4].cast("I")
        self._allowed = view[LIMIT_OFFSET : LIMIT_OFFSET + 4].cast("I")
        self._attention = view[ATTENTION_OFFSET : ATTENTION_OFFSET + 1]
        self.control = view[NEW_FLOOR_OFFSET : NEW_FLOOR_OFFSET + 2].cast("H")  # this byte and that of the end
        self._news = view[NEW_FLOOR_OFFSET : NEW_FLOOR_OFFSET + 2]
        self._floor = view[FLOOR_OFFSET : FLOOR_OFFSET + 8].cast("q")
        self._data = view[PAGE_BYTES:]
        self._size = size_bytes
        self._position = self._before = self._head[0]  # counts on, so that one comparison with _limit is enough
        self._limit = self._position  # looked up at the first append
        self._wake, self._make_room = wake, make_room
        self.next_n = next_n
        _writers.add(self)

    def append(self, row: bytes, captured: bytes | None = None) -> int:
        """Take a record in; when this returns it survives a kill of this process.

        Args:
            row: Encoded record that carries the number ``next_n``.
            captured: Encoded row of its captured input.

        Returns:
            Its number.

        Raises:
            UsageError: This process was forked from the one that opened the session.
            StoreFull: No room and nobody to make some: nothing was taken, the number is still free.
            LimitError: A row is too long.
            NumbersMoved: ``next_n`` is another number now; nothing was taken.
        """
        frame = FRAME.pack(len(row), crc32(row, CHECKSUM_OF_KIND[RECORD]), RECORD) + row
        if captured is not None:
            verify_length(captured, INPUT)
            frame += encode_frame(INPUT, captured)
        position = self._before = self._position
        end = position + len(frame)
        if end > self._limit or not self._alive[0]:
            self._verify_room(row, len(frame))
        size = self._size
        place = position % size
        stop = place + len(frame)
        if stop <= size:
            self._data[place:stop] = frame
        else:
            first = size - place
            self._data[place:] = frame[:first]
            self._data[: stop - size] = frame[first:]
        # An exception of a signal handler between two of these lines may leave a number unused. None is used twice.
        n = self.next_n
        self.next_n = n + 1
        self._position = end
        self._head[0] = end % POSITIONS  # now the record exists
        if self._attention[0]:
            self._attention[0] = 0
            self._wake()
        return n

    def verify_open(self) -> None:
        """Require a ring that rows can be appended to.

        Raises:
            UsageError: This process was forked from the one that opened the session, or the session is closed.
        """
        if not self._alive[0]:
            raise forked_error()
        if self._limit < 0:
            raise UsageError("this session is closed", advice="Open the device again.")

    def on_full(self, make_room: Callable[[int], object]) -> None:
        """Have another function called when the limit is reached."""
        self._make_room = make_room

    @property
    def ended(self) -> bool:
        """Whether the owner has ended the session."""
        return self._news[1] != 0

    def told_floor_ns(self) -> int:
        """Take note of the lower bound of time that the owner told, nanoseconds since 1970."""
        self._news[0] = 0  # before the bound is read: a later one is told again
        first = self._floor[0]
        while (again := self._floor[0]) != first:  # until two reads agree, where one may be torn
            first = again
        return first

    def take_back(self, n: int) -> None:
        """Undo the append that returned ``n``, the last one. The owner must not copy meanwhile, nor have copied it."""
        self.next_n = n
        self._position = self._before
        self._head[0] = self._before % POSITIONS

    def close(self) -> None:
        """Unmap the ring; a second call does nothing. What was appended stays for the owner."""
        self._limit = -1
        for view in (
            self._head, self._allowed, self._attention, self.control, self._news, self._floor, self._data
        ):  # fmt: skip
            view.release()
        self._map.close()

    def _close_in_child(self) -> None:
        self._alive[0] = 0
        self.close()

    def _verify_room(self, row: bytes, size: int) -> None:
        self.verify_open()
        verify_length(row, RECORD)
        if size > self._size:
            raise LimitError(f"a record of {size} bytes does not fit into a ring of {self._size} bytes")
        self.look()
        if self._position + size > self._limit:
            expected = self.next_n
            self._limit = self._position  # whatever comes of it, the limit that is known is no longer true
            self._make_room(size)
            if self.next_n != expected:
                raise NumbersMoved
            self.look()
            if self._position + size > self._limit:
                raise StoreFull("the device service has not stored the records before")

    def look(self) -> None:
        """Read the owner's limit again."""
        room = (self._allowed[0] - self._position) % POSITIONS
        self._limit = self._position + (room if room <= self._size else 0)


def forked_error() -> UsageError:
    """The error of a session that is used in a forked process."""
    return UsageError(
        "this device was opened in another process",
        advice="Open the device in each process, after the fork.",
    )


def _close_all() -> None:
    for writer in list(_writers):
        writer._close_in_child()  # noqa: SLF001


os.register_at_fork(after_in_child=_close_all)
