# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The service's side of one application's session: it owns the segment, the application appends to the ring.

A session belongs to a process, not to a connection: it goes on while the application reconnects, and after the
service itself was restarted, and it ends when the process does.

Spec: FORMAT.md sections "Recording protocol" and "Ring".
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgeprov import journal
from edgeprov.device.recorder import note_jump
from edgeprov.device.segments import SegmentKind, parse_opening
from edgeprov.device.slot_owner import SlotOwner
from edgeprov.errors import EdgeprovError, StoreBusy, StoreError
from edgeprov.formats.segment import parse_segment_header
from edgeprov.store.ring_file import RingFile
from edgeprov.store.spool import read_segment

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.device.peer import Peer
    from edgeprov.device.segments import Open
    from edgeprov.store.state import State


class RingSession:
    """One session in one slot.

    Attributes:
        kind: What its records have in common.
        peer: The application.
    """

    def __init__(
        self,
        context: Context,
        state: State,
        kind: SegmentKind,
        peer: Peer,
        *,
        resume: bool = False,
        open_segment: Open | None = None,
    ) -> None:
        """Take the slot. Arguments and errors as of SlotOwner."""
        self._context = context
        self._state = state
        self.kind = kind
        self.peer = peer
        self._owner = SlotOwner(context, state, kind, pid=peer.pid, resume=resume, open_segment=open_segment)
        try:
            self._owner.on_floor(self._owner.writer.ring.tell_floor)
        except BaseException:
            self._owner.close()
            raise
        self._ended = False

    def ready(self) -> dict[str, Any]:
        """What the application needs to append, beside the ring's descriptor."""
        settings = self._context.config.record
        writer = self._owner.writer
        return {
            "model": str(self.kind.model),
            "slot": self.kind.slot,
            "capture": settings.capture,
            "capture_rate": settings.capture_rate,
            "input_key": self._owner.input_key,
            "sync": settings.sync,
            "floor_ns": self._owner.floor_ns,
            "ring": writer.ring.size_bytes,
            "first": writer.next_n,
            "session": self.kind.slot,
        }

    def fileno(self) -> int:
        """The ring's descriptor."""
        return self._owner.writer.ring.fileno()

    def wake(self) -> None:
        """The application has appended while nothing was to be copied."""
        self._owner.writer.wake()

    def make_room(self, size: int) -> None:
        """Let the ring take ``size`` bytes more. Errors as in SlotOwner.make_room."""
        self._owner.make_room(size)

    def sync(self) -> int:
        """Make all that was appended durable; returns the number after it. Errors as in SpoolWriter.sync."""
        self._owner.writer.sync()
        return self._owner.writer.synced_n

    def next_n(self) -> int:
        """Number of the application's next record."""
        self._owner.writer.copy()
        return self._owner.writer.next_n

    def note_jump(self, moved_ms: int) -> None:
        """The application saw a step of the wall clock."""
        note_jump(self._context, self._state, self.kind.slot, moved_ms / 1000)

    def leave(self) -> None:
        """Copy what is there and stop; the application goes on, and the next service finds its ring."""
        self._ended = True
        self._owner.leave()
        self.peer.close()

    def end(self) -> None:
        """Copy what is left, sync, and give the slot free. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        with suppress(StoreError):
            self._owner.writer.ring.tell_end()
        try:
            self._owner.close()
        except Exception as error:  # noqa: BLE001 - whatever one application did, the service goes on for the others
            journal.event("failed", f"slot {self.kind.slot}: its session ended badly: {error}", priority=journal.ERROR)
        self.peer.close()


class Sessions:
    """The sessions of a service: at most one in a slot."""

    def __init__(self) -> None:
        """None yet."""
        self._lock = threading.RLock()
        self._by_slot: dict[str, RingSession] = {}

    def add(self, slot: str, peer: Peer, make: Any) -> RingSession:
        """Open a session with ``make()``; one of a process that has ended, or of the same process, gives way.

        Raises:
            StoreBusy: Another living process records in the slot.
            EdgeprovError: What ``make`` raises.
        """
        with self._lock:
            known = self._by_slot.get(slot)
            if known is not None:
                if not known.peer.ended and known.peer.pid != peer.pid:
                    raise StoreBusy(
                        f"slot {slot}: process {known.peer.pid} records there",
                        advice="End it, or give this application a slot of its own.",
                    )
                self.end(known)
            session: RingSession = make()
            self._by_slot[slot] = session
            return session

    def find(self, slot: str) -> RingSession | None:
        """The session in a slot, whoever's it is."""
        with self._lock:
            return self._by_slot.get(slot)

    def of(self, slot: str, peer: Peer) -> RingSession | None:
        """The living session of a process in a slot."""
        with self._lock:
            known = self._by_slot.get(slot)
            return known if known is not None and known.peer.pid == peer.pid and known.peer.uid == peer.uid else None

    def end(self, session: RingSession) -> None:
        """End one session."""
        with self._lock:
            if self._by_slot.get(session.kind.slot) is session:
                del self._by_slot[session.kind.slot]
            session.end()

    def living(self) -> list[RingSession]:
        """All sessions."""
        with self._lock:
            return list(self._by_slot.values())


def resume_kind(context: Context, state: State, slot: str) -> tuple[SegmentKind, int] | None:
    """What an application that appended while the service was away records, and its process id; None without one.

    It is read from the header of the segment that its ring belongs to.

    Raises:
        StoreError: Its ring cannot be read just now.
    """
    left = RingFile(context.run_dir / "rings" / slot).load()
    if left is None:
        return None
    place, reader = left
    reader.close()
    if not place.appended_elsewhere:
        return None
    try:
        segment = read_segment(state.spool(slot).folder / place.segment)
        header, opening = parse_segment_header(segment.header), parse_opening(segment.evidence)
    except EdgeprovError as error:
        journal.event("failed", f"slot {slot}: its application cannot go on: {error.message}", priority=journal.ERROR)
        return None
    kind = SegmentKind(
        slot=slot,
        model=header.model,
        inputs=header.inputs,
        outputs=header.outputs,
        runtime=header.runtime,
        params=header.params,
        captures=header.input_key is not None,
        user=opening.user,
    )
    return kind, place.pid
