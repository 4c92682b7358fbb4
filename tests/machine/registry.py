# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Registries, and desks that read them: each desk notes in its ledger, day by day, which artifact it saw when and where."""

from __future__ import annotations

from typing import NamedTuple

from tests.machine.values import DAY, Signature

SOURCES = ("main", "mirror")


class Copy:
    """One artifact in a registry: in which repositories, with which signatures; content may be unreadable."""

    __slots__ = ("broken", "repos", "signatures")

    def __init__(self) -> None:
        self.repos, self.signatures, self.broken = set[str](), set[Signature](), False


class Registry:
    """Artifacts by digest; ``deleted`` says when one went that had been there."""

    def __init__(self) -> None:
        self.copies: dict[int, Copy] = {}
        self.deleted: dict[int, int] = {}

    def put(self, digest: int, repo: str, signatures: frozenset[Signature]) -> None:
        copy = self.copies.setdefault(digest, Copy())
        copy.repos.add(repo)
        copy.signatures |= signatures
        self.deleted.pop(digest, None)

    def delete(self, digest: int, now: int) -> None:
        if self.copies.pop(digest, None) is not None:
            self.deleted[digest] = now


class Seen(NamedTuple):
    """A row of a ledger: a desk read this artifact with these signatures."""

    at: int
    source: str
    repo: str
    digest: int
    signatures: frozenset[Signature]
    broken: bool


class Listing(NamedTuple):
    """A row of a ledger: a desk listed a registry; ``whole`` where no page of it failed."""

    at: int
    source: str
    whole: bool
    digests: frozenset[int]


class Desk:
    """A collector. Its ledger has a chain of days; the open day lies in its folder only."""

    def __init__(self, name: str, *, trusted: bool) -> None:
        self.name, self.trusted, self.offset = name, trusted, 0
        self.rows: dict[int, list[Seen | Listing]] = {}
        self.known: dict[tuple[str, int], tuple[frozenset[Signature], bool]] = {}
        self.withheld: set[int] = set()
        self.newest = 0

    def clock(self, now: int) -> int:
        """Its wall clock; in one chain time never falls."""
        self.newest = max(self.newest, now + self.offset, 0)
        return self.newest

    def read(self, source: str, registry: Registry, now: int, mode: str) -> None:
        """One round: ``ok``; ``fail``: nothing is read; ``part``: the listing breaks off; ``bare``: no signature is read."""
        if mode == "fail":
            return
        at = self.clock(now)
        rows = self.rows.setdefault(at // DAY, [])
        digests = sorted(registry.copies)
        if mode == "part":
            digests = digests[::2]
        for digest in digests:
            copy = registry.copies[digest]
            signatures = frozenset() if mode == "bare" else frozenset(copy.signatures)
            before = self.known.get((source, digest))
            if before is not None and before[0] >= signatures and before[1] <= copy.broken:
                continue
            self.known[source, digest] = (signatures | (before[0] if before else frozenset()), copy.broken)
            rows.append(Seen(at, source, min(copy.repos), digest, signatures, copy.broken))
        rows.append(Listing(at, source, mode != "part", frozenset(digests)))

    def lose(self, now: int, *, all_days: bool) -> None:
        """The folder is lost: the open day with it, or where it was never sent, each day."""
        self.known = {}
        open_day = self.clock(now) // DAY
        self.rows = {} if all_days else {day: rows for day, rows in self.rows.items() if day < open_day}

    def at_hand(self) -> list[Seen | Listing]:
        """Rows of the days that nobody withholds."""
        return [row for day, rows in self.rows.items() if day not in self.withheld for row in rows]
