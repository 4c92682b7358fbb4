# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Queries and collect beside DuckDB: the same rows in plain Parquet files, without kits, signatures or an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench.harness import READERS_PYTHON, Figure, Usage, alternate, figure, milli, missing, ratios, run_process

WHY = "no .venv/readers: run hil/setup readers"
COLLECT = "collect one model, DuckDB on plain Parquet files to ours"
QUERY = "query, {}: DuckDB on one Parquet file to ours"
QUESTIONS = {
    "model": "50 kits of a model, with counts",
    "device": "kits of one device",
    "refused": "all refused kits",
    "verdicts": "number of each verdict",
}


def queries(group: str, ours_s: Mapping[str, list[float]], file: Path, model: str, kits: int) -> list[Figure]:
    """Both in an open process and one thread, the first answer thrown away. Above 1 the index is faster, below it DuckDB."""
    if not READERS_PYTHON.exists():
        return [missing(group, QUERY.format(question), "x", "info", None, WHY) for question in QUESTIONS.values()]
    peer_s = json.loads(_run("index", file, model).out)
    return [
        figure(
            group, QUERY.format(question), ratios(peer_s[name][1:], ours_s[name][1:]), "x",
            ours=f"{kits:,} kits, {ours_s['bytes'] / kits:.0f} bytes a kit in the file: DuckDB {milli(peer_s[name][1:])}, ours {milli(ours_s[name][1:])}",  # type: ignore[operator]
            note="DuckDB reads columns of all kits; the index finds rows. So DuckDB is faster where a question is about all kits, and the more so the "
            "larger the fleet; the index is where it is about few.",
        )
        for name, question in QUESTIONS.items()
    ]  # fmt: skip


def collect(group: str, dataset: Path, folder: Path, model: str, ours: Callable[[Path], Usage]) -> list[Figure]:
    """All rows of one model as Parquet, whole processes of one thread; the peer reads one file for each kit."""
    if not READERS_PYTHON.exists():
        return [missing(group, COLLECT, "x", "info", None, WHY)]
    folder.mkdir()
    _run("split", dataset, folder / "raw")
    counts: set[int] = set()
    turn = iter(range(1000))

    def peer() -> float:
        used = _run("collect", folder / "raw", model.removeprefix("sha256:"), folder / f"{next(turn)}.parquet")
        counts.add(int(used.out))
        return used.cpu_s

    samples = alternate(3, {"peer": peer, "ours": lambda: ours(folder / f"ours-{next(turn)}").cpu_s})
    (rows,) = counts
    return [
        figure(
            group, COLLECT, ratios(samples["peer"], samples["ours"]), "x",
            ours=f"{rows:,} rows: DuckDB {milli(samples['peer'])}, ours {milli(samples['ours'])} CPU",
            note="DuckDB filters and writes; ours checks each part's digest, decodes column blocks and joins labels, and starts Python and Arrow "
            "first. What DuckDB gives is unproved: whoever can write a file is believed.",
        )
    ]  # fmt: skip


def _run(*words: str | Path) -> Usage:
    return run_process([READERS_PYTHON, "-m", "tests.bench.cases.duckdb_process", *words])
