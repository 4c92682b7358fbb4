# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The writing end of a spool: rows come through a ring in memory and go to the disk as one write per group.

What is acknowledged survives a kill of the process: it stands in the ring, which the next start copies. What
survives a power cut depends on the sync mode. ``every``: a record is durable when append_record() returns.
``interval``: it is durable after at most that time; ``synced_n`` tells up to where. ``seal``: when its segment
is closed. A row that was refused (disk full, quota) leaves no trace and its number is still free: the ring's
limit never passes the disk space that was set aside.

A segment is prepared (its header on the disk, then its evidence) while another still takes records, and used
from one record to the next. A writer that closes leaves its segment open: a later one goes on in it.

After a failed sync the kernel may have dropped what it could not write: the writer then refuses
everything, and the next one starts from what is really on the disk.
"""

from __future__ import annotations

import atexit
import os
import weakref
from contextlib import suppress
from functools import partial
from typing import Final, Self

from edgeprov._dataclass import replace
from edgeprov.errors import FormatError, StoreError, StoreFull, UsageError
from edgeprov.store.atomic import DurableFile
from edgeprov.store.frames import FRAME_BYTES, count_records
from edgeprov.store.lock import Lock
from edgeprov.store.number_blocks import LanePlace
from edgeprov.store.position import Quota
from edgeprov.store.ring import RingReader
from edgeprov.store.ring_file import RingFile
from edgeprov.store.ring_writer import RingWriter
from edgeprov.store.segment_owner import SegmentOwner
from edgeprov.store.spool_head import RESERVED_NUMBERS, SpoolHead
from edgeprov.store.sync_thread import SyncThread

SYNC_MODES: Final = ("every", "interval", "seal")
UNBOUNDED_MS: Final = 2**53 - 1
"""Bound of a loss where records are synced at the end of their segment only."""
_EXIT_S: Final = 5.0
_ROW_BYTES: Final = FRAME_BYTES + 16  # no record's frame is smaller

_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()


class SpoolWriter(SegmentOwner):
    """Copies rows from a ring into segments. Made by SlotSpool.open_writer.

    Where several threads share it, ``lock`` is held around everything but sync() and prepare().

    Attributes:
        lane: Number of its lane: each writer of a slot has one of its own.
        own: The application's end of the ring is in this process too.
    """

    def __init__(
        self,
        place: LanePlace,
        head: SpoolHead,
        *,
        lock: Lock,
        ring: RingFile,
        sync: str,
        interval_ms: int,
        quota: Quota | None,
        own: bool,
        reader: RingReader | None,
    ) -> None:
        """For SlotSpool.open_writer only: takes over ``lock``."""
        bound_ms = {"every": 0, "interval": interval_ms}.get(sync, UNBOUNDED_MS)
        super().__init__(place, head, quota=quota, bound_ms=bound_ms, resumed=reader is not None)
        self.lane = place.lane
        self._file_lock = lock
        self._every = sync == "every"
        self._by_itself = sync == "interval"
        self._sync_thread = SyncThread(self.sync, interval_ms / 1000)
        self._ring_file = ring
        self.own = own
        self._rows: RingWriter | None = None
        try:
            self._ring = reader or RingReader(ring.create(), ring.size_bytes, shared=not own)
        except BaseException:
            lock.release()
            raise
        try:
            ring.size_bytes = self._ring.size_bytes
            if own:
                fd = self._ring.duplicate()
                self._rows = RingWriter(fd, ring.size_bytes, self.copied_n, wake=self.wake, make_room=self.make_room)
            if self._by_itself:
                self._sleep()
        except BaseException:
            self._release()
            raise
        atexit.register(self._close_at_exit)
        _writers.add(self)

    @property
    def next_n(self) -> int:
        """Number that the next record must carry; for another process, as of the last copy."""
        return self.copied_n if self._rows is None else self._rows.next_n

    @property
    def rows(self) -> RingWriter:
        """The application's end of the ring.

        Raises:
            UsageError: It is in another process.
        """
        if self._rows is None:
            raise UsageError("the application's end of this ring is in another process")
        return self._rows

    @property
    def ring(self) -> RingReader:
        """The owner's end of the ring."""
        return self._ring

    def wake(self) -> None:
        """Copy and sync within the interval: the application has appended."""
        self._sync_thread.appended()

    @property
    def segment_records(self) -> int:
        """Records of the open segment, with those that still wait in the ring."""
        return super().segment_records + self.next_n - self.copied_n

    @property
    def segment_bytes(self) -> int:
        """Bytes of the open segment, with what still waits in the ring."""
        with suppress(FormatError, StoreError):  # the next copy meets it, and ends the session
            return super().segment_bytes + self._ring.pending()
        return super().segment_bytes

    # -- rows -------------------------------------------------------------------------------------

    def append_record(self, row: bytes, captured: bytes | None = None) -> int:
        """Take a record in; ``row`` must carry the number ``next_n``.

        Args:
            row: The encoded record.
            captured: The encoded row of its captured input, kept right behind it.

        Returns:
            Its number.

        Raises:
            StoreFull: No space or quota: nothing was taken, the number is still free. Where it came from the sync of
                a file that was written, the writer is of no further use.
            LimitError: A row is too long.
            UsageError: This process was forked from the one that opened the writer.
            StoreError: The disk failed.
        """
        n = self.rows.append(row, captured)
        if self._every:
            try:
                self.sync()
            except StoreFull:
                # Space was set aside, but this file system asks for it again at each write (copy on write).
                with self._mutex:
                    if self.copied_n <= n:
                        self.rows.take_back(n)
                        raise
                    if self._failed is not None:
                        raise  # it was written and could not be synced
                self.sync()  # another thread's sync copied it meanwhile
        return n

    def copy(self) -> None:
        """Copy what waits in the ring, without a sync. Errors as in sync()."""
        with self._mutex:
            self._verify_usable()
            self._flush()

    def sync(self) -> None:
        """Make everything appended so far durable.

        Raises:
            StoreFull: No space; what is not durable stays in the ring.
            StoreError: The disk failed; the writer is of no further use.
        """
        with self._syncing:
            with self._mutex:
                self._verify_usable()
                self._sync_thread.synced()
                self._flush()
                if self._by_itself and not self._sleep():
                    self._sync_thread.appended()  # a record came meanwhile
                reached = self.copied_n
                file, unsynced = self._file, self._unsynced
                self._unsynced = False
                if file is None or not unsynced:
                    self.synced_n = max(self.synced_n, reached)
                    return
            try:
                file.sync()  # appends go on meanwhile
            except StoreError as error:
                self._fail(error)
                raise
            with self._mutex:
                self.synced_n = max(self.synced_n, reached)

    def make_room(self, size: int) -> None:
        """Copy what waits in the ring, and move its limit: numbers, quota and disk space for ``size`` bytes and more.

        The next record may have another number afterwards: ``next_n``.

        Raises:
            StoreFull: No space or quota.
            StoreError: The disk failed.
            UsageError: No segment is open.
        """
        with self._mutex:
            self._verify_usable()
            self._flush()
            file = self._file
            if file is None:
                raise UsageError("no segment is open")
            needed = file.size + size + self._end_bytes
            if needed > self._space.allocated:
                try:
                    self._space.allocate(file, needed)
                except StoreFull:
                    raise
                except StoreError as error:
                    self._fail(error)
                    raise
            self._reserve(file, max(size, _ROW_BYTES))
            self._allow(file.size)

    def close(self) -> None:
        """Sync the open segment, leave it for the next writer, and give the slot free. Closing twice is allowed.

        Raises:
            StoreError: The disk failed: rows since the last sync may be lost; numbers are not reused.
        """
        if self._closed:
            return
        atexit.unregister(self._close_at_exit)
        self._sync_thread.stop()
        try:
            with self.lock, self._syncing, self._mutex:
                if self._failed is None:
                    self._flush()
                    self._hold()
                    self._leave()
                self._closed = True
            if self._failed is None:
                self._ring_file.remove()
        finally:
            self._release()

    def leave(self) -> None:
        """Stop copying while another process goes on to append, as a kill would: its ring and numbers stay.

        Raises:
            StoreError: The disk failed.
        """
        if self._closed:
            return
        atexit.unregister(self._close_at_exit)
        self._sync_thread.stop()
        try:
            self.sync()
        finally:
            self._release()

    def _release(self) -> None:
        self._closed = True
        if self._file is not None:
            with suppress(StoreError):
                self._file.close()
        if self._rows is not None:
            self._rows.close()
        self._ring.close()
        self._file_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside -----------------------------------------------------------------------------------

    def _flush(self) -> None:
        file = self._file
        if file is None:
            return
        try:
            if self._ring.drain(partial(self._copy, file)):
                self._allow(file.size)
        except StoreFull:
            raise
        except FormatError as error:
            raise self._broken(error) from error
        except StoreError as error:
            self._fail(error)
            raise

    def _sleep(self) -> bool:
        try:
            return self._ring.sleep()
        except FormatError as error:
            raise self._broken(error) from error

    def _broken(self, error: FormatError) -> StoreError:
        broken = StoreError(
            f"{self._folder.name}: {error.message}", advice="Restart the application, and report it to its maker."
        )
        self._fail(broken)
        return broken

    def _reserve(self, file: DurableFile, size: int) -> None:
        """Have numbers for the records that ``size`` bytes may hold: of this block, or of another one."""
        if self._numbers_left() >= max(size, self._ring.size_bytes):
            return
        count = RESERVED_NUMBERS + size // _ROW_BYTES
        reserved = self._place.blocks.extend(self._reserved, self.copied_n + count)
        if reserved > self._reserved:
            self._save(replace(self._head, reserved=reserved, next=self.copied_n))
            self._reserved = reserved
        elif self._numbers_left() < size:
            self._hold()
            self._change_block(file, count)

    def _go_on_at(self, n: int) -> None:
        super()._go_on_at(n)
        if self._rows is not None:
            self._rows.next_n = n

    def _copy(self, file: DurableFile, data: bytes) -> None:
        records = count_records(data)
        if self.copied_n + records > self._reserved:
            raise FormatError("the application wrote more records than it had numbers for")
        file.write(data)
        self.copied_n += records
        self._unsynced = True

    def _turn(self, file: DurableFile, end: int) -> int:
        # What the application may write already must find space in this segment.
        allocated = file.size + self._ring.outstanding() + end
        file.allocate(allocated)
        self._ring_file.save(segment=file.path.name, offset=file.size, position=self._ring.tail)
        return allocated

    def _hold(self) -> None:
        self._ring.hold()
        if self._rows is not None:
            self._rows.look()  # the limit that it knows is no longer true

    def _fail(self, error: StoreError) -> None:
        super()._fail(error)
        self._hold()

    def _allow(self, size: int) -> None:
        room = self._space.allocated - size - self._end_bytes
        self._ring.allow(max(0, min(room, self._numbers_left())))

    def _numbers_left(self) -> int:
        """Bytes that the ring may hold before its records could use up the reserved numbers."""
        return (self._reserved - self.copied_n) * _ROW_BYTES

    def _close_at_exit(self) -> None:
        # An application that forgot close(): nobody is left to tell of an error. One whose thread is stuck in
        # an inference leaves its ring, which the next start copies.
        if self.lock.acquire(timeout=_EXIT_S):
            try:
                with suppress(StoreError):
                    self.close()
            finally:
                self.lock.release()

    def _close_in_child(self) -> None:
        """Give up what a forked child inherited, so that it changes nothing and keeps nobody out of the slot."""
        self._closed = True
        atexit.unregister(self._close_at_exit)
        self.lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 - another thread may have held it
        if self._file is not None:
            self._file.close()
            self._file = None
        self._ring.close()
        self._file_lock.release()


def _close_all() -> None:
    for writer in list(_writers):
        if not writer._closed:  # noqa: SLF001
            writer._close_in_child()  # noqa: SLF001


os.register_at_fork(after_in_child=_close_all)
