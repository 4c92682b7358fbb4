# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The writing end of a spool: rows gather in memory and go to the disk as one write per group.

What is acknowledged depends on the sync mode. ``every``: a record is durable when append_record()
returns. ``interval``: it is durable after at most that time; ``synced_n`` tells up to where.
``seal``: when its segment is closed. A row that was refused (disk full, quota) leaves no trace and
its number is still free. Space is set aside ahead, so rows that were taken into memory do not meet
a full disk afterwards.

An append only puts its row into a queue; what frames a row on the disk is added when a group is written.
Whoever appends holds ``lock``; the thread that syncs takes rows out meanwhile without it.

After a failed sync the kernel may have dropped what it could not write: the writer then refuses
everything, and the next one starts from what is really on the disk.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from edgeprov.errors import StoreError, StoreFull, UsageError
from edgeprov.limits import KIB
from edgeprov.store.atomic import DurableFile, remove, sync_dir
from edgeprov.store.frames import FRAME_BYTES, INPUT, RECORD, encode_frame, frame_records, verify_length
from edgeprov.store.lock import Lock
from edgeprov.store.position import Position, Quota, SaveHead
from edgeprov.store.segment_file import END_BYTES, SegmentSpace, create_segment, end_segment, first_frames
from edgeprov.store.sync_thread import SyncThread

SYNC_MODES: Final = ("every", "interval", "seal")
RESERVED_NUMBERS: Final = 32_768  # at most so many are skipped after an unclean stop
GROUP_BYTES: Final = 32 * KIB
_EXIT_S: Final = 5.0
_GROUP_RECORDS: Final = GROUP_BYTES // (FRAME_BYTES + 1)  # as many as a group can hold at the most


class SpoolWriter:
    """Appends rows to segments. Made by SlotSpool.open_writer.

    Where several threads share it, ``lock`` is held around everything but sync().

    Attributes:
        lock: Re-entrant. A recorder holds it longer: from the choice of a record's number to its append.
        next_n: Number that the next append_record() must carry.
        synced_n: Records below this number are durable.
        segment_bytes: Size of the open segment.
    """

    def __init__(
        self,
        folder: Path,
        position: Position,
        *,
        save_head: SaveHead,
        lock: Lock,
        sync: str,
        interval_ms: int,
        quota: Quota | None,
    ) -> None:
        """For SlotSpool.open_writer only: takes over ``lock``."""
        if sync not in SYNC_MODES:
            lock.release()
            raise UsageError(f"sync mode {sync[:20]!r} is none of {', '.join(SYNC_MODES)}")
        self._folder = folder
        self._prev = position.prev
        self._ended = position.next - position.skipped
        self._save_head = save_head
        self._file_lock = lock
        self._space = SegmentSpace(quota)
        self._every = sync == "every"
        self._sync_thread = SyncThread(self.sync, interval_ms / 1000)
        self._file: DurableFile | None = None
        self._rows: deque[bytes] = deque()  # taken in, not framed yet; only the appending thread adds
        self._buffer = bytearray()  # frames that the disk has not got yet
        self._taken = 0  # size of the segment with all that is in memory; only the appending thread counts
        self._limit = 0  # up to where it may grow without a look at group, disk, quota and reservation
        self._reserved = position.next
        self._unsynced = False  # written, but not synced
        self._failed: StoreError | None = None
        self.lock = threading.RLock()
        self._mutex = threading.RLock()  # buffer and file; taken after ``lock``, never before it
        self._syncing = threading.Lock()
        self._first = position.next
        self._before = (position.next, self._ended, position.prev)  # head.json while a segment is open
        self.next_n = position.next
        self.synced_n = position.next
        self._idle = self._synced_by_itself = sync != "seal"  # idle: something has to follow the next append
        self._closed = False
        atexit.register(self._close_at_exit)

    @property
    def position(self) -> Position:
        """What the header of the segment that is opened next has to say."""
        return Position(next=self.next_n, skipped=self.next_n - self._ended, prev=self._prev)

    @property
    def segment_records(self) -> int:
        """Records of the open segment, what is still in memory included."""
        return self.next_n - self._first

    @property
    def segment_bytes(self) -> int:
        """Bytes of the open segment, what is still in memory included."""
        return self._taken

    # -- segments ---------------------------------------------------------------------------------

    def open_segment(self, header: bytes, evidence: bytes | None = None) -> Path:
        """Start a segment, durable under its name when this returns.

        Args:
            header: Encoded segment header that agrees with ``position``.
            evidence: Payload of an EVIDENCE frame, when it is there already.

        Raises:
            StoreFull: No space or quota; no segment was started.
            StoreError: Any other failure of the disk.
        """
        with self._mutex:
            self._verify_usable()
            if self._file is not None:
                raise UsageError("the segment before is still open")
            frames = first_frames(header, evidence)
            self._space.verify_quota(len(frames))
            # Numbers first: should the power fail behind this line, they are skipped, never used again.
            before = (self.next_n, self._ended, self._prev)
            reserved = self.next_n + RESERVED_NUMBERS
            self._save_head(reserved, *before)
            self._reserved = reserved
            path = self._folder / f"{self.next_n:020d}.seg"
            file = create_segment(path, frames)
            self._file = file
            self._taken, self._limit = file.size, 0
            self._space.allocated = file.size + END_BYTES
            self._first = self.next_n
            self._before = before
            self._prev = sha256(header).digest()
            self._ended = self.next_n
            try:
                sync_dir(self._folder)
            except StoreError as error:
                self._fail(error)
                raise
            return path

    def close_segment(self) -> Path | None:
        """End the segment durably, so that it can be sealed.

        Returns:
            Its file; None when none is open, or when it has no record: then it goes without a trace.

        Raises:
            StoreError: The disk failed; recovery will close the segment at the next start.
        """
        with self.lock, self._syncing, self._mutex:
            self._verify_usable()
            file = self._file
            if file is None:
                return None
            if not self.segment_records:
                self._drop_segment(file)
                return None
            self._flush()
            records = self.next_n - self._first
            try:
                end_segment(file, records, self.next_n, unsynced=self._unsynced)
                # The END frame says the same; on a full disk the next start reads it there.
                with suppress(StoreFull):
                    self._save_head(self.next_n, self.next_n, self.next_n, self._prev)
            except StoreError as error:
                self._fail(error)
                raise
            self._file = None
            self._taken = self._limit = 0
            self._unsynced = False
            self.synced_n = self._ended = self._reserved = self.next_n
            file.close()
            return file.path

    # -- rows -------------------------------------------------------------------------------------

    def append_record(self, row: bytes, captured: bytes | None = None) -> int:
        """Take a record in; ``row`` must carry the number ``next_n``.

        Args:
            row: The encoded record.
            captured: The encoded row of its captured input, kept right behind it.

        Returns:
            Its number.

        Raises:
            StoreFull: No space or quota: nothing was taken, the number is still free.
            LimitError: A row is too long.
            StoreError: The disk failed.
        """
        if captured is not None:
            return self._append_pair(row, captured)
        size = len(row) + FRAME_BYTES
        taken = self._taken + size
        if taken > self._limit:
            verify_length(row, RECORD)
            self._make_room(size)
        self._taken = taken
        self._rows.append(row)
        n = self.next_n
        self.next_n = n + 1  # behind the row: sync() takes out all rows whose numbers it has seen
        if self._idle:
            self._follow_up(size)
        return n

    def sync(self) -> None:
        """Make everything appended so far durable.

        Raises:
            StoreFull: No space; what is not durable stays in memory.
            StoreError: The disk failed; the writer is of no further use.
        """
        with self._syncing:
            with self._mutex:
                self._verify_usable()
                self._sync_thread.synced()
                # Before the rows are taken out: whoever appends behind them sees that something has to follow.
                self._idle = self._synced_by_itself
                reached = self.next_n
                self._flush()
                file, unsynced = self._file, self._unsynced
                self._unsynced = False
                if file is None or not unsynced:
                    # The sync before took a row whose number did not count yet; by now it does.
                    self.synced_n = max(self.synced_n, reached)
                    return
            try:
                file.sync()  # appends go on meanwhile
            except StoreError as error:
                self._fail(error)
                raise
            with self._mutex:
                self.synced_n = max(self.synced_n, reached)

    def close(self) -> None:
        """Close the open segment and give the slot free. Closing twice is allowed.

        Raises:
            StoreError: The disk failed: rows since the last sync may be lost; numbers are not reused.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        self._sync_thread.stop()
        try:
            if self._failed is None:
                self.close_segment()
        finally:
            if self._file is not None:
                with suppress(StoreError):
                    self._file.close()
            self._file_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_at_exit(self) -> None:
        # An application that forgot close(): nobody is left to tell of an error. One whose thread is stuck in
        # an inference leaves an open segment, which the next start recovers.
        if self.lock.acquire(timeout=_EXIT_S):
            try:
                with suppress(StoreError):
                    self.close()
            finally:
                self.lock.release()

    # -- inside -----------------------------------------------------------------------------------

    def _drop_segment(self, file: DurableFile) -> None:
        # Nothing was recorded: the next segment has the same first number and the same predecessor.
        next_n, self._ended, self._prev = self._before
        with suppress(StoreFull):
            self._save_head(next_n, *self._before)
        self._file = None
        self._buffer.clear()
        self._unsynced = False
        self._taken = self._limit = 0
        file.close()
        remove(file.path)
        sync_dir(self._folder)

    def _verify_usable(self) -> None:
        if self._failed is not None:
            raise StoreError(f"this writer failed before: {self._failed.message}", advice=self._failed.advice)

    def _append_pair(self, row: bytes, captured: bytes) -> int:
        """A record and its captured input, which stands right behind it: framed at once, for it is long."""
        frames = encode_frame(RECORD, row) + encode_frame(INPUT, captured)
        with self._mutex:
            if self._taken + len(frames) > self._limit:
                verify_length(row, RECORD)
                verify_length(captured, INPUT)
                self._make_room(len(frames))
            frame_records(self._rows, self._buffer)
            self._buffer += frames
            self._taken += len(frames)
            n = self.next_n
            self.next_n = n + 1
            if self._idle:
                self._follow_up(len(frames))
            return n

    def _make_room(self, size: int) -> None:
        """The slow path of an append: numbers, quota and disk space for ``size`` bytes and more."""
        with self._mutex:
            self._verify_usable()
            file = self._file
            if file is None:
                raise UsageError("no segment is open")
            if self._taken - file.size + size > GROUP_BYTES:
                self._flush()
            if self._reserved - self.next_n < _GROUP_RECORDS:
                reserved = self.next_n + RESERVED_NUMBERS
                self._save_head(reserved, *self._before)
                self._reserved = reserved
            needed = self._taken + size + END_BYTES
            if needed > self._space.allocated:
                try:
                    self._space.allocate(file, needed)
                except StoreFull:
                    raise
                except StoreError as error:
                    self._fail(error)
                    raise
            waiting = self._taken - file.size
            room = min(self._space.allocated - self._taken - END_BYTES, GROUP_BYTES - waiting)
            self._limit = self._taken + max(size, room)

    def _flush(self) -> None:
        file = self._file
        if file is None:
            return
        frame_records(self._rows, self._buffer)
        if not self._buffer:
            return
        try:
            file.write(self._buffer)
        except StoreFull:
            self._limit = 0  # the rows wait in memory; the next append tries again
            raise
        except StoreError as error:
            self._fail(error)
            raise
        self._buffer.clear()
        self._unsynced = True

    def _commit(self, size: int) -> None:
        """Write and sync the record that was just added; take its last ``size`` bytes back if the disk is full."""
        with self._mutex:
            file = self._file
            if file is None:
                raise UsageError("no segment is open")
            try:
                self._flush()
            except StoreFull:
                del self._buffer[-size:]
                self._taken -= size
                self.next_n -= 1
                raise
            try:
                file.sync()
            except StoreError as error:
                self._fail(error)
                raise
            self._unsynced = False
            self.synced_n = self.next_n

    def _fail(self, error: StoreError) -> None:
        with self._mutex:
            self._failed = error
            self._limit = 0

    def _follow_up(self, size: int) -> None:
        if self._every:
            self._commit(size)
            return
        self._idle = False  # until the next sync
        self._sync_thread.appended()
