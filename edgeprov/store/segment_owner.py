# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The owner of a lane's segments: opens them, goes on with one, ends them, and gives the lane's numbers.

It knows nothing of rows; the writer that appends them is built on it.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from edgeprov._dataclass import replace
from edgeprov.errors import StoreError, StoreFull, UsageError
from edgeprov.store.atomic import DurableFile
from edgeprov.store.frames import FRAME_BYTES, MAX_RANGES, Range, count_of, encode_range, read_segment
from edgeprov.store.number_blocks import LanePlace
from edgeprov.store.position import Quota
from edgeprov.store.segment_file import NewSegment, SegmentSpace, end_bytes, end_file, end_segment, segment_name
from edgeprov.store.spool_head import RESERVED_NUMBERS, OpenState, SpoolHead, Writing, save_head

_MOST_RANGES: Final = MAX_RANGES // 2  # of a segment: then the next one is opened, if anything was recorded


class SegmentOwner:
    """Segments of one lane, under its writer lock.

    Attributes:
        recovered_n: Number that the first record would have had, had no other lane taken numbers since.
        lock: Re-entrant. A recorder holds it longer: from the choice of a record's number to its append.
        copied_n: Records below this number are in their segment; the ring may hold more.
        synced_n: Records below this number are durable.
    """

    def __init__(self, place: LanePlace, head: SpoolHead, *, quota: Quota | None, bound_ms: int, resumed: bool) -> None:
        """For SlotSpool.open_writer only."""
        self._place = place
        self._folder = place.folder
        self._told = resumed  # an application knows its next number
        self._head = head
        self._order = head.order
        self._space = SegmentSpace(quota)
        self._bound_ms = bound_ms
        self._file: DurableFile | None = None
        self._reserved = head.reserved
        self._unsynced = False  # written, but not synced
        self._failed: StoreError | None = None
        self._closed = False
        self.lock = threading.RLock()
        self._mutex = threading.RLock()  # buffer and file; taken after ``lock``, never before it
        self._syncing = threading.Lock()
        self._earlier: tuple[Range, ...] = ()  # numbers of the open segment's records before ``_first``
        self._first = head.next
        self._end_bytes = 0
        self.recovered_n = head.next
        self.copied_n = head.next
        self.synced_n = head.next

    @property
    def open_segments(self) -> tuple[Path, ...]:
        """Segments that earlier writers left open, in order of opening: go_on() takes one of them."""
        return tuple(self._folder / name for name in sorted(self._head.open))

    @property
    def path(self) -> Path | None:
        """File of the segment that takes records now."""
        return None if self._file is None else self._file.path

    @property
    def segment_records(self) -> int:
        """Records of the open segment, without those that still wait in the ring."""
        return count_of(self._ranges()) if self._file is not None else 0

    @property
    def segment_bytes(self) -> int:
        """Bytes of the open segment, without what still waits in the ring."""
        return 0 if self._file is None else self._file.size

    def next_path(self) -> Path:
        """A name for a segment that will follow; names rise in order of opening."""
        with self._mutex:
            self._order += 1
            return self._folder / segment_name(self._order, self._place.lane)

    def prepare(self, header: bytes, path: Path | None = None) -> NewSegment:
        """Write the header of a segment that will follow; records go on into the one before. See NewSegment.

        Args:
            header: Encoded.
            path: From next_path().

        Raises:
            StoreFull: No space or quota.
            StoreError: Any other failure of the disk.
        """
        self._space.verify_quota(len(header) + FRAME_BYTES)
        return NewSegment(path or self.next_path(), header)

    def use(self, new: NewSegment) -> Path | None:
        """End the segment before, durably, and let records go into a new one that has its evidence.

        Returns:
            The file of the segment before; None where there was none, or where it holds no record and stays open.

        Raises:
            StoreError: The disk failed; a new one that takes no records is closed.
        """
        try:
            return self._use(new)
        except BaseException:
            if self._file is not new.file:
                new.close()
            raise

    def _use(self, new: NewSegment) -> Path | None:
        with self.lock, self._syncing, self._mutex:
            self._verify_usable()
            self._flush()
            self._take_first_block()
            before, ranges = self._file, self._ranges()
            # The new segment's RANGE frame and the head name the next number: the records below it must be durable
            # before, or a power cut would take some that no stop names.
            self._sync_before_turn()
            self._write_range(new.file)
            try:
                allocated = self._turn(new.file, end_bytes(1))
                # The numbers of records that come from now on are reserved in the name of the new segment before
                # END says that the one before is complete.
                self._begin(new.file, new.header_sha256, (), allocated)
            except StoreError:
                if before is not None and self._file is before:
                    self._turn(before, self._end_bytes)
                raise
            return self._finish(before, ranges, unsynced=False)

    def go_on(self, path: Path) -> None:
        """Let records go into a segment that an earlier writer left open.

        Raises:
            UsageError: A segment is in use already, or this one is not open.
            StoreError: The disk failed.
        """
        with self.lock, self._mutex:
            self._verify_usable()
            state = self._head.open.get(path.name)
            if self._file is not None or state is None:
                raise UsageError(f"segment {path.name} cannot be gone on with")
            header = sha256(read_segment(path).header).digest()
            self._take_first_block()
            file = DurableFile(path, create=False)
            try:
                follows = bool(state.ranges) and state.ranges[-1][1] == self.copied_n - 1
                if not follows:
                    self._write_range(file)
                self._begin(file, header, state.ranges, self._turn(file, end_bytes(len(state.ranges) + 1)))
            except BaseException:
                if self._file is None:
                    file.close()
                raise
            if follows:
                self._earlier, self._first = state.ranges[:-1], state.ranges[-1][0]

    def can_go_on(self, path: Path) -> bool:
        """Whether a segment that was left open can hold one more range of numbers."""
        state = self._head.open.get(path.name)
        return state is not None and len(state.ranges) < _MOST_RANGES

    @property
    def has_many_ranges(self) -> bool:
        """Whether the open segment's numbers are in so many ranges that another segment has to be opened."""
        return len(self._ranges()) >= _MOST_RANGES

    def open_segment(self, header: bytes, evidence: bytes) -> Path:
        """Prepare, start and use a segment in one call; the segment before must have ended. Errors as there."""
        self._verify_usable()
        if self._file is not None:
            raise UsageError("the segment before is still open")
        new = self.prepare(header)
        try:
            new.start(evidence)
        except BaseException:
            new.close()
            raise
        self.use(new)
        return new.path

    def end_left_open(self) -> None:
        """End the segments with records that earlier writers left open, so that they can be sealed.

        Raises:
            StoreError: The disk failed.
        """
        with self.lock, self._mutex:
            self._verify_usable()
            kept = {name: state for name, state in self._head.open.items() if not state.ranges}
            for name, state in self._head.open.items():
                if state.ranges:
                    end_file(read_segment(self._folder / name), state.ranges, self.copied_n, cut=state.size)
            if len(kept) < len(self._head.open):
                self._save(replace(self._head, open=kept))

    def close_segment(self) -> Path | None:
        """End the segment durably, so that it can be sealed.

        Returns:
            Its file; None when none is open, or when it has no record: then it stays open.

        Raises:
            StoreError: The disk failed; recovery will mend the segment at the next start.
        """
        with self.lock, self._syncing, self._mutex:
            self._verify_usable()
            self._flush()
            self._hold()
            return self._stop()

    def _stop(self) -> Path | None:
        """Finish the segment in use, and give back the numbers that it did not use, if no other lane took some."""
        file, ranges, unsynced = self._file, self._ranges(), self._unsynced
        ended = self._finish(file, ranges, unsynced=unsynced)
        self._file = None
        self._unsynced = False
        self._earlier = ()
        self.synced_n = self._first = self.copied_n
        if file is not None:
            # The segment says the same; on a full disk the next start reads it there.
            with suppress(StoreFull):
                self._give_back()
        return ended

    def _finish(self, file: DurableFile | None, ranges: tuple[Range, ...], *, unsynced: bool) -> Path | None:
        """End a segment durably; without records it stays open, synced, for a later writer."""
        if file is None:
            return None
        try:
            if ranges:
                end_segment(file, ranges, self.copied_n, unsynced=unsynced)
            else:
                self._keep_open(file, ranges, unsynced=unsynced)
        except StoreError as error:
            self._fail(error)
            with suppress(StoreError):
                file.close()
            raise
        file.close()
        return file.path if ranges else None

    def _leave(self) -> None:
        """Give the segment up as it is, synced, so that a later writer goes on in it."""
        file = self._file
        if file is None:
            return
        try:
            self._keep_open(file, self._ranges(), unsynced=self._unsynced)
            self._file = None
            self._give_back()
        except StoreFull:
            pass  # the next start reads the segment
        except StoreError as error:
            self._fail(error)
            raise
        finally:
            file.close()

    def _keep_open(self, file: DurableFile, ranges: tuple[Range, ...], *, unsynced: bool) -> None:
        if unsynced:
            file.sync()
        file.truncate(file.size)
        state = OpenState(size=file.size, ranges=ranges)
        with suppress(StoreFull):
            self._save(replace(self._head, open={**self._head.open, file.path.name: state}))

    def _begin(self, file: DurableFile, header: bytes, ranges: tuple[Range, ...], allocated: int) -> None:
        """Reserve numbers in the name of a segment, and make it the one that takes records."""
        self._verify_usable()
        # Numbers first: should the power fail behind this line, they are skipped, never used again.
        still_open = {name: state for name, state in self._head.open.items() if name != file.path.name}
        writing = Writing(name=file.path.name, header=header, bound_ms=self._bound_ms)
        reserved = self._place.blocks.extend(self._reserved, self.copied_n + RESERVED_NUMBERS)
        order = max(self._order, self._head.order)
        self._save(
            replace(self._head, reserved=reserved, next=self.copied_n, order=order, writing=writing, open=still_open)
        )
        self._reserved = reserved
        self._told = True
        self._file = file
        self._earlier, self._first = ranges, self.copied_n
        self._unsynced = False
        self._space.allocated = allocated
        self._end_bytes = end_bytes(len(ranges) + 1)

    def _sync_before_turn(self) -> None:
        if self._file is None or not self._unsynced:
            return
        try:
            self._file.sync()
        except StoreError as error:
            self._fail(error)
            raise
        self._unsynced = False
        self.synced_n = max(self.synced_n, self.copied_n)

    def _take_first_block(self) -> None:
        """Take a block where the lane has no number left, before an application is told its first number."""
        if not self._told and self._reserved <= self.copied_n:
            first, self._reserved = self._place.blocks.claim(self._reserved, RESERVED_NUMBERS)
            self._go_on_at(first)
            self.synced_n = first

    def _change_block(self, file: DurableFile, count: int) -> None:
        """Go on with numbers of another block, and name those of this one that are left: no record will have them.

        Nothing may wait in the ring, and the application must not append before it knows its next number.
        """
        ranges, left = self._ranges(), self._reserved - self.copied_n
        first, reserved = self._place.blocks.claim(self._reserved, count)
        self._sync_before_turn()  # as in use()
        self._write_range(file, first, left)
        self._earlier = ranges
        self._reserved = reserved
        self._end_bytes = end_bytes(len(ranges) + 1)
        self._go_on_at(first)
        self._save(replace(self._head, reserved=reserved, next=first))

    def _give_back(self) -> None:
        """Note that no segment is written, and give back the numbers that are left."""

        def save(reserved: int) -> None:
            self._save(replace(self._head, reserved=reserved, next=self.copied_n, writing=None))
            self._reserved = reserved

        self._place.blocks.give_back(self._reserved, self.copied_n, save)

    def _go_on_at(self, n: int) -> None:
        """The next record has the number ``n``."""
        self.copied_n = self._first = n

    def _write_range(self, file: DurableFile, n: int | None = None, unused: int = 0) -> None:
        """Tell in a segment which number its next record has, and how many before it no record has."""
        size = file.size
        try:
            file.write(encode_range(self.copied_n if n is None else n, unused))
            file.sync()
        except StoreFull:
            with suppress(StoreError):
                file.truncate(size)
            raise
        except StoreError as error:
            self._fail(error)
            raise

    def _ranges(self) -> tuple[Range, ...]:
        """Numbers of the open segment's records, what is still in memory included."""
        if self.copied_n == self._first:
            return self._earlier
        return (*self._earlier, (self._first, self.copied_n - 1))

    def _save(self, head: SpoolHead) -> None:
        save_head(self._place.head, head)
        self._head = head

    def _flush(self) -> None:
        """Copy what waits in the ring into the segment. The writer overrides it, and the next two."""

    def _turn(self, file: DurableFile, end: int) -> int:
        """Let what comes into the ring from now on belong to a segment; ``end``: bytes to keep for its END frame.

        Returns:
            Bytes of the file that are set aside.
        """
        raise NotImplementedError

    def _hold(self) -> None:
        """Let nothing more come into the ring."""

    @property
    def failure(self) -> StoreError | None:
        """The error after which this writer gave its file up; None while it is of use."""
        return self._failed

    def _fail(self, error: StoreError) -> None:
        with self._mutex:
            self._failed = error

    def _verify_usable(self) -> None:
        if self._closed:
            raise UsageError("this writer is closed")
        if self._failed is not None:
            raise StoreError(f"this writer failed before: {self._failed.message}", advice=self._failed.advice)
