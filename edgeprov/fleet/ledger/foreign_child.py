# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The child process that reads a foreign table under limits of memory, time and disk; see foreign.

``python -m edgeprov.fleet.ledger.foreign_child`` reads a task (JSON) from its input. Exit status 0: the copy is
there. Else its last line says why, in JSON; nothing at all when a limit of the kernel ended it.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from edgeprov.limits import LIMITS

_BATCH: Final = 8_192
_CODECS: Final = frozenset(("ZSTD", "SNAPPY", "UNCOMPRESSED"))


class Refused(Exception):
    """The table is not as the format says; ``kind`` is limit or format."""

    def __init__(self, kind: str, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.kind = kind


def main() -> int:
    """Do the task; returns the exit status."""
    for what, bound in (
        (resource.RLIMIT_AS, LIMITS.ledger_check_bytes),
        (resource.RLIMIT_CPU, LIMITS.ledger_check_s),
        (resource.RLIMIT_FSIZE, 2 * LIMITS.ledger_day_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        soft, _ = resource.getrlimit(what)
        least = bound if soft == resource.RLIM_INFINITY else min(bound, soft)
        resource.setrlimit(what, (least, least))
    task = json.loads(sys.stdin.buffer.read())
    try:
        copy_table(task)
    except Refused as error:
        return _fail(error.kind, str(error))
    except MemoryError:
        return _fail("limit", "reading its table needs too much memory")
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            return _fail("full", os.strerror(error.errno))
        return _fail("format", f"its table cannot be read: {str(error)[:200]}")
    except Exception as error:  # noqa: BLE001 - a reader of hostile bytes raises what it likes
        return _fail("format", f"its table cannot be read: {type(error).__name__}")
    return 0


def copy_table(task: dict[str, Any]) -> None:
    """Check the table, and write its rows again.

    Raises:
        Refused: It is not as the format says.
        Exception: The reader's own errors.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from edgeprov.fleet.ledger.tables import parquet_writer

    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    file = pq.ParquetFile(task["source"], memory_map=False)
    check_footer(file, task["rows"])
    last: tuple[Any, ...] = ()
    with open(task["target"], "xb") as target:  # noqa: PTH123 - a plain file of the child
        with parquet_writer(target) as writer:
            for batch in file.iter_batches(batch_size=_BATCH, use_threads=False):
                last = check_batch(batch, task["since"], task["until"], last)
                writer.write_batch(batch)
        target.flush()
        os.fsync(target.fileno())


def check_footer(file: Any, rows: int) -> None:
    """Check what the footer says, before any page is read. Raises Refused."""
    from edgeprov.fleet.ledger.table_columns import arrow_schema

    found = file.metadata
    if found.num_columns > 10 * len(arrow_schema()):
        raise Refused("limit", f"its table has {found.num_columns} columns")
    if not file.schema_arrow.remove_metadata().equals(arrow_schema()):
        raise Refused("format", "its table has another schema than the ledger")
    if found.num_rows != rows or rows > LIMITS.ledger_day_rows:
        raise Refused("format", f"its table has {found.num_rows} rows, not {rows} as signed")
    if found.num_row_groups > rows // 1_000 + 16:
        raise Refused("limit", f"its table has {found.num_row_groups} row groups for {rows} rows")
    total = 0
    for number in range(found.num_row_groups):
        group = found.row_group(number)
        if group.num_rows > LIMITS.ledger_group_rows:
            raise Refused("limit", f"a row group of its table has {group.num_rows} rows")
        for place in range(group.num_columns):
            column = group.column(place)
            if column.compression not in _CODECS:
                raise Refused("format", f"its table is compressed with {column.compression[:20]}")
            total += column.total_uncompressed_size
    if total > LIMITS.ledger_row_bytes * rows + 1024 * 1024:
        raise Refused("limit", f"its table has {total} bytes before compression, too many for {rows} rows")


def check_batch(batch: Any, since: int, until: int, last: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check the values of some rows; returns the key of the last one. Raises Refused."""
    from edgeprov.fleet.ledger.table_columns import COLUMNS, KINDS

    kinds = batch.column("row").to_pylist()
    unknown = set(kinds) - set(KINDS.values())
    if unknown:
        raise Refused("format", f"its table has rows of the kind {str(unknown.pop())[:40]!r}")
    for column in COLUMNS:
        values = batch.column(column.name)
        _check_values(values, column.name, column.type)
        if column.type == "list":
            _check_list(values, column)
        _check_kinds(values, kinds, column)
    _check_words(batch)
    seen = batch.column("seen").cast("int64").to_pylist()
    if None in seen or min(seen) < since or max(seen) > until:
        raise Refused("format", "its rows were not seen in the time that is signed")
    for key in _keys(batch, seen):
        if last and key < last:
            raise Refused("format", "its rows are not in order")
        last = key
    return last


def _keys(batch: Any, seen: list[int]) -> Iterator[tuple[Any, ...]]:
    columns = [batch.column(name).to_pylist() for name in ("enrollment", "number", "row", "digest")]
    for enrollment, number, kind, digest, moment in zip(*columns, seen, strict=True):
        yield (
            enrollment is None, enrollment or b"", number is None, number or 0, kind, digest is None, digest or b"",
            moment,
        )  # fmt: skip


def _check_list(values: Any, column: Any) -> None:
    import pyarrow.compute as pc

    longest = pc.max(pc.list_value_length(values)).as_py() or 0
    if longest > LIMITS.ledger_list:
        raise Refused("limit", f"a list in {column.name} of its table has {longest} elements")
    elements = values.flatten()
    if column.element:
        _check_values(elements, column.name, column.element)
    if elements.null_count:
        raise Refused("format", f"an element of {column.name} in its table is null")
    for place, member in enumerate(column.members):
        found = elements.field(place)
        _check_values(found, f"{column.name}.{member.name}", member.type)
        if found.null_count and not member.optional:
            raise Refused("format", f"{column.name}.{member.name} in its table is null")


def _check_values(values: Any, name: str, kind: str) -> None:
    import pyarrow.compute as pc

    if kind in {"int", "time"}:
        least = pc.min(values.cast("int64")).as_py()
        if least is not None and least < 0:
            raise Refused("format", f"{name} of its table has the number {least}")
    elif kind in {"text", "bytes"}:
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        if longest > LIMITS.ledger_text_bytes:
            raise Refused("limit", f"{name} of its table has a value of {longest} bytes")
        if kind == "text":
            values.validate(full=True)  # UTF-8


def _check_words(batch: Any) -> None:
    import pyarrow.compute as pc

    from edgeprov.fleet.ledger.rows import ACTS, NOISE_SAMPLE, VERDICTS

    for name, known in (("verdict", VERDICTS), ("act", ACTS)):
        unknown = set(batch.column(name).to_pylist()) - known - {None}
        if unknown:
            raise Refused("format", f"{name} of its table is {str(unknown.pop())[:40]!r}")
    if (pc.max(pc.list_value_length(batch.column("sample"))).as_py() or 0) > NOISE_SAMPLE:
        raise Refused("limit", f"a noise row of its table names more than {NOISE_SAMPLE} digests")


def _check_kinds(values: Any, kinds: list[str], column: Any) -> None:
    # A row has no value outside of the columns of its kind, and one in each column that its kind needs.
    from edgeprov.fleet.ledger.tables import REQUIRED

    found = set(zip(kinds, values.is_valid().to_pylist(), strict=True))
    for kind, valid in sorted(found):
        if valid and kind not in column.kinds:
            raise Refused("format", f"a {kind} row of its table has a value in {column.name}")
        if not valid and column.name in REQUIRED[kind]:
            raise Refused("format", f"a {kind} row of its table has no {column.name}")


def _fail(kind: str, message: str) -> int:
    sys.stdout.write(json.dumps({"error": kind, "message": " ".join(message.split())}) + "\n")
    return 1


def _main() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _main()
