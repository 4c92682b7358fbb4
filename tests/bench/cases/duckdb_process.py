# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What one would do without kits: DuckDB on one Parquet file of the index, or on a bucket of plain files of results.

Runs in the readers' environment. `index` answers the questions of fleet_query from one file and prints CPU seconds; `split`
makes plain files, one for each device and day, out of a data set of collect; `collect` writes all rows of one model as one
Parquet file.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import duckdb

COLUMNS = "kit, n, recorded_at, mono_ns, duration_ns, output_0, input_digest, label, label_source, device, slot, model"
ROUNDS = 10


def connect() -> duckdb.DuckDBPyConnection:
    """One thread, as the worker that it is compared with."""
    return duckdb.connect(config={"threads": 1})


def files(raw: Path) -> str:
    return f"read_parquet('{raw}/*/*.parquet', hive_partitioning = false)"


def split(dataset: Path, raw: Path) -> None:
    rows = f"SELECT {COLUMNS} FROM read_parquet('{dataset}/model=*/device=*/*.parquet', hive_partitioning = true)"
    connect().execute(f"COPY ({rows}) TO '{raw}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (kit))")


def collect(raw: Path, model: str, target: Path) -> None:
    rows = f"SELECT * FROM {files(raw)} WHERE model = ?"
    found = connect().execute(
        f"COPY ({rows} ORDER BY device, slot, n) TO '{target}' (FORMAT parquet, COMPRESSION zstd)", [model]
    )
    (count,) = found.fetchone() or (0,)
    print(count)


def index(file: Path, model: str) -> None:
    db = connect()
    (device,) = db.execute(f"SELECT max(device) FROM '{file}'").fetchone() or ("",)

    def ask(*queries: tuple[str, list[str]]) -> list[float]:
        used = []
        for _ in range(ROUNDS):
            start = time.process_time()
            for sql, parameters in queries:
                assert db.execute(sql, parameters).fetchall()
            used.append(time.process_time() - start)
        return used

    found = {
        "model": ask(
            (f"SELECT * FROM '{file}' WHERE model = ? ORDER BY device, seq LIMIT 50", [model]),
            (f"SELECT count(*), sum(records), sum(labels) FROM '{file}' WHERE model = ?", [model]),
        ),
        "device": ask((f"SELECT * FROM '{file}' WHERE device = ? ORDER BY seq", [device])),
        "refused": ask((f"SELECT * FROM '{file}' WHERE verified = 0 ORDER BY device, seq", [])),
        "verdicts": ask((f"SELECT verified, step, error, count(*) FROM '{file}' GROUP BY ALL", [])),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    word, *rest = sys.argv[1:]
    if word == "split":
        split(Path(rest[0]), Path(rest[1]))
    elif word == "collect":
        collect(Path(rest[0]), rest[1], Path(rest[2]))
    else:
        index(Path(rest[0]), rest[1])
