# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Builders of histories as facts: a device that opens, records, seals, and what a desk then knows of it.

Times are days after 2026-01-01. The period of the question is day 0 to day 10, asked on day 20.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import Role, TrustRules
from edgeprov.fleet.conclusion.types import (
    Chain,
    HeadFacts,
    ItemFacts,
    KitFacts,
    Knowledge,
    LabelRun,
    ModelFacts,
    RecordFacts,
    RosterEntryFacts,
    RosterFacts,
    SegmentFacts,
    Sighting,
    SignatureFacts,
    StampFacts,
    TombstoneFacts,
)
from edgeprov.formats.standing import OpenSegment, Standing, Stop
from edgeprov.formats.tombstone import LostRange, NumberEntry

DAY = 86_400 * 10**9
START = 1_767_225_600 * 10**9
COLLECTOR = "urn:edgeprov:collector:desk"
QUESTION = Question(since=START, until=START + 10 * DAY, at=START + 20 * DAY)


def digest(*words: object) -> bytes:
    return hashlib.sha256(" ".join(map(str, words)).encode()).digest()


def day(number: float) -> int:
    return START + int(number * DAY)


ROLES = ("publisher", "enroller", "roster", "collector")
TRUST = TrustRules(
    roles=(
        *(Role(name=name, identities=(f"urn:edgeprov:{name}:*",), anchors=(digest("ca", name),)) for name in ROLES),  # type: ignore[arg-type]
        Role(name="device", anchors=(digest("ca", "device"),)),
        Role(name="timestamp", anchors=(digest("ca", "timestamp"),)),
    ),
    assurance=("hardware",),
)


def signed(role: str, what: bytes, who: str = "desk", **changes: Any) -> SignatureFacts:
    """A signature of somebody with a role."""
    made = SignatureFacts(
        digest=digest("signature", role, who, what.hex()),
        identity=f"urn:edgeprov:{role}:{who}",
        key=digest("key", role, who),
        certificate=digest("certificate", role, who),
        serial="serial:" + digest("serial", role, who).hex()[:8],
        anchor=digest("ca", role),
        not_before=day(-100),
        not_after=day(1000),
    )
    return replace(made, **changes)


def stamp(at: float) -> StampFacts:
    return StampFacts(anchor=digest("ca", "timestamp"), at=day(at))


MODEL = digest("model")


def model(what: bytes = MODEL, **changes: Any) -> ModelFacts:
    made = ModelFacts(digest=what, name="wdbc", version="1.0.0", signatures=(signed("publisher", what),))
    return replace(made, **changes)


@dataclass
class Open:
    """A segment of the device that no kit holds."""

    header: bytes
    number: int
    slot: str
    prev: bytes | None
    shared: bool
    model: bytes
    reset: int
    rows: list[tuple[int, int, bytes]] = field(default_factory=list)  # record number, time, leaf

    def listed(self) -> OpenSegment:
        if not self.rows:
            return OpenSegment(number=self.number, header=self.header, slot=self.slot)
        times = [at for _, at, _ in self.rows]
        return OpenSegment(
            number=self.number,
            header=self.header,
            slot=self.slot,
            first=self.rows[0][0],
            last=self.rows[-1][0],
            leaf=self.rows[-1][2],
            least_ns=min(times),
            greatest_ns=max(times),
        )

    def sealed(self, unused: tuple[tuple[int, int], ...]) -> SegmentFacts:
        ranges: list[tuple[int, int]] = []
        for n, _, _ in self.rows:
            if ranges and ranges[-1][1] == n - 1:
                ranges[-1] = (ranges[-1][0], n)
            else:
                ranges.append((n, n))
        times = [at for _, at, _ in self.rows]
        return SegmentFacts(
            number=self.number,
            header=self.header,
            prev=self.prev,
            shared=self.shared,
            slot=self.slot,
            model=self.model,
            reset_count=self.reset,
            ranges=tuple(ranges),
            unused=unused,
            least=min(times, default=None),
            greatest=max(times, default=None),
        )


class Device:
    """One device under one enrollment; ``made`` has every item in order."""

    def __init__(self, name: str = "unit-1", base: int = 100, *, enrolled: float = -5, like: Device | None = None):
        self.name, self.base, self.counter = f"urn:edgeprov:device:{name}", base, base
        self.id = digest("enrollment", name, base)
        self.line = digest("tpm", name) if like is None else like.line
        self.next: dict[str, int] = {}
        self.open: list[Open] = []
        self.stops: list[Stop] = []
        self.prev: bytes | None = None
        self.newest: bytes | None = None
        self.reset, self.clock = 1, 0
        self.made: list[ItemFacts] = []
        certificate = signed("device", digest(name, base), name)
        self.record = RecordFacts(
            digest=digest("record", name, base),
            enrollment=self.id,
            device=self.name,
            base=base,
            line=self.line,
            enrolled=day(enrolled),
            assurance="hardware",
            certificate=certificate,
            signatures=(signed("enroller", digest(name, base)),),
            replaces=None if like is None else like.id,
        )

    def start(self, slot: str = "default", *, shared: bool = False, what: bytes = MODEL) -> Open:
        """Open a segment."""
        if not shared:
            self.counter += 1
        number = self.counter
        if shared:
            number = max(item.number for item in (*self._segments(), *self.open))
        header = digest("header", self.name, self.base, number, self.newest and self.newest.hex(), shared)
        segment = Open(header, number, slot, self.newest, shared, what, self.reset)
        self.newest = header
        self.open.append(segment)
        return segment

    def _segments(self) -> list[SegmentFacts]:
        return [segment for item in self.made if isinstance(item, KitFacts) for segment in item.segments]

    def run(self, count: int, at: float, slot: str = "default", segment: Open | None = None) -> Open:
        """Make records of one time, in the segment of the slot."""
        found = segment or next((item for item in reversed(self.open) if item.slot == slot), None) or self.start(slot)
        for _ in range(count):
            n = self.next.get(slot, 0)
            self.next[slot] = n + 1
            found.rows.append((n, day(at), digest("leaf", self.name, self.base, slot, n, at)))
        return found

    def standing(self, at: float, **changes: Any) -> Standing:
        listed = tuple(sorted((item.listed() for item in self.open), key=lambda item: (item.number, item.header)))
        facts: dict[str, Any] = {
            "at_ns": day(at), "floor_ns": day(-5), "newest": self.newest, "open": listed, "stops": tuple(self.stops)
        }  # fmt: skip
        return Standing(**(facts | changes))

    def _common(self, kind: str, at: float, **changes: Any) -> dict[str, Any]:
        self.clock += 1000
        what = digest(kind, self.name, self.base, self.counter, self.clock, at)
        return {
            "digest": what, "enrollment": self.id, "device": self.name, "record": self.record.digest,
            "number": self.counter, "reset_count": self.reset, "clock_ms": self.clock,
            "standing": self.standing(at, **changes),
        }  # fmt: skip

    def seal(
        self,
        at: float,
        slot: str = "default",
        *,
        labels: tuple[LabelRun, ...] = (),
        unused: tuple[tuple[int, int], ...] = (),
        only: Open | None = None,
        **changes: Any,
    ) -> KitFacts:
        """Seal all segments of a slot, or one."""
        mine = [item for item in self.open if item.slot == slot and only in (None, item)]
        self.open = [item for item in self.open if item not in mine]
        self.counter += 1
        rows = [row for item in mine for row in item.rows]
        common = self._common("kit", at, **changes)
        kit = KitFacts(
            **common,
            signatures=(signed("device", common["digest"], self.name.rpartition(":")[2]),),
            slot=slot,
            model=mine[0].model if mine else MODEL,
            prev=self.prev,
            records=len(rows),
            least=min((at_ns for _, at_ns, _ in rows), default=None),
            greatest=max((at_ns for _, at_ns, _ in rows), default=None),
            doubtful=0,
            segments=tuple(item.sealed(unused if item is mine[-1] else ()) for item in mine),
            labels=labels,
            leaves=tuple((n, leaf) for n, _, leaf in rows),
        )
        self.prev, self.stops = kit.digest, []
        self.made.append(kit)
        return kit

    def bury(
        self, at: float, *numbers: NumberEntry, lost: tuple[LostRange, ...] = (), slot: str = "default"
    ) -> TombstoneFacts:
        """Sign a tombstone."""
        self.counter += 1
        common = self._common("tombstone", at)
        tombstone = TombstoneFacts(
            **common,
            signatures=(signed("device", common["digest"], self.name.rpartition(":")[2]),),
            slot=slot,
            model=MODEL,
            prev=self.prev,
            numbers=numbers,
            lost=lost,
        )
        self.prev = tombstone.digest
        self.made.append(tombstone)
        return tombstone

    def head(self, at: float, *, nonce: float | None = None, own: bool = True, **changes: Any) -> HeadFacts:
        """Attest a head; ``nonce`` is the day on which it was given out, by who asks or by somebody else."""
        head = HeadFacts(
            **self._common("head", at, **changes),
            newest=self.prev,
            nonce=None if nonce is None else digest("nonce", nonce)[:16],
            asked=day(nonce) if nonce is not None and own else None,
        )
        self.made.append(head)
        return head

    def entry(self, **changes: Any) -> RosterEntryFacts:
        made = RosterEntryFacts(enrollment=self.id, device=self.name, base=self.base, since=self.record.enrolled)
        return replace(made, **changes)


def roster(*entries: RosterEntryFacts, issued: float = 12, version: int = 1, **changes: Any) -> RosterFacts:
    what = digest("roster", version, issued, len(entries))
    made = RosterFacts(
        digest=what,
        version=version,
        issued=day(issued),
        expires=day(issued + 100),
        previous=None if version == 1 else digest("roster", version - 1),
        entries=tuple(sorted(entries, key=lambda entry: entry.enrollment)),
        signatures=(signed("roster", what),),
    )
    return replace(made, **changes)


def chain(name: str = COLLECTOR, **changes: Any) -> Chain:
    made = Chain(
        collector=name,
        first=day(-50),
        last=day(19),
        signatures=(signed("collector", digest(name), name.rpartition(":")[2]),),
    )
    return replace(made, **changes)


def seen(item: Any, at: float | None = None, *, source: str = "registry/data", **changes: Any) -> Sighting:
    """A sighting; without a day: an hour after the item's own time."""
    first = item.standing.at_ns + DAY // 24 if at is None else day(at)
    made = Sighting(digest=item.digest, source=source, collector=COLLECTOR, first=first, last=day(19))
    return replace(made, **changes)


def known(
    *devices: Device,
    without: tuple[Any, ...] = (),
    rosters: tuple[RosterFacts, ...] | None = None,
    models: tuple[ModelFacts, ...] = (model(),),
    sights: tuple[Sighting, ...] | None = None,
    **more: Any,
) -> Knowledge:
    """All that the devices made, seen an hour later, except ``without``; with a roster of all devices."""
    gone = {item.digest for item in without}
    items = [item for device in devices for item in device.made if item.digest not in gone]
    facts: dict[str, Any] = {
        "records": tuple(device.record for device in devices if device.record.digest not in gone),
        "kits": tuple(item for item in items if isinstance(item, KitFacts)),
        "tombstones": tuple(item for item in items if isinstance(item, TombstoneFacts)),
        "heads": tuple(item for item in items if isinstance(item, HeadFacts)),
        "models": models,
        "rosters": (roster(*(device.entry() for device in devices)),) if rosters is None else rosters,
        "sightings": tuple(map(seen, items)) if sights is None else sights,
        "chains": (chain(),),
    }
    return Knowledge(**(facts | more))


def changed(knowledge: Knowledge, item: Any, **changes: Any) -> Knowledge:
    """The knowledge with one artifact changed."""
    names = ("records", "kits", "tombstones", "heads", "models", "rosters")
    return replace(
        knowledge,
        **{
            name: tuple(
                replace(one, **changes) if one.digest == item.digest else one for one in getattr(knowledge, name)
            )
            for name in names
        },
    )


def working(name: str = "unit-1", base: int = 100) -> Device:
    """A device with two kits in the period and a head after it."""
    device = Device(name, base)
    device.run(3, 2)
    device.seal(3)
    device.run(4, 6)
    device.seal(7)
    device.head(11)
    return device
