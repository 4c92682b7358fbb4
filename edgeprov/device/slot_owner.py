# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The owner of the segments of one session: it copies rows from the ring, and alone ends a segment.

Several sessions of a slot have a lane of the spool each. The segment that takes the rows belongs to a segment
keeper: it has a header, and a TPM quote over that header and the event log of this boot, before the first row is
accepted. A session of the same kind goes on in the segment of the one before, without the TPM. When a segment is long
or large enough, or when `edgeprov seal` asks through the lane's socket, a thread of this owner opens the next one
while rows go on into this one.

In an application without the device service the owner lives beside the appender (Recorder); in the service it lives
without one.

Spec: FORMAT.md section "Segment header".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from edgeprov import journal
from edgeprov.device.discard import discard_oldest
from edgeprov.device.events import add_event
from edgeprov.device.identity import verify_not_ended, verify_own_name
from edgeprov.device.proved_time import load_floor_ns
from edgeprov.device.rotation import RotationServer
from edgeprov.device.segments import Open, SegmentKeeper, SegmentKind, has_segment_of, own_of
from edgeprov.device.storage_faults import FaultNotes
from edgeprov.errors import EdgeprovError, StoreBusy, StoreError, StoreFull
from edgeprov.store.spool import MAX_LANES, Quota, SlotSpool, SpoolWriter, lane_name

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.formats.segment import SegmentHeader
    from edgeprov.store.state import State

_LOOK_S: Final = 60.0


class SlotOwner:
    """The one writer of a lane of a slot.

    Attributes:
        writer: Copies rows from the ring into the segment.
        lock: Held while a segment is ended; an application in this process holds it around each append.
        header: Header of the segment that takes records; None while there is none.
        floor_ns: No record may get a time below this, nanoseconds since 1970.
    """

    def __init__(
        self,
        context: Context,
        state: State,
        kind: SegmentKind,
        *,
        pid: int | None = None,
        resume: int | None = None,
        open_segment: Open | None = None,
    ) -> None:
        """Take a free lane, recover what a crash left there, and go on with a segment or open one.

        Args:
            context: The device.
            state: Its state folder, opened for writing.
            kind: What the session's records have in common.
            pid: The process that appends; None is this one.
            resume: Its lane, where it has its ring already: the owner before was killed.
            open_segment: Opens a quoted segment somewhere else than in this process.

        Raises:
            StoreBusy: As many sessions in this slot as there may be.
            IdentityError: No enrollment, or serial, certificate and TPM do not belong together.
            ModelNotReady: The TPM has not measured this model in this boot.
            TpmError: The TPM failed; nothing is recorded without evidence.
        """
        self._context = context
        self._state = state
        self._slot = kind.slot
        self._closed: bool = False
        self._faults = FaultNotes(context, state, kind.slot)
        self.floor_ns = 0
        self.header: SegmentHeader | None = None
        self._floor_raised: Callable[[int], object] | None = None
        verify_own_name(context, state)
        verify_not_ended(state)
        settings = context.config.record
        self.writer: SpoolWriter = self._open_lane(kind, pid, resume)
        self.lock = self.writer.lock
        try:
            self._keeper = SegmentKeeper(context, state, self.writer, kind, self._begin, open_segment)
            self._note_stops()
            if not self._keeper.go_on() and resume is None:
                self._keeper.open(make_room=self._free if settings.full == "discard-oldest" else None)
            name = lane_name(kind.slot, self.writer.lane)
            self._server = RotationServer(context, name, self._rotate, self._due_in_s, self._write_out)
            try:
                self.floor_ns = load_floor_ns(context, state)  # after the socket: later bounds are told there
            except BaseException:
                self._server.close()
                raise
        except BaseException:
            self.writer.close()
            raise

    def _open_lane(self, kind: SegmentKind, pid: int | None, resume: int | None) -> SpoolWriter:
        settings = self._context.config.record

        def open_writer(lane: SlotSpool) -> SpoolWriter:
            return lane.open_writer(
                sync=settings.sync,
                interval_ms=settings.interval_ms,
                quota=Quota(limit_bytes=settings.quota_bytes, usage=self._state.spool_bytes),
                largest_frame_bytes=kind.largest_frame_bytes(settings.capture),
                pid=pid,
                resume=resume is not None,
            )

        spool = self._state.spool(kind.slot)
        if resume is not None:
            return open_writer(spool.of_lane(resume))
        known = spool.lanes()
        if len(known) > 1:  # first those where the session can go on in a segment
            own = own_of(self._context)
            known = tuple(sorted(known, key=lambda lane: not has_segment_of(own, lane, kind)))
        first_new = max(lane.lane for lane in known) + 1
        for lane in (*known, *(spool.of_lane(number) for number in range(first_new, MAX_LANES))):
            with suppress(StoreBusy):
                return open_writer(lane)
        raise StoreBusy(
            f"slot {kind.slot} has {MAX_LANES} sessions", advice="End some, or give this application a slot of its own."
        )

    @property
    def input_key(self) -> bytes | None:
        """Key of the digests of inputs: one for the whole session."""
        return self.header.input_key if self.header is not None else None

    def on_floor(self, raised: Callable[[int], object]) -> None:
        """Have ``raised`` called with each new bound of time."""
        self._floor_raised = raised
        raised(self.floor_ns)

    def ensure_segment(self) -> None:
        """Open a segment where the last attempt failed. Errors as in the constructor."""
        if self.header is None:
            self._keeper.open()

    def make_room(self, size: int) -> None:
        """Copy what is in the ring and let it take ``size`` bytes more; the oldest records give way where that is set.

        Raises:
            StoreFull: No room.
            StoreError: The disk failed.
        """
        try:
            self._make_room(size)
        except StoreError as error:
            self._faults.refuse(error)
            raise
        self._faults.tell()

    def _make_room(self, size: int) -> None:
        self.ensure_segment()
        try:
            self.writer.make_room(size)
        except StoreFull:
            if self._context.config.record.full != "discard-oldest":
                raise
            with self.lock:
                try:
                    self._free(size)
                except (
                    StoreBusy
                ) as error:  # an END is on the disk, and head.json could not be written for want of space
                    raise StoreFull(f"slot {self._slot}: the spool is full, and so is the disk") from error
            self.ensure_segment()
            self.writer.make_room(size)

    def close(self) -> None:
        """Sync, leave the segment for the next session and give the lane up. A second call does nothing."""
        self._end(self.writer.close)

    def leave(self) -> None:
        """Give the lane up while the application goes on to append; see SpoolWriter.leave."""
        self._end(self.writer.leave)

    def _end(self, end: Callable[[], None]) -> None:
        # The writer first: whoever asks for a rotation meanwhile is answered when the segment is synced.
        try:
            with self.lock:
                self._closed = True
                end()
        finally:
            self._server.close()
            self._faults.tell(failure=self.writer.failure, last=True)

    # -- segments -------------------------------------------------------------------------------

    def _begin(self, header: SegmentHeader) -> None:
        self.header = header

    def _rotate(self, *, forced: bool) -> bool:
        """Open the next segment when this one is large enough; for a kit (``forced``) when anything was recorded.

        Returns:
            False when this recorder is closing: its segments are the asker's to end.
        """
        with self.lock:
            if self._closed:
                return False
            if forced:
                self.writer.end_left_open()
        if not self._has_to_rotate(forced=forced):
            return True
        try:
            self._keeper.open(after_kit=forced)
        except EdgeprovError as error:
            if not self._end_for_lack():
                return False
            # The next append tries again and says it to the application; what was recorded is safe.
            journal.event("failed", f"slot {self._slot}: no new segment: {error.message}", priority=journal.ERROR)
        return True

    def _end_for_lack(self) -> bool:
        """End the segment although no other takes its place; False when this recorder is closed."""
        with self.lock:
            if not self._closed:
                self._give_up_segment()
            return not self._closed

    def _has_to_rotate(self, *, forced: bool) -> bool:
        with self.lock:
            return not self._closed and bool(self.writer.segment_records) and (forced or self._due_in_s() <= 0)

    def _write_out(self) -> bool:
        """Write out and sync what is in memory; from now on no record gets a time below the proved bound."""
        floor_ns = load_floor_ns(self._context, self._state)
        with self.lock:
            self.floor_ns = floor_ns
            if self._floor_raised is not None:
                self._floor_raised(floor_ns)
            if not self._closed:
                self.writer.sync()
            return not self._closed

    def _note_stops(self) -> None:
        for stop in self._state.spool(self._slot).stops():
            if stop.resumed == self.writer.recovered_n:
                details = {"after": stop.after, "resumed": stop.resumed, "bound_ms": stop.bound_ms}
                add_event(self._context, self._state, "unclean-stop", self._slot, details)

    def _due_in_s(self) -> float:
        seal, settings = self._context.config.seal, self._context.config.record
        most = seal.max_bytes
        if settings.full == "discard-oldest":
            # Old records go by segments, so the open ones together may not be most of the spool.
            most = min(most, settings.quota_bytes // (4 * len(self._state.spool(self._slot).lanes())))
        with self.lock:
            writer = self.writer
            full = not self._closed and (
                writer.segment_records >= seal.max_records or writer.segment_bytes >= most or writer.has_many_ranges
            )
        return 0.0 if full else _LOOK_S

    def _free(self, needed: int) -> None:
        # A tenth at once: at the brim, each record would ask for its own room.
        wanted = max(needed, self._context.config.record.quota_bytes // 10)
        self.writer.end_left_open()
        freed = discard_oldest(self._state, self._slot, wanted)
        if not freed and self.writer.own and self.header is not None and self.writer.segment_records:
            # This segment alone fills the spool: it goes as a whole, and the next record opens another one.
            self._give_up_segment()
            freed = discard_oldest(self._state, self._slot, wanted)
        if not freed:
            raise StoreFull("the spool is full and holds nothing older to discard")

    def _give_up_segment(self) -> None:
        # An application in another process does not notice: what it appends goes on into the segment that it has.
        if self.writer.own:
            self.header = None
            self._keeper.end()
