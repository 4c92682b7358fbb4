# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Columns of a table of the ledger, as one literal, and the Parquet schema that follows from it.

Types: ``text``; ``hash`` has 32 bytes; ``bytes`` have any length; ``int`` is from 0 to 2^63 - 1; ``time`` is a
moment in UTC with nanoseconds; ``[...]`` is a list, of one type or of the named members. Times in members are
``int`` nanoseconds since 1970, so that every reader gives them exactly.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any, Final

from edgeprov.formats.jsonx import encode_json

KINDS: Final = {
    "K": "kit", "T": "tombstone", "H": "head", "R": "record", "M": "model", "O": "roster", "C": "collection",
    "I": "signer", "S": "sighting", "V": "verdict", "G": "gone", "B": "back", "L": "listing", "N": "noise",
    "A": "act",
}  # fmt: skip
"""Letters of the literal below: kinds of rows."""

LITERAL: Final = """
row               KTHRMOCISVGBLNA  text
seen              KTHRMOCISVGBLNA  time
digest            KTHRMOCISVGBA    hash
source            KTHRMOCSGBLN     text
repo              KTHRMOCSGBLN     text
tag               KTHRMOCSGB       text
bytes             KTHRMOC          int
created           KTHRMOCA         time
enrollment        KTHRVA           hash
device            KTHRA            text
number            KTHOA            int
prev              KTHO             hash
slot              KT               text
model             KT               hash
records           KC               int
labels            KC               int
first             K                int
last              K                int
recorded_first    K                time
recorded_last     K                time
segments          KV               [number int, header hash, prev hash?, slot text, model hash, shared bool, \
first int?, last int?, least_ns int?, greatest_ns int?, reset_count int, runtime text]
ranges            KV               [segment int, first int, last int]
unused            KV               [segment int, first int, last int]
times_read        KV               bool
doubtful          KV               int
labelled          KV               [first int, last int, withdrawn bool]
leaves            KV               [n int, leaf hash]
missing           KV               [text]
events            KV               [kind text, at_ns int, doubt bool, slot text?, details text?]
numbers           TV               [number int, reason text, header hash?]
lost              TV               [first int, last int, records int, least_ns int?, greatest_ns int?, doubt bool, \
reason text]
made              KTHV             time
floor             KTHV             time
doubt             KTHV             bool
final             KTHV             bool
newest            KTHV             hash
open              KTHV             [number int, header hash, slot text, first int?, last int?, leaf hash?, \
least_ns int?, greatest_ns int?, doubt bool]
stops             KTHV             [slot text, header hash, after int?, resumed int, bound_ms int, at_ns int]
reset_count       KTHV             int
restart_count     KTHV             int
clock_ms          KTHV             int
opened_clock_ms   KV               int
safe              KTHV             bool
record            KTHV             hash
edgeprov          KTV              text
firmware          KTHV             text
model_pcr         KTHV             int
pcrs              KTHV             [quote int, pcr int, value hash]
boot              KTHV             [text]
assurance         KTHRV            text
signatures        KTRMOCV          [digest hash, signer hash, anchor hash?, stamped_ns int?]
verdict           KTHRMOV          text
signed            KTHRMOV          bool
checked           KTHRMOV          time
rule              KTHRMOV          text
detail            KTHRMOV          text
depth             KTHV             int
basis             KTHRMOV          hash
nonce             HR               bytes
asked             H                time
ak                R                bytes
counter           R                bytes
base              R                int
line              R                hash
certificate       RI               hash
replaces          R                hash
bin               R                text
name              M                text
version           M                text
security_version  M                int
trained_on        M                hash
expires           O                time
models            C                [bytes]
kits              C                int
identity          IA               text
subject           I                [name text, value text]
key               I                hash
serial            I                text
issuers           I                [key hash, certificate hash, serial text]
anchor            I                hash
not_before        I                time
not_after         I                time
act               A                text
value             A                text
since             A                time
count             LN               int
sample            N                [bytes]
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column, or a member of a list's elements.

    Attributes:
        name: In the table.
        type: One of text, hash, bytes, int, bool, time, list.
        kinds: Rows that may have it; empty for a member.
        members: Of a list whose elements have members.
        element: Type of a list's elements that have no members.
        optional: A member that may be null, marked with ``?``.
    """

    name: str
    type: str
    kinds: frozenset[str] = frozenset()
    members: tuple[Column, ...] = ()
    element: str = ""
    optional: bool = False

    @property
    def field(self) -> str:
        """Its name in the classes of rows: times there are nanoseconds since 1970."""
        return f"{self.name}_ns" if self.type == "time" else self.name


def _column(line: str) -> Column:
    name, letters, kind = line.split(maxsplit=2)
    kinds = frozenset(KINDS[letter] for letter in letters)
    if not kind.startswith("["):
        return Column(name, kind, kinds)
    inner = kind[1:-1]
    if " " not in inner:
        return Column(name, "list", kinds, element=inner)
    members = (member.split() for member in inner.split(", "))
    return Column(name, "list", kinds, members=tuple(_member(member, of) for member, of in members))


def _member(name: str, kind: str) -> Column:
    return Column(name, kind.removesuffix("?"), optional=kind.endswith("?"))


COLUMNS: Final = tuple(map(_column, LITERAL.strip().splitlines()))
BY_NAME: Final = {column.name: column for column in COLUMNS}
SCHEMA_DIGEST: Final = hashlib.sha256(
    encode_json({"columns": [line.split(maxsplit=2) for line in LITERAL.strip().splitlines()]})
).hexdigest()
"""SHA-256 (hex) of the JSON object ``{columns: [[name, letters of the kinds, type]...]}``, in the order above."""


def columns_of(kind: str) -> tuple[Column, ...]:
    """The columns that rows of a kind may have, in their order."""
    return tuple(column for column in COLUMNS if kind in column.kinds)


@functools.cache
def arrow_schema() -> Any:
    """The schema of pyarrow."""
    import pyarrow as pa

    return pa.schema([pa.field(column.name, arrow_type(column)) for column in COLUMNS])


def arrow_type(column: Column) -> Any:
    """The type of one column in pyarrow."""
    import pyarrow as pa

    if column.type != "list":
        return _plain(column.type)
    if column.members:
        return pa.list_(pa.struct([pa.field(member.name, _plain(member.type)) for member in column.members]))
    return pa.list_(_plain(column.element))


def _plain(name: str) -> Any:
    import pyarrow as pa

    return {
        "text": pa.string(),
        "hash": pa.binary(32),
        "bytes": pa.binary(),
        "int": pa.int64(),
        "bool": pa.bool_(),
        "time": pa.timestamp("ns", tz="UTC"),
    }[name]
