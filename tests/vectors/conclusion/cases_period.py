# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Histories about roster, closing, times, models, artifacts that are gone, labels and counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgeprov.fleet.conclusion.types import Checks, KitFacts, Knowledge, LabelRun, Sighting
from tests.vectors.conclusion.history import (
    COLLECTOR,
    MODEL,
    QUESTION,
    TRUST,
    Device,
    changed,
    day,
    digest,
    known,
    model,
    roster,
    seen,
    signed,
    working,
)
from tests.vectors.conclusion.vector import COMPLETE, GAPS, NO_DATA, NOT_JUDGED, UP_TO, Vector, better, worse


def rosters() -> Iterator[Vector]:
    device, quiet = working(), Device("unit-2")
    entry = device.entry()
    first = roster(entry, issued=12)
    unread = roster(entry, version=2, issued=13, checks=Checks(state="not-judged"))
    yield worse(
        "R-con-10",
        "a newer version could not be judged",
        NOT_JUDGED,
        known(device, rosters=(first, unread)),
        "roster-not-judged",
    )
    yield worse(
        "R-con-10",
        "a newer version is refused",
        NOT_JUDGED,
        known(device, rosters=(first, replace(unread, checks=Checks(state="refused")))),
        "roster-not-judged",
    )
    second = roster(entry, quiet.entry(), version=2, issued=13, previous=first.digest)
    yield worse(
        "R-con-10",
        "the newer version lists a device of which nothing is at hand",
        UP_TO,
        known(device, rosters=(first, second)),
        "no-record",
    )
    yield better(
        "R-con-10",
        "a newer version that nobody with the role signed",
        COMPLETE,
        known(device, rosters=(first, replace(second, signatures=(signed("publisher", second.digest),)))),
    )
    yield worse("R-con-11", "no roster", UP_TO, known(device, rosters=()), "no-roster")
    yield worse(
        "R-con-11",
        "a roster that nobody with the role signed",
        UP_TO,
        known(device, rosters=(replace(first, signatures=()),)),
        "no-roster",
    )
    yield better("R-con-11", "a roster", COMPLETE, known(device))
    yield worse(
        "R-con-12",
        "a roster from before the period's end",
        UP_TO,
        known(device, rosters=(roster(entry, issued=9),)),
        "roster-old",
    )
    yield worse(
        "R-con-12",
        "a roster that expired",
        UP_TO,
        known(device, rosters=(replace(first, expires=day(15)),)),
        "roster-expired",
    )
    yield better(
        "R-con-12", "a roster issued at the period's end", COMPLETE, known(device, rosters=(roster(entry, issued=10),))
    )

    def two(later: Any, **changes: Any) -> Knowledge:
        return known(
            device, rosters=(first, roster(*later, version=2, **({"issued": 13, "previous": first.digest} | changes)))
        )

    yield better("R-con-13", "a version that changes nothing", COMPLETE, two((entry,)))
    yield worse("R-con-13", "a version lacks an entry", NOT_JUDGED, two(()), "roster-contradiction")
    yield worse(
        "R-con-13",
        "a version changes a base",
        NOT_JUDGED,
        two((replace(entry, since=day(-6)),)),
        "roster-contradiction",
    )
    yield worse(
        "R-con-13",
        "a version names another predecessor",
        NOT_JUDGED,
        two((entry,), previous=digest("?")),
        "roster-contradiction",
    )
    yield worse(
        "R-con-13",
        "a version was issued before the one before it",
        NOT_JUDGED,
        two((entry,), issued=11),
        "roster-contradiction",
    )
    yield worse(
        "R-con-13",
        "two documents of one version",
        NOT_JUDGED,
        known(
            device,
            rosters=(first, replace(first, digest=digest("other"), signatures=(signed("roster", digest("other")),))),
        ),
        "roster-contradiction",
    )
    yield worse(
        "R-con-13",
        "a version forgets a name",
        NOT_JUDGED,
        known(
            device,
            rosters=(
                replace(first, entries=(replace(entry, names=("urn:edgeprov:device:old",)),)),
                roster(entry, version=2, issued=13, previous=first.digest),
            ),
        ),
        "roster-contradiction",
    )
    yield worse(
        "R-con-13",
        "the roster gives another base than the record",
        GAPS,
        known(device, rosters=(roster(replace(entry, base=99)),)),
        "base-contradicted",
    )

    def dated(until: float, at: float) -> Knowledge:
        old = Device("unit-2", enrolled=-9)
        old.run(2, at)
        old.seal(at + 0.5)
        return known(device, old, rosters=(roster(entry, old.entry(until=day(until), ended="lost")),))

    yield better("R-con-14", "an enrollment that ended before the period", COMPLETE, dated(-3, -6))
    yield worse(
        "R-con-14", "an enrollment that ended before the period has results in it", UP_TO, dated(-3, 2), "end-lost"
    )
    yield worse("R-con-14", "an enrollment that ended in the period", UP_TO, dated(3, -6), "end-lost")
    yield worse(
        "R-con-15",
        "a device that nobody enrolled is asked for",
        NOT_JUDGED,
        known(device),
        "device-unknown",
        question=replace(QUESTION, devices=(device.name, "urn:edgeprov:device:?")),
    )
    yield worse(
        "R-con-15",
        "only a device that nobody enrolled is asked for",
        NOT_JUDGED,
        known(device),
        "device-unknown",
        question=replace(QUESTION, devices=("urn:edgeprov:device:?",)),
    )
    yield better(
        "R-con-15",
        "a device is asked for by its earlier name",
        COMPLETE,
        known(device, rosters=(roster(replace(entry, names=("urn:edgeprov:device:old",))),)),
        question=replace(QUESTION, devices=("urn:edgeprov:device:old",)),
    )
    yield worse(
        "R-con-65", "the device record is withheld", UP_TO, known(device, quiet, without=(quiet.record,)), "no-record"
    )
    yield worse(
        "R-con-65",
        "record and kits are withheld",
        UP_TO,
        known(device, working("unit-2"), without=(working("unit-2").record, *working("unit-2").made)),
        "no-record",
    )
    yield better("R-con-65", "every device record is at hand", COMPLETE, known(device, working("unit-2")))


def closing() -> Iterator[Vector]:
    def ending(act: Any) -> Device:
        device = Device()
        device.run(3, 2)
        device.seal(3)
        act(device)
        return device

    def vector(rule: str, name: str, act: Any, code: str | None = "not-closed", **more: Any) -> Vector:
        device = ending(act)
        changes = more.pop("entry", {})
        rosters_ = (roster(device.entry(**changes)),)
        late = more.pop("late", 0)
        sights = tuple(seen(item, (item.standing.at_ns - day(0)) / (day(1) - day(0)) + late) for item in device.made)
        knowledge = known(device, rosters=rosters_, sights=sights)
        return better(rule, name, COMPLETE, knowledge) if code is None else worse(rule, name, UP_TO, knowledge, code)

    doubt = {"doubt": True, "floor_ns": day(9)}
    yield vector("R-con-21", "a doubtful head whose proved bound is before the end", lambda d: d.head(11, **doubt))
    yield vector("R-con-21", "a doubtful kit whose proved bound is before the end", lambda d: d.seal(11, **doubt))
    yield vector(
        "R-con-21",
        "a doubtful head whose proved bound is the end",
        lambda d: d.head(11, doubt=True, floor_ns=day(10)),
        None,
    )
    yield vector("R-con-61", "a head at the end", lambda d: d.head(10), None)
    yield vector("R-con-61", "a head before the end", lambda d: d.head(9.9))
    yield vector("R-con-61", "a head from after the end was seen before it", lambda d: d.head(11), late=-2)
    yield vector("R-con-61", "a later kit", lambda d: (d.run(1, 12), d.seal(13)), None)
    yield vector("R-con-61", "a later tombstone", lambda d: d.bury(11), None)
    yield vector(
        "R-con-61",
        "an answer to a nonce of after the end, by a clock that is slow",
        lambda d: d.head(5, nonce=11),
        None,
    )
    yield vector("R-con-61", "an answer to a nonce of before the end", lambda d: d.head(11, nonce=9))
    yield vector(
        "R-con-61", "an answer to a stranger's nonce, by a clock that is slow", lambda d: d.head(5, nonce=11, own=False)
    )
    ended = {"until": day(5), "ended": "retired", "end": 102}
    yield vector("R-con-61", "a final head of a retired enrollment", lambda d: d.head(5, final=True), None, entry=ended)
    yield vector("R-con-61", "a final head of an enrollment that is not ended", lambda d: d.head(5, final=True))
    yield vector("R-con-61", "a head of a retired enrollment that is not final", lambda d: d.head(5), entry=ended)
    yield vector(
        "R-con-61",
        "a final head, and the end is lost",
        lambda d: d.head(5, final=True),
        "end-lost",
        entry={"until": day(5), "ended": "lost"},
    )

    def still_open(at: float, **row: float) -> Device:
        device = Device()
        device.run(3, 2)
        device.seal(3)
        device.run(2, at)
        device.head(11)
        return device

    yield worse(
        "R-con-62", "the head lists a record of the period that no kit holds", UP_TO, known(still_open(9)), "not-closed"
    )
    other_slot = still_open(9)
    other_slot.run(1, 10.5, "b")
    other_slot.seal(11.5, "b")
    yield worse("R-con-62", "a later kit of another slot lists it, too", UP_TO, known(other_slot), "not-closed")
    kit_holds = still_open(9)
    kit_holds.seal(12)
    yield better("R-con-62", "a later kit holds the record that the head lists", COMPLETE, known(kit_holds))
    yield better("R-con-60", "the head lists only records from after the period", COMPLETE, known(still_open(10.5)))
    across = still_open(9)
    across.run(1, 10.5)
    across.head(12)
    yield worse("R-con-60", "the head lists records from before and after the end", UP_TO, known(across), "not-closed")
    doubtful = still_open(-1)
    head = doubtful.made[-1]
    flagged = replace(head.standing, open=(replace(head.standing.open[0], flags=1),))
    yield worse(
        "R-con-60",
        "the head lists doubtful records with a time before the period",
        UP_TO,
        changed(known(doubtful), head, standing=flagged),
        "not-closed",
    )
    blocks = Device()
    early, other = blocks.start(), blocks.start()
    blocks.run(2, 2, segment=early)
    blocks.next["default"] = 10
    blocks.run(2, 3, segment=other)
    blocks.seal(4, only=other)
    blocks.head(11)
    yield worse(
        "R-con-53", "an open segment may still give the numbers that are missing", UP_TO, known(blocks), "not-closed"
    )
    blocks.next["default"] = 2
    blocks.run(2, 10.5, segment=early)
    blocks.head(12)
    yield worse("R-con-53", "an open segment may still give some of them", UP_TO, known(blocks), "not-closed")
    blocks.seal(13, unused=((4, 9),))
    yield better("R-con-53", "its kit names the rest as never given", COMPLETE, known(blocks))
    yield worse("R-con-63", "nothing of a device is at hand", UP_TO, known(working(), Device("unit-2")), "not-closed")
    yield worse("R-con-63", "a replaced enrollment without a final item", UP_TO, _replaced(), "not-closed")
    yield better("R-con-63", "each device is closed", COMPLETE, known(working(), working("unit-2")))
    early_question = replace(QUESTION, at=day(9.5))
    yield worse(
        "R-con-64", "the period has not ended", UP_TO, known(working()), "period-not-ended", question=early_question
    )
    yield worse(
        "R-con-64",
        "the period ends a nanosecond later",
        UP_TO,
        known(working()),
        "period-not-ended",
        question=replace(QUESTION, at=QUESTION.until - 1),
    )
    yield better(
        "R-con-64",
        "the period has just ended",
        COMPLETE,
        known(working(), rosters=(roster(working().entry(), issued=10),)),
        question=replace(QUESTION, at=day(12)),
    )
    late = working()
    late.run(2, 5)
    late.seal(12)
    yield worse(
        "R-con-26",
        "a segment opened after the closing head has records of the period",
        GAPS,
        known(late),
        "time-below-bound",
    )
    late.run(2, 9.9)
    late.seal(13)
    yield worse("R-con-26", "a second one, too", GAPS, known(late), "time-below-bound")
    after = working()
    after.run(2, 12)
    after.seal(13)
    yield better("R-con-26", "later segments have later records", COMPLETE, known(after))


def _replaced() -> Knowledge:
    old = Device()
    old.run(2, 2)
    old.seal(3)
    new = Device("unit-1b", 102, enrolled=5, like=old)
    new.head(11)
    return known(old, new, rosters=(roster(old.entry(until=day(5), ended="retired", end=102), new.entry()),))


def models() -> Iterator[Vector]:
    device = working()
    plain = known(device)
    yield worse(
        "R-con-70", "nobody signed the model", GAPS, known(device, models=(model(signatures=()),)), "model-not-vouched"
    )
    yield worse(
        "R-con-70",
        "the model is refused",
        GAPS,
        known(device, models=(model(checks=Checks(state="refused")),)),
        "model-not-vouched",
    )
    yield better("R-con-70", "a publisher vouches for the model", COMPLETE, plain)
    yield worse("R-con-71", "the model is not at hand", GAPS, known(device, models=()), "model-not-vouched")
    yield worse(
        "R-con-71",
        "the signed model could not be judged",
        NOT_JUDGED,
        known(device, models=(model(checks=Checks(state="not-judged")),)),
        "model-not-judged",
    )
    other = digest("other model")
    mixed = Device()
    mixed.run(2, 2)
    mixed.seal(3)
    mixed.start(what=other)
    mixed.run(2, 5)
    mixed.seal(6)
    mixed.head(11)
    asked = replace(QUESTION, model=MODEL)
    yield better("R-con-71", "another model is asked for", COMPLETE, known(mixed), question=asked, results=[2, 2])
    hidden = known(mixed, without=mixed.made[1:2], models=(model(), model(other)))
    yield worse(
        "R-con-71", "a question about one model inherits a missing kit", GAPS, hidden, "number-missing", question=asked
    )
    yield worse(
        "R-con-87",
        "a model that nothing used is asked for",
        NO_DATA,
        plain,
        None,
        question=replace(QUESTION, model=digest("?")),
    )


def gone() -> Iterator[Vector]:
    device = working()
    kit = device.made[0]
    assert isinstance(kit, KitFacts)
    plain = known(device)

    def lacking(what: bytes, *times: float, source: str = "registry/data", last: float = 12, **more: Any) -> Sighting:
        return Sighting(
            digest=what,
            source=source,
            collector=COLLECTOR,
            first=day(8.5),
            last=day(last),
            missing=tuple(map(day, times)),
            **more,
        )

    def with_sights(*sights: Sighting) -> Knowledge:
        digests = {sight.digest for sight in sights}
        return replace(plain, sightings=(*(sight for sight in plain.sightings if sight.digest not in digests), *sights))

    hour = 1 / 24
    own = kit.digest
    yield worse("R-con-72", "one whole listing lacks a kit", NOT_JUDGED, with_sights(lacking(own, 13)), "missing-since")
    yield worse(
        "R-con-72",
        "two listings lack it, less than an hour apart",
        NOT_JUDGED,
        with_sights(lacking(own, 13, 13 + hour * 0.9)),
        "missing-since",
    )
    yield worse(
        "R-con-72", "two listings an hour apart lack it", GAPS, with_sights(lacking(own, 13, 13 + hour)), "gone"
    )
    yield worse(
        "R-con-72",
        "one of two collectors saw it again, then one listing lacks it",
        NOT_JUDGED,
        with_sights(lacking(own, 13, 14), lacking(own, 16, last=15)),
        "missing-since",
    )
    yield better(
        "R-con-72",
        "another source still lists it",
        COMPLETE,
        with_sights(lacking(own, 13, 14), lacking(own, source="mirror/data")),
    )
    yield better("R-con-72", "it is listed again", COMPLETE, with_sights(lacking(own, 13, 14), lacking(own, last=15)))
    signature = kit.signatures[0].digest
    yield worse("R-con-73", "the signature of a kit is gone", GAPS, with_sights(lacking(signature, 13, 14)), "gone")
    yield worse(
        "R-con-73",
        "the signature of a kit is missing",
        NOT_JUDGED,
        with_sights(lacking(signature, 13)),
        "missing-since",
    )
    spare = replace(kit.signatures[0], digest=digest("spare"))
    yield better(
        "R-con-73",
        "one of two signatures is gone",
        COMPLETE,
        changed(with_sights(lacking(signature, 13, 14)), kit, signatures=(kit.signatures[0], spare)),
    )
    yield worse(
        "R-con-74", "the device record is gone", GAPS, with_sights(lacking(device.record.digest, 13, 14)), "gone"
    )
    buried = Device()
    buried.run(2, 2)
    buried.seal(3)
    tombstone = buried.bury(5)
    buried.head(11)
    yield worse(
        "R-con-74",
        "a tombstone of the period is gone",
        GAPS,
        replace(
            known(buried), sightings=(*map(seen, (buried.made[0], buried.made[2])), lacking(tombstone.digest, 13, 14))
        ),
        "gone",
    )
    before = Device(enrolled=-9)
    before.run(2, -8)
    first = before.seal(-7)
    before.run(2, 2)
    before.seal(3)
    before.head(11)
    yield better(
        "R-con-74",
        "a kit from before the period is gone",
        COMPLETE,
        replace(known(before), sightings=(*map(seen, before.made[1:]), lacking(first.digest, 13, 14))),
    )


def labels() -> Iterator[Vector]:
    device = Device()
    device.run(4, 2)
    device.seal(3, labels=(LabelRun(first=0, last=2),))
    device.run(2, 5)
    second = device.seal(6)
    device.head(11)
    plain = known(device)

    def with_labels(*runs: LabelRun) -> Knowledge:
        return changed(plain, second, labels=runs)

    one = LabelRun(first=1, last=1, withdrawn=True)
    yield better("R-con-80", "a label is withdrawn by a later kit", COMPLETE, with_labels(one), labelled=[2, 2])
    yield better(
        "R-con-80",
        "a label is withdrawn and given again in one kit",
        COMPLETE,
        with_labels(one, LabelRun(first=1, last=1)),
        labelled=[3, 3],
    )
    yield better(
        "R-con-80",
        "a label is given and withdrawn in one kit",
        COMPLETE,
        with_labels(LabelRun(first=5, last=5), LabelRun(first=5, last=5, withdrawn=True)),
        labelled=[3, 3],
    )
    yield better(
        "R-con-81",
        "a range is withdrawn, a part of it was labelled",
        COMPLETE,
        with_labels(LabelRun(first=2, last=9, withdrawn=True)),
        labelled=[2, 2],
    )
    yield better(
        "R-con-81",
        "labels of records that no kit holds",
        COMPLETE,
        with_labels(LabelRun(first=5, last=900)),
        labelled=[4, 4],
    )
    yield better(
        "R-con-81", "labels of two kits overlap", COMPLETE, with_labels(LabelRun(first=1, last=4)), labelled=[5, 5]
    )
    across = Device()
    across.run(2, 8)
    across.run(3, 12)
    across.seal(13)
    yield better("R-con-82", "a segment reaches beyond the period", COMPLETE, known(across), results=[0, 5])
    yield better("R-con-82", "all records lie in the period", COMPLETE, plain, results=[6, 6])
    apart = Device()
    apart.run(2, 8)
    apart.start()
    apart.run(3, 12)
    apart.seal(13)
    yield better("R-con-82", "one segment in the period, one behind it", COMPLETE, known(apart), results=[2, 2])
    doubtful = Device(enrolled=-9)
    doubtful.run(2, -3)
    doubtful.seal(1)
    doubtful.head(11)
    knowledge = changed(known(doubtful), doubtful.made[0], doubtful=1)
    yield better(
        "R-con-20", "doubtful records from before the period, first seen in it", COMPLETE, knowledge, results=[0, 2]
    )
    yield worse("R-con-20", "the same without a doubt", NO_DATA, known(doubtful), None, results=[0, 0])
    yield worse("R-con-20", "records from after the period", NO_DATA, known(_after()), None, results=[0, 0])
    assert TRUST


def _after() -> Device:
    device = Device()
    device.head(11)
    device.run(2, 12)
    device.seal(13)
    return device


ALL = (rosters, closing, models, gone, labels)
