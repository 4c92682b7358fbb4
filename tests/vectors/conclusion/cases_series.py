# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Histories about counter numbers, segments, record numbers, unclean stops and losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgeprov.fleet.conclusion.types import ItemFacts, KitFacts, Knowledge
from edgeprov.formats.standing import OpenSegment, Standing, Stop
from edgeprov.formats.tombstone import LostRange, NumberEntry
from tests.vectors.conclusion.history import (
    DAY,
    START,
    Device,
    changed,
    day,
    digest,
    known,
    roster,
    seen,
    working,
)
from tests.vectors.conclusion.vector import COMPLETE, EXCEPT, GAPS, NOT_JUDGED, UP_TO, Vector, better, worse


def lost(first: int, last: int, least: float | None, greatest: float | None, **changes: Any) -> LostRange:
    facts: dict[str, Any] = {
        "first": first, "last": last, "count": last - first + 1, "doubt": False, "reason": "discarded",
        "least": None if least is None else day(least), "greatest": None if greatest is None else day(greatest),
    }  # fmt: skip
    return LostRange(**(facts | changes))


def stop(segment_header: bytes, after: int | None, resumed: int, at: float) -> Stop:
    return Stop(slot="default", header=segment_header, after=after, resumed=resumed, bound_ms=1000, at_ns=day(at))


def numbers() -> Iterator[Vector]:
    device = working()
    yield better("R-con-31", "every number is there", COMPLETE, known(device))
    yield worse("R-con-31", "the first kit is withheld", GAPS, known(device, without=device.made[:1]), "number-missing")
    yield worse(
        "R-con-31", "a kit in between is withheld", GAPS, known(device, without=device.made[1:2]), "number-missing"
    )
    quiet = Device("unit-2")
    ended = known(device, quiet, rosters=(roster(device.entry(), quiet.entry(until=day(5), ended="retired", end=103)),))
    yield worse("R-con-31", "no item of an enrollment whose end is certified", GAPS, ended, "number-missing")

    # A number before the period.
    for name, last, word in (
        ("and a later item was seen before the period", -1.5, COMPLETE),
        ("and nothing later was seen before the period", 1, GAPS),
    ):
        old = Device(enrolled=-9)
        old.run(2, -8)
        old.seal(-7)
        old.run(2, -6)
        gone = old.seal(-5)
        old.run(2, -3)
        old.seal(-2)
        old.head(last)
        old.run(3, 5)
        old.seal(6)
        old.head(11)
        knowledge = known(old, without=(gone,))
        if last > 0:
            knowledge = known(
                old,
                without=(gone,),
                sights=tuple(seen(item, max(1.0, (item.standing.at_ns - START) / DAY)) for item in old.made),
            )
        make = better if word == COMPLETE else worse
        yield make(
            "R-con-23",
            f"a kit from before the period is withheld, {name}",
            word,
            knowledge,
            *(() if word == COMPLETE else ("number-missing",)),
        )
    held_open = Device(enrolled=-9)
    other = held_open.start("other")
    held_open.run(2, -8)
    held_open.seal(-7)
    held_open.run(5, 4, "other", other)
    held_open.open.clear()
    held_open.run(1, 6)
    held_open.seal(7)
    held_open.head(11)
    yield worse(
        "R-con-23", "a segment that was open before the period vanishes in it", GAPS, known(held_open), "number-missing"
    )

    # Two explanations.
    fork = working()
    first = fork.made[0]
    assert isinstance(first, KitFacts)
    twin = replace(first, digest=digest("twin"), segments=())
    yield worse(
        "R-con-32",
        "two kits with one number",
        GAPS,
        replace(known(fork), kits=(*known(fork).kits, twin)),
        "number-contested",
    )
    named = working()
    named.made.insert(2, named.bury(8, NumberEntry(number=102, reason="crash")))
    named.made.pop()
    yield worse("R-con-32", "a tombstone names the number of a kit", GAPS, known(named), "number-contested")
    twice = working()
    kit = twice.made[1]
    assert isinstance(kit, KitFacts)
    again = replace(kit.segments[0], ranges=())
    yield worse(
        "R-con-32",
        "one segment in two kits",
        GAPS,
        changed(known(twice), twice.made[0], segments=(*twice.made[0].segments, again)),
        "number-contested",
    )  # type: ignore[attr-defined]
    shared = Device()
    shared.run(2, 2)
    shared.run(2, 3, segment=shared.start(shared=True))
    shared.seal(5)
    shared.head(11)
    yield better("R-con-32", "two segments share a number, one of them took it", COMPLETE, known(shared))

    # What tombstones say.
    for reason, word, code in (("unknown", GAPS, "number-unknown"), ("crash", COMPLETE, None)):
        device = Device()
        device.run(2, 2)
        device.seal(3)
        device.counter += 1
        device.bury(4, NumberEntry(number=103, reason=reason))  # type: ignore[arg-type]
        device.head(11)
        make = better if code is None else worse
        yield make(
            "R-con-33", f"a number is signed as {reason}", word, known(device), *(() if code is None else (code,))
        )
    for ranges, word, code in (((), GAPS, "segment-lost"), ((lost(2, 4, 3, 3, reason="damaged"),), EXCEPT, None)):
        device = Device()
        device.run(2, 2)
        device.seal(2.5)
        gone_segment = device.run(3, 3)
        device.open.clear()
        device.bury(4, NumberEntry(number=103, reason="damaged", header=gone_segment.header), lost=ranges)
        device.run(2, 5)
        device.seal(6)
        device.head(11)
        make = better if code is None else worse
        yield make(
            "R-con-33",
            f"a damaged segment, {'with' if ranges else 'without'} its records named",
            word,
            known(device),
            *(() if code is None else (code,)),
        )

    # The end.
    old, new = working(), Device("unit-2", 104, enrolled=11.5)
    new = Device("unit-2", 104, enrolled=12, like=old)
    for end, word in ((104, COMPLETE), (103, GAPS)):
        entries = (old.entry(until=day(12), ended="retired", end=end), new.entry())
        make = better if word == COMPLETE else worse
        yield make(
            "R-con-34",
            f"the end is {end}, the last number 104",
            word,
            known(
                old,
                new,
                rosters=(roster(*entries),),
            ),
            *(() if word == COMPLETE else ("number-above-end",)),
        )
    yield worse("R-con-34", "a later enrollment of the same TPM begins below an item", GAPS,
                replace(known(old, new), records=(old.record, replace(new.record, base=103))), "number-above-end")  # fmt: skip

    yield worse(
        "R-con-34",
        "a head with a counter below the base",
        GAPS,
        replace(
            known(working()),
            heads=(
                *known(working()).heads,
                replace(known(working()).heads[0], digest=digest("low"), number=99, newest=None, clock_ms=1),
            ),
        ),
        "number-below-base",
    )

    # Order and links.
    device = working()
    yield worse(
        "R-con-35",
        "the clock of a higher number is earlier",
        GAPS,
        changed(known(device), device.made[1], clock_ms=1),
        "order-contradicted",
    )
    yield worse(
        "R-con-35",
        "the resetCount of a higher number is lower",
        GAPS,
        changed(known(device), device.made[0], reset_count=7),
        "order-contradicted",
    )
    yield better(
        "R-con-35",
        "the clock begins anew with a reset",
        COMPLETE,
        changed(changed(known(device), device.made[1], clock_ms=1, reset_count=2), device.made[2], reset_count=2),
    )
    yield worse(
        "R-con-36",
        "a kit names another one before it",
        GAPS,
        changed(known(device), device.made[1], prev=digest("other")),
        "link-broken",
    )
    yield worse(
        "R-con-36",
        "a head names another newest item",
        GAPS,
        changed(known(device), device.made[2], newest=digest("other")),
        "link-broken",
    )
    yield worse(
        "R-con-36",
        "a head names no newest item",
        GAPS,
        changed(known(device), device.made[2], newest=None),
        "link-broken",
    )
    yield better("R-con-36", "links as they should be", COMPLETE, known(device))


def segments() -> Iterator[Vector]:
    device = working()
    second = device.made[1]
    assert isinstance(second, KitFacts)
    part = second.segments[0]
    yield worse(
        "R-con-40",
        "a segment follows an unknown one",
        GAPS,
        changed(known(device), second, segments=(replace(part, prev=digest("?")),)),
        "header-unknown",
    )
    first = device.made[0]
    assert isinstance(first, KitFacts)
    yield worse(
        "R-con-40",
        "two segments follow one",
        GAPS,
        changed(known(device), second, segments=(replace(part, prev=None),)),
        "header-forked",
    )
    yield better("R-con-40", "each segment follows the one before it", COMPLETE, known(device))

    for name, keep in (("sealed later", True), ("in no kit and nowhere named", False)):
        device = Device()
        device.run(2, 2)
        device.head(3)
        if not keep:
            device.open.clear()
            device.next["default"] = 2
        device.run(2, 4)
        device.seal(5)
        device.head(11)
        make = better if keep else worse
        yield make(
            "R-con-41",
            f"a listed segment is {name}",
            COMPLETE if keep else GAPS,
            known(device),
            *(() if keep else ("segment-missing",)),
        )
    device = Device()
    device.start("other")
    device.head(1)
    device.open.clear()
    device.run(2, 4)
    device.seal(5)
    device.head(11)
    yield worse("R-con-41", "a listed segment without records vanishes", GAPS, known(device), "segment-missing")

    device = working()
    head = device.made[2]
    for name, hidden in (("a head", head), ("the closing kit", None)):
        knowledge = known(device)
        if hidden is None:
            closing = Device()
            closing.run(2, 2)
            closing.seal(11)
            hidden, knowledge = closing.made[0], known(closing)
        knowledge = changed(knowledge, hidden, standing=replace_standing(hidden, newest=digest("newest")))
        yield worse("R-con-42", f"{name} names an unknown newest header", GAPS, knowledge, "newest-header-unknown")
    yield better("R-con-42", "the newest header is known", COMPLETE, known(device))

    extra = OpenSegment(number=102, header=digest("extra"), slot="b")
    yield worse(
        "R-con-43",
        "the number of a kit is listed as an open segment",
        GAPS,
        changed(known(device), head, standing=replace_standing(head, open=(extra,))),
        "number-contested",
    )
    crash = Device()
    crash.run(2, 2)
    crash.seal(3)
    crash.counter += 1
    crash.bury(4, NumberEntry(number=103, reason="crash"))
    closing = crash.head(11)
    extra = OpenSegment(number=103, header=digest("extra"), slot="b")
    yield worse(
        "R-con-43",
        "a number that a tombstone names is listed as open",
        GAPS,
        changed(known(crash), closing, standing=replace_standing(closing, open=(extra,))),
        "number-contested",
    )
    device = working()
    device.start("b")
    device.head(12)
    yield better("R-con-43", "an open segment has a number of its own", COMPLETE, known(device))


def replace_standing(item: ItemFacts, **changes: Any) -> Standing:
    return replace(item.standing, **changes)


def records() -> Iterator[Vector]:
    def hole(*, unused: bool = False, tombstone: bool = False) -> Device:
        device = Device()
        device.run(2, 2)
        device.next["default"] = 4
        device.run(2, 3)
        device.seal(5, unused=((2, 3),) if unused else ())
        if tombstone:
            device.bury(6, lost=(lost(2, 3, 2, 3),))
        device.head(11)
        return device

    yield worse("R-con-54", "record numbers are missing inside a kit", GAPS, known(hole()), "record-missing")
    device = Device()
    device.next["default"] = 3
    device.run(2, 2)
    device.seal(3)
    device.head(11)
    yield worse("R-con-54", "the first record numbers are missing", GAPS, known(device), "record-missing")
    yield better("R-con-54", "the missing numbers were never given", COMPLETE, known(hole(unused=True)))
    yield better("R-con-54", "a tombstone names the missing records", EXCEPT, known(hole(tombstone=True)))
    cut = Device()
    segment = cut.run(5, 2)
    cut.head(3)
    del segment.rows[3:]
    cut.seal(5)
    cut.head(11)
    yield worse("R-con-54", "records that a head had listed are cut off", GAPS, known(cut), "record-missing")

    for name, at, word in (("in the period", 5, GAPS), ("before the period", -3, COMPLETE)):
        device = Device(enrolled=-9)
        device.run(2, -8)
        device.next["default"] = 4
        device.run(2, at - 1)
        device.seal(at)
        device.head(-1 if at < 0 else 6)
        device.run(2, 7)
        device.seal(8)
        device.head(11)
        make = better if word == COMPLETE else worse
        yield make(
            "R-con-55",
            f"record numbers are missing, and a kit with higher ones was made {name}",
            word,
            known(device),
            *(() if word == COMPLETE else ("record-missing",)),
        )
    workers = Device(enrolled=-9)
    one, two = workers.start(), workers.start()
    workers.run(2, -8, segment=one)
    workers.next["default"] = 10
    workers.run(2, -7, segment=two)
    workers.seal(-6, only=two)
    workers.next["default"] = 2
    workers.run(3, 4, segment=one)
    one.rows[2:] = one.rows[4:]
    workers.next["default"] = 12
    workers.run(1, 6, segment=one)
    workers.seal(7)
    workers.head(11)
    yield worse(
        "R-con-55",
        "a kit from before the period listed the segment as open that may have given them",
        GAPS,
        known(workers),
        "record-missing",
    )

    def twice(leaf: bytes | None) -> Knowledge:
        device = working()
        kit = device.made[1]
        assert isinstance(kit, KitFacts)
        part = kit.segments[0]
        leaves = kit.leaves if leaf is None else ((0, leaf), *kit.leaves)
        return changed(
            known(device), kit, segments=(replace(part, ranges=((0, 0), *part.ranges)),), leaves=leaves, records=5
        )

    device = working()
    same = device.made[0].leaves[0][1]  # type: ignore[attr-defined]
    yield worse("R-con-56", "a record in two kits with one content", GAPS, twice(same), "record-twice")
    yield worse("R-con-56", "a record number for two contents", GAPS, twice(digest("other")), "record-contested")
    yield worse("R-con-56", "a record in two kits, not compared", GAPS, twice(None), "record-twice-unread")
    yield better("R-con-56", "each record in one kit", COMPLETE, known(device))

    device = working()
    kit = device.made[1]
    assert isinstance(kit, KitFacts)
    yield worse(
        "R-con-90",
        "the segments of a kit show fewer records than it has",
        NOT_JUDGED,
        changed(known(device), kit, records=9),
        "facts-incomplete",
    )
    yield worse(
        "R-con-90",
        "the segments of a kit show more records than it has",
        NOT_JUDGED,
        changed(known(device), kit, records=1),
        "facts-incomplete",
    )
    yield better("R-con-90", "the segments show every record", COMPLETE, known(device))

    def listed() -> Device:
        device = Device()
        device.run(3, 2)
        device.head(3)
        device.run(2, 4)
        device.seal(5)
        device.head(11)
        return device

    device = listed()
    kit = device.made[1]
    assert isinstance(kit, KitFacts)
    other = tuple((n, digest("other") if n == 2 else leaf) for n, leaf in kit.leaves)
    yield worse(
        "R-con-57",
        "a kit has another record than a head had listed",
        GAPS,
        changed(known(device), kit, leaves=other),
        "record-contradicts-listing",
    )
    moved = replace(kit.segments[0], header=digest("moved"))
    yield worse(
        "R-con-57",
        "a kit has the listed record in another segment",
        GAPS,
        changed(known(device), kit, segments=(moved,)),
        "record-contradicts-listing",
    )
    yield worse(
        "R-con-57",
        "the listed record was not read",
        NOT_JUDGED,
        changed(known(device), kit, leaves=()),
        "leaf-not-read",
    )
    yield better("R-con-57", "the kit has the record that the head listed", COMPLETE, known(device))

    def shrunk(act: str) -> Device:
        device = Device()
        segment = device.run(4, 2)
        device.head(3)
        if act != "nothing":
            segment.rows.pop()
        if act == "listed":
            device.head(4)
        device.start()
        device.next["default"] = 4 if act == "listed" else 3 if act == "sealed" else device.next["default"]
        device.run(2, 6)
        device.seal(7)
        device.head(11)
        return device

    yield worse(
        "R-con-44",
        "a later head lists a segment without its last record",
        GAPS,
        known(shrunk("listed")),
        "listing-shrinks",
    )
    yield worse(
        "R-con-44",
        "a kit seals a segment without the record that a head had listed",
        GAPS,
        known(shrunk("sealed")),
        "listing-shrinks",
    )
    yield better("R-con-44", "a segment keeps what a head had listed", COMPLETE, known(shrunk("nothing")))

    def power_cut(*, listed_first: bool, after: int = 1) -> Device:
        device = Device()
        segment = device.run(4, 2)
        if listed_first:
            device.head(2.5)
        del segment.rows[after + 1 :]
        device.reset += 1
        device.stops = [stop(segment.header, after, 4, 3)]
        device.seal(4)
        device.run(2, 5)
        device.seal(6)
        device.head(11)
        return device

    yield worse(
        "R-con-58",
        "a power cut takes records that a head had listed",
        GAPS,
        known(power_cut(listed_first=True)),
        "stop-covers-shown",
    )
    yield worse(
        "R-con-58",
        "a power cut takes the only record that a head had listed",
        GAPS,
        known(power_cut(listed_first=True, after=2)),
        "stop-covers-shown",
    )
    yield better(
        "R-con-58", "a power cut takes records that nothing had listed", COMPLETE, known(power_cut(listed_first=False))
    )
    yield better(
        "R-con-59",
        "a power cut is told beside the word",
        COMPLETE,
        known(power_cut(listed_first=False)),
        told="unclean-stop",
    )

    slow = Device()
    cut_off = slow.run(2, 0)
    cut_off.rows.pop()
    slow.reset += 1
    slow.stops = [stop(cut_off.header, 0, 2, -4)]
    slow.next["default"] = 2
    slow.seal(-4, doubt=True, floor_ns=day(-4))
    slow.head(11)
    yield better(
        "R-con-59", "a power cut that a kit with a clock set back tells", COMPLETE, known(slow), told="unclean-stop"
    )

    ahead = Device()
    ahead.run(2, 15)
    lost_part = ahead.start()
    ahead.next["default"] = 4
    ahead.reset += 1
    ahead.stops = [stop(lost_part.header, 1, 4, 6)]
    ahead.run(1, 7)
    ahead.seal(8)
    ahead.head(11)
    yield better("R-con-59", "the clock was ahead before the power cut", COMPLETE, known(ahead), told="unclean-stop")

    # R-con-51: what a listing shows is not explained by a stop of another segment.
    device = Device()
    shown = device.run(3, 2)
    device.head(2.5)
    device.open.remove(shown)
    empty = device.start()
    device.reset += 1
    device.stops = [stop(empty.header, None, 3, 3)]
    device.next["default"] = 3
    device.run(2, 5, segment=empty)
    device.seal(6)
    device.head(11)
    yield worse(
        "R-con-51", "a stop of another segment would explain a listed record", GAPS, known(device), "record-missing"
    )
    device = Device()
    shown = device.run(3, 2)
    device.head(2.5)
    device.next["default"] = 3
    shown.rows.pop()
    device.run(1, 3)
    device.seal(5, unused=((2, 2),))
    device.head(11)
    yield worse("R-con-51", "a listed record is said to be never given", GAPS, known(device), "record-missing")
    yield better("R-con-51", "a stop explains what nothing had listed", COMPLETE, known(power_cut(listed_first=False)))


def losses() -> Iterator[Vector]:
    def discarded(entry: LostRange) -> Device:
        device = Device()
        segment = device.run(3, 2)
        device.open.clear()
        device.bury(4, NumberEntry(number=101, reason="discarded", header=segment.header), lost=(entry,))
        device.run(2, 5)
        device.seal(6)
        device.head(11)
        return device

    yield worse(
        "R-con-86",
        "records of the period are signed as lost",
        EXCEPT,
        known(discarded(lost(0, 2, 2, 2))),
        "records-lost",
    )
    yield worse(
        "R-con-86",
        "lost records whose times are not known",
        EXCEPT,
        known(discarded(lost(0, 2, None, None))),
        "records-lost",
    )
    yield worse(
        "R-con-86",
        "lost records with a doubtful time before the period",
        EXCEPT,
        known(discarded(lost(0, 2, -3, -2, doubt=True))),
        "records-lost",
    )
    yield better(
        "R-con-86", "the lost records were made before the period", COMPLETE, known(discarded(lost(0, 2, -3, -2)))
    )
    silent = Device("unit-2")
    silent.run(1, 2)
    silent.seal(3)
    yield worse(
        "R-con-87",
        "a signed loss beside a device that is not closed",
        UP_TO,
        known(discarded(lost(0, 2, 2, 2)), silent),
        "not-closed",
    )
    nothing = Device()
    nothing.head(11)
    yield worse("R-con-87", "no result in the period", "NO DATA", known(nothing), None)
    odd = Device()
    odd.counter += 1
    odd.bury(4, NumberEntry(number=101, reason="unknown"))
    odd.head(11)
    yield worse("R-con-87", "no result in the period, and a doubt", "UNPROVED", known(odd), "number-unknown")
    yield better("R-con-87", "results and no doubt", COMPLETE, known(working()))
    content = working()
    yield better(
        "R-con-89",
        "content of a kit is lost",
        COMPLETE,
        changed(known(content), content.made[0], unavailable=("outputs-000001",)),
        told="content-unavailable",
    )
    yield better(
        "R-con-24",
        "a kit is stamped later than it was seen",
        COMPLETE,
        known(
            content,
            sights=tuple(
                seen(item, (item.standing.at_ns - START) / DAY - (1 if item is content.made[0] else 0))
                for item in content.made
            ),
        ),
        told="stamped-ahead",
    )
    yield better(
        "R-con-25",
        "the clock was doubtful for a record",
        COMPLETE,
        changed(known(content), content.made[0], doubtful=1),
        told="clock-doubtful",
    )


ALL = (numbers, segments, records, losses)
