# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Logs that a developer would write instead of a recorder, by what they promise; and the recorder itself beside them.

`each`: a record survives a power cut when the call returns. `group`: at most GROUP_S of records are lost, at a
power cut and at a crash of the process alike. `write`: what was logged survives a crash of the process, but a power cut
takes what the kernel has not written back yet, half a minute and more; edgeprov has no such mode.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

GROUP_S = 0.2  # record.interval_ms of a device that says nothing else
DURATION_NS = 15_000
COMMON = {
    "model": "sha256:" + "5" * 64,
    "device": "urn:edgeprov:device:unit-1",
    "slot": "default",
    "boot": "4b1f5c2a-0000-4000-8000-000000000001",
}


class Log(ABC):
    """One log. ``append`` takes the output tensor of an inference; ``sync`` returns when all is durable."""

    @abstractmethod
    def append(self, output: bytes) -> object: ...

    def fill(self, output: bytes, count: int) -> None:
        """``count`` records, each as an application would add it."""
        append = self.append
        for _ in range(count):
            append(output)

    @abstractmethod
    def sync(self) -> None: ...

    def close(self) -> None:
        self.sync()


class Grouped(Log):
    """Syncs GROUP_S after the first record of a group, in a thread that sleeps while there is none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sync_in_time, daemon=True)
        self._thread.start()
        self.idle = True

    def wake(self) -> None:
        self.idle = False
        self._dirty.set()

    def _sync_in_time(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            if self._stop.wait(GROUP_S):
                return
            self.sync()

    def sync(self) -> None:
        self._dirty.clear()
        self.idle = True
        self.save()

    @abstractmethod
    def save(self) -> None: ...

    def close(self) -> None:
        self._stop.set()
        self._dirty.set()
        self._thread.join()
        self.save()


def json_row(number: int, output: bytes) -> bytes:
    """Each line stands alone: JSON lines have no header that could say what is common."""
    facts = {"n": number, "recorded_at": time.time_ns(), "mono": time.monotonic_ns(), "duration": DURATION_NS}
    return json.dumps({**facts, **COMMON, "out": list(output)}).encode() + b"\n"


class JsonLines(Log):
    """One write a record; with ``sync_each`` a fdatasync too."""

    def __init__(self, path: Path, *, sync_each: bool) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._sync_each = sync_each
        self._number = 0

    def append(self, output: bytes) -> None:
        self._number += 1
        os.write(self._file, json_row(self._number, output))
        if self._sync_each:
            os.fdatasync(self._file)

    def sync(self) -> None:
        os.fdatasync(self._file)


class GroupedJsonLines(Grouped):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._buffer = bytearray()
        self._number = 0

    def append(self, output: bytes) -> None:
        with self.lock:
            self._number += 1
            self._buffer += json_row(self._number, output)
            if self.idle:
                self.wake()

    def save(self) -> None:
        with self.lock:
            group, self._buffer = self._buffer, bytearray()
        if group:
            os.write(self._file, group)
            os.fdatasync(self._file)


INSERT = "INSERT INTO r (at, mono, duration, segment, out) VALUES (?,?,?,?,?)"


def open_sqlite(path: Path, synchronous: str) -> sqlite3.Connection:
    """What is common to the records would be in a table of segments."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute(
        "CREATE TABLE r (n INTEGER PRIMARY KEY, at INTEGER, mono INTEGER, duration INTEGER, segment INTEGER, out BLOB)"
    )
    return db


class Sqlite(Log):
    """One transaction a record; ``FULL`` syncs the WAL at each commit, ``NORMAL`` at checkpoints only."""

    def __init__(self, path: Path, *, sync_each: bool) -> None:
        self._db = open_sqlite(path, "FULL" if sync_each else "NORMAL")

    def append(self, output: bytes) -> None:
        self._db.execute(INSERT, (time.time_ns(), time.monotonic_ns(), DURATION_NS, 1, output))

    def sync(self) -> None:
        pass  # FULL has nothing left to do, NORMAL does it at its next checkpoint


class GroupedSqlite(Grouped):
    """One transaction a group, synchronous=FULL."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._db = open_sqlite(path, "FULL")

    def append(self, output: bytes) -> None:
        with self.lock:
            if self.idle:
                self._db.execute("BEGIN")
                self.wake()
            self._db.execute(INSERT, (time.time_ns(), time.monotonic_ns(), DURATION_NS, 1, output))

    def sync(self) -> None:
        with self.lock:
            super().sync()

    def save(self) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")


class Ours(Log):
    """The recorder of a device whose settings say ``sync``."""

    def __init__(self, folder: Path, sync: str) -> None:
        from tests.bench.cases.record import make_recorder, make_site

        site = make_site(folder, sync, f'[record]\nsync = "{sync}"\ncapture = "none"\n')
        self._recorder = make_recorder(site.context)

    def append(self, output: bytes) -> None:
        self._recorder.append((output,), duration_ns=DURATION_NS)

    def fill(self, output: bytes, count: int) -> None:
        append = self._recorder.append
        for _ in range(count):
            append((output,), duration_ns=DURATION_NS)

    def sync(self) -> None:
        self._recorder.sync()

    def close(self) -> None:
        self._recorder.close()


class Bare(Log):
    """Nothing: what the loop around a log costs."""

    def append(self, output: bytes) -> None:
        pass

    def sync(self) -> None:
        pass


LOGS: dict[str, Callable[[Path], Log]] = {
    "bare": lambda _folder: Bare(),
    "ours each": lambda folder: Ours(folder, "every"),
    "ours group": lambda folder: Ours(folder, "interval"),
    "json each": lambda folder: JsonLines(folder / "each.jsonl", sync_each=True),
    "json write": lambda folder: JsonLines(folder / "write.jsonl", sync_each=False),
    "json group": lambda folder: GroupedJsonLines(folder / "group.jsonl"),
    "sqlite each": lambda folder: Sqlite(folder / "each.db", sync_each=True),
    "sqlite write": lambda folder: Sqlite(folder / "write.db", sync_each=False),
    "sqlite group": lambda folder: GroupedSqlite(folder / "group.db"),
}
