# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in, step 1: a session that appends one row per inference, in a process that owns its slot's segments.

Where the device service runs, applications use RemoteRecorder instead. Imports neither numpy nor oras (tests/lean).

Spec: FORMAT.md sections "Record" and "Segment header".
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgeprov import journal
from edgeprov.device.appender import Appender, Capture
from edgeprov.device.events import add_event
from edgeprov.device.segments import Open, SegmentKind
from edgeprov.device.slot_owner import SlotOwner
from edgeprov.device.trial import confirm
from edgeprov.errors import StoreError, StoreFull
from edgeprov.formats.digest import Digest
from edgeprov.formats.segment import RuntimeInfo, Tensor
from edgeprov.store.ring_writer import NumbersMoved
from edgeprov.store.state import State

if TYPE_CHECKING:
    from edgeprov.device.context import Context


class Recorder(Appender):
    """A session in one slot, in the process that owns its segments."""

    def __init__(
        self,
        context: Context,
        state: State,
        *,
        slot: str,
        model: Digest,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        runtime: RuntimeInfo,
        params: Mapping[str, Any] | None = None,
        open_segment: Open | None = None,
    ) -> None:
        """Take a lane of the slot, recover what a crash left, and go on with a segment or open one.

        Args:
            context: The device.
            state: Its state folder, opened for writing.
            slot: Slot of the model.
            model: Manifest digest of the verified model.
            inputs: Input tensors, for the segment header.
            outputs: Output tensors; their raw bytes make up a row.
            runtime: Interpreter name, version, threads and delegate.
            params: Inference parameters common to all rows.
            open_segment: Opens a quoted segment somewhere else than in this process.

        Raises:
            StoreBusy: Too many sessions in this slot.
            IdentityError: No enrollment, or serial, certificate and TPM do not belong together.
            ModelNotReady: The TPM has not measured this model in this boot.
            TpmError: The TPM failed; nothing is recorded without evidence.
        """
        self._context = context
        self._state = state
        self._model = model
        settings = context.config.record
        kind = SegmentKind(
            slot=slot,
            model=model,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            runtime=runtime,
            params=dict(params or {}),
            captures=settings.capture != "none",
            user=os.getuid(),
        )
        self._owner = owner = SlotOwner(context, state, kind, open_segment=open_segment)
        capture = Capture(mode=settings.capture, rate=settings.capture_rate, key=owner.input_key)
        rows = owner.writer.rows
        rows.on_full(owner.make_room)
        super().__init__(slot, outputs, rows, capture, owner.lock, every=settings.sync == "every")
        owner.on_floor(self._raise_floor)

    @property
    def synced_n(self) -> int:
        """Records with smaller numbers survive a power cut."""
        return self._owner.writer.synced_n

    def sync(self) -> None:
        """Make everything appended so far survive a power cut.

        Raises:
            StoreError: The disk failed.
        """
        with self.lock:
            self._rows.verify_open()
            self._owner.writer.sync()

    def store(self) -> None:
        """Have everything appended so far in its segment, without a sync. Errors as in sync()."""
        with self.lock:
            self._owner.writer.copy()

    def close(self) -> None:
        """Sync, leave the segment for the next session and give the lane up. A second call does nothing."""
        self._owner.close()

    def _store_synced(self, row: bytes, captured: bytes | None) -> int:
        n = self._rows.next_n
        try:
            return self._owner.writer.append_record(row, captured)
        except StoreFull:  # on a file system that asks for space at each write
            self._owner.make_room(len(row) + len(captured or b""))
            if self._rows.next_n != n:
                raise NumbersMoved from None
            return self._owner.writer.append_record(row, captured)

    def _listen(self) -> None:
        pass  # the owner is in this process, and has said it already

    def _confirm(self) -> None:
        confirm(self._context, self._state, self._slot, self._model)

    def _jumped(self, moved_s: float) -> None:
        note_jump(self._context, self._state, self._slot, moved_s)

    def _raise_floor(self, floor_ns: int) -> None:
        self.floor_ns = floor_ns


def note_jump(context: Context, state: State, slot: str, moved_s: float) -> None:
    """Keep an event for a step of the wall clock."""
    with suppress(StoreError):  # the record counts more
        add_event(context, state, "clock-step", slot, {"moved_ms": round(moved_s * 1000)})
    journal.event(
        "clock-jumped",
        f"the wall clock moved by {moved_s:+.1f} s",
        priority=journal.WARNING,
        seconds=f"{moved_s:.3f}",
        slot=slot,
    )
