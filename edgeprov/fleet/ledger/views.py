# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Questions to the ledger: DuckDB over the files of one or several chains, and the view that merges knowledge.

The connection can read the named folders and nothing else, loads no extension and writes no file. Views:
``ledger`` has all rows, with the column ``chain``. ``kits`` has each kit and tombstone once, with its earliest
sighting, its best verdict and ``gone_since``; ``known`` has the same for all artifacts, once for each chain. A
later verdict brings the facts of its check.

Only this module imports duckdb.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from edgeprov.errors import StoreError
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder
from edgeprov.fleet.ledger.members import MEMBERS
from edgeprov.fleet.ledger.rows import ARTIFACT_KINDS, ROW_CLASSES, Row
from edgeprov.fleet.ledger.table_columns import COLUMNS, Column, columns_of

T = TypeVar("T")

_TYPES: Final = {
    "text": "VARCHAR", "hash": "BLOB", "bytes": "BLOB", "int": "BIGINT", "bool": "BOOLEAN", "time": "TIMESTAMPTZ_NS",
}  # fmt: skip
_ROWS_AT_ONCE: Final = 10_000
_TRIES: Final = 20
_FACTS: Final = tuple(
    column.name
    for column in columns_of("verdict")
    if column.name not in {"row", "seen", "digest", "enrollment", "verdict", "signatures"}
)
"""Columns that the best verdict of an artifact brings."""

_OUTCOME: Final = frozenset(("signed", "checked", "rule", "detail", "depth", "basis", "missing"))
"""Those of them that it also takes away."""


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


class LedgerView:
    """An open view of chains; close it, or use open_view."""

    def __init__(
        self,
        chains: Mapping[str, Sequence[Path]],
        *,
        basis: bytes | None = None,
        memory: str = "1GB",
        threads: int = 1,
        doubled: bool = True,
    ) -> None:
        """Open the files of some chains.

        Args:
            chains: Files by chain.
            basis: As in open_view.
            memory: As in open_view.
            threads: As in open_view.
            doubled: An artifact may have several rows in one chain, as in parts of open days. Without it the views
                are three times as fast.

        Raises:
            StoreError: A file is damaged, or gone.
        """
        import duckdb

        config = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": memory,
            "threads": str(threads),
            "preserve_insertion_order": "false",
            "temp_directory": "",
        }
        self._error = duckdb.Error
        self._gone = duckdb.IOException
        self.connection: Any = duckdb.connect(":memory:", config=config)
        try:
            with self._translated():
                self._prepare(chains, basis, doubled=doubled)
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, chains: Mapping[str, Sequence[Path]], basis: bytes | None, *, doubled: bool) -> None:
        run = self.connection.execute
        run("SET TimeZone = 'UTC'")
        folders = sorted({f"{path.parent}/" for paths in chains.values() for path in paths})
        if folders:
            run(f"SET allowed_directories = [{', '.join(map(_literal, folders))}]")
        run("SET enable_external_access = false")
        run("SET lock_configuration = true")
        members = ", ".join(f'"{column.name}" {_duck_type(column)}' for column in COLUMNS)
        run(f"CREATE TABLE nothing ({members}, chain VARCHAR)")
        sources = ["SELECT * FROM nothing"]
        names = _quoted([column.name for column in COLUMNS])
        for chain, paths in sorted(chains.items()):
            if paths:
                files = f"[{', '.join(_literal(str(path)) for path in paths)}], hive_partitioning = false"
                sources.append(f"SELECT {names}, {_literal(chain)} AS chain FROM read_parquet({files})")  # noqa: S608
        run(f"CREATE VIEW ledger AS {' UNION ALL BY NAME '.join(sources)}")
        rank = _rank(basis)
        several = doubled or sum(1 for paths in chains.values() if paths) > 1
        run(_merged_view("kits", rank, ("kit", "tombstone"), keys=("digest",), several=several))
        run(_merged_view("known", rank, ARTIFACT_KINDS, keys=("digest", "chain"), several=doubled))

    def query(self, question: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of an answer. Columns by name, never ``*``; select ``epoch_ns(x)`` of a time.

        Raises:
            StoreError: A file is damaged, or gone.
        """
        with self._translated():
            found: list[tuple[Any, ...]] = self.connection.execute(question, list(parameters)).fetchall()
        return found

    def rows(self, kinds: Sequence[str], where: str = "true", parameters: Sequence[Any] = ()) -> Iterator[Row]:
        """Rows of the ledger as they were written, of some kinds, in no order.

        Args:
            kinds: Such as ``("record", "act")``.
            where: A condition of SQL on the columns; values as ``?``.
            parameters: The values.

        Raises:
            StoreError: A file is damaged, or gone.
        """
        return self._rows_of("ledger", kinds, where, parameters)

    def merged(self, kinds: Sequence[str], where: str = "true", parameters: Sequence[Any] = ()) -> Iterator[Row]:
        """Artifacts, each once a chain, with all that later rows of the chain say of them. Arguments as in rows()."""
        return self._rows_of("known", kinds, where, parameters)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _rows_of(self, name: str, kinds: Sequence[str], where: str, parameters: Sequence[Any]) -> Iterator[Row]:
        for kind in kinds:
            columns = columns_of(kind)
            question = f"SELECT {_selected(columns)} FROM {name} WHERE \"row\" = '{kind}' AND ({where})"  # noqa: S608
            yield from self._typed(question, columns, kind, parameters)

    def _typed(self, question: str, columns: Sequence[Column], kind: str, parameters: Sequence[Any]) -> Iterator[Row]:
        made = ROW_CLASSES[kind]
        with self._translated():
            cursor = self.connection.cursor()
            answer = cursor.execute(question, list(parameters))
        fields = [(column.field, _reader(column)) for column in columns]
        while True:
            with self._translated():
                batch = answer.fetchmany(_ROWS_AT_ONCE)
            if not batch:
                return
            for values in batch:
                members = {
                    name: value if read is None or value is None else read(value)
                    for (name, read), value in zip(fields, values, strict=True)
                }
                del members["row"]
                yield made(**members)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._gone as error:
            raise FilesChanged(_first_line(error)) from error
        except self._error as error:
            raise StoreError(
                f"the ledger cannot be read: {_first_line(error)}", advice="Fetch its days from the registry again."
            ) from error


class FilesChanged(StoreError):
    """A file was merged or closed while it was read; ask again with the files as they are now."""


@contextmanager
def open_view(
    folders: Mapping[str, LedgerFolder], *, basis: bytes | None = None, memory: str = "256MB", threads: int = 1
) -> Iterator[LedgerView]:
    """A view of chains as they are now.

    Args:
        folders: Chains by name.
        basis: Version of the reader's own rules; its verdicts count before those of other rules.
        memory: Limit of DuckDB's memory; its process has some 100 MB more.
        threads: Threads of DuckDB.

    Raises:
        StoreError: A folder or file cannot be read.
    """
    found = {name: folder.snapshot() for name, folder in folders.items()}
    files = {name: snapshot.files for name, snapshot in found.items()}
    is_open = any(snapshot.parts for snapshot in found.values())
    view = LedgerView(files, basis=basis, memory=memory, threads=threads, doubled=is_open)
    try:
        yield view
    finally:
        view.close()


def ask(folders: Mapping[str, LedgerFolder], question: Callable[[LedgerView], T], **options: Any) -> T:
    """Open a view, ask, and ask again where a writer took a file away meanwhile.

    Args:
        folders: Chains by name.
        question: Asks the view and returns plain values.
        options: Of open_view.

    Raises:
        StoreError: A folder or file cannot be read.
    """
    for _ in range(_TRIES):
        try:
            with open_view(folders, **options) as view:
                return question(view)
        except FilesChanged:
            continue
    with open_view(folders, **options) as view:
        return question(view)


def doubled_digests(view: LedgerView) -> list[bytes]:
    """Digests of artifacts that have more than one row; a chain must have none."""
    kinds = ", ".join(f"'{kind}'" for kind in ARTIFACT_KINDS)
    question = f'SELECT digest FROM ledger WHERE "row" IN ({kinds}) GROUP BY digest, chain HAVING count(*) > 1'  # noqa: S608
    return [digest for (digest,) in view.query(question)]


def _rank(basis: bytes | None) -> str:
    # Verified beats refused beats not judged; a verdict by the reader's own rules beats one by other rules.
    own = "basis IS NULL" if basis is None else f"basis = unhex('{basis.hex()}')"
    return (
        "CASE WHEN verdict IS NULL THEN 0 ELSE CASE verdict WHEN 'verified' THEN 2 ELSE 1 END "
        f"+ CASE WHEN {own} THEN 2 ELSE 0 END END"
    )


def _merged_view(name: str, rank: str, kinds: Sequence[str], *, keys: Sequence[str], several: bool) -> str:
    # One row for each value of the keys, joined with what sightings, verdicts, gone and back rows say of it.
    key = ", ".join(keys)
    facts = ", ".join(f'"{fact}" := "{fact}"' for fact in ("verdict", *_FACTS))
    notes = f"""SELECT {key}, min(seen) FILTER ("row" = 'sighting') AS seen2,
        max({rank}) FILTER ("row" = 'verdict') AS rank2,
        arg_max(struct_pack({facts}), {rank}) FILTER ("row" = 'verdict') AS best,
        list_distinct(flatten(list(signatures) FILTER ("row" = 'verdict'))) AS signatures2,
        max(seen) FILTER ("row" = 'gone') AS gone, max(seen) FILTER ("row" = 'back') AS back
        FROM ledger WHERE "row" IN ('sighting', 'verdict', 'gone', 'back') GROUP BY {key}"""  # noqa: S608
    better = "n.rank2 > 0 AND n.rank2 >= k.rank"
    joined = {
        "seen": "least(k.first_seen, n.seen2)",
        "verdict": f"CASE WHEN {better} THEN n.best.verdict ELSE k.verdict END",
        "signatures": "CASE WHEN n.signatures2 IS NULL THEN k.signatures "
        "ELSE list_sort(list_distinct(list_concat(coalesce(k.signatures, []), n.signatures2))) END",
    }
    for fact in _FACTS:
        best = f'n.best."{fact}"' if fact in _OUTCOME else f'coalesce(n.best."{fact}", k."{fact}")'
        joined[fact] = f'CASE WHEN {better} THEN {best} ELSE k."{fact}" END'
    chosen = ", ".join(
        f'{joined.get(column.name, "k." + _quoted([column.name]))} AS "{column.name}"' for column in COLUMNS
    )
    first, once = "seen", ""
    if several:  # two chains, or an open day and a closed one, may know it: the better verdict, the earliest sighting
        first = f"min(seen) OVER (PARTITION BY {key})"
        once = f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {rank} DESC, seen, chain) = 1"
    among = ", ".join(f"'{kind}'" for kind in kinds)
    return (
        f"CREATE VIEW {name} AS SELECT {chosen}, k.chain, "  # noqa: S608 - names of columns only
        "CASE WHEN n.gone > coalesce(n.back, 'epoch'::TIMESTAMPTZ) THEN n.gone END AS gone_since "
        f"FROM (SELECT *, {first} AS first_seen, {rank} AS rank FROM ledger "
        f'WHERE "row" IN ({among}) {once}) k LEFT JOIN ({notes}) n USING ({key})'
    )


def _duck_type(column: Column) -> str:
    if column.type != "list":
        return _TYPES[column.type]
    if not column.members:
        return f"{_TYPES[column.element]}[]"
    inner = ", ".join(f'"{member.name}" {_TYPES[member.type]}' for member in column.members)
    return f"STRUCT({inner})[]"


def _selected(columns: Sequence[Column]) -> str:
    return ", ".join(
        f'epoch_ns("{column.name}")' if column.type == "time" else f'"{column.name}"' for column in columns
    )


def _reader(column: Column) -> Callable[[Any], Any] | None:
    if column.type != "list":
        return None
    made = MEMBERS.get(column.name)
    if made is None:
        return tuple
    return lambda items: tuple([made(*item.values()) for item in items])


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
