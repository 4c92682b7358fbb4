# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What one would do without kits: a bucket of plain files, one for each device and day, and DuckDB on them.

Runs in the readers' environment: `split` makes the files out of a data set of collect, `collect` writes all rows of one
model as one Parquet file, `query` gives the CPU seconds of ten answers to "which files hold data of this model, and
how much".
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import duckdb

COLUMNS = "kit, n, recorded_at, mono_ns, duration_ns, output_0, input_digest, label, label_source, device, slot, model"
OPTIONS = {"parquet": "FORMAT parquet, COMPRESSION zstd", "json": "FORMAT json"}


def connect() -> duckdb.DuckDBPyConnection:
    """One thread, as the worker that it is compared with."""
    return duckdb.connect(config={"threads": 1})


def files(form: str, raw: Path) -> str:
    return f"read_{form}('{raw}/{form}/*/*.{form}', hive_partitioning = false, filename = true)"


def split(dataset: Path, raw: Path) -> None:
    for form, options in OPTIONS.items():
        rows = f"SELECT {COLUMNS} FROM read_parquet('{dataset}/model=*/device=*/*.parquet', hive_partitioning = true)"
        target = raw / form
        target.mkdir(parents=True)
        connect().execute(f"COPY ({rows}) TO '{target}' ({options}, PARTITION_BY (kit))")


def collect(form: str, raw: Path, model: str, target: Path) -> None:
    rows = f"SELECT * EXCLUDE (filename) FROM {files(form, raw)} WHERE model = ?"
    found = connect().execute(
        f"COPY ({rows} ORDER BY device, slot, n) TO '{target}' (FORMAT parquet, COMPRESSION zstd)", [model]
    )
    (count,) = found.fetchone() or (0,)
    print(count)


def query(form: str, raw: Path, model: str) -> None:
    db = connect()
    for _ in range(10):
        start = time.process_time()
        found = db.execute(
            f"SELECT filename, count(*) FROM {files(form, raw)} WHERE model = ? GROUP BY ALL", [model]
        ).fetchall()
        assert found
        print(time.process_time() - start)


if __name__ == "__main__":
    word, *rest = sys.argv[1:]
    if word == "split":
        split(Path(rest[0]), Path(rest[1]))
    elif word == "collect":
        collect(rest[0], Path(rest[1]), rest[2], Path(rest[3]))
    else:
        query(rest[0], Path(rest[1]), rest[2])
