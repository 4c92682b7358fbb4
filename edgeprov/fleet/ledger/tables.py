# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rows to Parquet: values are checked when a table is made, so that no writer makes one that readers refuse.

Spec: FORMAT.md section "Ledger"; Apache Parquet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from edgeprov.errors import FormatError, LimitError
from edgeprov.fleet.ledger.rows import ACTS, NOISE_SAMPLE, ROW_CLASSES, VERDICTS, Row
from edgeprov.fleet.ledger.table_columns import BY_NAME, COLUMNS, Column, arrow_schema, arrow_type
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import DurableFile

INT_END: Final = 2**63
SORT: Final = ("enrollment", "number", "row", "digest", "seen")
"""Columns that order the rows of a closed day, ascending, nulls last."""

ROW_GROUP: Final = 8_192
REQUIRED: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(
        item.name.removesuffix("_ns") if item.name.endswith("seen_ns") else item.name
        for item in fields(kind)
        if item.default is MISSING and "None" not in str(item.type)
    )
    for name, kind in ROW_CLASSES.items()
}
"""Columns that are never null, by kind."""

_NO_DICTIONARY: Final = frozenset(("digest", "prev", "newest", "nonce", "ak", "line", "detail", "sample"))
_NO_DICTIONARY_MEMBERS: Final = frozenset(("header", "prev", "leaf", "digest"))


def make_table(rows: Iterable[Row]) -> Any:
    """The pyarrow table of some rows, in their order.

    Raises:
        FormatError: A value that its column does not allow.
        LimitError: A number of 2^63 or more, or a text or list that is too long.
    """
    import pyarrow as pa

    rows = list(rows)
    for row in rows:
        check_row(row)
    arrays = []
    for column in COLUMNS:
        values = [getattr(row, column.field, None) for row in rows]
        arrays.append(_array(values, column))
    return pa.Table.from_arrays(arrays, schema=arrow_schema())


def check_row(row: Row) -> None:
    """Check what no type says. Errors as in make_table."""
    missing = [name for name in REQUIRED[row.row] if getattr(row, BY_NAME[name].field) is None]
    if missing:
        raise FormatError(f"ledger: a {row.row} row without {missing[0]}")
    verdict, act = getattr(row, "verdict", None), getattr(row, "act", None)
    if verdict is not None and verdict not in VERDICTS:
        raise FormatError(f"ledger: {verdict!r} is no verdict")
    if row.row == "act" and act not in ACTS:
        raise FormatError(f"ledger: {act!r} is no act of a desk")
    if len(getattr(row, "sample", ())) > NOISE_SAMPLE:
        raise LimitError(f"ledger: a noise row names more than {NOISE_SAMPLE} digests")


def parquet_writer(file: Any) -> Any:
    """A pyarrow writer into a binary file object, as a context manager."""
    import pyarrow.parquet as pq

    dictionary, encodings = [], {}
    for path, name, kind in _leaves():
        if kind in {"int", "time"}:
            encodings[path] = "DELTA_BINARY_PACKED"
        elif kind in {"text", "hash", "bytes"} and name not in _NO_DICTIONARY:
            dictionary.append(path)
    return pq.ParquetWriter(
        file, arrow_schema(), compression="zstd", compression_level=3, use_dictionary=dictionary,
        column_encoding=encodings, write_statistics=True,
    )  # fmt: skip


def write_parquet(table: Any, file: Any) -> None:
    """Write a table to a binary file object. Equal rows and equal library versions give equal bytes."""
    with parquet_writer(file) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)


def encode_parquet(table: Any) -> bytes:
    """The bytes of a table."""
    buffer = BytesIO()
    write_parquet(table, buffer)
    return buffer.getvalue()


def save_parquet(table: Any, file: DurableFile) -> None:
    """Write a table into an open file of the store. Errors as in DurableFile.write."""
    write_parquet(table, _Sink(file))


def load_table(paths: Sequence[Path]) -> Any:
    """One table of some files of our own.

    Raises:
        FormatError: Not Parquet, or another schema.
        FileNotFoundError: A file is gone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [arrow_schema().empty_table()]
    for path in paths:
        try:
            table = pq.read_table(path, partitioning=None)
        except FileNotFoundError:
            raise
        except Exception as error:  # the reader raises what it likes on a damaged file
            raise FormatError(f"{path} is no table of a ledger: {type(error).__name__}") from error
        if not table.schema.equals(arrow_schema()):
            raise FormatError(f"{path} has another schema than this program's ledger")
        tables.append(table)
    return pa.concat_tables(tables)


def sort_rows(table: Any) -> Any:
    """The rows in the order of a closed day."""
    import pyarrow.compute as pc

    keys = [(name, "ascending") for name in SORT]
    return table.take(pc.sort_indices(table, sort_keys=keys))


def _array(values: list[Any], column: Column) -> Any:
    import pyarrow as pa

    if column.type != "list":
        return pa.array([_plain(value, column) for value in values], arrow_type(column))
    offsets: list[int | None] = []
    items: list[Any] = []
    for value in values:
        offsets.append(None if value is None else len(items))
        if value is not None:
            if len(value) > LIMITS.ledger_list:
                raise LimitError(f"ledger: {len(value)} elements in {column.name}, more than {LIMITS.ledger_list}")
            items.extend(value)
    offsets.append(len(items))
    kind = arrow_type(column)
    if not column.members:
        element = Column(column.name, column.element)
        inner = pa.array([_member(item, element) for item in items], kind.value_type)
    else:
        children = [
            pa.array([_member(item[place], member) for item in items], kind.value_type.field(place).type)
            for place, member in enumerate(column.members)
        ]
        inner = pa.StructArray.from_arrays(children, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, type=kind)


def _member(value: Any, column: Column) -> Any:
    if value is None and not column.optional:
        raise FormatError(f"ledger: {column.name} of a list is null")
    return _plain(value, column)


def _plain(value: Any, column: Column) -> Any:
    if value is None:
        return None
    kind = column.type
    if kind in {"int", "time"}:
        if not isinstance(value, int) or value < 0:
            raise FormatError(f"ledger: {column.name} is {value!r}, not a number from 0 on")
        if value >= INT_END:
            raise LimitError(f"ledger: {column.name} is {value}, and numbers end below 2^63")
    elif kind in {"hash", "bytes"}:
        if not isinstance(value, bytes) or (kind == "hash" and len(value) != 32):
            raise FormatError(f"ledger: {column.name} is not 32 bytes" if kind == "hash" else f"ledger: {column.name}")
        if len(value) > LIMITS.ledger_text_bytes:
            raise LimitError(f"ledger: {column.name} has {len(value)} bytes, more than {LIMITS.ledger_text_bytes}")
    elif kind == "text":
        if not isinstance(value, str):
            raise FormatError(f"ledger: {column.name} is not text")
        if len(value.encode("utf-8", "surrogatepass")) > LIMITS.ledger_text_bytes:
            raise LimitError(f"ledger: {column.name} has more than {LIMITS.ledger_text_bytes} bytes")
    return value


def _leaves() -> list[tuple[str, str, str]]:
    found = []
    for column in COLUMNS:
        if column.type != "list":
            found.append((column.name, column.name, column.type))
        elif not column.members:
            found.append((f"{column.name}.list.element", column.name, column.element))
        for member in column.members:
            name = "digest" if member.name in _NO_DICTIONARY_MEMBERS else member.name
            found.append((f"{column.name}.list.element.{member.name}", name, member.type))
    return found


class _Sink:
    """A DurableFile as the binary file object that pyarrow writes to."""

    closed = False

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        self._file.write(memoryview(data).tobytes())
        return len(data)

    def tell(self) -> int:
        return self._file.size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass  # its owner closes it
