# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The spool of one slot: records between inference and kit, in segments of frames.

Several sessions of a slot record at once: each writer has a *lane*, with a lock, a ring and segments of its own, and
takes record numbers in blocks from the slot (number_blocks.py). A slot with one writer has one lane, number 0.

A record number is used once, whatever happens: numbers are reserved ahead in ``head.json`` before the first of
them is given out, so a number that was handed out and then lost in a power cut is skipped, and the stop is kept
there with these numbers until a kit carries it. A segment outlives its writer: the next one of the same kind
goes on in it, and whoever seals it ends it. Recovery cuts a torn tail at the last whole frame; nothing that was
synced lies behind that point. Closed segments never change; they are freed when their kit lies in the outbox.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from edgeprov._dataclass import replace
from edgeprov.errors import FormatError, NotStored, StoreBusy, StoreError, UsageError
from edgeprov.store.atomic import make_dirs, remove, sync_dir, translated
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
    ranges_of,
    read_segment,
)
from edgeprov.store.label_log import LabelLog
from edgeprov.store.lane_recovery import LaneRecovery
from edgeprov.store.lock import Lock
from edgeprov.store.number_blocks import LanePlace, NumberBlocks
from edgeprov.store.position import Quota
from edgeprov.store.ring import RingReader
from edgeprov.store.ring_file import RingFile
from edgeprov.store.segment_file import Quarantine, end_file, lane_of, lane_suffix, segment_infos
from edgeprov.store.spool_head import (
    OpenState,
    SpoolHead,
    SpoolStop,
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

MAX_LANES: Final = 64


class SlotSpool:
    """The segments of a slot: one writer at a time in each lane, any number of readers.

    Attributes:
        folder: The slot's.
        lane: Number of the lane that the methods of writing and recovery are about.
    """

    def __init__(self, folder: Path, *, quarantine: Quarantine, ring: Path | None = None, lane: int = 0) -> None:
        """Use ``folder``, made when needed; ``quarantine`` moves damage out of the way.

        Args:
            folder: The slot's.
            quarantine: Moves a file out of the way, with the reason.
            ring: File in a tmpfs for what is not on the disk yet; without it a kill loses these records.
            lane: From 0 to 63; another one than the first adds its number to the ring's name.
        """
        self.folder = folder
        self.lane = lane
        self._ring = ring
        self._quarantine = quarantine
        suffix = lane_suffix(lane)
        self._lock_path = folder / f"writer{suffix}.lock"
        blocks = NumberBlocks(folder, lane, quarantine)
        self._place = LanePlace(folder=folder, lane=lane, head=folder / f"head{suffix}.json", blocks=blocks)

    @property
    def name(self) -> str:
        """The lane's: of its socket and its session."""
        return lane_name(self.folder.name, self.lane)

    @property
    def ring_path(self) -> Path | None:
        """The lane's ring; its document stands beside it."""
        return self._ring.with_name(lane_name(self._ring.name, self.lane)) if self._ring is not None else None

    def lanes(self) -> tuple[SlotSpool, ...]:
        """All lanes of the slot that ever had a writer, or else the first.

        Raises:
            StoreError: The folder cannot be read.
        """
        found = {0}
        with translated(self.folder):
            found.update(lane for lane in range(1, MAX_LANES) if (self.folder / f"writer-{lane}.lock").exists())
        return tuple(self.of_lane(lane) for lane in sorted(found))

    def of_lane(self, lane: int) -> SlotSpool:
        """The same slot, for work in another lane."""
        return SlotSpool(self.folder, quarantine=self._quarantine, ring=self._ring, lane=lane)

    def left_open(self) -> dict[str, OpenState]:
        """Open segments of all lanes by file name, as their writers left them."""
        return {name: state for lane in self.lanes() for name, state in lane.head().open.items()}

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments of all lanes, in order of opening; those that can be gone on with are open.

        Raises:
            StoreError: The folder cannot be read.
        """
        return tuple(segment_infos(self.folder))

    def head(self) -> SpoolHead:
        """The lane's numbers as they are on the disk; recover() first makes them complete."""
        try:
            return load_head(self._place.head) or SpoolHead()
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
        """Become the writer of this lane, after recovery.

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
        ring = RingFile(self.ring_path, largest_frame_bytes=largest_frame_bytes, pid=pid)
        return SpoolWriter(
            self._place,
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
        lane = self.of_lane(lane_of(path))
        head = lane.head()
        if info.next_n is None:
            written = head.writing is not None and head.writing.name == path.name
            if written or ranges_of(read_segment(path).frames()):
                raise StoreBusy(f"segment {path.name} is not closed")
        elif head.next < info.next_n:
            lane.recover()  # the numbers must be known as used before the last trace of them goes
        remove(path)
        sync_dir(self.folder)

    def _lock(self) -> Lock:
        make_dirs(self.folder)
        try:
            return Lock(self._lock_path)
        except StoreBusy as error:
            raise StoreBusy(f"slot {self.folder.name} has a writer in another process or object") from error

    def _recover(self) -> SpoolHead:
        head, reader = self._recover_with_ring(resume=False)
        _close(reader)
        return head

    def _recover_with_ring(self, *, resume: bool) -> tuple[SpoolHead, RingReader | None]:
        self.stops()  # sets a damaged document aside
        return LaneRecovery(self._place, RingFile(self.ring_path), self._quarantine).run(resume=resume)

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
            save_head(self._place.head, head)
        return head


def lane_name(slot: str, lane: int) -> str:
    """The name of a lane's ring, socket and session: that of the slot, in the first lane."""
    return f"{slot}@{lane}" if lane else slot


def _close(reader: RingReader | None) -> None:
    if reader is not None:
        reader.close()
