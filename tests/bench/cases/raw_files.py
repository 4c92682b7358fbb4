# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Query and collect beside DuckDB on plain files: the same records, without kits, signatures or an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.harness import READERS_PYTHON, Figure, Usage, alternate, figure, milli, missing, ratios, run_process

FORMS = {"parquet": "Parquet", "json": "JSON"}
WHY = "no .venv/readers: run hil/setup readers"
COLLECT = "collect one model, DuckDB on plain {} files to ours"
QUERY = "query by model, DuckDB on plain {} files to ours"


class RawFiles:
    """What collect wrote, as one plain file for each kit; nothing is made before it is asked for."""

    def __init__(self, dataset: Path, folder: Path) -> None:
        self._dataset, self._folder = dataset, folder

    def _run(self, *words: str | Path) -> Usage:
        return run_process([READERS_PYTHON, "-m", "tests.bench.cases.duckdb_process", *words])

    def _made(self) -> bool:
        if READERS_PYTHON.exists() and not self._folder.exists():
            self._run("split", self._dataset, self._folder)
        return READERS_PYTHON.exists()

    def query(self, group: str, model: str, ours_s: Sequence[float], kits: int) -> list[Figure]:
        """Which files hold data of a model, and how much: both in an open process, the first answer thrown away."""
        if not self._made():
            return [missing(group, QUERY.format(label), "x", "info", None, WHY) for label in FORMS.values()]
        figures = []
        for form, label in FORMS.items():
            peer_s = [float(item) for item in self._run("query", form, self._folder, bare(model)).out.split()[-9:]]
            figures.append(
                figure(
                    group, QUERY.format(label), ratios(peer_s, ours_s), "x", ">=", 1.0, headline=QUERY.format(label) if form == "parquet" else "",
                    ours=f"{kits:,} kits: DuckDB {milli(peer_s)}, ours {milli(ours_s)}",
                    note="Ours asks an index that sync has filled; DuckDB opens every file, as it must where nothing but the rows names the model. "
                    "Bound by the number of kits that are found, not by those that are there; nothing is left to do at this size.",
                )
            )  # fmt: skip
        return figures

    def collect(self, group: str, model: str, ours: Callable[[Path], Usage]) -> list[Figure]:
        """All rows of one model as Parquet, whole processes of one thread."""
        if not self._made():
            return [missing(group, COLLECT.format(label), "x", "info", None, WHY) for label in FORMS.values()]
        counts: set[int] = set()
        turn = iter(range(1000))

        def peer(form: str) -> float:
            used = self._run("collect", form, self._folder, bare(model), self._folder / f"{form}-{next(turn)}.parquet")
            counts.add(int(used.out))
            return used.cpu_s

        calls: dict[str, Callable[[], float]] = {form: (lambda form=form: peer(form)) for form in FORMS}  # type: ignore[misc]
        calls["ours"] = lambda: ours(self._folder / f"ours-{next(turn)}").cpu_s
        samples = alternate(3, calls)
        (rows,) = counts
        return [
            figure(
                group, COLLECT.format(label), ratios(samples[form], samples["ours"]), "x",
                ours=f"{rows:,} rows: DuckDB {milli(samples[form])}, ours {milli(samples['ours'])} CPU",
                note="DuckDB filters and writes; ours checks each part's digest, decodes column blocks and joins labels, and starts Python and Arrow "
                "first. What DuckDB gives is unproved: whoever can write a file is believed.",
            )
            for form, label in FORMS.items()
        ]  # fmt: skip


def bare(model: str) -> str:
    """The column of the data set has the digest without its algorithm."""
    return model.removeprefix("sha256:")
