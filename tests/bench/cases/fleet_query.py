# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Times questions in an open index, ten times each, and writes the index as one Parquet file for DuckDB.

    INDEX MODEL PARQUET      prints one JSON object: CPU seconds by question, then the size of the file

The peer in duckdb_process answers the same questions from that file.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edgeprov.fleet.index.database import FILE, Index
from edgeprov.fleet.index.query import Query

ROUNDS = 10


def times_s(ask: Callable[[], object]) -> list[float]:
    used = []
    for _ in range(ROUNDS):
        start = time.process_time()
        assert ask()
        used.append(time.process_time() - start)
    return used


def questions(index: Index, model: str) -> dict[str, list[float]]:
    policy = index.newest_policy()
    device = str(index.rows("SELECT max(device) FROM artifacts")[0][0])

    def first_of_a_model() -> int:
        query = Query(model=index.resolve_model(model))
        found = list(index.iterate(query, limit=50))
        count, _records, _labels = index.count(query)
        assert len(found) == min(50, count)
        return count

    return {
        "model": times_s(first_of_a_model),
        "device": times_s(lambda: list(index.iterate(Query(device=(device,))))),
        "refused": times_s(lambda: list(index.iterate(Query(verdict="refused", policy=policy)))),
        "verdicts": times_s(lambda: index.verdicts(Query(policy=policy))),
    }


def write_parquet(folder: Path, policy: str, target: Path) -> None:
    """All kits with their verdicts in one file, in the order of devices and numbers; digests as 32 bytes."""
    database = sqlite3.connect(folder / FILE)
    database.row_factory = sqlite3.Row
    rows = database.execute(
        "SELECT a.*, v.verified, v.step, v.error FROM artifacts a LEFT JOIN verdicts v "
        "ON v.digest = a.digest AND v.policy = ? ORDER BY a.device, a.seq",
        (policy,),
    ).fetchall()
    table = pa.Table.from_pylist([{**row, "digest": bytes.fromhex(row["digest"][7:])} for row in map(dict, rows)])
    pq.write_table(table, target, compression="zstd")


def main(folder: Path, model: str, target: Path) -> None:
    with Index.open(folder, write=False) as index:
        used = questions(index, model)
        policy = index.newest_policy()
    write_parquet(folder, policy, target)
    print(json.dumps({**used, "bytes": target.stat().st_size}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
