# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The fleet's index: one SQLite file with what the registries hold and what verification said.

It is a cache: every row can be made again by `sync` and `verify`. Readers see a consistent state
while a sync writes (WAL). The schema is schema.sql; a file of another version is left alone.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from edgeprov.errors import (
    FormatError,
    NotStored,
    StateNewer,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    UsageError,
)
from edgeprov.fleet.index.query import COLUMNS, JOIN, OWN, VERDICT_COLUMNS, Artifact, Query, where_clause
from edgeprov.fleet.registries.sources import Source
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.store.atomic import make_dirs

VERSION: Final = 5
FILE: Final = "index.sqlite"
_BUSY_S: Final = 30.0
_HEX: Final = re.compile(r"(sha256:)?([0-9a-f]{6,64})")


_MOVE_AWAY: Final = "Move it away and run `edgeprov-fleet sync REGISTRY` again."


class Index:
    """An open index. Use as a context manager."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, *, write: bool) -> None:
        """Use Index.open."""
        self.folder = folder
        self._db = connection
        self._write = write

    @classmethod
    def open(cls, folder: Path, *, write: bool, make: bool = True) -> Self:
        """Open the index in a folder; with ``write`` it is made when there is none, unless ``make`` is false.

        Raises:
            NotStored: None there, and none was to be made.
            StateNewer: Made by a newer version.
            StoreCorrupt: Not an index, damaged, or of an older version.
            StoreError: The folder cannot be used.
        """
        path = folder / FILE
        if write and make:
            make_dirs(folder, 0o755)
        elif not path.is_file():
            raise NotStored(
                f"the folder {folder} holds no fleet index", advice="Run: edgeprov-fleet sync REGISTRY --fleet DIR"
            )
        with translated(path):
            connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version == 0 and not make:  # a file that sync never finished, or did not make
                    raise StoreCorrupt(f"{path} is no fleet index", advice=_MOVE_AWAY)  # noqa: TRY301 - as below
                if version > VERSION:
                    raise StateNewer(  # noqa: TRY301 - the connection is closed below
                        f"{path} has version {version}, this program knows {VERSION}"
                    )
                if 0 < version < VERSION or (version == 0 and not write):
                    raise StoreCorrupt(  # noqa: TRY301 - as above
                        f"{path} has version {version}, this program reads {VERSION}", advice=_MOVE_AWAY
                    )
                if version == 0:
                    _create(connection)
                if write:
                    connection.execute("PRAGMA journal_mode = WAL")
                    # Digests fall on random pages: a page is written back once for many rows, not once a batch.
                    connection.execute("PRAGMA wal_autocheckpoint = 16384")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA cache_size = -65536")
                connection.execute("PRAGMA foreign_keys = OFF")  # rows are written in any order within a sync
            except BaseException:
                connection.close()
                raise
        return cls(folder, connection, write=write)

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._write

    def keep_little(self) -> None:
        """For work that reads all rows once: keep 4 MB of the file in memory, where 64 would only look like a leak."""
        self.rows("PRAGMA cache_size = -4096")

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            if self._write:
                self._db.execute("PRAGMA optimize")
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; another writer waits."""
        with translated(self.folder / FILE):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a SELECT."""
        with translated(self.folder / FILE):
            return self._db.execute(sql, parameters).fetchall()

    def put(self, table: str, **values: Any) -> None:
        """Insert or replace one row. Table and column names are the program's own, never a user's."""
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        with translated(self.folder / FILE):
            self._db.execute((f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})"), tuple(values.values()))  # noqa: S608

    def put_all(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """As put, many rows at once: their values are in the order of ``names``."""
        marks = ", ".join("?" * len(names))
        with translated(self.folder / FILE):
            self._db.executemany(f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)  # noqa: S608

    # -- sources ----------------------------------------------------------------------------------

    def add_source(self, source: Source) -> int:
        """Remember a registry; returns its id."""
        known = self.rows("SELECT id FROM sources WHERE name = ?", (source.name,))
        text = json.dumps(source.as_json(), sort_keys=True)
        with translated(self.folder / FILE):
            if known:
                self._db.execute("UPDATE sources SET settings = ? WHERE id = ?", (text, known[0]["id"]))
                return int(known[0]["id"])
            cursor = self._db.execute("INSERT INTO sources (name, settings) VALUES (?, ?)", (source.name, text))
            return int(cursor.lastrowid or 0)

    def sources(self) -> dict[int, Source]:
        """All remembered registries by id."""
        return {
            row["id"]: Source.of_json(json_of_text(row["settings"]))
            for row in self.rows("SELECT * FROM sources ORDER BY id")
        }

    # -- artifacts --------------------------------------------------------------------------------

    def iterate(
        self, query: Query, *, limit: int | None = None, after: tuple[str, int, str] | None = None
    ) -> Iterator[Artifact]:
        """Artifacts that fit, by device and number. ``after`` is device, number and digest of the row before."""
        where, parameters = where_clause(query)
        if after is not None:
            where = (where + " AND " if where else "WHERE ") + "(a.device, a.seq, a.digest) > (?, ?, ?)"
            parameters += after
        own = ", ".join(f"a.{name}" for name in OWN)
        verdict = ", ".join(f"v.{name}" for name in VERDICT_COLUMNS)
        sql = (
            f"SELECT {own}, {verdict} FROM artifacts a {JOIN} "  # noqa: S608 - names of columns, and marks
            f"{where} ORDER BY a.device, a.seq, a.digest LIMIT ?"
        )
        with translated(self.folder / FILE):
            cursor = self._db.execute(sql, (query.policy, *parameters, -1 if limit is None else limit))
            for row in cursor:
                values = dict(zip(COLUMNS, row, strict=True))
                for name in ("verified", "safe"):
                    values[name] = None if values[name] is None else bool(values[name])
                yield Artifact(**values)

    def count(self, query: Query) -> tuple[int, int, int]:
        """Number of artifacts, records and labels that fit."""
        where, parameters = where_clause(query)
        # SQLite does not leave an unused join out of an aggregate, and it is nine tenths of the work.
        judged = query.verdict is not None or query.unjudged is not None
        row = self.rows(
            "SELECT count(*), coalesce(sum(a.records), 0), coalesce(sum(a.labels), 0) "  # noqa: S608
            f"FROM artifacts a {JOIN if judged else ''} {where}",
            (*((query.policy,) if judged else ()), *parameters),
        )[0]
        return int(row[0]), int(row[1]), int(row[2])

    def digests(self, query: Query) -> dict[int, list[str]]:
        """Digests of what fits, by source; within one by device and number."""
        where, parameters = where_clause(query)
        found: dict[int, list[str]] = {}
        for source, digest in self.rows(
            f"SELECT a.source, a.digest FROM artifacts a {JOIN} {where} ORDER BY a.device, a.seq, a.digest",  # noqa: S608
            (query.policy, *parameters),
        ):
            found.setdefault(source, []).append(digest)
        return found

    def verdicts(self, query: Query) -> list[tuple[bool, int | None, str | None, int]]:
        """How often each verdict (verified, step, error) was given to what fits, ``unjudged`` turned round: judged."""
        where, parameters = where_clause(replace(query, unjudged=None))
        rows = self.rows(
            f"SELECT v.verified, v.step, v.error, count(*) FROM artifacts a {JOIN} {where} "  # noqa: S608
            f"{'AND' if where else 'WHERE'} v.depth >= ? GROUP BY 1, 2, 3",
            (query.policy, *parameters, query.unjudged or 0),
        )
        return [(bool(verified), step, error, int(count)) for verified, step, error, count in rows]

    def newest_policy(self) -> str:
        """The trust folder under which the newest verdict was given; empty when there is none."""
        rows = self.rows("SELECT policy FROM verdicts ORDER BY judged_at DESC, policy DESC LIMIT 1")
        return str(rows[0]["policy"]) if rows else ""

    # -- names ------------------------------------------------------------------------------------

    def resolve_model(self, text: str) -> tuple[str, ...]:
        """Model digests that a name means: a digest or the start of one, ``name``, ``name:tag`` or ``name:version``.

        Raises:
            UsageError: Nothing fits, or the start of a digest fits several.
        """
        match = _HEX.fullmatch(text)
        if match and len(match[2]) == 64:
            return (f"sha256:{match[2]}",)
        if match:
            found = self.rows(
                "SELECT digest FROM models WHERE digest LIKE ?1 UNION SELECT "
                "DISTINCT model FROM artifacts WHERE model LIKE ?1",
                (f"sha256:{match[2]}%",),
            )
            if len(found) == 1:
                return (str(found[0][0]),)
            if found:
                raise UsageError(f"{len(found)} models begin with {text}", advice="Give more digits.")
        name, _, version = text.partition(":")
        rows = self.rows(
            "SELECT digest FROM models WHERE (name = ?1 OR repo LIKE '%models/' "
            "|| ?1) AND (?2 = '' OR version = ?2 OR digest IN "
            "(SELECT digest FROM model_tags t WHERE t.repo = models.repo AND t.tag = ?2)) ORDER BY created, digest",
            (name, version),
        )
        if not rows:
            raise UsageError(
                f"the index knows no model {text[:100]!r}", advice="Run `edgeprov-fleet sync`, or give its digest."
            )
        return tuple(str(row[0]) for row in rows)

    def resolve_training(self, text: str) -> tuple[str, ...]:
        """Digests of the statements of what a model (named as for resolve_model) was trained on.

        Raises:
            UsageError: No such model, or it names no training set, or one whose kits are not known here.
        """
        models = self.resolve_model(text)
        marks = ", ".join("?" * len(models))
        rows = self.rows(
            f"SELECT DISTINCT trained_on FROM models WHERE digest IN ({marks}) AND trained_on IN "  # noqa: S608 - marks
            "(SELECT statement FROM collection_kits)",
            models,
        )
        if not rows:
            raise UsageError(
                f"the index does not know what {text[:80]!r} was trained on",
                advice="Models tell it that were published with `publish --dataset`; sync their registry.",
            )
        return tuple(str(row[0]) for row in rows)

    def resolve_kit(self, text: str) -> tuple[str, ...]:
        """Digests of the kits and tombstones that a digest, or the start of one, means; none when nothing fits.

        Raises:
            UsageError: Not the start of a digest.
        """
        match = _HEX.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text[:80]!r} is not a digest", advice="Write sha256: and 64 hex digits, or the first 6."
            )
        if len(match[2]) == 64:
            return (f"sha256:{match[2]}",)
        first = f"sha256:{match[2]}"
        rows = self.rows(
            "SELECT digest FROM artifacts WHERE digest >= ? AND digest < ? LIMIT 500", (first, first + "g")
        )
        return tuple(str(row[0]) for row in rows)

    def model_names(self) -> dict[str, str]:
        """``name:version`` of each known model."""
        return {
            row["digest"]: f"{row['name']}:{row['version']}" if row["version"] else row["name"]
            for row in self.rows("SELECT digest, name, version FROM models")
        }


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise StoreBusy(f"{path} is in use by another process") from error
        if "full" in text:
            raise StoreFull(
                f"{path}: {text}", advice="Free disk space; the index lost nothing that was committed."
            ) from error
        if "no such" in text or "decode" in text:  # a table or column; text that is not UTF-8
            raise StoreCorrupt(f"{path} is not a fleet index, or damaged: {error}", advice=_MOVE_AWAY) from error
        raise StoreError(f"{path}: {text}") from error
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"{path} is not a fleet index, or damaged: {error}", advice=_MOVE_AWAY) from error


def digest_of_text(text: str) -> Digest:
    """A digest from the index.

    Raises:
        StoreCorrupt: It holds something else.
    """
    try:
        return parse_digest(text)
    except FormatError as error:
        raise StoreCorrupt(f"the index holds {text[:80]!r} for a digest", advice=_MOVE_AWAY) from error


def json_of_text(text: str | bytes) -> Any:
    """A value that the index keeps as JSON.

    Raises:
        StoreCorrupt: It holds something else.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreCorrupt(f"the index holds {text[:80]!r} where JSON must be", advice=_MOVE_AWAY) from error


def _create(connection: sqlite3.Connection) -> None:
    from importlib import resources

    script = resources.files("edgeprov.fleet.index").joinpath("schema.sql").read_text()
    # Two commands may find no file at the same moment.
    script = script.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ")
    script = script.replace("CREATE INDEX ", "CREATE INDEX IF NOT EXISTS ")
    connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {VERSION};\nCOMMIT;")


def chunked(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most ``size`` items."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
