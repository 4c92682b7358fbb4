# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A recording session of an application beside the device service: rows go into a ring that the service copies.

It looks like a Recorder. A result that was returned stands in memory that the kernel holds, so it survives a kill
of the application and of the service. While the service is restarted the application goes on until the ring is
full.

Spec: FORMAT.md sections "Recording protocol" and "Ring".
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeprov.device.appender import Appender, Capture
from edgeprov.errors import ModelNotReady
from edgeprov.formats.segment import encode_runtime, encode_tensor
from edgeprov.store.ring_writer import RingWriter

if TYPE_CHECKING:
    from edgeprov.device.service_client import ServiceClient
    from edgeprov.formats.segment import RuntimeInfo, Tensor

_sessions: weakref.WeakSet[RemoteRecorder] = weakref.WeakSet()


class RemoteRecorder(Appender):
    """One session in one slot, beside the device service."""

    def __init__(
        self,
        client: ServiceClient,
        *,
        slot: str,
        model: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        runtime: RuntimeInfo,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a session; arguments as of Recorder.

        Raises:
            StoreBusy: Too many sessions in this slot, or of this user.
            ModelNotReady: The TPM has not measured this model in this boot.
            TpmError: The TPM failed; nothing is recorded without evidence.
            StoreError: The service does not answer.
        """
        self._client = client
        self._closed = False
        hello = {
            "v": 1,
            "slot": slot,
            "model": model,
            "inputs": [encode_tensor(item) for item in inputs],
            "outputs": [encode_tensor(item) for item in outputs],
            "runtime": encode_runtime(runtime),
            "params": dict(params or {}),
            "ring": True,
        }
        answer, fd = client.request_file(["hello", hello], "ring")
        ready = answer[1]
        rows = RingWriter(fd, ready["ring"], ready["first"], wake=self._wake, make_room=self._make_room)
        capture = Capture(mode=ready["capture"], rate=ready["capture_rate"], key=ready["input_key"])
        super().__init__(slot, outputs, rows, capture, threading.RLock(), every=ready["sync"] == "every")
        self.floor_ns = ready["floor_ns"]
        self._synced_n: int = ready["first"]
        session = ready["session"]
        client.on_reconnect(lambda again: again.exchange(["resume", session]))
        _sessions.add(self)

    @property
    def synced_n(self) -> int:
        """Records with smaller numbers survive a power cut, as of the last sync()."""
        return self._synced_n

    def sync(self) -> None:
        """Make everything appended so far survive a power cut.

        Raises:
            StoreError: The disk failed, or the service does not answer.
        """
        self._rows.verify_open()  # a forked child has no connection, and must not make one
        answer, _ = self._client.request(["sync"])
        self._synced_n = int(answer[1])

    def close(self) -> None:
        """End the session, with everything synced. A second call does nothing."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._client.request(["close"])
            finally:
                self._rows.close()
                self._client.close()

    def _store_synced(self, row: bytes, captured: bytes | None) -> int:
        n = self._rows.append(row, captured)
        self.sync()
        return n

    def _confirm(self) -> None:
        self._client.tell(["confirm"])

    def _jumped(self, moved_s: float) -> None:
        self._client.tell(["jump", round(moved_s * 1000)])

    def _listen(self) -> None:
        if self._rows.ended:
            raise ModelNotReady(
                f"the session in slot {self._slot} has ended: another model is active, or the service gave it up",
                advice="Load the model again.",
            )
        self.floor_ns = max(self.floor_ns, self._rows.told_floor_ns())

    def _wake(self) -> None:
        self._client.tell(["wake"])

    def _make_room(self, size: int) -> None:
        answer, _ = self._client.request(["room", size])
        self._rows.next_n = int(answer[1])

    def _close_in_child(self) -> None:
        # The ring closes itself; the connection is the parent's.
        self._closed = True
        self.lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 - another thread may have held it
        self._client.close()


def _close_all() -> None:
    for session in list(_sessions):
        session._close_in_child()  # noqa: SLF001


os.register_at_fork(after_in_child=_close_all)
