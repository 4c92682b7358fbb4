# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in, step 1: a session that appends one row per inference to the spool.

The segment that takes the rows belongs to a segment keeper: it has a header, and a TPM quote over that header and
the event log of this boot, before the first row is accepted. A session of the same kind goes on in the segment of
the one before, without the TPM. When a segment is long or large enough, or when `edgeprov seal` asks through the
slot's socket, a thread of this recorder opens the next one while rows go on into this one. Imports neither numpy
nor oras (tests/lean).

Spec: FORMAT.md sections "Record" and "Segment header".
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from edgeprov import journal
from edgeprov.device.discard import discard_oldest
from edgeprov.device.events import add_event
from edgeprov.device.identity import verify_own_name
from edgeprov.device.proved_time import load_floor_ns
from edgeprov.device.rotation import RotationServer
from edgeprov.device.segments import SegmentKeeper, SegmentKind
from edgeprov.device.trial import confirm
from edgeprov.errors import EdgeprovError, FormatError, StoreError, StoreFull, TensorMismatch
from edgeprov.formats.digest import Digest
from edgeprov.formats.record import CLOCK_DOUBTFUL, encode_input, encode_record, keyed_input_digest, pack_record
from edgeprov.formats.segment import RuntimeInfo, SegmentHeader, Tensor
from edgeprov.formats.shapes import verify_shapes
from edgeprov.store.spool import Quota, SpoolWriter
from edgeprov.store.state import State

if TYPE_CHECKING:
    from edgeprov.device.context import Context

# How far the wall clock may move against the monotonic one before it is noted.
_JUMP_NS: Final = 2_000_000_000
_LOOK_S: Final = 60.0


class Recorder:
    """The one writer of a slot's records. Thread-safe; a context manager."""

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
    ) -> None:
        """Take the slot's writer lock, recover what a crash left, and go on with a segment or open one.

        Args:
            context: The device.
            state: Its state folder, opened for writing.
            slot: Slot of the model.
            model: Manifest digest of the verified model.
            inputs: Input tensors, for the segment header.
            outputs: Output tensors; their raw bytes make up a row.
            runtime: Interpreter name, version, threads and delegate.
            params: Inference parameters common to all rows.

        Raises:
            StoreBusy: Another process records in this slot.
            IdentityError: No enrollment, or serial, certificate and TPM do not belong together.
            ModelNotReady: The TPM has not measured this model in this boot.
            TpmError: The TPM failed; nothing is recorded without evidence.
        """
        self._context = context
        self._state = state
        self._slot = slot
        self._model = model
        self._outputs = tuple(outputs)
        self._capture = context.config.record.capture
        self.captures = self._capture != "none"
        """Whether append wants the inputs."""
        self._sampled_below = int(context.config.record.capture_rate * 2**64)
        self._closed = False
        self._unconfirmed = True
        self._slowest_ns = self._fastest_ns = 0  # bounds of wall clock less monotonic clock
        self._floor_ns = 0
        self._key: bytes | None = None
        self._ready = False  # a segment takes records
        self._making_room = False
        verify_own_name(context, state)
        settings = context.config.record
        kind = SegmentKind(
            slot=slot,
            model=model,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            runtime=runtime,
            params=dict(params or {}),
            captures=self.captures,
            user=os.getuid(),
        )
        self._writer: SpoolWriter = state.spool(slot).open_writer(
            sync=settings.sync,
            interval_ms=settings.interval_ms,
            quota=Quota(limit_bytes=settings.quota_bytes, usage=state.spool_bytes),
        )
        self.lock = self._writer.lock
        """Held while a record is appended; an application may hold it around inference and append."""
        try:
            self._keeper = SegmentKeeper(context, state, self._writer, kind, self._begin)
            self._note_stops()
            if not self._keeper.go_on():
                self._keeper.open(make_room=self._make_room if settings.full == "discard-oldest" else None)
            self._server = RotationServer(context, slot, self._rotate, self._due_in_s, self._write_out)
            try:
                self._floor_ns = load_floor_ns(context, state)  # after the socket: later bounds are told there
            except BaseException:
                self._server.close()
                raise
        except BaseException:
            self._writer.close()
            raise

    @property
    def slot(self) -> str:
        """The slot that this recorder writes."""
        return self._slot

    @property
    def next_n(self) -> int:
        """Number of the next record."""
        return self._writer.next_n

    @property
    def synced_n(self) -> int:
        """Records with smaller numbers survive a power cut."""
        return self._writer.synced_n

    def append(
        self,
        outputs: Sequence[bytes],
        *,
        duration_ns: int,
        inputs: Sequence[Any] = (),
        params: Mapping[str, Any] | None = None,
        shapes: Sequence[Sequence[int] | None] | None = None,
    ) -> int:
        """Append one record; on return it is in the spool as ``record.sync`` promises.

        Args:
            outputs: Raw little-endian bytes of each output tensor; the caller checked their sizes.
            duration_ns: How long the inference took.
            inputs: Input tensors (anything with the buffer protocol), for ``record.capture``.
            params: Parameters that differ from the segment's.
            shapes: Actual shapes, where an output of the model varies: None for each that does not.

        Returns:
            The record's number, never used before in this slot.

        Raises:
            StoreFull: No room; nothing was recorded and no number was used.
            StoreError: The disk failed.
            ModelNotReady: Another model was activated: load the model again.
            TensorMismatch: ``shapes`` do not fit the model's outputs.
        """
        if shapes is not None:
            self._verify_shapes(outputs, shapes)
        with self.lock:
            if not self._ready:
                self._keeper.open()
            writer = self._writer
            n = writer.next_n
            digest = captured = None
            if self.captures:
                digest = keyed_input_digest(self._key or b"", inputs)
                if self._keeps_input(digest):
                    captured = encode_input(n, inputs)
            now_ns, mono_ns = time.time_ns(), time.monotonic_ns()
            if not self._slowest_ns < now_ns - mono_ns < self._fastest_ns:
                self._note_jump(now_ns - mono_ns)
            at_ns, flags = (now_ns, 0) if now_ns >= self._floor_ns else (self._floor_ns, CLOCK_DOUBTFUL)
            if params or shapes or flags:
                row = encode_record(n, at_ns, mono_ns, duration_ns, outputs, digest, params, shapes=shapes, flags=flags)
            else:
                row = pack_record((n, at_ns, mono_ns, duration_ns, 0, outputs, None, digest, None))
            try:
                writer.append_record(row, captured)
            except StoreFull:
                if self._context.config.record.full != "discard-oldest":
                    raise
                if self._making_room:
                    raise
                self._making_room = True
                try:
                    self._make_room(len(row) + len(captured or b""))
                    # Anew: the segment may be another one, with another key.
                    return self.append(outputs, duration_ns=duration_ns, inputs=inputs, params=params, shapes=shapes)
                finally:
                    self._making_room = False
            if self._unconfirmed:
                self._unconfirmed = False
                confirm(self._context, self._state, self._slot, self._model)
            return n

    def sync(self) -> None:
        """Make everything appended so far survive a power cut.

        Raises:
            StoreError: The disk failed.
        """
        with self.lock:
            self._writer.sync()

    def close(self) -> None:
        """Sync, leave the segment for the next session and give the writer lock up. A second call does nothing."""
        # The writer first: whoever asks for a rotation meanwhile is answered when the segment is synced.
        try:
            with self.lock:
                self._closed = True
                self._writer.close()
        finally:
            self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- segments -------------------------------------------------------------------------------

    def _begin(self, header: SegmentHeader) -> None:
        self._key = header.input_key
        self._set_clock_offset(time.time_ns() - time.monotonic_ns())
        self._ready = True

    def _rotate(self, *, forced: bool) -> bool:
        """Open the next segment when this one is large enough; for a kit (``forced``) when anything was recorded.

        Returns:
            False when this recorder is closing: its segments are the asker's to end.
        """
        with self.lock:
            if self._closed:
                return False
            if forced:
                self._writer.end_left_open()
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
                self._ready = False
                self._keeper.end()
            return not self._closed

    def _has_to_rotate(self, *, forced: bool) -> bool:
        with self.lock:
            return not self._closed and bool(self._writer.segment_records) and (forced or self._due_in_s() <= 0)

    def _write_out(self) -> bool:
        """Write out and sync what is in memory; from now on no record gets a time below the proved bound."""
        floor_ns = load_floor_ns(self._context, self._state)
        with self.lock:
            self._floor_ns = floor_ns
            if not self._closed:
                self._writer.sync()
            return not self._closed

    def _note_stops(self) -> None:
        for stop in self._state.spool(self._slot).stops():
            if stop.resumed == self._writer.next_n:
                details = {"after": stop.after, "resumed": stop.resumed, "bound_ms": stop.bound_ms}
                add_event(self._context, self._state, "unclean-stop", self._slot, details)

    def _due_in_s(self) -> float:
        seal, settings = self._context.config.seal, self._context.config.record
        # Where old records may go, they go by segments: so none may be most of the spool.
        most = min(seal.max_bytes, settings.quota_bytes // 4) if settings.full == "discard-oldest" else seal.max_bytes
        with self.lock:
            writer = self._writer
            full = not self._closed and (writer.segment_records >= seal.max_records or writer.segment_bytes >= most)
        return 0.0 if full else _LOOK_S

    def _make_room(self, needed: int) -> None:
        # A tenth at once: at the brim, each record would ask for its own room.
        wanted = max(needed, self._context.config.record.quota_bytes // 10)
        self._writer.end_left_open()
        freed = discard_oldest(self._state, self._slot, wanted)
        if not freed and self._ready and self._writer.segment_records:
            # This segment alone fills the spool: it goes as a whole, and the next record opens another one.
            self._ready = False
            self._keeper.end()
            freed = discard_oldest(self._state, self._slot, wanted)
        if not freed:
            raise StoreFull("the spool is full and holds nothing older to discard")

    def _keeps_input(self, digest: bytes) -> bool:
        if self._capture == "full":
            return True
        # The keyed digest is as good as a die, and the sample does not depend on the order.
        return self._capture == "sampled" and int.from_bytes(digest[:8], "big") < self._sampled_below

    def _verify_shapes(self, outputs: Sequence[bytes], shapes: Sequence[Sequence[int] | None]) -> None:
        try:
            verify_shapes(list(map(len, outputs)), shapes, self._outputs)
        except FormatError as error:
            raise TensorMismatch(
                error.message, advice="Give the actual shape of each output whose shape varies, and nil for the others."
            ) from error

    def _set_clock_offset(self, offset_ns: int) -> None:
        self._slowest_ns, self._fastest_ns = offset_ns - _JUMP_NS, offset_ns + _JUMP_NS

    def _note_jump(self, offset_ns: int) -> None:
        moved_s = (offset_ns - _JUMP_NS - self._slowest_ns) / 1e9
        self._set_clock_offset(offset_ns)
        with suppress(StoreError):  # the record counts more
            add_event(self._context, self._state, "clock-step", self._slot, {"moved_ms": round(moved_s * 1000)})
        journal.event(
            "clock-jumped",
            f"the wall clock moved by {moved_s:+.1f} s",
            priority=journal.WARNING,
            seconds=f"{moved_s:.3f}",
            slot=self._slot,
        )
