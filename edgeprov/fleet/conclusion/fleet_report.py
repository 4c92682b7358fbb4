# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The answer: one word with its exit code, the reasons, a row for each device, counts, and what it rests on.

Two reports of equal knowledge, trust and question are equal, except for their member ``knowledge``.

Spec: FORMAT.md part "Conclusion".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.types import Manifest, Noise, Range

Word = Literal[
    "UNPROVED",
    "WITH GAPS",
    "NOT JUDGED",
    "COMPLETE UP TO THE NEWEST KIT",
    "COMPLETE EXCEPT",
    "COMPLETE",
    "NO DATA",
]
EXIT_CODES: Final[dict[Word, int]] = {
    "UNPROVED": 74,
    "WITH GAPS": 73,
    "NOT JUDGED": 72,
    "COMPLETE UP TO THE NEWEST KIT": 71,
    "COMPLETE EXCEPT": 70,
    "COMPLETE": 0,
    "NO DATA": 75,
}
"""Worst first; ``NO DATA`` stands for itself."""

Effect = Literal["gap", "not-judged", "open", "except", "note"]
"""A reason's effect on the word: WITH GAPS, NOT JUDGED, UP TO THE NEWEST KIT, EXCEPT, none (told beside the word)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason for the word, or something that is told beside it.

    Attributes:
        code: Machine code, such as ``number-missing``.
        rule: Id of the rule in FORMAT.md.
        effect: The best word that it leaves.
        enrollment: Enrollment that it is about; None for the fleet.
        device: URN.
        slot: Slot of the record numbers.
        numbers: Counter or record numbers, as ranges.
        digests: Artifacts that it is about.
        count: How many records or artifacts.
        since: Start of a time span that it is about.
        until: Its end.
        bound_ms: A bound in milliseconds.
        text: One sentence for people.
    """

    code: str
    rule: str
    effect: Effect
    enrollment: bytes | None = None
    device: str | None = None
    slot: str | None = None
    numbers: tuple[Range, ...] = ()
    digests: tuple[Manifest, ...] = ()
    count: int | None = None
    since: int | None = None
    until: int | None = None
    bound_ms: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCount:
    """Results of one model: at least and at most so many in the period; no name where nobody vouches for it."""

    model: Manifest
    name: str
    version: str
    kits: int
    results: Range
    labelled: Range


Closing = Literal["nonce", "clock", "final", "open"]
"""How the end of an enrollment is known: an answer to a nonce, the device's clock, its final item, not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One enrollment.

    Attributes:
        enrollment: Its id.
        device: URN, the newest.
        names: All URNs that it had.
        assurance: The weakest of the records that explain its kits.
        word: The word for this enrollment alone.
        closing: How its end is known.
        closed_by: The item that closes it.
        base: Certified counter base.
        newest: Highest number of a verified item; None without any.
        kits: Verified kits with results in the period.
        results: At least and at most so many results in the period.
        labelled: At least and at most so many of them have a label.
        doubtful: Results in the kits of the period whose clock was doubtful.
        lost: Records that it signed as lost and that may lie in the period.
        boot_sets: Names of the boot sets that its quotes match.
    """

    enrollment: bytes
    device: str
    names: tuple[str, ...]
    assurance: str
    word: Word
    closing: Closing
    closed_by: Manifest | None
    base: int
    newest: int | None
    kits: int
    results: Range
    labelled: Range
    doubtful: int
    lost: int
    boot_sets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The evidence that the answer rests on.

    Attributes:
        roster: Digest of the roster; None without one.
        roster_version: Its version.
        trust: SHA-256 of the trust folder.
        closed_by_nonce: Number of enrollments whose end rests on an answer to a nonce.
        closed_by_clock: ... on the device's clock.
        closed_by_final: ... on a final item.
        not_closed: ... on nothing.
        checked_here: Verified items that who asks checked himself.
        told: Verified items that rest on a collector's word.
        tellers: Identities of these collectors.
        times_stated: Kits of the period whose times were not compared with their records.
        unsighted: Verified items without any sighting by a trusted collector: their age is not proved.
        unstamped: Verified kits of the period without a trusted stamp.
        assurance: Level -> number of enrollments, as pairs.
    """

    roster: Manifest | None
    roster_version: int | None
    trust: bytes | None
    closed_by_nonce: int
    closed_by_clock: int
    closed_by_final: int
    not_closed: int
    checked_here: int
    told: int
    tellers: tuple[str, ...]
    times_stated: int
    unsighted: int
    unstamped: int
    assurance: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeSpan:
    """What was read and when; not part of the comparison of two reports."""

    kits: int
    tombstones: int
    heads: int
    records: int
    models: int
    rosters: int
    sightings: int
    collectors: tuple[str, ...]
    first_seen: int | None
    last_seen: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """The answer to one question.

    Attributes:
        question: The question.
        word: The verdict.
        exit_code: Of the word.
        so_far: The period has not ended: people read "So far" before the word.
        sentence: The answer in one sentence.
        reasons: Worst first, in a fixed order.
        devices: By URN and enrollment.
        models: Results by model.
        results: At least and at most so many in the period.
        labelled: At least and at most so many of them have a label.
        lost: Records that devices signed as lost and that may lie in the period.
        noise: What nobody trusted signed.
        basis: What the answer rests on.
        knowledge: What was read.
    """

    question: Question
    word: Word
    exit_code: int
    so_far: bool
    sentence: str
    reasons: tuple[Reason, ...]
    devices: tuple[DeviceRow, ...]
    models: tuple[ModelCount, ...]
    results: Range
    labelled: Range
    lost: int
    noise: tuple[Noise, ...]
    basis: Basis
    knowledge: KnowledgeSpan
