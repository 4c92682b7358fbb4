# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The service's side of one application's session: it owns the segment, the application appends to the ring.

A session belongs to a process, not to a connection: it goes on while the application reconnects, and after the
service itself was restarted, and it ends when the process does.

Spec: FORMAT.md sections "Recording protocol" and "Ring".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from edgeprov import journal
from edgeprov.device.recorder import note_jump
from edgeprov.device.segments import SegmentKind, parse_opening
from edgeprov.device.slot_owner import SlotOwner
from edgeprov.errors import EdgeprovError, StoreBusy, StoreError
from edgeprov.formats.segment import parse_segment_header
from edgeprov.store.ring_file import RingFile
from edgeprov.store.spool import SlotSpool, lane_name, read_segment

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.device.peer import Peer
    from edgeprov.device.segments import Open
    from edgeprov.store.state import State

SESSIONS_OF_A_USER: Final = 16


class RingSession:
    """One session in one slot.

    Attributes:
        kind: What its records have in common.
        peer: The application.
        connections: Of the application that belong to it now.
    """

    def __init__(
        self,
        context: Context,
        state: State,
        kind: SegmentKind,
        peer: Peer,
        *,
        resume: int | None = None,
        open_segment: Open | None = None,
    ) -> None:
        """Take a lane of the slot. Arguments and errors as of SlotOwner."""
        self._context = context
        self._state = state
        self.kind = kind
        self.peer = peer
        self.connections = 0
        self._owner = SlotOwner(context, state, kind, pid=peer.pid, resume=resume, open_segment=open_segment)
        try:
            self._owner.on_floor(self._owner.writer.ring.tell_floor)
        except BaseException:
            self._owner.close()
            raise
        self._ended = False

    @property
    def name(self) -> str:
        """The session's name."""
        return lane_name(self.kind.slot, self._owner.writer.lane)

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
            "session": self.name,
        }

    def fileno(self) -> int:
        """The ring's descriptor."""
        return self._owner.writer.ring.fileno()

    def wake(self) -> None:
        """The application has appended while nothing was to be copied."""
        self._owner.writer.wake()

    def make_room(self, size: int) -> int:
        """Let the ring take ``size`` bytes more; returns the number of the next record. Errors as in SlotOwner."""
        self._owner.make_room(size)
        return self._owner.writer.next_n

    def sync(self) -> int:
        """Make all that was appended durable; returns the number after it. Errors as in SpoolWriter.sync."""
        self._owner.writer.sync()
        return self._owner.writer.synced_n

    def copy(self) -> None:
        """Have what was appended in its segment. Errors as in SpoolWriter.sync."""
        self._owner.writer.copy()

    def note_jump(self, moved_ms: int) -> None:
        """The application saw a step of the wall clock."""
        note_jump(self._context, self._state, self.kind.slot, moved_ms / 1000)

    def leave(self) -> None:
        """Copy what is there and stop; the application goes on, and the next service finds its ring."""
        self._ended = True
        self._owner.leave()
        self.peer.close()

    def end(self) -> None:
        """Copy what is left, sync, and give the lane free. A second call does nothing."""
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
    """The sessions of a service: any number of processes in a slot, but not more of one user than there may be."""

    def __init__(self) -> None:
        """None yet."""
        self._lock = threading.RLock()
        self._by_name: dict[str, RingSession] = {}

    def add(self, slot: str, peer: Peer, make: Callable[[], RingSession]) -> RingSession:
        """Open a session with ``make()``.

        Sessions of the slot whose process has ended end before, and those of this process that it left without a
        connection.

        Raises:
            StoreBusy: This user has as many sessions as one may have.
            EdgeprovError: What ``make`` raises.
        """
        with self._lock:
            for known in self.living():
                left = known.peer.pid == peer.pid and known.kind.slot == slot and not known.connections
                if known.peer.ended or left:
                    self.end(known)
            if sum(known.peer.uid == peer.uid for known in self.living()) >= SESSIONS_OF_A_USER:
                raise StoreBusy(
                    f"user {peer.uid} has {SESSIONS_OF_A_USER} sessions", advice="End some of these applications."
                )
            session = make()
            self._by_name[session.name] = session
            return session

    def of(self, name: str, peer: Peer) -> RingSession | None:
        """The living session of this name, if it is one of this process."""
        with self._lock:
            known = self._by_name.get(name)
            return known if known is not None and known.peer.pid == peer.pid and known.peer.uid == peer.uid else None

    def end(self, session: RingSession) -> None:
        """End one session."""
        with self._lock:
            if self._by_name.get(session.name) is session:
                del self._by_name[session.name]
            session.end()

    def living(self) -> list[RingSession]:
        """All sessions."""
        with self._lock:
            return list(self._by_name.values())


def resume_kind(lane: SlotSpool) -> tuple[SegmentKind, int] | None:
    """What an application that appended while the service was away records, and its process id; None without one.

    It is read from the header of the segment that its ring belongs to.

    Raises:
        StoreError: Its ring cannot be read just now.
    """
    slot = lane.folder.name
    left = RingFile(lane.ring_path).load()
    if left is None:
        return None
    place, reader = left
    reader.close()
    if not place.appended_elsewhere:
        return None
    try:
        segment = read_segment(lane.folder / place.segment)
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
