# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""DuckDB: a query over the whole data set; partitions come from the folders' names."""

import json
import sys

import duckdb

QUERY = """
SELECT count(*), count(label), sum(n), sum(list_sum(output_0)), count(DISTINCT device), max(epoch_ns(recorded_at)),
       count(*) FILTER (WHERE label = 1)
FROM read_parquet(? || '/model=*/device=*/*.parquet', hive_partitioning = true)
"""
names = ("rows", "labelled", "numbers", "outputs", "devices", "newest_ns", "ones")
row = duckdb.execute(QUERY, [sys.argv[1]]).fetchone()
print(json.dumps({name: int(value) for name, value in zip(names, row, strict=True)}))
