# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A thread that makes a spool's records durable in time: one sync for all that was appended in an interval."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgeprov.errors import StoreError, StoreFull


class SyncThread:
    """Calls ``sync`` at most ``interval_s`` after the first append that it is told of. Starts with that append."""

    def __init__(self, sync: Callable[[], None], interval_s: float) -> None:
        """Start nothing yet.

        Args:
            sync: Makes everything appended so far durable. StoreFull is tried again, another StoreError ends the
                thread: the next append, sync or close of the writer reports it.
            interval_s: Seconds between an append and its sync.
        """
        self._sync = sync
        self._interval_s = interval_s
        self._lock = threading.Lock()  # around the start of the thread
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def appended(self) -> None:
        """Tell that something has to be synced."""
        self._dirty.set()
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._run, name="edgeprov-sync", daemon=True)
                thread.start()
                self._thread = thread

    def synced(self) -> None:
        """Tell that a sync begins: what is appended from now on needs another one."""
        self._dirty.clear()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        self._dirty.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            if self._stop.wait(self._interval_s):  # meanwhile the group grows
                return
            try:
                self._sync()
            except StoreFull:
                self._dirty.set()  # the rows are still in memory
            except StoreError:
                return
