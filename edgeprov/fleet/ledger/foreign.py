# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Somebody else's table is hostile input: bounds before parsing, then a child process with limits copies it.

The child (foreign_child) checks schema, counts and values, and writes its rows again as a table of our own; only
that one is queried. A legal Parquet file of 2 MB can hold 20 GB of text: the child runs into its limits, and
the day is refused with one line.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from edgeprov.errors import FormatError, LimitError, StoreFull
from edgeprov.fleet.ledger.day_statement import DayStatement
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import translate

MAGIC: Final = b"PAR1"
_WALL_S: Final = 600.0


def copy_foreign(source: Path, target: Path, statement: DayStatement) -> None:
    """Check a table whose digest was verified, and write its rows again.

    Args:
        source: The table as it was fetched.
        target: Gets our own table of the same rows; it must not exist. It is synced.
        statement: Signed by its collector.

    Raises:
        LimitError: It goes beyond a bound, or the child went beyond its limits.
        FormatError: Not such a table.
        StoreFull: No space for the copy.
        StoreError: The disk failed.
    """
    what = f"day {statement.day} of the ledger {statement.chain}"
    check_frame(source, statement.bytes, what)
    task = {
        "source": str(source), "target": str(target), "rows": statement.rows,
        "since": statement.since_ns, "until": statement.until_ns,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgeprov.fleet.ledger.foreign_child"],
            input=json.dumps(task).encode(), capture_output=True, timeout=_WALL_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LimitError(f"{what}: reading its table took more than {_WALL_S:.0f} s") from None
    if done.returncode == 0:
        return
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        error, message = str(answer["error"]), str(answer["message"])[:300]
    except (ValueError, IndexError, KeyError, TypeError):
        raise LimitError(f"{what}: reading its table went beyond the limits of time or memory") from None
    if error == "full":
        raise StoreFull(f"{target}: {message}")
    raise (LimitError if error == "limit" else FormatError)(f"{what}: {message}")


def check_frame(path: Path, size: int, what: str) -> None:
    """Check length, magic and length of the footer, before anything is parsed.

    Raises:
        LimitError: Beyond a bound.
        FormatError: Not Parquet, or not of this size.
        StoreError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            length = file.seek(0, 2)
            file.seek(max(0, length - 8))
            end = file.read(8)
    except OSError as error:
        raise translate(error, str(path)) from error
    if length > LIMITS.ledger_day_bytes:
        raise LimitError(f"{what}: its table has {length} bytes, more than {LIMITS.ledger_day_bytes}")
    if length != size:
        raise FormatError(f"{what}: its table has {length} bytes, not {size} as signed")
    if length < 12 or start != MAGIC or end[4:] != MAGIC:
        raise FormatError(f"{what}: its table is not Parquet")
    footer = int.from_bytes(end[:4], "little")
    if footer > min(LIMITS.ledger_footer_bytes, length - 12):
        raise LimitError(f"{what}: the footer of its table has {footer} bytes")
