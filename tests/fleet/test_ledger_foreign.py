# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Somebody else's tables are hostile: each one here is signed by a collector that the policy trusts."""

from __future__ import annotations

import io
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeprov.errors import EdgeprovError, FormatError, LimitError, StoreFull, VerificationError
from edgeprov.fleet.ledger.day_statement import DayStatement, encode_day_statement
from edgeprov.fleet.ledger.fetch import fetch_chain
from edgeprov.fleet.ledger.foreign import copy_foreign
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder
from edgeprov.fleet.ledger.remote import push_days
from edgeprov.fleet.ledger.table_columns import arrow_schema
from edgeprov.fleet.ledger.tables import encode_parquet, load_table, make_table, sort_rows
from edgeprov.fleet.trust.signers import sign_statement
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.ledger import DAY_NS, NOW_NS, at, collector, content, kit, policy

MUTANTS = 200 if os.environ.get("EDGEPROV_CRASH") == "all" else 6


def signed(folder: LedgerFolder, day: str, raw: bytes, rows: int, prev: Digest | None = None, **changes: Any) -> Digest:
    """Put a day with any table into a chain, as a collector with bad intentions would."""
    folder.make()
    members: dict[str, Any] = {"since_ns": NOW_NS, "until_ns": NOW_NS} | changes
    statement = DayStatement(
        chain="desk", day=day, table=digest_of(raw), bytes=len(raw), rows=rows, prev=prev, **members
    )
    bundle = sign_statement(collector(), encode_day_statement(statement))
    folder.day_path(day).write_bytes(raw)
    folder.bundle_path(day).write_bytes(bundle)
    return digest_of(bundle)


def fetch(source: LedgerFolder, tmp_path: Path) -> LedgerFolder:
    registry = LayoutRegistry(tmp_path / "registry", create=True)
    push_days(registry, "", source)
    target = LedgerFolder(tmp_path / "auditor")
    try:
        fetch_chain(registry, "", "desk", target, policy(), at(NOW_NS + 2 * DAY_NS))
    except EdgeprovError as error:
        assert list(target.days.iterdir()) == [], "nothing of a refused run is kept"
        assert "\n" not in error.message
        raise
    return target


def refused(tmp_path: Path, raw: bytes, rows: int, error: type[EdgeprovError], match: str, **changes: Any) -> None:
    source = LedgerFolder(tmp_path / "mallory")
    signed(source, "2026-09-21", raw, rows, **changes)
    with pytest.raises(error, match=match):
        fetch(source, tmp_path)


def good_table(count: int = 5) -> pa.Table:
    return sort_rows(make_table([kit(number) for number in range(1, count + 1)]))


def written(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_another_writers_table_is_read_and_written_again(tmp_path: Path, compression: str) -> None:
    source = LedgerFolder(tmp_path / "mallory")
    signed(source, "2026-09-21", written(good_table(), compression=compression), 5)
    target = fetch(source, tmp_path)
    assert len(content(target)["kits"]) == 5
    assert load_table([target.day_path("2026-09-21")]).equals(good_table())


def test_duckdb_writes_a_table_that_is_read(tmp_path: Path) -> None:
    import duckdb

    (tmp_path / "x").mkdir()
    ours = tmp_path / "x" / "ours.parquet"
    ours.write_bytes(encode_parquet(good_table()))
    duckdb.sql(f"COPY (SELECT * FROM '{ours}') TO '{tmp_path}/x/theirs.parquet'")
    # DuckDB writes a hash as BYTE_ARRAY: another schema than the format's, and told so.
    refused(tmp_path, (tmp_path / "x" / "theirs.parquet").read_bytes(), 5, FormatError, "another schema")


def truncated(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def longer_footer(raw: bytes) -> bytes:
    return raw[:-8] + (2**31).to_bytes(4, "little") + raw[-4:]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (truncated, FormatError, "not Parquet"),
        (lambda _raw: b"", FormatError, "not Parquet"),
        (lambda raw: b"XXXX" + raw[4:], FormatError, "not Parquet"),
        (longer_footer, LimitError, "footer"),
        (lambda raw: raw[:-20_000] + bytes(19_992) + raw[-8:], FormatError, "cannot be read|another schema"),
    ],
    ids=["truncated", "empty", "magic", "footer-length", "footer-zeros"],
)
def test_a_frame_that_is_no_parquet(
    tmp_path: Path, change: Callable[[bytes], bytes], error: type[EdgeprovError], match: str
) -> None:
    refused(tmp_path, change(encode_parquet(good_table())), 5, error, match)


def test_a_table_of_another_schema(tmp_path: Path) -> None:
    table = good_table()
    for number, other in enumerate(
        (
            table.drop_columns(["count"]),
            table.append_column("more", pa.array([1] * 5)),
            table.select([*reversed(table.column_names)]),
            table.set_column(0, "row", pa.array([b"kit"] * 5)),
            table.rename_columns(["rows", *table.column_names[1:]]),
        )
    ):
        refused(tmp_path / str(number), written(other), 5, FormatError, "another schema")


def test_more_or_fewer_rows_than_signed(tmp_path: Path) -> None:
    raw = encode_parquet(good_table())
    refused(tmp_path / "1", raw, 6, FormatError, "5 rows, not 6")
    refused(tmp_path / "2", raw, 4, FormatError, "5 rows, not 4")


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("number", [-1, 2, 3, 4, 5], "number of its table has the number -1"),
        ("seen", [None] * 5, "no seen"),
        ("seen", [NOW_NS - 1] * 5, "not seen in the time"),
        ("seen", [NOW_NS + 1] * 5, "not seen in the time"),
        ("row", ["kit", "kit", "kit", "kit", "party"], "kind 'party'"),
        ("row", [None] * 5, "kind 'None'"),
        ("model", [None] * 5, "no model"),
        ("digest", [None] * 5, "no digest"),
        ("act", ["enroll"] * 5, "value in act"),
        ("count", [1] * 5, "value in count"),
        ("verdict", ["ok"] * 5, "verdict of its table is 'ok'"),
        ("number", [5, 4, 3, 2, 1], "not in order"),
        ("missing", [[None]] * 5, "is null"),
        ("leaves", [[{"n": None, "leaf": bytes(32)}]] * 5, "leaves.n in its table is null"),
        ("leaves", [[{"n": -3, "leaf": bytes(32)}]] * 5, "leaves.n of its table has the number -3"),
        ("slot", ["x" * 5000] * 5, "value of 5000 bytes"),
    ],
)
def test_values_that_the_format_does_not_allow(tmp_path: Path, name: str, values: Any, match: str) -> None:
    error = LimitError if "bytes" in match else FormatError
    refused(tmp_path, written(with_column(good_table(), name, values)), 5, error, match)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    table = good_table()
    bad = pa.Array.from_buffers(
        pa.string(), 5, [None, pa.array(range(6), pa.int32()).buffers()[1], pa.py_buffer(b"\xff" * 5)]
    )
    place = table.schema.get_field_index("slot")
    refused(tmp_path, written(table.set_column(place, "slot", bad)), 5, FormatError, "cannot be read|bytes")


def test_an_artifact_that_stands_twice(tmp_path: Path) -> None:
    twice = sort_rows(make_table([kit(1), kit(1, source="mirror")]))
    refused(tmp_path, encode_parquet(twice), 2, VerificationError, "twice")


def test_an_artifact_that_stands_twice_in_two_days(tmp_path: Path) -> None:
    source = LedgerFolder(tmp_path / "mallory")
    first = signed(source, "2026-09-21", encode_parquet(good_table(1)), 1)
    signed(source, "2026-09-22", encode_parquet(good_table(2)), 2, first)
    with pytest.raises(VerificationError, match="twice"):
        fetch(source, tmp_path)


def null_table(rows: int, **columns: Any) -> pa.Table:
    """Listing rows, with some columns of equal values: small in a file, large in memory."""
    schema = arrow_schema()
    base = {
        "row": pa.repeat(pa.scalar("listing"), rows), "seen": pa.repeat(pa.scalar(NOW_NS, pa.timestamp("ns", "UTC")), rows),
        "source": pa.repeat(pa.scalar("r"), rows), "repo": pa.repeat(pa.scalar("x"), rows), "count": pa.repeat(pa.scalar(1), rows),
    } | columns  # fmt: skip
    return pa.table([base.get(field.name, pa.nulls(rows, field.type)) for field in schema], schema=schema)


def test_a_bomb_of_equal_texts(tmp_path: Path) -> None:
    # 3 million texts of 4,000 equal bytes: 12 GB in memory, less than 2 MB in the file. Read batch by batch, it is legal;
    # the copy has the same rows, and is as small.
    table = null_table(1_000)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), pa.array(["x" * 4_000])).cast(pa.string())
    table = table.set_column(table.schema.get_field_index("repo"), table.schema.field("repo"), text)
    big = pa.concat_tables([table] * 300)
    raw = written(big, compression="zstd", row_group_size=100_000)
    assert len(raw) < 1_000_000
    source = LedgerFolder(tmp_path / "mallory")
    signed(source, "2026-09-21", raw, 300_000)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    target = fetch(source, tmp_path)
    assert target.day_path("2026-09-21").stat().st_size < 2_000_000
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before, 1_500_000)


def test_a_bomb_of_one_long_list(tmp_path: Path) -> None:
    table = good_table(1)
    place = table.schema.get_field_index("missing")
    long = pa.ListArray.from_arrays(pa.array([0, 3_000_000], pa.int32()), pa.repeat(pa.scalar("m"), 3_000_000))
    raw = written(table.set_column(place, table.schema.field(place), long), compression="zstd")
    assert len(raw) < 100_000
    refused(tmp_path, raw, 1, LimitError, "3000000 elements")


def test_a_bomb_that_needs_more_memory_than_the_child_has(tmp_path: Path) -> None:
    # 100 rows with lists of 99,999 texts of 4,000 bytes: 40 GB in one batch.
    table = null_table(100)
    place = table.schema.get_field_index("sample")
    element = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 99_999), pa.array([b"x" * 4_000]))
    one = pa.ListArray.from_arrays(pa.array([0, 99_999], pa.int32()), element)
    field = pa.field("sample", pa.list_(pa.dictionary(pa.int32(), pa.binary())))
    bomb = table.set_column(place, field, pa.concat_arrays([one] * 100))
    raw = written(bomb, compression="zstd", store_schema=False)
    assert len(raw) < 200_000
    refused(tmp_path, raw, 100, LimitError, "memory|limits")


def test_too_many_row_groups(tmp_path: Path) -> None:
    raw = written(null_table(20_000), row_group_size=100, write_statistics=False)
    refused(tmp_path, raw, 20_000, LimitError, "200 row groups for 20000 rows|footer")


def test_a_row_group_that_is_too_large(tmp_path: Path) -> None:
    raw = written(null_table(130_000), row_group_size=130_000)
    refused(tmp_path, raw, 130_000, LimitError, "row group of its table has 130000 rows")


def test_a_codec_that_readers_do_not_take(tmp_path: Path) -> None:
    refused(tmp_path, written(good_table(), compression="gzip"), 5, FormatError, "compressed with GZIP")


def test_too_many_bytes_for_its_rows(tmp_path: Path) -> None:
    table = with_column(good_table(), "detail", [str(number) * 4_000 for number in range(5)])
    many = [str(number) * 10 for number in range(90_000)]
    table = with_column(table, "missing", [many] * 5)
    refused(tmp_path, written(table, use_dictionary=False), 5, LimitError, "before compression")


def test_mutants_are_refused_or_have_other_bytes(tmp_path: Path) -> None:
    chance = random.Random(9)
    raw = encode_parquet(good_table(300))
    for number in range(MUTANTS):
        mutant = bytearray(raw)
        for _ in range(chance.choice((1, 1, 2, 20))):
            place = chance.choice((chance.randrange(len(raw)), len(raw) - 1 - chance.randrange(2_000)))
            mutant[place] = chance.randrange(256)
        source = LedgerFolder(tmp_path / f"mallory{number}")
        signed(source, "2026-09-21", bytes(mutant), 300)
        try:
            target = fetch(source, tmp_path / str(number))
        except (FormatError, VerificationError):
            continue
        assert len(content(target)["kits"]) <= 300


def test_no_room_for_the_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    raw = encode_parquet(good_table())
    source.write_bytes(raw)
    statement = DayStatement(
        chain="desk", day="2026-09-21", table=digest_of(raw), bytes=len(raw), rows=5, since_ns=NOW_NS, until_ns=NOW_NS,
        prev=None,
    )  # fmt: skip
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        with pytest.raises(StoreFull, match="File too large"):
            copy_foreign(source, target, statement)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
