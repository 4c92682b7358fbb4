# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From the world to the conclusion's types: what the ledgers of the desks tell, and the auditor's trust."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any

from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import Denial, Role, TrustRules
from edgeprov.fleet.conclusion.types import (
    Chain,
    Checks,
    HeadFacts,
    KitFacts,
    Knowledge,
    LabelRun,
    ModelFacts,
    Noise,
    RecordFacts,
    RosterEntryFacts,
    RosterFacts,
    SegmentFacts,
    Sighting,
    SignatureFacts,
    StampFacts,
    TombstoneFacts,
)
from edgeprov.formats import standing as formats
from edgeprov.formats.tombstone import LostRange, NumberEntry
from tests.machine import values
from tests.machine.disk import ranges_of
from tests.machine.generate import Question as Asked
from tests.machine.registry import Listing, Seen
from tests.machine.world import World

EPOCH_NS = 1_700_000_000_000_000_000
MINUTE_NS = 60_000_000_000
BOUND_MS = 3_600_000
DEVICE_CA, VENDOR_CA, TSA, STRANGE_CA = (
    sha256(name.encode()).digest() for name in ("device", "vendor", "tsa", "strange")
)


@cache
def digest(name: Any) -> bytes:
    return sha256(str(name).encode()).digest()


def ns(minutes: int) -> int:
    return EPOCH_NS + minutes * MINUTE_NS


def _ns(minutes: int | None) -> int | None:
    return None if minutes is None else ns(minutes)


def urn(name: str) -> str:
    return f"urn:edgeprov:device:{name}"


def collector(name: str) -> str:
    return f"urn:edgeprov:collector:{name}"


class Adapter:
    """Turns one world into knowledge; what was turned before is kept."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._kept: dict[Any, Any] = {}

    # -- trust and question ---------------------------------------------------------------------

    def trust(self) -> TrustRules:
        desks = tuple(collector(desk.name) for desk in self.world.desks if desk.trusted)
        return TrustRules(
            roles=(
                Role(name="publisher", identities=("urn:acme:publisher",), anchors=(VENDOR_CA,)),
                Role(name="enroller", identities=("urn:edgeprov:enroller:acme",), anchors=(DEVICE_CA,)),
                Role(name="roster", identities=("urn:edgeprov:roster:acme",), anchors=(DEVICE_CA,)),
                Role(name="collector", identities=desks, anchors=(VENDOR_CA,)),
                Role(name="device", anchors=(DEVICE_CA,)),
                Role(name="timestamp", anchors=(TSA,)),
            ),
            assurance=("dev", "firmware", "hardware"),
            deny=tuple(self._denial(*denial) for denial in self.world.denials),
        )

    def _denial(self, kind: Any, value: Any, since: int | None) -> Denial:
        text = {
            "model": lambda: "sha256:" + digest(value).hex(),
            "kit": lambda: "sha256:" + digest(value).hex(),
            "device": lambda: digest(value).hex(),
            "certificate": lambda: digest(("certificate", value)).hex(),
        }[kind]()
        return Denial(type=kind, value=text, since=_ns(since))

    def question(self, asked: Asked, at: int) -> Question:
        return Question(
            since=ns(asked.start),
            until=ns(asked.end),
            at=ns(at),
            model=digest(asked.model) if asked.model else None,
            devices=(urn(asked.device),) if asked.device else (),
        )

    # -- knowledge ------------------------------------------------------------------------------

    def knowledge(self, *, strangers: bool = True, shuffle: Random | None = None) -> Knowledge:
        """What all desks tell. Without ``strangers``: only what a trusted key signed, told by trusted desks."""
        found: dict[str, list[Any]] = {
            name: [] for name in ("record", "kit", "tombstone", "head", "roster", "noise", "sighting", "chain")
        }
        told: set[Any] = set()
        for desk in self.world.desks:
            if strangers or desk.trusted:
                self._desk(desk, found, told, strangers=strangers)
        tellers = [desk.name for desk in self.world.desks if desk.rows and (strangers or desk.trusted)]
        found["model"] = [self._model(name, by) for name in self.world.models for by in tellers]
        if shuffle is not None:
            for entries in found.values():
                shuffle.shuffle(entries)
        return Knowledge(
            records=tuple(found["record"]), kits=tuple(found["kit"]), tombstones=tuple(found["tombstone"]), heads=tuple(found["head"]),
            models=tuple(found["model"]), rosters=tuple(found["roster"]), sightings=tuple(found["sighting"]),
            chains=tuple(found["chain"]), noise=tuple(found["noise"]),
        )  # fmt: skip

    def _desk(self, desk: Any, found: dict[str, list[Any]], told: set[Any], *, strangers: bool) -> None:
        artifacts = self.world.artifacts
        seen: dict[int, tuple[set[values.Signature], bool]] = {}
        times: dict[tuple[str, int], list[int]] = {}
        listings: dict[str, list[Listing]] = {}
        signed: dict[tuple[str, int, values.Signature], list[int]] = {}
        for row in desk.at_hand():
            if isinstance(row, Seen):
                signatures, broken = seen.setdefault(row.digest, (set(), False))
                signatures |= row.signatures
                seen[row.digest] = (signatures, broken or row.broken)
                times.setdefault((row.source, row.digest), []).append(row.at)
                item = artifacts[row.digest]
                if strangers or not isinstance(item, values.Junk):
                    form = item.form if isinstance(item, values.Junk) else item
                    for signature in row.signatures:
                        if signature.certificate is not None and form is not None:
                            signed.setdefault((row.source, form.digest, signature), []).append(row.at)
            else:
                listings.setdefault(row.source, []).append(row)
                for number in row.digests:
                    times.setdefault((row.source, number), []).append(row.at)
        records = {artifacts[d].certificate for d in seen if isinstance(artifacts[d], values.DeviceRecord)}
        for number, (signatures, broken) in seen.items():
            item, lies = artifacts[number], not desk.trusted
            if isinstance(item, values.Junk) and (not strangers or item.form is None):
                if strangers and desk.trusted:
                    found["noise"].append(Noise(source="main", kind="unknown"))
                continue
            known = not hasattr(item, "certificate") or item.certificate in records or item.kind in ("record", "junk")
            key = (number, frozenset(signatures), broken, known, lies)
            if key in told and number % 4:
                continue
            told.add(key)
            value = self._kept.get((*key, desk.name))
            if value is None:
                value = self._kept[(*key, desk.name)] = self._item(
                    item, signatures, desk.name, broken=broken, known=known, lies=lies
                )
            found[value[0]].append(value[1])
        for (source, number), at in times.items():
            if not strangers and isinstance(artifacts[number], values.Junk):
                continue
            last = max(at)
            missing = sorted(
                {
                    row.at
                    for row in listings.get(source, ())
                    if row.whole and row.at > last and number not in row.digests
                }
            )
            found["sighting"].append(
                Sighting(
                    digest=digest(number), source=source, collector=collector(desk.name), first=ns(min(at)), last=ns(last),
                    missing=tuple(map(ns, missing)),
                )
            )  # fmt: skip
        for (source, number, signature), at in signed.items():
            found["sighting"].append(
                Sighting(
                    digest=digest(("signature", number, signature)), source=source, collector=collector(desk.name),
                    first=ns(min(at)), last=ns(max(at)),
                )
            )  # fmt: skip
        if desk.rows:
            days = sorted(desk.rows)
            first, last = days[0] * values.DAY, (days[-1] + 1) * values.DAY
            whole = not desk.withheld & set(days)
            found["chain"].append(
                Chain(
                    collector=collector(desk.name),
                    first=ns(first),
                    last=ns(last),
                    whole=whole,
                    signatures=(self._collector(desk.name),),
                )
            )

    def _collector(self, name: str) -> SignatureFacts:
        return SignatureFacts(
            digest=digest(("table", name)), identity=collector(name), key=digest(("key", name)),
            certificate=digest(("certificate", name)), serial="serial:1", anchor=VENDOR_CA,
            not_before=EPOCH_NS, not_after=ns(10**7),
        )  # fmt: skip

    def _signature(self, signature: values.Signature, item: Any) -> SignatureFacts:
        certificate = self.world.certificates[signature.certificate or 0]
        strange = certificate.number == self.world.stranger
        name = getattr(item, "name", "")
        identity = {
            "device": urn(name),
            "publisher": "urn:acme:publisher",
            "enroller": f"urn:edgeprov:enroller:{certificate.identity}",
            "roster": "urn:edgeprov:roster:acme",
        }[certificate.role]
        if strange and isinstance(item, values.Roster):
            identity = "urn:edgeprov:roster:stranger"
        elif strange and isinstance(item, (values.Kit, values.Tombstone)):
            identity = urn(name)
        anchor = VENDOR_CA if certificate.role == "publisher" else DEVICE_CA
        if strange and certificate.number % 2 == 0:
            anchor = STRANGE_CA
        key = (
            digest(("key", certificate.identity))
            if certificate.role == "device"
            else digest(("key", certificate.number))
        )
        if strange and isinstance(item, (values.Kit, values.Tombstone)):
            anchor = STRANGE_CA
        return SignatureFacts(
            digest=digest(("signature", item.digest if hasattr(item, "digest") else item, signature)),
            identity=identity,
            key=key,
            certificate=digest(("certificate", certificate.number)),
            serial=f"serial:{certificate.number:x}",
            anchor=anchor,
            not_before=ns(certificate.since),
            not_after=ns(certificate.until),
            stamps=(StampFacts(anchor=TSA, at=ns(signature.stamp)),) if signature.stamp is not None else (),
        )

    def _checks(
        self, item: Any, signatures: set[values.Signature], by: str, *, known: bool, lies: bool
    ) -> dict[str, Any]:
        good = [signature for signature in signatures if signature.certificate is not None]
        junk = isinstance(item, values.Junk)
        if lies or (good and known):
            checks = Checks(by=collector(by))
        elif good:
            checks = Checks(state="not-judged", by=collector(by), rule="1", detail="no device record")
        elif signatures or junk:
            checks = Checks(state="refused", signed=False, by=collector(by), rule="2", detail="no good signature")
        else:
            checks = Checks(state="not-judged", signed=False, by=collector(by), rule="2", detail="no signature")
        form = item.form if junk else item
        return {
            "checks": checks,
            "signatures": tuple(
                self._signature(s, form) for s in sorted(good, key=lambda s: (s.certificate, s.stamp or 0))
            ),
        }

    def _item(
        self, item: Any, signatures: set[values.Signature], by: str, *, broken: bool, known: bool, lies: bool
    ) -> tuple[str, Any]:
        form = item.form if isinstance(item, values.Junk) else item
        if form is not item and isinstance(form, (values.Kit, values.Tombstone)):
            known = False  # no device record holds the stranger's key
        about = self._checks(item, signatures, by, known=known, lies=lies)
        if isinstance(form, values.DeviceRecord):
            return "record", self._record(form, about)
        if isinstance(form, values.Roster):
            return "roster", self._roster(form, about)
        if isinstance(form, values.Head):
            ok = lies or not isinstance(item, values.Junk)
            checks = (
                Checks(by=collector(by)) if ok else Checks(state="refused", signed=False, by=collector(by), rule="4")
            )
            return "head", self._head(form, {"checks": checks, "signatures": ()})
        if isinstance(form, values.Kit):
            return "kit", self._kit(form, about, broken=broken)
        return "tombstone", self._tombstone(form, about)

    def _record(self, item: values.DeviceRecord, about: dict[str, Any]) -> RecordFacts:
        certificate = self._signature(values.Signature(item.certificate, None), item)
        return RecordFacts(
            digest=digest(item.digest), enrollment=digest(item.enrollment), device=urn(item.name), base=item.base,
            replaces=digest(item.replaces) if item.replaces else None, line=digest(item.board), enrolled=ns(item.enrolled_at),
            assurance="firmware", certificate=certificate, **about,
        )  # fmt: skip

    def _roster(self, item: values.Roster, about: dict[str, Any]) -> RosterFacts:
        return RosterFacts(
            digest=digest(item.digest), version=item.version, issued=ns(item.issued_at), expires=ns(item.issued_at + 10**6),
            previous=digest(item.previous) if item.previous else None,
            entries=tuple(
                RosterEntryFacts(
                    enrollment=digest(entry.enrollment), device=urn(entry.name), base=entry.base, since=ns(entry.since),
                    until=_ns(entry.until), ended=entry.ended, end=entry.end, names=tuple(map(urn, entry.names)),  # type: ignore[arg-type]
                )
                for entry in item.entries
            ),
            **about,
        )  # fmt: skip

    def _common(self, item: Any, about: dict[str, Any]) -> dict[str, Any]:
        if item.kind == "head":
            record = next((x for x in self._records() if x.enrollment == item.enrollment), None)
        else:
            record = next((x for x in self._records() if x.certificate == item.certificate), None)
        known = record is not None and about["checks"].state == "verified"
        return {
            "digest": digest(item.digest), "enrollment": digest(item.enrollment), "device": urn(item.name),
            "record": digest(record.digest) if known and record else None, "number": item.seq, "reset_count": item.resets,
            "clock_ms": item.clock, "standing": self._standing(item.standing), "pcrs": (), **about,
        }  # fmt: skip

    def _records(self) -> Iterator[values.DeviceRecord]:
        return (item for item in self.world.artifacts.values() if isinstance(item, values.DeviceRecord))

    def _standing(self, item: values.Standing) -> formats.Standing:
        return formats.Standing(
            at_ns=ns(item.at), floor_ns=ns(item.floor), doubt=item.doubt, final=item.final,
            newest=digest(item.newest) if item.newest else None,
            open=tuple(
                formats.OpenSegment(
                    number=entry.number, header=digest(entry.header), slot=entry.slot, first=entry.first, last=entry.last,
                    leaf=digest(entry.leaf) if entry.leaf else None, least_ns=_ns(entry.least), greatest_ns=_ns(entry.greatest),
                    flags=int(entry.doubt),
                )
                for entry in item.open
            ),
            stops=tuple(
                formats.Stop(slot=s.slot, header=digest(s.header), after=s.after, resumed=s.resumed, bound_ms=BOUND_MS, at_ns=ns(s.at))
                for s in item.stops
            ),
        )  # fmt: skip

    def _kit(self, item: values.Kit, about: dict[str, Any], *, broken: bool) -> KitFacts:
        rows = [row for segment in item.segments for row in segment.rows]
        times = [row.at for row in rows]
        return KitFacts(
            **self._common(item, about),
            slot=item.slot, model=digest(item.model), prev=digest(item.prev) if item.prev else None, records=len(rows),
            least=_ns(min(times, default=None)), greatest=_ns(max(times, default=None)), doubtful=sum(row.doubt for row in rows),
            segments=tuple(map(self._segment, item.segments)),
            labels=tuple(LabelRun(first=label.n, last=label.n, withdrawn=label.value is None) for label in item.labels),
            leaves=tuple((row.n, digest(row.leaf)) for row in rows), unavailable=("outputs-000001",) if broken else (),
            events=len(item.events),
        )  # fmt: skip

    def _segment(self, item: values.Sealed) -> SegmentFacts:
        header, times = item.header, [row.at for row in item.rows]
        return SegmentFacts(
            number=header.number, header=digest(header.digest), prev=digest(header.prev) if header.prev else None, shared=header.shared,
            slot=header.slot, model=digest(header.model), reset_count=header.boot, ranges=tuple(ranges_of(row.n for row in item.rows)),
            unused=item.unused, least=_ns(min(times, default=None)), greatest=_ns(max(times, default=None)),
        )  # fmt: skip

    def _tombstone(self, item: values.Tombstone, about: dict[str, Any]) -> TombstoneFacts:
        return TombstoneFacts(
            **self._common(item, about),
            slot=item.slot, model=digest(item.model), prev=digest(item.prev) if item.prev else None,
            numbers=tuple(NumberEntry(number=x.number, reason=x.reason, header=digest(x.header) if x.header else None) for x in item.numbers),  # type: ignore[arg-type]
            lost=tuple(
                LostRange(
                    first=x.first, last=x.last, count=x.count, least=_ns(x.least), greatest=_ns(x.greatest), doubt=x.doubt,
                    reason=x.reason,  # type: ignore[arg-type]
                )
                for x in item.lost
            ),
        )  # fmt: skip

    def _head(self, item: values.Head, about: dict[str, Any]) -> HeadFacts:
        return HeadFacts(
            **self._common(item, about),
            newest=digest(item.newest) if item.newest else None,
            nonce=digest(("nonce", item.nonce_at))[:8] if item.nonce_at is not None else None,
            asked=_ns(item.nonce_at),
        )

    def _model(self, name: str, by: str) -> ModelFacts:
        signatures = self.world.models[name]
        return ModelFacts(
            digest=digest(name),
            name=name,
            version="1",
            signatures=tuple(
                self._signature(signature, name) for signature in sorted(signatures, key=lambda s: s.certificate or 0)
            ),
            checks=Checks(by=collector(by))
            if signatures
            else Checks(state="not-judged", signed=False, by=collector(by)),
        )
