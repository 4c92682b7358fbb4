# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in, step 1: one row per inference into the append-only spool.

A segment starts with a header that says what its rows have in common, and with a TPM quote over that
header and the event log of this boot: evidence belongs to the boot that made the records. The quote
is taken before the first row is accepted. When a segment is old, long or large enough, or when
`edgeprov seal` asks through the slot's socket, a thread of this recorder starts the next one, so the
TPM stays off the inference path. Imports neither numpy nor oras (tests/lean).

Spec: FORMAT.md sections "Record" and "Segment header".
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from edgeprov import journal
from edgeprov.device.discard import discard_oldest
from edgeprov.device.event_log import verify_measured
from edgeprov.device.identity import verify_own_name
from edgeprov.device.rotation import RotationServer
from edgeprov.device.trial import confirm
from edgeprov.errors import EdgeprovError, FormatError, StoreFull, TensorMismatch
from edgeprov.formats.datakit import SegmentEvidence, encode_evidence
from edgeprov.formats.digest import Digest
from edgeprov.formats.record import encode_input, encode_record, keyed_input_digest, pack_record
from edgeprov.formats.segment import RuntimeInfo, SegmentHeader, Tensor, build_segment_header
from edgeprov.formats.shapes import verify_shapes
from edgeprov.store.spool import Quota, SpoolWriter
from edgeprov.store.state import State

if TYPE_CHECKING:
    from edgeprov.device.context import Context

_KEY_BYTES: Final = 32
# How far the wall clock may move against the monotonic one before it is noted.
_JUMP_NS: Final = 2_000_000_000


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
        """Take the slot's writer lock, recover what a crash left, and open a segment.

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
            IdentityError: Serial, certificate and TPM do not belong together.
            ModelNotReady: The TPM has not measured this model in this boot.
            TpmError: The TPM failed; nothing is recorded without evidence.
        """
        self._context = context
        self._state = state
        self._slot = slot
        self._model = model
        self._outputs = tuple(outputs)
        self._common = {
            "model": model,
            "slot": slot,
            "device": context.urn,
            "inputs": tuple(inputs),
            "outputs": self._outputs,
            "runtime": runtime,
            "params": dict(params or {}),
        }
        self._capture = context.config.record.capture
        self.captures = self._capture != "none"
        """Whether append wants the inputs."""
        self._sampled_below = int(context.config.record.capture_rate * 2**64)
        self._closed = False
        self._unconfirmed = True
        self._opened_mono_s = 0.0
        self._slowest_ns = self._fastest_ns = 0  # bounds of wall clock less monotonic clock
        self._header: SegmentHeader | None = None
        self._key: bytes | None = None
        settings = context.config.record
        self._writer: SpoolWriter = state.spool(slot).open_writer(
            sync=settings.sync,
            interval_ms=settings.interval_ms,
            quota=Quota(limit_bytes=settings.quota_bytes, usage=state.spool_bytes),
        )
        self.lock = self._writer.lock
        """Held while a record is appended; an application may hold it around inference and append."""
        try:
            self._open_segment()
            self._server = RotationServer(context, slot, self._rotate, self._due_in_s)
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
            if self._header is None:
                self._open_segment()
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
            at_ns = max(now_ns, 0)
            if params or shapes:
                row = encode_record(n, at_ns, mono_ns, duration_ns, outputs, digest, params, shapes=shapes)
            else:
                row = pack_record((n, at_ns, mono_ns, duration_ns, 0, outputs, None, digest, None))
            try:
                writer.append_record(row, captured)
            except StoreFull:
                if self._context.config.record.full != "discard-oldest":
                    raise
                self._make_room(len(row) + len(captured or b""))
                writer.append_record(row, captured)
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
        """Sync, close the segment and give the writer lock up. A second call does nothing."""
        # The writer first: whoever asks for a rotation meanwhile is answered when the segment is closed.
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

    def _open_segment(self) -> None:
        key = os.urandom(_KEY_BYTES) if self.captures else None
        position = self._writer.position
        with self._context.tpm() as tpm, tpm.group():
            verify_own_name(self._context, self._state, tpm)
            log = verify_measured(self._context, tpm, self._slot, self._model)
            clock = tpm.clock()
            now_ns, mono_ns = max(time.time_ns(), 0), time.monotonic_ns()
            header = build_segment_header(
                **self._common,  # type: ignore[arg-type]
                boot_id=self._context.boot_id(),
                first=position.next,
                prev=position.prev,
                skipped=position.skipped,
                opened_at_ns=now_ns,
                opened_mono_ns=mono_ns,
                reset_count=clock.reset_count,
                restart_count=clock.restart_count,
                tpm_clock_ms=clock.clock_ms,
                input_key=key,
            )
            quote = tpm.quote(header.sha256)
        evidence = encode_evidence([SegmentEvidence(header=header.raw, quote=quote, log=log)])
        try:
            self._writer.open_segment(header.raw, evidence)
        except StoreFull:
            if self._context.config.record.full != "discard-oldest":
                raise
            self._make_room(len(header.raw) + len(evidence))
            self._writer.open_segment(header.raw, evidence)
        self._header = header
        self._key = key
        self._opened_mono_s = time.monotonic()
        self._set_clock_offset(now_ns - mono_ns)
        journal.event(
            "segment-opened",
            f"slot {self._slot}: recording from {position.next}",
            priority=7,
            slot=self._slot,
            model_digest=self._model,
            first=position.next,
        )

    def _rotate(self, *, forced: bool) -> None:
        """Start the next segment when this one has rows and its time has come, or when asked."""
        with self.lock:
            if self._closed or not self._writer.segment_records or not (forced or self._due_in_s() <= 0):
                return
            self._header = None
            self._writer.close_segment()
            try:
                self._open_segment()
            except EdgeprovError as error:
                # The next append tries again and says it to the application; what was recorded is safe.
                journal.event("failed", f"slot {self._slot}: no new segment: {error.message}", priority=journal.ERROR)

    def _due_in_s(self) -> float:
        seal = self._context.config.seal
        if self._writer.segment_records >= seal.max_records or self._writer.segment_bytes >= seal.max_bytes:
            return 0.0
        return self._opened_mono_s + seal.max_age_s - time.monotonic()

    def _make_room(self, needed: int) -> None:
        # A tenth at once: at the brim, each record would ask for its own room.
        wanted = max(needed, self._context.config.record.quota_bytes // 10)
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
        journal.event(
            "clock-jumped",
            f"the wall clock moved by {moved_s:+.1f} s",
            priority=journal.WARNING,
            seconds=f"{moved_s:.3f}",
            slot=self._slot,
        )
