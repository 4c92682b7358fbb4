# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""polars: a lazy scan of the folder; a tensor is a List column."""

import json
import sys

import polars as pl

scan = pl.scan_parquet(sys.argv[1] + "/model=*/device=*/*.parquet", hive_partitioning=True)
row = scan.select(
    rows=pl.len(),
    labelled=pl.col("label").count(),
    numbers=pl.col("n").sum(),
    outputs=pl.col("output_0").list.eval(pl.element().cast(pl.Int64)).list.sum().sum(),
    devices=pl.col("device").n_unique(),
    newest_ns=pl.col("recorded_at").max().dt.epoch("ns"),
    ones=(pl.col("label") == 1).sum(),
).collect()
print(json.dumps({name: int(value) for name, value in row.row(0, named=True).items()}))
