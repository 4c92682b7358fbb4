# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The oracle: it sees what devices truly did and what is at hand, never what `judge` makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from tests.machine.generate import Question
from tests.machine.registry import Listing, Seen
from tests.machine.values import DeviceRecord, Head, Junk, Kit, Roster, Signature, Tombstone
from tests.machine.world import World

GOOD = ("COMPLETE", "COMPLETE EXCEPT")
DOUBT = ("UNPROVED", "WITH GAPS", "NOT JUDGED")


class Answer(NamedTuple):
    """A report, as far as the oracle asks.

    Attributes:
        word: The verdict.
        so_far: The period has not ended.
        stops: (enrollment, slot) of each unclean stop that the report tells.
        rules: Ids of the rules of its reasons.
        text: What is compared byte for byte.
        noise: The block about what no trusted key signed.
    """

    word: str
    so_far: bool
    stops: frozenset[tuple[str, str]]
    rules: tuple[str, ...]
    text: bytes
    noise: bytes


class AtHand:
    """What trusted desks hold and a reader with this trust accepts."""

    def __init__(self, world: World, at: int) -> None:
        self.world, self.at = world, at
        self.signatures: dict[int, set[Signature]] = {}
        self.seen: dict[tuple[int, Signature], int] = {}
        self.listings: list[Listing] = []
        for desk in world.desks:
            if desk.trusted:
                for row in desk.at_hand():
                    if isinstance(row, Seen):
                        for signature in row.signatures:
                            key = (row.digest, signature)
                            self.seen[key] = min(self.seen.get(key, row.at), row.at)
                        self.signatures.setdefault(row.digest, set()).update(row.signatures)
                    else:
                        self.listings.append(row)
        items = [world.artifacts[digest] for digest in self.signatures]
        self.noise = any(isinstance(item, Junk) and item.form is None for item in items)
        items = [item for item in items if not isinstance(item, Junk)]
        self.records = {
            x.certificate: x for x in items if isinstance(x, DeviceRecord) and self._signed(x, world.enroller)
        }
        known = {record.enrollment for record in self.records.values()}
        self.kits = [item for item in items if isinstance(item, (Kit, Tombstone)) and self._proved(item)]
        self.heads = [
            x for x in items if isinstance(x, Head) and x.enrollment in known and not self._denied(x.enrollment, None)
        ]
        self.rosters = [item for item in items if isinstance(item, Roster) and self._signed(item, world.roster_signer)]
        self.digests = {item.digest for item in (*self.kits, *self.heads, *self.rosters, *self.records.values())}

    def _signed(self, item: Any, certificate: int) -> bool:
        return any(signature.certificate == certificate for signature in self.signatures[item.digest])

    def _proved(self, item: Any) -> bool:
        if item.certificate not in self.records:
            return False
        certificate = self.world.certificates[item.certificate]
        return any(
            signature.certificate == item.certificate
            and min(self.at, self.seen[item.digest, signature], self.at if signature.stamp is None else signature.stamp)
            <= certificate.until
            and not self._denied(item.enrollment, signature, item)
            for signature in self.signatures[item.digest]
        )

    def _denied(self, enrollment: str, signature: Signature | None, item: Any = None) -> bool:
        for kind, value, since in self.world.denials:
            hit = (
                (kind == "device" and value == enrollment)
                or (item is not None and kind == "kit" and value == item.digest)
                or (isinstance(item, Kit) and kind == "model" and value == item.model)
                or (signature is not None and kind == "certificate" and value == signature.certificate)
            )
            proved_before = (
                since is not None and signature is not None and signature.stamp is not None and signature.stamp < since
            )
            if hit and not proved_before:
                return True
        return False

    def noticed(self, digest: int) -> bool:
        """Whether no registry has it any more, and each source that had it was listed whole since then."""
        registries = self.world.registries
        if any(digest in registry.copies for registry in registries.values()):
            return False
        for source, registry in registries.items():
            since = registry.deleted.get(digest)
            if since is None:
                continue
            listed = [row for row in self.listings if row.source == source]
            had = [row.at for row in listed if digest in row.digests]
            after = [
                row
                for row in listed
                if row.whole and row.at >= since and digest not in row.digests and had and row.at > max(had)
            ]
            if had and not after:
                return False
        return any(digest in registry.deleted for registry in registries.values())


def find_fault(world: World, question: Question, at: int, answer: Answer) -> str | None:
    """A contradiction between the answer and the truth, or None."""
    hand = AtHand(world, at)
    if answer.word in GOOD:
        for fault in _unsound(world, question, hand, answer):
            return "UNSOUND: " + fault
    if hand.noise and b"unknown" not in answer.noise:
        return "UNSOUND: noise is not told"
    if answer.word == "NO DATA" and any(_asked(world, question, t) for t in _held(world, question, hand)):
        return "UNSOUND: NO DATA although records are at hand"
    return None


def is_precise_case(world: World, question: Question, at: int) -> bool:
    """Whether nothing may be in doubt: no damage, no contradiction, each model published, all at hand."""
    if world.damage or world.malice:
        return False
    if question.device is not None and not any(question.device in e.names for e in world.enrollments.values()):
        return False
    used = {truth.model for device in world.devices for truth in device.truth}
    if any(not _published(world, model) for model in used):
        return False
    hand = AtHand(world, at)
    made = {item.digest for item, _ in world.made}
    records = {item.digest for item in world.artifacts.values() if isinstance(item, DeviceRecord)}
    rosters = {roster.digest for roster in world.rosters}
    waiting = {item.digest for device in world.devices for item in device.disk.outbox}
    return not waiting and made | records | rosters <= hand.digests


def find_doubt(world: World, question: Question, at: int, answer: Answer) -> str | None:
    """A doubt although nothing is."""
    if not is_precise_case(world, question, at):
        return None
    if answer.word in DOUBT:
        return f"IMPRECISE: {answer.word} {' '.join(sorted(set(answer.rules)))}"
    if answer.word == "COMPLETE EXCEPT" and not world.discarded:
        return "IMPRECISE: COMPLETE EXCEPT although nothing was discarded"
    return None


def _published(world: World, model: str) -> bool:
    denied = any(kind == "model" and value == model for kind, value, _ in world.denials)
    return not denied and any(signature.certificate == world.publisher for signature in world.models[model])


def _asked(world: World, question: Question, truth: Any) -> bool:
    """Whether a record belongs to the question by its own time and by the true time."""
    if question.model is not None and truth.model != question.model:
        return False
    if question.device is not None and world.enrollments[truth.enrollment].record.name != question.device:
        return False
    return question.start <= truth.true < question.end and _by_stamp(question, truth)


def _by_stamp(question: Question, truth: Any) -> bool:
    if truth.at > truth.true:  # a clock that was ahead: judged by the device's own time
        return False
    return bool(truth.doubt or question.start <= truth.at < question.end)


def _held(world: World, question: Question, hand: AtHand) -> Iterator[Any]:
    leaves = {row.leaf for kit in hand.kits if isinstance(kit, Kit) for segment in kit.segments for row in segment.rows}
    for device in world.devices:
        yield from (truth for truth in device.truth if truth.leaf in leaves and not truth.doubt)


def _unsound(world: World, question: Question, hand: AtHand, answer: Answer) -> Iterator[str]:
    kits = [kit for kit in hand.kits if isinstance(kit, Kit)]
    where: dict[int, list[Kit]] = {}
    numbers: dict[tuple[str, str, int], set[int]] = {}
    for kit in kits:
        for segment in kit.segments:
            for row in segment.rows:
                where.setdefault(row.leaf, []).append(kit)
                numbers.setdefault((kit.enrollment, segment.header.slot, row.n), set()).add(row.leaf)
    for device in world.devices:
        for truth in device.truth:
            if not _asked(world, question, truth) or _ended_before(world, truth.enrollment, truth.true):
                continue
            name = f"record {truth.enrollment} {truth.slot} {truth.n}"
            if truth.leaf in where:
                if all(hand.noticed(kit.digest) for kit in where[truth.leaf]):
                    yield f"{name}: its kit is gone"
                if len(numbers[truth.enrollment, truth.slot, truth.n]) > 1:
                    yield f"{name}: two records of one number"
                if not _published(world, truth.model):
                    yield f"{name}: nobody published its model"
            elif not _excused(world, hand, answer, truth):
                yield f"{name}: missing"
    yield from _missing_items(world, question, hand)
    yield from _not_closed(world, question, hand)
    yield from _rosters(question, hand)


def _excused(world: World, hand: AtHand, answer: Answer, truth: Any) -> bool:
    if truth.leaf in world.lost_in_cut and (truth.enrollment, truth.slot) in answer.stops:
        return True
    if truth.leaf in world.discarded:
        return answer.word == "COMPLETE EXCEPT"
    for lost in (world.put_back, world.unlisted):
        if truth.leaf in lost and not _shown(hand, truth, lost[truth.leaf]):
            return True
    # Cut off by somebody: as with an older copy, nobody can tell unless an item at hand had shown the record.
    before = world.truncated.get(truth.leaf)
    return before is not None and not _shown(hand, truth, before)


def _shown(hand: AtHand, truth: Any, before: int) -> bool:
    return any(
        item.enrollment == truth.enrollment and item.digest < before and entry.slot == truth.slot and entry.last is not None and entry.last >= truth.n
        for item in (*hand.kits, *hand.heads)
        for entry in item.standing.open
    )  # fmt: skip


def _ended_before(world: World, enrollment: str, true: int) -> bool:
    until = world.enrollments[enrollment].until
    return until is not None and true >= until


def _of_device(world: World, question: Question, enrollment: str) -> bool:
    return question.device is None or world.enrollments[enrollment].record.name == question.device


def _missing_items(world: World, question: Question, hand: AtHand) -> Iterator[str]:
    if question.model is not None:
        return
    for item, true in world.made:
        if (
            isinstance(item, Head)
            or item.digest in hand.digests | world.rolled_back
            or not _of_device(world, question, item.enrollment)
        ):
            continue
        inside = question.start <= true < question.end and question.start <= item.standing.at <= true
        if inside and not item.standing.doubt and not _ended_before(world, item.enrollment, true):
            yield f"{item.kind} {item.enrollment} number {item.seq}: missing"


def _not_closed(world: World, question: Question, hand: AtHand) -> Iterator[str]:
    if any(device.offset > 0 for device in world.devices) or world.fast:
        return
    later = {item.enrollment for item, true in world.made if true >= question.end and item.digest in hand.digests}
    final = {head.enrollment for head in hand.heads if head.standing.final}
    replaced = {record.replaces for record in hand.records.values()}
    for id_, enrollment in world.enrollments.items():
        if enrollment.since >= question.end or not _of_device(world, question, id_):
            continue
        if enrollment.until is not None and enrollment.until < question.start:
            continue
        if id_ not in later | final | replaced:
            yield f"enrollment {id_}: not closed"


def _rosters(question: Question, hand: AtHand) -> Iterator[str]:
    if not any(roster.issued_at >= question.end for roster in hand.rosters):
        yield "no roster of the period's end"
    for one, other in combinations(hand.rosters, 2):
        first, second = sorted((one, other), key=lambda roster: roster.version)
        if first.version == second.version:
            yield f"two rosters of version {first.version}"
        elif {entry.enrollment for entry in first.entries} - {entry.enrollment for entry in second.entries}:
            yield f"roster {second.version} lacks an entry of {first.version}"
