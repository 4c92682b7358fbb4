# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The open day: each batch of rows becomes a part, durable before the call returns.

A batch gets the day max(today, day after the last closed one), so that a clock which jumps back writes into no
closed day. ``seen`` never falls in a chain: a time below the newest one is raised to it, which proves less but
nothing false. A clock that jumped ahead by more than a month is refused before it leaves times that the chain
could never go below again.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edgeprov.errors import ConfigError, FormatError, StoreError
from edgeprov.fleet.ledger.day_statement import DayStatement, parse_day_statement
from edgeprov.fleet.ledger.ledger_folder import (
    DayPart,
    LedgerFolder,
    Snapshot,
    bundle_payload,
    day_of_ns,
    next_day,
)
from edgeprov.fleet.ledger.rows import Row
from edgeprov.fleet.ledger.tables import load_table, make_table, save_parquet
from edgeprov.formats.rfc3339 import rfc3339_of_ns
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import open_replace

MAX_PARTS: Final = 64
BATCH_ROWS: Final = 500
BATCH_S: Final = 1.0
KEPT_S: Final = 600
"""How long a part that was merged or closed stays for readers who listed it."""

_NS: Final = 10**9


def append_rows(folder: LedgerFolder, rows: Sequence[Row], now_ns: int, *, confirm_clock: bool = False) -> str:
    """Write rows into the open day; they are on the disk when this returns.

    Args:
        folder: Of one's own chain.
        rows: At least one.
        now_ns: The desk's clock, nanoseconds since 1970.
        confirm_clock: The clock is right although it is more than a month ahead of the newest row.

    Returns:
        The day that got them.

    Raises:
        ConfigError: The clock went ahead by more than a month.
        FormatError, LimitError: A value that the format does not allow.
        StoreFull: No space; nothing of the batch is there.
        StoreError: The folder cannot be written.
    """
    with folder.writing():
        snapshot = folder.snapshot()
        last = last_statement(folder, snapshot)
        newest = newest_seen_ns(snapshot, last)
        verify_clock(newest, now_ns, confirm=confirm_clock)
        day = max(day_of_ns(max(now_ns, newest or 0)), next_day(last.day) if last else "")
        raised = [replace(row, seen_ns=max(row.seen_ns, newest or 0)) for row in rows]
        table = make_table(raised)
        parts = [part for part in snapshot.parts if part.day == day]
        number = parts[-1].last + 1 if parts else 1
        path = folder.part_path(day, number, number)
        with open_replace(path) as file:
            save_parquet(table, file)
        if len(parts) >= MAX_PARTS:
            merge_parts(folder, [*parts, DayPart(day, number, number, path)])
        folder.remove_superseded(folder.snapshot(), time.time_ns() - KEPT_S * _NS)
        return day


def verify_clock(newest_ns: int | None, now_ns: int, *, confirm: bool) -> None:
    """Refuse a clock that went ahead by more than a month since the newest row.

    Raises:
        ConfigError: It did, and nobody confirmed it.
    """
    if newest_ns is not None and not confirm and now_ns - newest_ns > LIMITS.ledger_clock_days * 86_400 * _NS:
        raise ConfigError(
            f"the clock of this machine says {rfc3339_of_ns(now_ns)}, and the newest row of its ledger is of "
            f"{rfc3339_of_ns(newest_ns)}",
            advice="Set the clock; if it is right, confirm it once with --clock-is-right.",
        )


def newest_seen_ns(snapshot: Snapshot, last: DayStatement | None) -> int | None:
    """The newest ``seen`` of a chain, in nanoseconds since 1970; None without a row.

    Args:
        snapshot: Its files.
        last: Statement of its newest closed day.
    """
    times = [] if last is None else [last.until_ns]
    times += [_newest_of(part.path) for part in snapshot.parts]
    return max(times, default=None)


def last_statement(folder: LedgerFolder, snapshot: Snapshot) -> DayStatement | None:
    """Statement of the newest closed day; None before the first.

    Raises:
        StoreError: Its signature is gone or damaged.
    """
    if not snapshot.days:
        return None
    day = snapshot.days[-1][0]
    try:
        return parse_day_statement(bundle_payload(folder.load_bundle(day))[1])
    except FormatError as error:
        raise StoreError(f"{folder.bundle_path(day)} is damaged: {error.message}") from error


def merge_parts(folder: LedgerFolder, parts: Sequence[DayPart]) -> Path:
    """Write the newest parts of a day as one, those before it left alone that are large compared to them.

    So each row is written again at most some times a day. The old parts stay until remove_superseded.
    """
    chosen: list[DayPart] = []
    total = 0
    for part in reversed(parts):
        size = part.path.stat().st_size
        if len(chosen) >= MAX_PARTS and size > 2 * total:
            break
        chosen.append(part)
        total += size
    first, last = chosen[-1], chosen[0]
    path = folder.part_path(first.day, first.first, last.last)
    with open_replace(path) as file:
        save_parquet(load_table([part.path for part in reversed(chosen)]), file)
    return path


class LedgerWriter:
    """Collects rows, and writes a part for each 500 of them or each second; use it in a with statement."""

    def __init__(
        self, folder: LedgerFolder, clock_ns: Callable[[], int] = time.time_ns, *, confirm_clock: bool = False
    ) -> None:
        """Nothing is written before the first full batch, flush() or the end."""
        self._folder, self._clock, self._confirm = folder, clock_ns, confirm_clock
        self._rows: list[Row] = []
        self._since = 0.0

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows. Errors as in append_rows, also for rows of earlier calls."""
        for row in rows:
            if not self._rows:
                self._since = time.monotonic()
            self._rows.append(row)
            if len(self._rows) >= BATCH_ROWS or time.monotonic() - self._since >= BATCH_S:
                self.flush()

    def flush(self) -> None:
        """Write what was taken; after an error it is still there for another try."""
        if self._rows:
            append_rows(self._folder, self._rows, self._clock(), confirm_clock=self._confirm)
            self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.flush()
            return
        with suppress(StoreError, ConfigError):  # what went wrong before is the error to show
            self.flush()


def _newest_of(path: Path) -> int:
    import pyarrow.parquet as pq

    from edgeprov.fleet.ledger.table_columns import arrow_schema

    try:
        metadata = pq.read_metadata(path)
        place = arrow_schema().get_field_index("seen")
        groups = [metadata.row_group(number).column(place).statistics for number in range(metadata.num_row_groups)]
        return max(int(group.max_raw) for group in groups)  # nanoseconds; "max" gives no nanoseconds
    except FileNotFoundError:
        raise
    except Exception as error:  # the reader raises what it likes on a damaged file
        raise StoreError(f"{path} is damaged: {type(error).__name__}") from error
