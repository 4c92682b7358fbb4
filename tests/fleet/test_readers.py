# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The data set as DuckDB, pandas, polars and TensorFlow read it, as is: programs that know nothing of edgeprov."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from tests.support.readers import readers_python

PROGRAMS = Path(__file__).with_name("readers")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["duckdb", "pandas", "polars", "tensorflow"])
def test_another_program_reads_the_same(full, tmp_path, name):
    python = readers_python()
    full.sync()
    assert full.run("collect", "-o", tmp_path / "out").code == 0
    table = ds.dataset(tmp_path / "out", partitioning="hive").to_table()
    expected = {
        "rows": 160,
        "labelled": 10,
        "numbers": pc.sum(table["n"]).as_py(),
        "outputs": sum(sum(row) for row in table["output_0"].to_pylist()),
        "devices": 2,
        "newest_ns": pc.max(table["recorded_at"].cast("int64")).as_py(),
        "ones": sum(label == 1 for label in table["label"].to_pylist()),
    }
    program = [python, PROGRAMS / f"read_{name}.py", tmp_path / "out"]
    run = subprocess.run(program, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    loss = found.pop("loss", None)
    if name == "tensorflow":
        del expected["devices"]
        assert math.isfinite(loss)
    assert found == expected
