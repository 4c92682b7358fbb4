# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of the storage as events: records that found no place, files that were damaged, writers that gave up.

Events of a full or failing disk wait in memory until one can be written. A slot tells at most one a minute, with
how often a record found no place meanwhile, so that a long fault leaves room for other events.

Spec: FORMAT.md section "Evidence part", events.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from edgeprov.device.events import add_event
from edgeprov.errors import StoreError

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State

STORAGE_FAULT: Final = "storage-fault"

_DOCUMENT: Final = "told-quarantine"
_EVERY_S: Final = 60.0
_MOST: Final = 50  # files told one by one in one run; the rest as a number


class FaultNotes:
    """Faults that a slot's owner meets while it records. Thread-safe."""

    def __init__(self, context: Context, state: State, slot: str) -> None:
        """Nothing happened yet."""
        self._context, self._state, self._slot = context, state, slot
        self._lock = threading.Lock()
        self._error = ""
        self._refused = 0
        self._told_at: float | None = None

    def refuse(self, error: StoreError) -> None:
        """Count a record that found no place."""
        with self._lock:
            self._refused += 1
            self._error = self._error or _text(error)
        self.tell()

    def tell(self, *, failure: StoreError | None = None, last: bool = False) -> None:
        """Note what is not told yet, unless the last event is too new.

        Args:
            failure: The error for which the writer gave its file up.
            last: Nothing comes later: do not wait.
        """
        if not self._error and failure is None:
            return
        with self._lock:
            self._error = self._error or (_text(failure) if failure is not None else "")
            now = time.monotonic()
            if not last and self._told_at is not None and now - self._told_at < _EVERY_S:
                return
            details = {"error": self._error, "refused": self._refused}
            try:
                add_event(self._context, self._state, STORAGE_FAULT, self._slot, details)
            except StoreError:
                return  # the disk is still full
            self._error, self._refused, self._told_at = "", 0, now


def note_quarantined(context: Context, state: State) -> None:
    """Note each file that was found damaged and set aside since the last call; durable when this returns.

    Raises:
        StoreError: The state cannot be read or written.
    """
    told = (state.load_document(_DOCUMENT) or {}).get("files")
    known = {str(name) for name in told} if isinstance(told, list) else set()
    found = {f"{path.name}@{path.lstat().st_ino}": (path.name, reason) for path, reason in state.quarantined()}
    if found.keys() == known:
        return
    fresh = [found[key] for key in sorted(found.keys() - known)]
    for name, reason in fresh[:_MOST]:
        add_event(context, state, STORAGE_FAULT, None, {"file": name, "reason": reason})
    if len(fresh) > _MOST:
        add_event(context, state, STORAGE_FAULT, None, {"files": len(fresh) - _MOST})
    state.save_document(_DOCUMENT, {"files": sorted(found)})


def _text(error: StoreError) -> str:
    return f"{type(error).__name__}: {error.message}"
