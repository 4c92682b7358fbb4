# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The accepted part of the knowledge as the rules see it: one case for each enrollment, and what they share.

Spec: FORMAT.md part "Conclusion".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Final

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.gate import Gate, Sight
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.types import (
    Ended,
    ItemFacts,
    KitFacts,
    ModelFacts,
    RecordFacts,
    RosterFacts,
    Sighting,
    TombstoneFacts,
)

HOUR_NS: Final = 3_600_000_000_000


@dataclass(slots=True)
class Case:
    """One enrollment with everything of it that counts.

    Attributes:
        end: The last number that it could take, where that is certified.
        replaced: Another enrollment names it as the one that ended on the same TPM.
        items: Kits, tombstones and heads that count, by (number, reset_count, clock_ms, digest).
        pending: Signed items that could not be judged; they explain nothing and accuse nobody.
        past: Items made and seen before the period, highest number first.
        inside: Digests of kits with records that may lie in the period.
        closer: The item that closes it, or None.
        last: The item up to which it is judged: the closer, else the newest; None without any.
        boot_sets: Names of the boot sets that its quotes match.
    """

    enrollment: bytes
    device: str
    names: tuple[str, ...]
    base: int
    since: int
    until: int | None = None
    ended: Ended | None = None
    end: int | None = None
    replaced: bool = False
    records: list[RecordFacts] = field(default_factory=list)
    kits: list[KitFacts] = field(default_factory=list)
    tombstones: list[TombstoneFacts] = field(default_factory=list)
    items: list[ItemFacts] = field(default_factory=list)
    pending: list[ItemFacts] = field(default_factory=list)
    pending_top: int = -1
    past: list[ItemFacts] = field(default_factory=list)
    inside: set[bytes] = field(default_factory=set)
    closer: ItemFacts | None = None
    last: ItemFacts | None = None
    boot_sets: set[str] = field(default_factory=set)
    reasons: list[Reason] = field(default_factory=list)

    def judged_items(self) -> list[ItemFacts]:
        """Items up to the one up to which the enrollment is judged; later ones do not matter."""
        if self.last is None or self.last is self.items[-1]:
            return self.items
        place = next(place for place, item in enumerate(self.items) if item is self.last)
        return self.items[: place + 1]

    def reason(self, code: str, effect: Any, text: str, **facts: Any) -> Reason:
        """A reason about this enrollment; the rule's id is added by ``rule``."""
        return Reason(
            code=code, rule="", effect=effect, enrollment=self.enrollment, device=self.device, text=text, **facts
        )

    def doubt(self, code: str, text: str, *, waits: bool, **facts: Any) -> Reason:
        """R-con-18: a gap, or NOT JUDGED where a signed item that could not be judged may explain it."""
        return self.reason(code, "not-judged" if waits else "gap", text, **facts)


@dataclass(slots=True)
class View:
    """What the rules share.

    Attributes:
        sights: First sighting of each artifact by a trusted collector or who asks, with stamps.
        absent: Sightings of artifacts that at least one whole listing lacked.
        models: Models that a trusted publisher vouches for.
        odd_models: Models of which something is known, but that nobody vouches for.
        rosters: Accepted rosters.
        roster: The one that counts, or None.
    """

    question: Question
    gate: Gate
    sights: Mapping[bytes, Sight]
    absent: Mapping[bytes, list[Sighting]]
    models: dict[bytes, ModelFacts] = field(default_factory=dict)
    odd_models: dict[bytes, ModelFacts] = field(default_factory=dict)
    rosters: list[RosterFacts] = field(default_factory=list)
    roster: RosterFacts | None = None

    def seen(self, digest: bytes) -> int:
        """First sighting; the time of the question where there is none."""
        sight = self.sights.get(digest)
        return sight[0] if sight else self.question.at


RULES: Final[dict[str, list[str]]] = {}
"""Id of a rule -> names of its functions."""


def rule(name: str) -> Callable[[Any], Any]:
    """Mark a function as the rule of this id: the reasons that it gives carry the id."""

    def mark(function: Callable[..., Iterator[Reason]]) -> Callable[..., Iterator[Reason]]:
        RULES.setdefault(name, []).append(function.__name__)

        @wraps(function)
        def named(*arguments: Any) -> Iterator[Reason]:
            for reason in function(*arguments):
                yield replace(reason, rule=name)

        return named

    return mark


def order_key(item: ItemFacts) -> tuple[int, int, int, bytes]:
    """Items of an enrollment are ordered by this."""
    return item.number, item.reset_count, item.clock_ms, item.digest
