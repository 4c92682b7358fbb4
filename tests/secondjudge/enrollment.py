# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Sections 4 to 9 of CONCLUSION.md for one enrollment: its items in order, and what they explain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.secondjudge.numbers import Fact, canonical, integers, reason
from tests.secondjudge.policy import GONE, THERE, Policy


class Enrollment:
    """One case.

    Attributes:
        records: Device records that count, oldest first.
        signed: All that an enroller who counts signed.
        items: Items that count, in order.
        pending: Items that nobody judged yet.
        end: R-con-19.
    """

    def __init__(self, identity: str, policy: Policy, question: Fact) -> None:
        self.identity = identity
        self.policy = policy
        self.question = question
        self.since, self.until = question["since"], question["until"]
        self.entry: Fact | None = None
        self.records: list[Fact] = []
        self.signed: list[Fact] = []
        self.items: list[Fact] = []
        self.pending: list[Fact] = []
        self.refused: list[Fact] = []
        self.not_admitted: list[Fact] = []
        self.end: int | None = None
        self.other: list[Fact] = []  # reasons that the fleet's part found

    # section 4

    def may_lie(self, kit: Fact) -> bool:
        """R-con-20."""
        if not kit["records"]:
            return False
        if kit["least"] is None or kit["greatest"] is None:
            return True
        return bool(kit["least"] < self.until and (kit["greatest"] >= self.since or self.late(kit)))

    def late(self, kit: Fact) -> bool:
        """A doubtful time of a kit may stand for one of the period."""
        return bool(kit["doubtful"] != 0) and self.policy.seen(kit["digest"]) >= self.since

    def past(self, item: Fact) -> bool:
        """R-con-22."""
        standing = item["standing"]
        return (
            not standing["doubt"] and standing["at_ns"] < self.since and self.policy.seen(item["digest"]) < self.since
        )

    def recent(self, item: Fact) -> bool:
        """R-con-16."""
        if item["kind"] == "kit" and item["records"]:
            return self.may_lie(item)
        return not self.past(item)

    def outside(self, number: int, *headers: str | None) -> bool:
        """R-con-23."""
        return any(
            item["number"] > number
            and all(entry["number"] != number for entry in item.get("numbers", ()))
            and all(one["number"] != number and one["header"] not in headers for one in item["standing"]["open"])
            for item in self.past_items
        )

    def listed_records_may_lie(self, one: Fact) -> bool:
        """R-con-60."""
        return (
            one["first"] is not None
            and one["least_ns"] < self.until
            and (one["greatest_ns"] >= self.since or one["flags"] != 0)
        )

    # what the items explain

    def collect(self) -> None:
        """Everything that all items explain, whatever their place in the order."""
        self.items.sort(key=lambda item: (item["number"], item["reset_count"], item["clock_ms"], item["digest"]))
        self.kits = [item for item in self.items if item["kind"] == "kit"]
        self.tombstones = [item for item in self.items if item["kind"] == "tombstone"]
        self.past_items = [item for item in self.items if self.past(item)]
        self.sealed: dict[str, list[tuple[Fact, Fact]]] = defaultdict(list)
        self.given_up: dict[str, list[tuple[Fact, Fact]]] = defaultdict(list)
        self.listings: dict[str, list[tuple[Fact, Fact]]] = defaultdict(list)
        self.owners: dict[int, set[Any]] = defaultdict(set)
        self.lost_at: dict[int, set[str]] = defaultdict(set)
        self.shared_at: dict[int, set[str]] = defaultdict(set)
        self.held: dict[str, list[tuple[int, int, str, str, Fact]]] = defaultdict(list)
        self.holds: dict[str, set[int]] = defaultdict(set)
        self.lost: dict[str, set[int]] = defaultdict(set)
        self.unused: dict[str, set[int]] = defaultdict(set)
        self.shown: dict[str, set[int]] = defaultdict(set)
        for item in self.items:
            if item["kind"] != "head":
                self.owners[item["number"]].add(("item", item["digest"]))
            for one in item["standing"]["open"]:
                self.listings[one["header"]].append((item, one))
                self.shown[one["slot"]] |= {one[end] for end in ("first", "last") if one[end] is not None}
        for kit in self.kits:
            for segment in kit["segments"]:
                known = segment["header"] in self.sealed  # a header is known once (R-con-30)
                self.sealed[segment["header"]].append((kit, segment))
                if known:
                    pass
                elif segment["shared"]:
                    self.shared_at[segment["number"]].add(segment["header"])
                else:
                    self.owners[segment["number"]].add(("header", segment["header"]))
                for first, last in segment["ranges"]:
                    self.held[segment["slot"]].append((first, last, kit["digest"], segment["header"], kit))
                self.holds[segment["slot"]] |= integers(segment["ranges"])
                self.unused[segment["slot"]] |= integers(segment["unused"])
        for tombstone in self.tombstones:
            for entry in tombstone["numbers"]:
                if entry["header"] is None:
                    self.owners[entry["number"]].add(("entry", tombstone["digest"]))
                else:
                    self.lost_at[entry["number"]].add(entry["header"])
                    self.given_up[entry["header"]].append((tombstone, entry))
            self.lost[tombstone["slot"]] |= integers((one["first"], one["last"]) for one in tombstone["lost"])
        self.covered = {slot: self.cover(slot) for slot in self.slots()}
        self.closer, self.closing = self.find_closer()
        self.last = self.closer or (self.items[-1] if self.items else None)
        self.place = self.items.index(self.last) if self.last is not None else -1
        self.judged = self.items[: self.place + 1]
        self.listed_by_last = {one["header"] for one in self.last["standing"]["open"]} if self.last else set()
        self.missing = self.missing_numbers()

    def slots(self) -> list[str]:
        found = {*self.holds, *self.lost, *self.unused, *self.shown}
        found |= {one["slot"] for item in self.items for name in ("open", "stops") for one in item["standing"][name]}
        return sorted(found)

    def number_of_segment(self, header: str) -> int | None:
        """The number of a segment that somebody sealed, listed or gave up."""
        for where in (self.sealed, self.listings, self.given_up):
            for _, one in where.get(header, ()):
                return int(one["number"])
        return None

    def highest_held_below(self, slot: str, number: int) -> int:
        """The highest record number of a slot in kits with a number below this one, else -1."""
        return max((last for _, last, _, _, kit in self.held[slot] if kit["number"] < number), default=-1)

    def stop_range(self, item: Fact, stop: Fact) -> set[int]:
        after = stop["after"]
        if after is None:
            number = self.number_of_segment(stop["header"])
            after = self.highest_held_below(stop["slot"], item["number"] if number is None else number)
        return set(range(after + 1, stop["resumed"]))

    def stops(self) -> Iterator[tuple[Fact, Fact]]:
        for item in self.items:
            for stop in item["standing"]["stops"]:
                yield item, stop

    def cover(self, slot: str) -> set[int]:
        """R-con-51."""
        weak = set(self.unused[slot])
        for item, stop in self.stops():
            if stop["slot"] == slot:
                weak |= self.stop_range(item, stop)
        return self.holds[slot] | self.lost[slot] | (weak - self.shown[slot])

    def record_gaps(self, item: Fact) -> dict[str, set[int]]:
        """R-con-52."""
        top: dict[str, int] = defaultdict(lambda: -1)
        for one in self.items[: self.items.index(item) + 1]:
            for segment in one.get("segments", ()):
                top[segment["slot"]] = max([top[segment["slot"]], *(last for _, last in segment["ranges"])])
            for listed in one["standing"]["open"]:
                if listed["last"] is not None:
                    top[listed["slot"]] = max(top[listed["slot"]], listed["last"])
            for stop in one["standing"]["stops"]:
                if stop["after"] is not None:
                    top[stop["slot"]] = max(top[stop["slot"]], stop["after"])
        return {
            slot: set(range(0 if 0 in self.shown[slot] else 1, highest + 1)) - self.covered[slot]
            for slot, highest in top.items()
        }

    def explained_by_listing(self, item: Fact, slot: str, number: int) -> tuple[list[Fact], bool]:
        """R-con-53 for one number: the segments that list it, and if it is undecided."""
        listed, undecided = [], False
        for one in item["standing"]["open"]:
            if one["slot"] != slot:
                continue
            behind = self.highest_held_below(slot, one["number"])
            if one["last"] is not None:
                behind = max(behind, one["last"])
                if one["first"] <= number <= one["last"]:
                    listed.append(one)
            undecided = undecided or behind < number
        return listed, undecided

    # section 5

    def closes_by_itself(self, item: Fact) -> str | None:
        """R-con-61."""
        if (
            item["standing"]["final"]
            and self.entry is not None
            and self.entry["ended"] == "retired"
            and self.end in (None, item["number"])
        ):
            return "final"
        if item.get("asked") is not None:
            return "nonce" if item["asked"] >= self.until else None
        if self.lower_bound(item) >= self.until and self.policy.seen(item["digest"]) >= self.until:
            return "clock"
        return None

    @staticmethod
    def lower_bound(item: Fact) -> int:
        """R-con-21."""
        standing = item["standing"]
        return int(standing["floor_ns"] if standing["doubt"] else standing["at_ns"])

    def find_closer(self) -> tuple[Fact | None, str]:
        """R-con-62."""
        for item in self.items:
            way = self.closes_by_itself(item)
            if way is not None and (not item["standing"]["open"] or self.passes(item)):
                return item, way
        return None, "open"

    def passes(self, item: Fact) -> bool:
        for slot, numbers in self.record_gaps(item).items():
            for number in numbers:
                listed, undecided = self.explained_by_listing(item, slot, number)
                if any(self.listed_records_may_lie(one) for one in listed) or (undecided and not listed):
                    return False
        return True

    # reasons

    def say(self, rule: str, code: str, effect: str, **members: Any) -> Fact:
        return reason(rule, code, effect, enrollment=self.identity, device=self.device, **members)

    @property
    def device(self) -> str | None:
        if self.records or self.signed:
            return str((self.records or self.signed)[-1]["device"])
        return str(self.entry["device"]) if self.entry else None

    @property
    def base(self) -> int | None:
        if self.records:
            return int(self.records[-1]["base"])
        return int(self.entry["base"]) if self.entry else None

    def reasons(self) -> Iterator[Fact]:
        yield from self.other
        yield from self.reasons_of_items()
        yield from self.reasons_of_times()
        yield from self.reasons_of_closing()
        yield from self.reasons_of_numbers()
        yield from self.reasons_of_order()
        yield from self.reasons_of_segments()
        yield from self.reasons_of_records()
        yield from self.reasons_of_listings()
        yield from self.reasons_of_stops()
        yield from self.reasons_of_losses()

    def reasons_of_items(self) -> Iterator[Fact]:
        for rule, code, effect, items in (
            ("16", "item-refused", "gap", self.refused),
            ("17", "item-not-admitted", "gap", self.not_admitted),
            ("18", "item-not-judged", "not-judged", self.pending),
        ):
            for item in items:
                if self.recent(item):
                    yield self.about(rule, code, effect, item)

    def about(self, rule: str, code: str, effect: str, item: Fact, **members: Any) -> Fact:
        return self.say(rule, code, effect, **{"numbers": [item["number"]], "digests": [item["digest"]], **members})

    def reasons_of_times(self) -> Iterator[Fact]:
        for kit in self.kits:
            first = self.policy.first_sighting(kit["digest"])
            behind = kit["records"] and kit["least"] is not None and kit["least"] >= self.until
            if (self.may_lie(kit) or behind) and first is not None and kit["standing"]["at_ns"] > first:
                yield self.about("24", "stamped-ahead", "note", kit)
            if self.may_lie(kit) and kit["doubtful"]:
                yield self.about(
                    "25", "clock-doubtful", "note", kit, numbers=[], slot=kit["slot"], count=kit["doubtful"]
                )
        if self.closer is None or self.lower_bound(self.closer) < self.until:
            return
        for kit in self.kits:
            if kit["number"] <= self.closer["number"] or not self.may_lie(kit):
                continue
            filled = [segment for segment in kit["segments"] if segment["ranges"]]
            for segment in filled:
                begin = segment["least"]
                if begin is None and len(filled) == 1:
                    begin = kit["least"]
                if (
                    not segment["shared"]
                    and segment["number"] > self.closer["number"]
                    and begin is not None
                    and begin < self.until
                ):
                    yield self.about("26", "time-below-bound", "gap", kit)

    def reasons_of_closing(self) -> Iterator[Fact]:
        if not self.records:
            yield self.say("65", "no-record", "open")
        elif self.closer is None:
            lost = self.entry is not None and self.entry["ended"] == "lost"
            yield self.say("63", "end-lost" if lost else "not-closed", "open")

    # section 6

    def missing_numbers(self) -> set[int]:
        """R-con-31, also outside of the question."""
        if self.base is None:
            return set()
        top = self.last["number"] if self.last is not None else self.base
        if self.closer is None and self.end is not None:
            top = max(top, self.end)
        listed = {one["number"] for one in self.last["standing"]["open"]} if self.last is not None else set()
        return {
            number
            for number in range(self.base + 1, top + 1)
            if not self.owners.get(number) and not self.lost_at.get(number) and number not in listed
        }

    def weakened(self, doubt: bool) -> str:
        """The effect of a reason that is marked ◊."""
        return "not-judged" if doubt else "gap"

    def reasons_of_numbers(self) -> Iterator[Fact]:
        missing = {number for number in self.missing if not self.outside(number)}
        if missing:
            doubt = any(item["number"] >= max(missing) for item in self.pending)
            yield self.say("31", "number-missing", self.weakened(doubt), numbers=missing)
        for number in self.contested():
            if not self.outside(number):
                yield self.say("32", "number-contested", "gap", numbers=[number])
        for tombstone in self.tombstones:
            for entry in tombstone["numbers"]:
                if self.outside(entry["number"]):
                    continue
                if entry["reason"] == "unknown":
                    yield self.say("33", "number-unknown", "gap", numbers=[entry["number"]])
                headers = [one for one in tombstone["numbers"] if one["reason"] == entry["reason"] and one["header"]]
                ranges = [one for one in tombstone["lost"] if one["reason"] == entry["reason"]]
                if len(headers) > len(ranges):
                    yield self.say("33", "segment-lost", "gap", numbers=[entry["number"]])
        for item in self.items:
            if self.end is not None and item["number"] > self.end:
                yield self.about("34", "number-above-end", "gap", item)
            if self.base is not None and item["number"] < self.base:
                yield self.about("34", "number-below-base", "gap", item)

    def contested(self) -> list[int]:
        """R-con-32."""
        found: set[int] = set()
        for number in {*self.owners, *self.lost_at, *self.shared_at}:
            owners = self.owners.get(number, set())
            alone = bool(owners) and not any(kind == "header" for kind, _ in owners)
            if len(owners) > 1 or (alone and (self.lost_at.get(number) or self.shared_at.get(number))):
                found.add(number)
        for header in {*self.sealed, *self.given_up}:
            kits = {kit["digest"] for kit, _ in self.sealed.get(header, ())}
            tombstones = {tombstone["digest"] for tombstone, _ in self.given_up.get(header, ())}
            if len(kits) > 1 or len(tombstones) > 1 or (kits and tombstones):
                found |= {one["number"] for _, one in self.sealed.get(header, ())[:1]}
                found |= {one["number"] for _, one in self.given_up.get(header, ())}
        return sorted(found)

    def reasons_of_order(self) -> Iterator[Fact]:
        highest_pending = max((item["number"] for item in self.pending), default=None)
        before: Fact | None = None
        linked: Fact | None = None  # the kit or tombstone before
        for place, item in enumerate(self.items):
            number = item["number"]
            clock = item["reset_count"], item["clock_ms"]
            if before is not None and clock < (before["reset_count"], before["clock_ms"]) and not self.outside(number):
                numbers = [before["number"], number]
                yield self.about("35", "order-contradicted", "gap", item, apart=numbers)
            head = item["kind"] == "head"
            named = item["newest"] if head else item["prev"]
            start = linked["number"] if linked is not None else self.base
            excused = (
                (start is not None and any(start < one <= number for one in self.missing))
                or (highest_pending is not None and number <= highest_pending)
                or (not head and linked is not None and linked["number"] == number)
            )
            if (
                place <= self.place
                and named != (linked["digest"] if linked is not None else None)
                and not excused
                and not self.outside(number)
            ):
                yield self.about("36", "link-broken", "gap", item)
            before = item
            linked = linked if head else item

    # section 7

    def reasons_of_segments(self) -> Iterator[Fact]:
        if self.last is None:
            return
        followed: dict[str | None, Fact] = {}
        done: set[str] = set()
        for kit in self.kits:
            for segment in kit["segments"]:
                header, prev, number = segment["header"], segment["prev"], segment["number"]
                if header in done:
                    continue
                done.add(header)
                if prev in followed:
                    if not self.outside(number, header, followed[prev]["header"]):
                        numbers = [followed[prev]["number"], number]
                        yield self.say("40", "header-forked", "gap", apart=numbers)
                    continue
                followed[prev] = segment
                known = prev is None or prev in self.sealed or prev in self.given_up or prev in self.listings
                if not known and number <= self.last["number"] and not self.outside(number, prev):
                    yield self.say("40", "header-unknown", self.weakened(bool(self.pending)), numbers=[number])
        entries = {entry["number"] for one in self.tombstones for entry in one["numbers"] if entry["header"] is None}
        taken = entries | {item["number"] for item in self.items if item["kind"] != "head"}
        for item in self.judged:
            for one in item["standing"]["open"]:
                header, number = one["header"], one["number"]
                if self.outside(number, header):
                    continue
                if not (header in self.sealed or header in self.given_up or header in self.listed_by_last):
                    doubt = any(other["number"] > number for other in self.pending)
                    yield self.say("41", "segment-missing", self.weakened(doubt), numbers=[number])
                if number in taken:
                    yield self.say("43", "number-contested", "gap", numbers=[number])
        newest = self.last["standing"]["newest"]
        if not (
            newest is None or newest in self.sealed or newest in self.given_up or newest in self.listings
        ) and not any(
            item["standing"]["newest"] == newest and all(one["header"] != newest for one in item["standing"]["open"])
            for item in self.past_items
        ):
            yield self.about("42", "newest-header-unknown", self.weakened(bool(self.pending)), self.last)

    # section 8

    def past_records(self, slot: str) -> int:
        """R-con-55: numbers below this one are past."""
        return max(
            (
                last
                for _, last, _, _, kit in self.held[slot]
                if self.past(kit) and all(one["slot"] != slot for one in kit["standing"]["open"])
            ),
            default=-1,
        )

    def reasons_of_records(self) -> Iterator[Fact]:
        if self.last is not None:
            for slot, gaps in self.record_gaps(self.last).items():
                missing = {
                    number
                    for number in gaps
                    if self.explained_by_listing(self.last, slot, number) == ([], False)
                    and number >= self.past_records(slot)
                }
                if missing:
                    doubt = any(item["kind"] == "kit" and item["slot"] == slot for item in self.pending)
                    yield self.say("54", "record-missing", self.weakened(doubt), slot=slot, numbers=missing)
        for kit in self.kits:
            held = sum(last - first + 1 for segment in kit["segments"] for first, last in segment["ranges"])
            if not self.past(kit) and held != kit["records"]:
                yield self.about("90", "facts-incomplete", "not-judged", kit)
        for slot, ranges in self.held.items():
            ranges.sort(key=lambda one: one[:4])
            furthest = None
            for one in ranges:
                if furthest is not None and one[0] <= furthest[1]:
                    yield from self.compare(slot, one, furthest)
                if furthest is None or one[1] > furthest[1]:
                    furthest = one

    def compare(self, slot: str, one: tuple[Any, ...], other: tuple[Any, ...]) -> Iterator[Fact]:
        """R-con-56."""
        kits = one[4], other[4]
        if not any(self.may_lie(kit) or not self.past(kit) for kit in kits):
            return
        common = set(range(one[0], min(one[1], other[1]) + 1))
        leaves = [leaves_of(kit) for kit in kits]
        both = [number for number in common if number in leaves[0] and number in leaves[1]]
        if any(leaves[0][number] != leaves[1][number] for number in both):
            code = "record-contested"
        else:
            code = "record-twice" if len(both) == len(common) else "record-twice-unread"
        yield self.say("56", code, "gap", slot=slot, numbers=common)

    def reasons_of_listings(self) -> Iterator[Fact]:
        for header, listings in self.listings.items():
            for _, one in listings:
                yield from self.compare_listing(one)
            yield from self.shrinks(header, listings)

    def compare_listing(self, one: Fact) -> Iterator[Fact]:
        """R-con-57."""
        number, slot = one["last"], one["slot"]
        if number is None:
            return
        candidates = [held for held in self.held[slot] if held[0] <= number]
        if not candidates:
            return
        _, last, _, header, kit = max(candidates, key=lambda held: (held[0], held[1], held[2], held[3]))
        if last < number or not (self.may_lie(kit) or self.listed_records_may_lie(one)):
            return
        leaf = leaves_of(kit).get(number)
        if header != one["header"] or leaf not in (None, {one["leaf"]}):
            yield self.say("57", "record-contradicts-listing", "gap", slot=slot, numbers=[number])
        elif leaf is None:
            yield self.say("57", "leaf-not-read", "not-judged", slot=slot, numbers=[number])

    def shrinks(self, header: str, listings: list[tuple[Fact, Fact]]) -> Iterator[Fact]:
        """R-con-44."""
        usable = [
            (place, one)
            for place, (_, one) in enumerate(listings)
            if self.listed_records_may_lie(one) and one["last"] not in self.lost[one["slot"]]
        ]
        for place, one in usable:
            if any(later["last"] is None or later["last"] < one["last"] for _, later in listings[place + 1 :]):
                yield self.say("44", "listing-shrinks", "gap", slot=one["slot"], numbers=[one["last"]])
                return
        if usable and header in self.sealed:
            _, one = max(usable, key=lambda pair: (pair[1]["last"], pair[0]))
            if any(one["last"] not in integers(segment["ranges"]) for _, segment in self.sealed[header]):
                yield self.say("44", "listing-shrinks", "gap", slot=one["slot"], numbers=[one["last"]])

    def reasons_of_stops(self) -> Iterator[Fact]:
        """R-con-58 and R-con-59."""
        bound = next((place for place, item in enumerate(self.items) if self.lower_bound(item) >= self.until), None)
        told: dict[str, list[tuple[int, Fact]]] = defaultdict(list)
        stops: dict[str, Fact] = {}
        for place, item in enumerate(self.items):
            for stop in item["standing"]["stops"]:
                stops[canonical(stop)] = stop
                told[canonical(stop)].append((place, item))
        for key, stop in stops.items():
            place, item = told[key][0]
            after = -1 if stop["after"] is None else stop["after"]
            shown = [
                one
                for earlier in self.items[:place]
                for one in earlier["standing"]["open"]
                if one["header"] == stop["header"] and one["last"] is not None and one["last"] > after
            ]
            if shown and not self.past(item):
                yield self.say(
                    "58", "stop-covers-shown", "gap", slot=stop["slot"],
                    numbers=[max(one["last"] for one in shown)],
                )  # fmt: skip
            for place, item in told[key]:
                if not self.past(item):
                    if bound is None or place <= bound:
                        yield self.say(
                            "59", "unclean-stop", "note", slot=stop["slot"], bound_ms=stop["bound_ms"],
                            since=stop["at_ns"], digests=[item["digest"]],
                            numbers=self.stop_range(item, stop) - self.holds[stop["slot"]],
                        )  # fmt: skip
                    break

    # section 9

    def of_question(self, kit: Fact) -> bool:
        return self.may_lie(kit) and self.question["model"] in (None, kit["model"])

    def reasons_of_losses(self) -> Iterator[Fact]:
        watched = [kit for kit in self.kits if self.of_question(kit)]
        for kit in watched:
            if kit["unavailable"]:
                yield self.about("89", "content-unavailable", "note", kit)
        live = [tombstone for tombstone in self.tombstones if not self.past(tombstone)]
        for item in [*watched, *live]:
            yield from self.presence(item, numbers=[item["number"]])
        named = {item["record"] for item in [*watched, *live]}
        for record in self.records:
            if record["digest"] in named:
                yield from self.presence(record)
        for tombstone in self.tombstones:
            recent = not self.past(tombstone)
            for one in tombstone["lost"]:
                if one["least"] is None or one["greatest"] is None:
                    told = recent
                else:
                    told = one["least"] < self.until and (one["greatest"] >= self.since or (one["doubt"] and recent))
                if told:
                    yield self.say(
                        "86", "records-lost", "except", slot=tombstone["slot"], count=one["count"],
                        numbers=range(one["first"], one["last"] + 1),
                    )  # fmt: skip

    def presence(self, artifact: Fact, **members: Any) -> Iterator[Fact]:
        """R-con-74."""
        found = self.policy.presence(artifact)
        if found != THERE:
            code, effect = ("gone", "gap") if found == GONE else ("missing-since", "not-judged")
            yield self.say("74", code, effect, digests=[artifact["digest"]], **members)

    def labelled(self) -> dict[str, set[int]]:
        """R-con-80 and R-con-81: the record numbers of each slot that have a label."""
        found: dict[str, set[int]] = defaultdict(set)
        for kit in sorted(self.kits, key=lambda kit: (kit["number"], kit["digest"])):
            for run in kit["labels"]:
                numbers = set(range(run["first"], run["last"] + 1))
                if run["withdrawn"]:
                    found[kit["slot"]] -= numbers
                else:
                    found[kit["slot"]] |= numbers
        return found

    def counts(self) -> Iterator[tuple[Fact, int, int, int, int]]:
        """R-con-82: for each kit results at least and at most, and labelled ones."""
        labelled = self.labelled()
        counted: dict[str, set[int]] = defaultdict(set)
        for kit in self.kits:
            if not self.of_question(kit):
                continue
            sums = [0, 0, 0, 0]
            for segment in kit["segments"]:
                slot = segment["slot"]
                least = kit["least"] if segment["least"] is None else segment["least"]
                greatest = kit["greatest"] if segment["greatest"] is None else segment["greatest"]
                known = least is not None and greatest is not None
                exact = known and self.since <= least and greatest < self.until and not kit["doubtful"]
                if known and not exact and not (least < self.until and (greatest >= self.since or self.late(kit))):
                    continue
                fresh = integers(segment["ranges"]) - counted[slot]
                counted[slot] |= fresh
                for place, numbers in ((0, fresh), (2, fresh & labelled[slot])):
                    sums[place] += len(numbers) if exact else 0
                    sums[place + 1] += len(numbers)
            yield kit, sums[0], sums[1], sums[2], sums[3]


def leaves_of(kit: Fact) -> dict[int, set[str]]:
    """The leaf hashes that are known of a kit, by record number."""
    found: dict[int, set[str]] = defaultdict(set)
    for number, leaf in kit["leaves"]:
        found[number].add(leaf)
    return dict(found)
