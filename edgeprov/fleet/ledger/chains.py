# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Chains: each day's signature names the one before, so that a missing, doubled or replaced day shows.

The newest signature vouches for all earlier ones: only its certificate has to be valid now. An earlier one is
judged at the end of its own day, which the chain proves to be of that time or later.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprov.errors import DigestMismatch, EdgeprovError, FormatError, StoreError, SubjectMismatch, VerificationError
from edgeprov.fleet.ledger.day_statement import (
    DayStatement,
    collector_of_identity,
    owner_of_chain,
    parse_day_statement,
)
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder
from edgeprov.formats.bundle import Bundle, parse_bundle
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.limits import LIMITS
from edgeprov.verify.collector import verify_collector
from edgeprov.verify.policy import TrustPolicy

_NS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedDay:
    """A day whose signature is good.

    Attributes:
        statement: What was signed.
        bundle: SHA-256 of the signature.
        signer: Identity of the collector.
        stamps: SHA-256 of the anchor certificate, and time in nanoseconds since 1970, of each timestamp that the
            policy trusts.
    """

    statement: DayStatement
    bundle: Digest
    signer: str
    stamps: tuple[tuple[bytes, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedChain:
    """A chain of days without a gap; ``days`` ascend."""

    name: str
    days: tuple[VerifiedDay, ...]

    @property
    def head(self) -> Digest | None:
        """The newest signature; None for an empty chain."""
        return self.days[-1].bundle if self.days else None


def verify_chain(
    name: str, bundles: Sequence[tuple[str, bytes]], policy: TrustPolicy, at: dt.datetime
) -> VerifiedChain:
    """Check all signatures and links of a chain.

    Args:
        name: Of the chain.
        bundles: Day and signature, ascending.
        policy: The signer has its role collector.
        at: Time at which the newest certificate is judged.

    Raises:
        FormatError: Not the statement of a day, or of another schema.
        SignatureInvalid, SignerUntrusted, PolicyDenied: Signed by somebody who may not.
        SubjectMismatch: A day of another chain, or under another day's name.
        VerificationError: A day is missing, doubled or replaced, or time falls.
    """
    if len(bundles) > LIMITS.ledger_days:
        raise FormatError(f"the ledger {name} has {len(bundles)} days, more than {LIMITS.ledger_days}")
    days: list[VerifiedDay] = []
    for place, (day, raw) in enumerate(bundles):
        before = days[-1] if days else None
        verified = _verify_day(name, day, raw, policy, at if place == len(bundles) - 1 else None)
        verify_link(before, verified)
        days.append(verified)
    return VerifiedChain(name=name, days=tuple(days))


def verify_link(before: VerifiedDay | None, day: VerifiedDay) -> None:
    """Check that a day follows another one in its chain.

    Raises:
        VerificationError: It does not.
    """
    statement = day.statement
    what = f"the ledger {statement.chain}"
    if statement.prev != (before.bundle if before else None):
        after = f"after {before.statement.day}" if before else "at its beginning"
        raise VerificationError(
            f"{what}: day {statement.day} does not follow {after}: a day is missing, doubled or was replaced",
            advice="Ask the collector which day is the right one; trust neither until then.",
        )
    if before is None:
        return
    if statement.day <= before.statement.day or statement.since_ns < before.statement.until_ns:
        raise VerificationError(f"{what}: time falls from day {before.statement.day} to day {statement.day}")


def load_chain(
    folder: LedgerFolder, name: str, policy: TrustPolicy, at: dt.datetime, *, tables: bool = True
) -> VerifiedChain:
    """Check one's own chain on disk.

    Args:
        folder: Its folder.
        name: Of the chain.
        policy: The signer has its role collector.
        at: Time at which the newest certificate is judged.
        tables: Read the tables, too, and compare them with what was signed.

    Raises:
        DigestMismatch: A table was changed.
        StoreError: A file cannot be read.
        EdgeprovError: As verify_chain.
    """
    found = folder.list_days()
    chain = verify_chain(name, [(day, folder.load_bundle(day)) for day, _ in found], policy, at)
    if tables:
        for day, (_, path) in zip(chain.days, found, strict=True):
            verify_table(path, day.statement)
    return chain


def verify_table(path: Path, statement: DayStatement) -> None:
    """Compare a table's bytes with what was signed.

    Raises:
        DigestMismatch: Other bytes.
        StoreError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if (size, digest) != (statement.bytes, statement.table.hex):
        raise DigestMismatch(
            f"{path}: the table of {statement.day} is not the one that was signed",
            advice="Fetch the day from the registry again.",
        )


def _verify_day(name: str, day: str, raw: bytes, policy: TrustPolicy, at: dt.datetime | None) -> VerifiedDay:
    what = f"day {day} of the ledger {name}"
    # An unverified statement tells only at which time its certificate is looked at; then all of it is verified.
    bundle = parse_bundle(raw)
    claimed = parse_day_statement(bundle.payload)
    if (claimed.chain, claimed.day) != (name, day):
        raise SubjectMismatch(f"{what}: it is signed as day {claimed.day} of {claimed.chain}")
    moment = at or dt.datetime.fromtimestamp(min(claimed.until_ns // _NS, 253_402_300_799), dt.UTC)
    _, signer = verify_collector(raw, policy, moment, what)
    if collector_of_identity(signer) != owner_of_chain(name):
        raise SubjectMismatch(f"{what} was signed by {signer}, whose ledger it is not")
    return VerifiedDay(statement=claimed, bundle=digest_of(raw), signer=signer, stamps=_stamps(bundle, policy))


def _stamps(bundle: Bundle, policy: TrustPolicy) -> tuple[tuple[bytes, int], ...]:
    from edgeprov.verify.timestamp_check import verify_timestamp

    found = []
    for stamp in bundle.timestamps:
        for anchor in policy.timestamp_anchors:
            try:
                moment = verify_timestamp(stamp, bundle.signature, [anchor])
            except EdgeprovError:
                continue
            found.append((hashlib.sha256(anchor).digest(), int(moment.timestamp()) * _NS))
    return tuple(sorted(set(found)))
