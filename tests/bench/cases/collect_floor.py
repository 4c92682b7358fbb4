# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What no collect can leave out: the digest of each blob, zstd of each part, the same Parquet files, their digests.

Nothing is checked, decoded or joined: the tables are those that collect wrote, read before the clock
starts. Prints CPU seconds, of several passes the least.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edgeprov.fleet.dataset.record_tables import writer_options
from edgeprov.store.compress import decompress

ZSTD = bytes((0x28, 0xB5, 0x2F, 0xFD))
HEADER = 512  # of tar


def seconds(blobs: list[Path], tables: list[pa.Table], target: Path) -> float:
    start = time.process_time()
    for path in blobs:
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        if data[HEADER : HEADER + 4] == ZSTD:
            decompress(memoryview(data)[HEADER : HEADER + int(data[124:135], 8)], 1 << 26)
    for table in tables:
        with pq.ParquetWriter(target, table.schema, **writer_options(table.schema)) as writer:
            writer.write_table(table, row_group_size=len(table))
        hashlib.sha256(target.read_bytes()).digest()
    return time.process_time() - start


if __name__ == "__main__":
    registry, data = map(Path, sys.argv[1:])
    blobs = sorted((registry / "blobs" / "sha256").iterdir())
    tables = [
        pq.read_table(path, use_threads=False, partitioning=None) for path in sorted(data.glob("model=*/*/*.parquet"))
    ]
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        print(min(seconds(blobs, tables, Path(folder) / "part.parquet") for _ in range(5)))
