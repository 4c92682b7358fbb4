# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The signed statement of a day, its manifest in a registry, and the names of chains.

Spec: FORMAT.md section "Ledger"; in-toto Statement v1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from edgeprov.errors import FormatError
from edgeprov.fleet.ledger.ledger_folder import DAY, start_ns
from edgeprov.fleet.ledger.table_columns import SCHEMA_DIGEST
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, digest_of, parse_digest
from edgeprov.formats.envelope import Signer
from edgeprov.formats.in_toto import encode_statement, parse_statement
from edgeprov.formats.jsonx import get_int, get_str
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import LEDGER, LEDGER_PREDICATE, PARQUET, PREFIX, ROLE_URN_PREFIXES
from edgeprov.limits import LIMITS

A_CHAIN: Final = PREFIX + "ledger.chain"
A_DAY: Final = PREFIX + "ledger.day"
INDEX_TAG: Final = "index"
_VERSION: Final = 1
_CHAIN: Final = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_SECOND: Final = re.compile(r"(.+)\.([2-9]|[1-9][0-9]{1,3})")
_KEYS: Final = frozenset(
    ("v", "chain", "day", "table", "bytes", "rows", "schema", "since", "until", "prev", "continues")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayStatement:
    """What a collector signs about a day.

    Attributes:
        chain: Name of the chain.
        day: Day of ingestion, UTC.
        table: SHA-256 of the table's bytes.
        bytes: Length of the table.
        rows: Its rows.
        since_ns: Least ``seen`` of its rows.
        until_ns: Greatest ``seen``; the next day's rows are not older.
        prev: SHA-256 of the bundle of the day before in the chain; None for its first day.
        continues: Only on a first day: newest bundle of the chain that this one goes on from.
    """

    chain: str
    day: str
    table: Digest
    bytes: int
    rows: int
    since_ns: int
    until_ns: int
    prev: Digest | None
    continues: Digest | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest of the day in a registry: it follows from the statement."""
        return build_manifest(
            config=EMPTY_CONFIG,
            layers=[Descriptor(media_type=PARQUET, digest=self.table, size=self.bytes)],
            artifact_type=LEDGER,
            annotations={A_CHAIN: self.chain, A_DAY: self.day},
        )


def encode_day_statement(day: DayStatement) -> bytes:
    """The in-toto statement: about the table, and about the manifest that holds it."""
    return encode_statement(
        [day.table, day.manifest.digest],
        LEDGER_PREDICATE,
        {
            "v": _VERSION,
            "chain": day.chain,
            "day": day.day,
            "table": str(day.table),
            "bytes": day.bytes,
            "rows": day.rows,
            "schema": SCHEMA_DIGEST,
            "since": day.since_ns,
            "until": day.until_ns,
            "prev": day.prev and str(day.prev),
            "continues": day.continues and str(day.continues),
        },
    )


def parse_day_statement(raw: bytes) -> DayStatement:
    """Read a statement whose signature was verified, or is one's own.

    Raises:
        FormatError: Not the statement of a ledger's day, of another schema, or it contradicts itself.
        LimitError: A day that is too large.
    """
    what = "statement of a ledger's day"
    statement = parse_statement(raw)
    if statement.predicate_type != LEDGER_PREDICATE:
        raise FormatError(f"{what}: it is about something else, {statement.predicate_type[:80]!r}")
    obj = statement.predicate
    if set(obj) != _KEYS:
        raise FormatError(f"{what} has other members than the format")
    if get_int(obj, "v", what) != _VERSION:
        raise FormatError(f"{what} has version {obj['v']}, this reader knows {_VERSION}")
    if get_str(obj, "schema", what) != SCHEMA_DIGEST:
        raise FormatError(f"{what}: its table has another schema than this program's ledger")
    day = get_str(obj, "day", what)
    if not DAY.fullmatch(day):
        raise FormatError(f"{what}: {day[:20]!r} is no day")
    start_ns(day)
    result = DayStatement(
        chain=check_chain_name(get_str(obj, "chain", what)),
        day=day,
        table=parse_digest(get_str(obj, "table", what)),
        bytes=get_int(obj, "bytes", what, maximum=LIMITS.ledger_day_bytes),
        rows=get_int(obj, "rows", what, maximum=LIMITS.ledger_day_rows),
        since_ns=get_int(obj, "since", what, maximum=2**63 - 1),
        until_ns=get_int(obj, "until", what, maximum=2**63 - 1),
        prev=None if obj["prev"] is None else parse_digest(get_str(obj, "prev", what)),
        continues=None if obj["continues"] is None else parse_digest(get_str(obj, "continues", what)),
    )
    if result.since_ns > result.until_ns or (result.prev is not None and result.continues is not None):
        raise FormatError(f"{what}: its members do not fit each other")
    if statement.subjects != (result.table, result.manifest.digest):
        raise FormatError(f"{what}: its subjects are not the table and its manifest")
    return result


def check_chain_name(text: str) -> str:
    """A chain's name: a component of a repository's name, of at most 64 characters.

    Raises:
        FormatError: It is none.
    """
    if len(text) > 64 or not _CHAIN.fullmatch(text):
        raise FormatError(f"{text[:80]!r} is no name of a ledger's chain")
    return text


def chain_name(signer: Signer, number: int = 1) -> str:
    """Name of a signer's chain.

    Args:
        signer: The collector's key; the first certificate of its chain names it.
        number: 1, or more where a chain of the same collector was given up (``continues``).

    Raises:
        FormatError: The certificate's name cannot be a repository's.
    """
    if signer.certificate_chain:
        from edgeprov.verify.certificate_rules import verify_leaf
        from edgeprov.verify.certificates import load_certificate

        base = collector_of_identity(verify_leaf(load_certificate(signer.certificate_chain[0]), "collector"))
    else:
        base = collector_of_identity(f"key:sha256:{digest_of(signer.public_key_spki).hex}")
    return check_chain_name(base if number == 1 else f"{base}.{number}")


def collector_of_identity(identity: str) -> str:
    """The collector's name in chains, from its identity as verify_collector returns it.

    Raises:
        FormatError: A name that is no component of a repository's name.
    """
    prefix = ROLE_URN_PREFIXES["collector"]
    if identity.startswith("key:sha256:"):
        return "key-" + identity.removeprefix("key:sha256:")[:32]
    if not identity.startswith(prefix):
        raise FormatError(f"{identity[:80]!r} is not the name of a collector")
    return check_chain_name(identity.removeprefix(prefix))


def owner_of_chain(chain: str) -> str:
    """The collector whose chain it is: the name without the number of a later chain."""
    match = _SECOND.fullmatch(chain)
    return match[1] if match else chain


def repository(prefix: str, chain: str) -> str:
    """Repository of a chain; ``prefix`` is "" or ends with a slash."""
    return f"{prefix}ledger/{chain}"
