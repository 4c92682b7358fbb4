# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One row per inference: number, times, outputs, and what ``record.capture`` keeps of the inputs.

The same code runs in an application beside the device service and where there is no service; what differs is who
owns the segment that the row goes to.

Spec: FORMAT.md section "Record".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, TensorMismatch
from edgeprov.formats.record import CLOCK_DOUBTFUL, encode_input, encode_record, keyed_input_digest, pack_record
from edgeprov.formats.shapes import verify_shapes
from edgeprov.store.ring_writer import NumbersMoved

if TYPE_CHECKING:
    from edgeprov.formats.segment import Tensor
    from edgeprov.store.ring_writer import RingWriter

# How far the wall clock may move against the monotonic one before it is noted.
_JUMP_NS: Final = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What is kept of the inputs.

    Attributes:
        mode: ``none``, ``digest``, ``sampled`` or ``full``.
        rate: Share of the inputs that ``sampled`` keeps, 0 to 1.
        key: 32 random bytes for the digests; None with ``none``.
    """

    mode: str
    rate: float
    key: bytes | None


class Appender:
    """Builds rows and appends them: what a session is to its application. Thread-safe; a context manager.

    Attributes:
        lock: Held while a record is appended; an application may hold it around inference and append.
        captures: append() wants the inputs.
        floor_ns: No record gets a time below this, nanoseconds since 1970.
    """

    def __init__(
        self,
        slot: str,
        outputs: Sequence[Tensor],
        rows: RingWriter,
        capture: Capture,
        lock: threading.RLock,
        *,
        every: bool,
    ) -> None:
        """Append to a ring.

        Args:
            slot: Of the session.
            outputs: Output tensors of the model.
            rows: The application's end of the ring.
            capture: What is kept of the inputs.
            lock: Also held by whoever ends a segment in this process.
            every: Each record is synced before append() returns.
        """
        self._slot = slot
        self._outputs = tuple(outputs)
        self._rows = rows
        self.lock = lock
        self._mode = capture.mode
        self._key = capture.key or b""
        self._below = int(capture.rate * 2**64)
        self.captures = capture.mode != "none"
        self.floor_ns = 0
        self._take = self._first  # then the shortest way
        self._later = self._store_synced if every else rows.append
        self._control = rows.control
        self._set_clock_offset(time.time_ns() - time.monotonic_ns())

    @property
    def slot(self) -> str:
        """The slot that this session writes."""
        return self._slot

    @property
    def next_n(self) -> int:
        """Number of the next record."""
        return self._rows.next_n

    def append(
        self,
        outputs: Sequence[bytes],
        *,
        duration_ns: int,
        inputs: Sequence[Any] = (),
        params: Mapping[str, Any] | None = None,
        shapes: Sequence[Sequence[int] | None] | None = None,
    ) -> int:
        """Append one record; on return it survives a kill, and a power cut as ``record.sync`` promises.

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
            StoreError: The disk failed, or the service does not answer.
            ModelNotReady: Another model was activated: load the model again.
            TensorMismatch: ``shapes`` do not fit the model's outputs.
            UsageError: This process was forked from the one that opened the session.
        """
        if shapes is not None:
            self._verify_shapes(outputs, shapes)
        with self.lock:
            try:
                told = self._control[0]
            except ValueError:  # the ring is closed, or this is a forked child
                self._rows.verify_open()
                raise
            if told:
                self._listen()
            n = self._rows.next_n
            digest = captured = None
            if self.captures:
                digest = keyed_input_digest(self._key, inputs)
                if self._keeps_input(digest):
                    captured = encode_input(n, inputs)
            now_ns, mono_ns = time.time_ns(), time.monotonic_ns()
            if not self._slowest_ns < now_ns - mono_ns < self._fastest_ns:
                self._note_jump(now_ns - mono_ns)
            at_ns, flags = (now_ns, 0) if now_ns >= self.floor_ns else (self.floor_ns, CLOCK_DOUBTFUL)
            while True:
                if params or shapes or flags:
                    row = encode_record(
                        n, at_ns, mono_ns, duration_ns, outputs, digest, params, shapes=shapes, flags=flags
                    )
                else:
                    row = pack_record((n, at_ns, mono_ns, duration_ns, 0, outputs, None, digest, None))
                try:
                    return self._take(row, captured)
                except NumbersMoved:  # this session's block of numbers was used up
                    n = self._rows.next_n
                    captured = encode_input(n, inputs) if captured is not None else None

    def sync(self) -> None:
        """Make everything appended so far survive a power cut.

        Raises:
            StoreError: The disk failed, or the service does not answer.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the session, with everything synced. A second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what the two kinds of sessions do in their own way --------------------------------------

    def _store_synced(self, row: bytes, captured: bytes | None) -> int:
        raise NotImplementedError

    def _confirm(self) -> None:
        """The first record was made."""
        raise NotImplementedError

    def _jumped(self, moved_s: float) -> None:
        """The wall clock moved against the monotonic one."""
        raise NotImplementedError

    def _listen(self) -> None:
        """The owner has something to say."""
        raise NotImplementedError

    def _first(self, row: bytes, captured: bytes | None) -> int:
        n = self._later(row, captured)
        self._take = self._later
        self._confirm()
        return n

    def _verify_shapes(self, outputs: Sequence[bytes], shapes: Sequence[Sequence[int] | None]) -> None:
        try:
            verify_shapes(list(map(len, outputs)), shapes, self._outputs)
        except FormatError as error:
            raise TensorMismatch(
                error.message, advice="Give the actual shape of each output whose shape varies, and nil for the others."
            ) from error

    def _keeps_input(self, digest: bytes) -> bool:
        if self._mode == "full":
            return True
        # The keyed digest is as good as a die, and the sample does not depend on the order.
        return self._mode == "sampled" and int.from_bytes(digest[:8], "big") < self._below

    def _set_clock_offset(self, offset_ns: int) -> None:
        self._slowest_ns, self._fastest_ns = offset_ns - _JUMP_NS, offset_ns + _JUMP_NS

    def _note_jump(self, offset_ns: int) -> None:
        moved_s = (offset_ns - _JUMP_NS - self._slowest_ns) / 1e9
        self._set_clock_offset(offset_ns)
        self._jumped(moved_s)
