# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Closing a day: its table, the signature over it, and one rename that commits both.

Order: table into a temporary file, durable; statement signed over its digest; the signature gets its name; the
table gets its name, which is the commit. A kill at any moment leaves the open day or the closed one: a
signature without a table does not count and is written again.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeprov.errors import LimitError, StoreError
from edgeprov.fleet.ledger.day_rows import closed_rows
from edgeprov.fleet.ledger.day_statement import DayStatement, chain_name, encode_day_statement
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder, day_of_ns
from edgeprov.fleet.ledger.open_day import last_statement, newest_seen_ns, verify_clock
from edgeprov.fleet.ledger.tables import save_parquet
from edgeprov.fleet.trust.signers import sign_statement
from edgeprov.formats.bundle import add_timestamp, parse_bundle
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.envelope import Signer
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import open_temporary, remove, rename, save_bytes, sync_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Closer:
    """Closes the days of one chain.

    Attributes:
        folder: Of the chain.
        signer: The collector's key.
        number: Of the chain: 1, or more after an earlier chain of this collector was given up.
        stamp: Asks a timestamp authority for a response over a signature's bytes; None without one.
        continues: Newest bundle of the chain that this one goes on from; counts on its first day only.
    """

    folder: LedgerFolder
    signer: Signer
    number: int = 1
    stamp: Callable[[bytes], bytes] | None = None
    continues: Digest | None = None

    def close_due(self, now_ns: int, *, confirm_clock: bool = False) -> tuple[DayStatement, ...]:
        """Close each open day before today.

        Args:
            now_ns: The desk's clock, nanoseconds since 1970.
            confirm_clock: The clock is right although it is more than a month ahead of the newest row.

        Returns:
            The statements of the days that were closed now.

        Raises:
            ConfigError: The clock went ahead by more than a month, or the signing or stamping command failed.
            StoreFull: No space: the day stays open.
            StoreError: The folder cannot be written, or holds another collector's chain.
        """
        closed = []
        with self.folder.writing():
            snapshot = self.folder.snapshot()
            newest = newest_seen_ns(snapshot, last_statement(self.folder, snapshot))
            verify_clock(newest, now_ns, confirm=confirm_clock)
            today = day_of_ns(now_ns)
            for day in sorted({part.day for part in snapshot.parts if part.day < today}):
                closed.append(self._close(day))  # noqa: PERF401 - each one is a commit
        return tuple(closed)

    def _close(self, day: str) -> DayStatement:
        folder = self.folder
        snapshot = folder.snapshot()
        last = last_statement(folder, snapshot)
        chain = chain_name(self.signer, self.number)
        if last is not None and last.chain != chain:
            raise StoreError(
                f"{folder.path} holds the chain {last.chain}, and the key is of {chain}",
                advice="Sign with the key of this chain, or name another folder.",
            )
        table = closed_rows(
            [part.path for part in snapshot.parts if part.day == day], [path for _, path in snapshot.days]
        )
        file = open_temporary(folder.days)
        try:
            with file:
                save_parquet(table, file)
                file.sync()
                statement = self._statement(table, file.path, file.size, day, last, chain)
                save_bytes(folder.bundle_path(day), self._sign(statement))
                rename(file.path, folder.day_path(day))
        except BaseException:
            _try_remove(file.path)
            raise
        sync_dir(folder.days)
        return statement

    def _statement(
        self, table: object, path: Path, size: int, day: str, last: DayStatement | None, chain: str
    ) -> DayStatement:
        import pyarrow.compute as pc

        rows = getattr(table, "num_rows")  # noqa: B009 - a pyarrow table
        if size > LIMITS.ledger_day_bytes or rows > LIMITS.ledger_day_rows:
            raise LimitError(f"day {day} has {rows} rows and {size} bytes, more than a day may have")
        times = pc.min_max(table["seen"].cast("int64")).as_py()  # type: ignore[index] # a pyarrow table
        prev = None if last is None else digest_of(self.folder.load_bundle(last.day))
        return DayStatement(
            chain=chain, day=day, table=_digest_of_file(path), bytes=size, rows=rows,
            since_ns=times["min"], until_ns=times["max"], prev=prev,
            continues=self.continues if last is None else None,
        )  # fmt: skip

    def _sign(self, statement: DayStatement) -> bytes:
        bundle = sign_statement(self.signer, encode_day_statement(statement))
        if self.stamp is not None:
            bundle = add_timestamp(bundle, self.stamp(parse_bundle(bundle).signature))
        return bundle


def _digest_of_file(path: Path) -> Digest:
    # Read again: what is signed is what the disk gives back.
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def _try_remove(path: Path) -> None:
    with suppress(StoreError):  # the next writer sweeps it
        remove(path)
