# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A ring in memory between an application, which appends frames, and the owner of the segments, which copies them.

The file has one page of positions and then the data, whose size is a power of two. ``head`` at byte 0 is
written by the application: behind the last record. ``limit`` at byte 64 is written by the owner: up to where
the application may write, which is bounded by the ring and by the disk space that was set aside. The byte at 80
tells that the owner sleeps and wants a message. Two bytes tell the application to look before its next record: at
82, a new lower bound of time stands at 96 (int64); at 83, the session has ended. Numbers are in the machine's byte
order. Positions are uint32, count bytes modulo 2**32, and stand at ``position % data size``; a frame may go round
the end. The file lies in a tmpfs, so what was appended survives a kill of both processes.

The owner never maps the file: a ring that an application cut, punched or filled with impossible positions
gives a short read or a broken position, and no signal. What was copied is out of the application's reach.

Spec: FORMAT.md section "Ring".
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeprov.errors import FormatError, StoreBusy
from edgeprov.limits import KIB, MIB
from edgeprov.store.atomic import translated

PAGE_BYTES: Final = 4096
HEAD_OFFSET: Final = 0
LIMIT_OFFSET: Final = 64
ATTENTION_OFFSET: Final = 80
NEW_FLOOR_OFFSET: Final = 82
ENDED_OFFSET: Final = 83
FLOOR_OFFSET: Final = 96
POSITIONS: Final = 1 << 32
RING_BYTES: Final = 256 * KIB
MAX_RING_BYTES: Final = 256 * MIB

_MEMBARRIER_CALLS: Final = {"x86_64": 324, "i686": 375, "aarch64": 283, "armv7l": 389, "riscv64": 283}
_MEMBARRIER_GLOBAL: Final = 1
# On these machines stores of one processor are seen by another in their order; elsewhere only behind a barrier.
_ORDERED: Final = platform.machine() in ("x86_64", "i686")


class RingBroken(FormatError):
    """The application left its ring in a state that no correct application makes; its session ends."""


def ring_bytes(largest_frame_bytes: int) -> int:
    """The size of a ring's data: a power of two, at least four times the largest frame.

    Args:
        largest_frame_bytes: Of one record with its captured input.
    """
    wanted = min(max(RING_BYTES, 4 * largest_frame_bytes), MAX_RING_BYTES)
    return 1 << (wanted - 1).bit_length()


def create_ring(path: Path, size_bytes: int) -> int:
    """Make a ring and return its descriptor (close-on-exec).

    The whole file is allocated, so that an application's store never meets a full file system.

    Args:
        path: New file, in a tmpfs.
        size_bytes: Of the data, from ring_bytes().

    Raises:
        StoreBusy: The file is there already.
        StoreFull: No room in the tmpfs.
        StoreError: The file cannot be made.
    """
    with translated(path):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError as error:
            raise StoreBusy(f"{path}: this ring is there already") from error
        try:
            _allocate(fd, size_bytes)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
    return fd


def create_memory_ring(size_bytes: int) -> int:
    """Make a ring without a name, which ends with its process, and return its descriptor (close-on-exec).

    Args:
        size_bytes: Of the data, from ring_bytes().

    Raises:
        StoreFull: No memory for it.
        StoreError: The memory file cannot be made.
    """
    with translated("ring in memory"):
        fd = os.memfd_create("edgeprov-ring", os.MFD_CLOEXEC)
        _allocate(fd, size_bytes)
    return fd


def _allocate(fd: int, size_bytes: int) -> None:
    try:
        os.posix_fallocate(fd, 0, PAGE_BYTES + size_bytes)
    except BaseException:
        os.close(fd)
        raise


class RingReader:
    """The owner's end of a ring. Not thread-safe.

    Attributes:
        size_bytes: Of the ring's data.
        tail: Position up to which was copied, modulo 2**32; kept here, since the application can change the ring.
    """

    __slots__ = ("_fd", "_limit", "_shared", "size_bytes", "tail")

    def __init__(self, fd: int, size_bytes: int, *, tail: int = 0, shared: bool = True) -> None:
        """Take over a descriptor.

        Args:
            fd: Of a file that create_ring() made; closed by close(), and when this raises.
            size_bytes: The size that the ring was made with. Not taken from the file, which the application can cut.
            tail: Position to go on from: after a restart, that of the first frame that was copied into the segment
                plus the bytes of whole frames in the segment file.
            shared: Another process appends. In one process the interpreter's lock orders what both ends do.
        """
        self._fd = fd
        self._shared = shared
        self.size_bytes = size_bytes
        self.tail = tail % POSITIONS
        try:
            raw = self._load(4, LIMIT_OFFSET)  # after a restart: what the application was allowed
        except BaseException:
            self.close()
            raise
        self._limit = int.from_bytes(raw, sys.byteorder) if len(raw) == 4 else self.tail

    def pending(self) -> int:
        """Bytes that wait to be copied.

        Raises:
            RingBroken: Impossible positions, or a file that was cut.
        """
        raw = self._load(4, HEAD_OFFSET)
        if len(raw) != 4:
            raise RingBroken("the application cut its ring")
        waiting = (int.from_bytes(raw, sys.byteorder) - self.tail) % POSITIONS
        if waiting > self.size_bytes:
            raise RingBroken("the application wrote impossible positions into its ring")
        return waiting

    def drain(self, write: Callable[[bytes], object]) -> int:
        """Copy what waits; allow() then gives its place free.

        Args:
            write: Called once with all waiting bytes, or not at all. When it raises, nothing was taken.

        Returns:
            Bytes copied.

        Raises:
            RingBroken: Impossible positions, or a file that was cut; nothing was copied.
        """
        waiting = self.pending()
        if not waiting:
            return 0
        if self._shared and not _ORDERED:
            barrier()  # the data must not be older than the position that was read
        data = self._read(waiting)
        write(data)
        self.tail = (self.tail + waiting) % POSITIONS
        return waiting

    def allow(self, size_bytes: int) -> None:
        """Let the application write this many bytes behind what was copied, or as many as the ring holds.

        The limit never goes back, since the application may know it already.

        Args:
            size_bytes: Disk space that is set aside for them.
        """
        if (allowed := min(size_bytes, self.size_bytes)) > self.outstanding():
            self._set_limit((self.tail + allowed) % POSITIONS)

    def hold(self) -> None:
        """Let the application write nothing more. It must look at the limit again before its next record."""
        self._set_limit(self.tail)

    def outstanding(self) -> int:
        """Bytes that the application may still write, or has written, behind what was copied."""
        return min((self._limit - self.tail) % POSITIONS, self.size_bytes)

    def sleep(self) -> bool:
        """Ask the application for a message with its next record.

        Returns:
            Whether nothing waits, so that the owner may sleep without a timer. False as well on a kernel
            without membarrier(2), on which a record could be missed.

        Raises:
            RingBroken: Impossible positions, or a file that was cut.
        """
        self._store(b"\1", ATTENTION_OFFSET)
        if (self._shared and not barrier()) or self.pending():
            self._store(b"\0", ATTENTION_OFFSET)
            return False
        return True

    def tell_floor(self, floor_ns: int) -> None:
        """Tell the application the lower bound of time (nanoseconds since 1970), before its next record."""
        self._store(floor_ns.to_bytes(8, sys.byteorder), FLOOR_OFFSET)
        self._store(b"\1", NEW_FLOOR_OFFSET)

    def tell_end(self) -> None:
        """Tell the application that its session has ended, before its next record."""
        self._store(b"\1", ENDED_OFFSET)

    def fileno(self) -> int:
        """The descriptor, to be sent to the application."""
        return self._fd

    def duplicate(self) -> int:
        """A second descriptor, for an application's end in this process."""
        with translated("ring"):
            return os.dup(self._fd)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self, size: int, offset: int) -> bytes:
        with translated("ring"):
            return os.pread(self._fd, size, offset)

    def _store(self, data: bytes, offset: int) -> None:
        with translated("ring"):
            os.pwrite(self._fd, data, offset)

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        self._store(limit.to_bytes(4, sys.byteorder), LIMIT_OFFSET)

    def _read(self, size: int) -> bytes:
        place = self.tail % self.size_bytes
        first = min(size, self.size_bytes - place)
        data = self._load(first, PAGE_BYTES + place)
        if first < size:
            data += self._load(size - first, PAGE_BYTES)
        if len(data) != size:
            raise RingBroken("the application cut its ring")
        return data


def barrier() -> bool:
    """Order the memory accesses of all processes (membarrier(2)); False where the kernel has no such call."""
    import ctypes

    number = _MEMBARRIER_CALLS.get(platform.machine())
    if number is None or not sys.platform.startswith("linux"):
        return False
    return int(ctypes.CDLL(None).syscall(number, _MEMBARRIER_GLOBAL, 0)) == 0
