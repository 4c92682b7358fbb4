# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The spool of one slot: records between inference and kit, in segments of frames.

A record number is used once, whatever happens: numbers are reserved ahead in ``head.json`` before the first of
them is given out, so a number that was handed out and then lost in a power cut is skipped, and the stop is kept
there with these numbers until a kit carries it. A segment outlives its writer: the next one of the same kind
goes on in it, and whoever seals it ends it. Recovery cuts a torn tail at the last whole frame; nothing that was
synced lies behind that point. Closed segments never change; they are freed when their kit lies in the outbox.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeprov._dataclass import replace
from edgeprov.errors import FormatError, NotStored, StoreBusy, StoreError, UsageError
from edgeprov.store.atomic import DurableFile, make_dirs, remove, sweep, sync_dir
from edgeprov.store.frames import (
    END,
    EVIDENCE,
    HEADER,
    INPUT,
    LABEL,
    RECORD,
    Range,
    Segment,
    SegmentInfo,
    load_segment_info,
    numbering,
    ranges_of,
    read_segment,
)
from edgeprov.store.label_log import LabelLog
from edgeprov.store.lock import Lock
from edgeprov.store.position import Quota
from edgeprov.store.ring import RingReader
from edgeprov.store.ring_file import RingFile, copy_ring
from edgeprov.store.segment_file import Quarantine, end_file, is_damaged, segment_paths
from edgeprov.store.segment_owner import RESERVED_NUMBERS
from edgeprov.store.spool_head import (
    FIRST_NUMBER,
    OpenState,
    SpoolHead,
    SpoolStop,
    add_stop,
    forget_stops,
    load_head,
    load_stops,
    save_head,
)
from edgeprov.store.spool_writer import SYNC_MODES, SpoolWriter

__all__ = [
    "END", "EVIDENCE", "HEADER", "INPUT", "LABEL", "RECORD", "LabelLog", "Quota", "Range", "Segment",
    "SegmentInfo", "SlotSpool", "SpoolHead", "SpoolStop", "SpoolWriter", "ranges_of", "read_segment",
]  # fmt: skip

_UNKNOWN_BOUND_MS: Final = 2**53 - 1  # where the document that told it is lost


class SlotSpool:
    """The segments of a slot: one writer at a time, any number of readers."""

    def __init__(self, folder: Path, *, quarantine: Quarantine, ring: Path | None = None) -> None:
        """Use ``folder``, made when needed; ``quarantine`` moves damage out of the way.

        Args:
            folder: The slot's.
            quarantine: Moves a file out of the way, with the reason.
            ring: File in a tmpfs for what is not on the disk yet; without it a kill loses these records.
        """
        self.folder = folder
        self._ring = ring
        self._quarantine = quarantine

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments, in order of opening; those that can be gone on with are open.

        Raises:
            StoreError: The folder cannot be read.
        """
        found = []
        for path in segment_paths(self.folder):
            with suppress(NotStored):  # freed meanwhile
                found.append(load_segment_info(path))
        return tuple(found)

    def head(self) -> SpoolHead:
        """The slot's numbers as they are on the disk; recover() first makes them complete."""
        try:
            return load_head(self.folder) or SpoolHead()
        except FormatError:
            return SpoolHead()

    def recover(self) -> SpoolHead:
        """Cut what a dead writer left half, and note its stop; does nothing after a clean stop.

        Raises:
            StoreBusy: A writer is alive.
            StoreError: The folder cannot be read or written.
        """
        lock = self._lock()
        try:
            return self._recover()
        finally:
            lock.release()

    def end_open(self, *, but: Collection[Path] = ()) -> SpoolHead:
        """Recover, and end every open segment that holds records: they can be sealed then.

        Segments without a record stay, and so do those without evidence.

        Raises:
            StoreBusy: A writer is alive.
            StoreError: The folder cannot be read or written.
        """
        lock = self._lock()
        try:
            return self._end_open(self._recover(), but)
        finally:
            lock.release()

    def open_writer(
        self,
        *,
        sync: str = "interval",
        interval_ms: int = 200,
        quota: Quota | None = None,
        largest_frame_bytes: int = 0,
        pid: int | None = None,
        resume: bool = False,
    ) -> SpoolWriter:
        """Become the writer of this slot, after recovery.

        Args:
            sync: ``every`` record, every ``interval_ms``, or at ``seal`` (when a segment is closed).
            interval_ms: Longest time between an append and its sync, for ``interval``.
            quota: Bytes that may be used.
            largest_frame_bytes: Of a record with its captured input, for the size of the ring.
            pid: The process that appends, with the ring's descriptor; None is this one.
            resume: That process has the ring already; the owner before was killed.

        Raises:
            StoreBusy: Another writer is alive.
            StoreFull: No space.
            StoreError: The folder cannot be read or written.
        """
        if sync not in SYNC_MODES:
            raise UsageError(f"sync mode {sync[:20]!r} is none of {', '.join(SYNC_MODES)}")
        lock = self._lock()
        try:
            head, reader = self._recover_with_ring(resume=resume)
            reader = self._resumed(reader, resume=resume)
        except BaseException:
            lock.release()
            raise
        ring = RingFile(self._ring, largest_frame_bytes=largest_frame_bytes, pid=pid)
        return SpoolWriter(
            self.folder,
            head,
            lock=lock,
            ring=ring,
            sync=sync,
            interval_ms=interval_ms,
            quota=quota,
            own=pid is None,
            reader=reader,
        )

    def _resumed(self, reader: RingReader | None, *, resume: bool) -> RingReader | None:
        if resume and reader is None:
            raise StoreError(f"slot {self.folder.name}: there is no ring to go on with")
        if not resume:
            _close(reader)
        return reader if resume else None

    def drop_unquoted(self, path: Path) -> None:
        """Remove a segment whose header was never quoted, so that it holds no record.

        Raises:
            StoreBusy: It has evidence.
            StoreError: It cannot be removed.
        """
        try:
            segment = read_segment(path)
            if segment.evidence or segment.closed:
                raise StoreBusy(f"segment {path.name} has evidence")
        except NotStored:
            return
        remove(path)
        sync_dir(self.folder)

    def stops(self) -> tuple[SpoolStop, ...]:
        """Unclean stops that no kit carries yet, oldest first.

        Raises:
            StoreError: They cannot be read.
        """
        try:
            return load_stops(self.folder)
        except FormatError as error:
            self._quarantine(self.folder / "stops.json", error.message)
            return ()

    def forget_stops(self, known: Collection[SpoolStop]) -> None:
        """Drop unclean stops that a kit carries.

        Raises:
            StoreError: The document cannot be written.
        """
        if known and self.stops():
            forget_stops(self.folder, known)

    def free(self, segment: SegmentInfo | Path) -> None:
        """Remove a closed or empty segment whose kit (or tombstone) lies in the outbox.

        Raises:
            StoreBusy: The segment is still open and holds records, or its writer has just closed it: try again.
            StoreError: It cannot be removed.
        """
        path = segment if isinstance(segment, Path) else segment.path
        try:
            info = load_segment_info(path)
        except NotStored:
            return
        head = self.head()
        if info.next_n is None:
            written = head.writing is not None and head.writing.name == path.name
            if written or ranges_of(read_segment(path).frames()):
                raise StoreBusy(f"segment {path.name} is not closed")
        elif head.next < info.next_n:
            self.recover()  # the numbers must be known as used before the last trace of them goes
        remove(path)
        sync_dir(self.folder)

    def _lock(self) -> Lock:
        make_dirs(self.folder)
        try:
            return Lock(self.folder / "writer.lock")
        except StoreBusy as error:
            raise StoreBusy(f"slot {self.folder.name} has a writer in another process or object") from error

    def _recover(self) -> SpoolHead:
        head, reader = self._recover_with_ring(resume=False)
        _close(reader)
        return head

    def _recover_with_ring(self, *, resume: bool) -> tuple[SpoolHead, RingReader | None]:
        sweep(self.folder)
        reader = copy_ring(RingFile(self._ring), self.folder, self._quarantine, resume=resume)
        try:
            return self._recover_numbers(ended_clean=reader is not None), reader
        except BaseException:
            _close(reader)
            raise

    def _recover_numbers(self, *, ended_clean: bool) -> SpoolHead:
        """Recover once the ring was copied; ``ended_clean``: it was there, so that a killed writer lost nothing."""
        found = self._load_head()
        known = found or SpoolHead()
        next_n = known.next
        last = FIRST_NUMBER - 1
        opened: dict[str, OpenState] = {}
        rebuilt_open = False
        for info in self.segments():
            segment = read_segment(info.path)
            state = known.open.get(info.path.name)
            clean = state is not None and state.size == info.size_bytes
            if info.next_n is None and not clean and self._cut_behind_end(segment):
                info = load_segment_info(info.path)  # noqa: PLW2901
            if info.next_n is not None:
                next_n = max(next_n, info.next_n)
                last = max([last, *(high for _, high in info.ranges)])
                ended_clean |= known.writing is not None and info.path.name == known.writing.name
                continue
            if not segment.header:
                self._quarantine(info.path, f"segment without a header: {info.size_bytes} bytes")
                rebuilt_open = True
                continue
            if not segment.evidence:
                continue  # whoever opens the next segment takes its number
            rebuilt_open |= found is None
            if not clean:
                state = self._mend(segment, known.reserved if found else 2**62)
            if state is not None:
                opened[info.path.name] = state
            ranges = state.ranges if state is not None else load_segment_info(info.path).ranges
            last = max([last, *(high for _, high in ranges)])
        next_n = max(next_n, last + 1)
        order = max([known.order, *(info.order for info in self.segments())])
        resumed = next_n
        if found is None and rebuilt_open:
            resumed = next_n + RESERVED_NUMBERS  # the document that told how many were reserved is lost
        elif not ended_clean and (known.writing is not None or rebuilt_open):
            resumed = max(known.reserved, next_n)
        if resumed > next_n:
            writing = known.writing
            stop = SpoolStop(
                header=writing.header if writing else None,
                after=next_n - 1,
                resumed=resumed,
                bound_ms=writing.bound_ms if writing else _UNKNOWN_BOUND_MS,
                at_ns=max(time.time_ns(), 0),
            )
            self.stops()  # sets a damaged document aside
            add_stop(self.folder, stop)
            next_n = resumed
        head = SpoolHead(reserved=next_n, next=next_n, order=order, writing=None, open=opened)
        if head != known:
            save_head(self.folder, head)
        return head

    def _cut_behind_end(self, segment: Segment) -> bool:
        """Cut the space that was set aside behind an END frame; False when the segment has none."""
        if not any(kind == END for kind, _ in segment.frames()):
            return False
        with DurableFile(segment.path, create=False) as file:
            file.truncate(segment.valid_bytes)
            file.sync()
        return True

    def _mend(self, segment: Segment, bound: int) -> OpenState | None:
        """Cut an open segment behind its last whole frame; None where damage ended it."""
        ranges, following = numbering(segment.frames())
        size = segment.valid_bytes
        if segment.torn and is_damaged(segment, self._quarantine):
            ranges = _with_salvaged(ranges, following, segment, bound)
            end_file(segment, ranges, max([0, *(last + 1 for _, last in ranges)]), cut=None)
            return None
        with DurableFile(segment.path, create=False) as file:
            if file.size != size:
                file.truncate(size)
            file.sync()
        return OpenState(size=size, ranges=ranges)

    def _end_open(self, head: SpoolHead, but: Collection[Path]) -> SpoolHead:
        kept: dict[str, OpenState] = {}
        for name, state in head.open.items():
            path = self.folder / name
            if path in but or not state.ranges:
                kept[name] = state
            else:
                end_file(read_segment(path), state.ranges, head.next, cut=state.size)
        if len(kept) < len(head.open):
            head = replace(head, open=kept)
            save_head(self.folder, head)
        return head

    def _load_head(self) -> SpoolHead | None:
        try:
            return load_head(self.folder)
        except FormatError as error:
            self._quarantine(self.folder / "head.json", error.message)
            return None


def _close(reader: RingReader | None) -> None:
    if reader is not None:
        reader.close()


def _with_salvaged(ranges: tuple[Range, ...], following: int | None, segment: Segment, bound: int) -> tuple[Range, ...]:
    """Ranges of a damaged open segment, with the numbers up to the highest that any frame behind the damage names."""
    from edgeprov.store.salvage import salvaged_end

    try:
        end = salvaged_end(segment, end=bound)
    except FormatError:
        return ranges
    if following is None or end <= following:
        return ranges
    if ranges and ranges[-1][1] == following - 1:
        return (*ranges[:-1], (ranges[-1][0], end - 1))
    return (*ranges, (following, end - 1))
