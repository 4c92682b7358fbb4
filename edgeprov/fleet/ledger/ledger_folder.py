# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Files of a ledger on disk: closed days, the parts of open days, and the lock of their one writer.

Readers take no lock. They list the parts before the days: a day that is closed in between is then there as a
day. A part that lies in a larger one, or belongs to a closed day, does not count; writers keep it for a while,
so that a reader who listed it finds it.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from edgeprov.errors import FormatError, NotStored, StoreError
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, make_dirs, remove, sweep, sync_dir, translate
from edgeprov.store.lock import lock

DAY: Final = re.compile(r"(?:19[7-9]|2[0-9]{2})[0-9]-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])")
_DAY_FILE: Final = re.compile(rf"({DAY.pattern})\.parquet")
_PART_FILE: Final = re.compile(rf"({DAY.pattern})\.([0-9]{{6,9}})-([0-9]{{6,9}})\.parquet")
_TRIES: Final = 20
_NS: Final = 10**9


@dataclass(frozen=True, slots=True, order=True)
class DayPart:
    """A part of an open day; it replaces the parts with numbers from ``first`` to ``last``."""

    day: str
    first: int
    last: int
    path: Path


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files that together hold each row once.

    Attributes:
        days: Closed days and their tables, ascending.
        parts: Parts of open days, ascending.
    """

    days: tuple[tuple[str, Path], ...]
    parts: tuple[DayPart, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (*(path for _, path in self.days), *(part.path for part in self.parts))


class LedgerFolder:
    """The folder of one chain."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is read or made yet."""
        self.path = path
        self.days = path / "days"
        self.open = path / "open"
        self.bundles = path / "bundles"

    def day_path(self, day: str) -> Path:
        """Table of a closed day."""
        return self.days / f"{day}.parquet"

    def bundle_path(self, day: str) -> Path:
        """Signature of a closed day."""
        return self.bundles / f"{day}.json"

    def part_path(self, day: str, first: int, last: int) -> Path:
        """Table of a part."""
        return self.open / f"{day}.{first:06d}-{last:06d}.parquet"

    def make(self) -> None:
        """Make what is missing of it."""
        for folder in (self.days, self.open, self.bundles):
            make_dirs(folder)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer for the body; waits for another one.

        Raises:
            StoreError: The folder cannot be written.
        """
        self.make()
        with lock(self.path / "lock", wait=True):
            for folder in (self.days, self.open, self.bundles):
                sweep(folder)
            yield

    def snapshot(self) -> Snapshot:
        """The files as they are now.

        Raises:
            StoreError: A folder cannot be read, or parts of a day are missing.
        """
        for _ in range(_TRIES):
            parts = self.list_parts()
            days = self.list_days()
            closed = {day for day, _ in days}
            counted = tuple(outermost(part for part in parts if part.day not in closed))
            missing = first_gap(counted)
            if missing is None:
                return Snapshot(days, counted)
        raise StoreError(
            f"{self.open}: part {missing} is missing", advice="Its rows are lost: run `edgeprov-fleet sync` again."
        )

    def list_days(self) -> tuple[tuple[str, Path], ...]:
        """Closed days, ascending."""
        found = (_DAY_FILE.fullmatch(name) for name in _names(self.days))
        return tuple(sorted((match[1], self.days / match[0]) for match in found if match))

    def list_parts(self) -> tuple[DayPart, ...]:
        """All parts that are there, also those that do not count any more."""
        found = (_PART_FILE.fullmatch(name) for name in _names(self.open))
        return tuple(sorted(DayPart(m[1], int(m[2]), int(m[3]), self.open / m[0]) for m in found if m))

    def load_bundle(self, day: str) -> bytes:
        """The signature of a closed day.

        Raises:
            StoreError: It is gone, or cannot be read.
        """
        path = self.bundle_path(day)
        try:
            return load_bytes(path, max_bytes=LIMITS.signature_blob_bytes, what="signature of a ledger's day")
        except NotStored:
            raise StoreError(
                f"{path}: the signature of this day is gone", advice="Fetch the day from the registry again."
            ) from None

    def remove_superseded(self, snapshot: Snapshot, older_than_ns: int) -> int:
        """Remove parts that do not count and were replaced before a moment; returns how many."""
        counted = {part.path for part in snapshot.parts}
        closed = dict(snapshot.days)
        removed = 0
        for part in self.list_parts():
            if part.path in counted:
                continue
            by = closed.get(part.day) or next(item.path for item in snapshot.parts if _lies_in(part, item))
            try:
                replaced_ns = by.stat().st_mtime_ns
            except OSError as error:
                raise translate(error, str(by)) from error
            if replaced_ns <= older_than_ns:
                remove(part.path)
                removed += 1
        if removed:
            sync_dir(self.open)
        return removed


def outermost(parts: Iterable[DayPart]) -> Iterator[DayPart]:
    """Parts that lie in no larger one, ascending."""
    last: tuple[str, int] = ("", 0)
    for part in sorted(parts, key=lambda part: (part.day, part.first, -part.last)):
        if (part.day, part.last) > last:
            last = (part.day, part.last)
            yield part


def first_gap(parts: Iterable[DayPart]) -> str | None:
    """Name of the first missing part of a day; None where each day's numbers have no gap."""
    start = DayPart("", 0, 0, Path())
    for before, part in pairwise((start, *parts)):
        expected = before.last + 1 if before.day == part.day else 1
        if part.first != expected:
            return f"{part.day}.{expected:06d}"
    return None


def day_of_ns(moment_ns: int) -> str:
    """The day (UTC) of a moment in nanoseconds since 1970."""
    return f"{datetime.fromtimestamp(moment_ns // _NS, UTC):%Y-%m-%d}"


def start_ns(day: str) -> int:
    """The start of a day, nanoseconds since 1970.

    Raises:
        FormatError: No day.
    """
    try:
        moment = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise FormatError(f"{day[:20]!r} is no day") from None
    return int(moment.timestamp()) * _NS


def next_day(day: str) -> str:
    """The day after."""
    return day_of_ns(start_ns(day) + 86_400 * _NS)


def bundle_payload(raw: bytes) -> tuple[Digest, bytes]:
    """The digest of a bundle that links the next day to it, and its statement."""
    return digest_of(raw), parse_bundle(raw).payload


def _lies_in(part: DayPart, other: DayPart) -> bool:
    return part.day == other.day and other.first <= part.first and part.last <= other.last


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise translate(error, str(folder)) from error
