# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device of the world: its TPM's counter, its disk, and the steps of recording, sealing and recovery.

Each ``yield`` is a moment at which the device may die. The order of the steps is that of edgeprov.device: segments,
counter_state, sequencer, seal, attest; FORMAT.md sections 8 to 10 and 20.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from tests.machine.disk import BLOCK, OPENINGS_A_DAY, Board, Disk, Segment, Spool, ranges_of
from tests.machine.values import (
    DAY,
    Head,
    Header,
    Kit,
    Lost,
    Named,
    OpenSegment,
    Row,
    Sealed,
    Standing,
    Stop,
    Tombstone,
)

if TYPE_CHECKING:
    from tests.machine.world import World

Steps = Generator[None, None, Any]
Cut = tuple[int, str] | None
"""At which step, and how: ``kill``, ``power``, ``full`` (the disk), ``copy`` (somebody copies the disk)."""


class Truth:
    """A record that was acknowledged."""

    __slots__ = ("at", "doubt", "enrollment", "leaf", "model", "n", "name", "shared", "slot", "true")

    def __init__(self, disk: Disk, header: Header, row: Row, true: int) -> None:
        self.enrollment, self.slot, self.n, self.leaf = header.enrollment, header.slot, row.n, row.leaf
        self.at, self.doubt, self.true = row.at, row.doubt, true
        self.model, self.name, self.shared = header.model, disk.name, header.shared


class Device:
    """One device; it does nothing without an enrollment, on another TPM than its disk knows, or once ended."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.board = world, world.new_board()
        self.disk = Disk(name)
        self.copies: list[tuple[Disk, int, Board]] = []
        self.offset, self.dead, self.on, self.full = 0, False, False, ""
        self.booted = False
        self.live: dict[tuple[str, int], Segment] = {}
        self.truth: list[Truth] = []

    # -- time -----------------------------------------------------------------------------------

    def stamp(self) -> tuple[int, bool]:
        wall = 0 if self.dead else max(self.world.now + self.offset, 0)
        return max(wall, self.disk.floor), wall < self.disk.floor

    # -- driver ---------------------------------------------------------------------------------

    def run(self, steps: Steps, cut: Cut = None) -> Any:
        """Run the steps; ``cut`` ends them early. None after a crash."""
        at = 0
        try:
            while True:
                if cut is not None and at == cut[0]:
                    if cut[1] == "copy":
                        self.copy()
                    else:
                        steps.close()
                        if cut[1] != "full":
                            self.down(cut[1])
                        return None
                next(steps)
                at += 1
        except StopIteration as end:
            return end.value

    def copy(self) -> None:
        self.copies.append((self.disk.copy(), self.board.counter, self.board))

    def up(self, cut: Cut = None) -> None:
        disk = self.disk
        if self.on or disk.enrollment is None or disk.ended or disk.board != self.board.name:
            return
        if not self.booted:
            self.board.boot()
            self.booted = True
        self.on = True
        self._recover_spools()
        self.run(self.recover(), cut)

    def down(self, how: str) -> None:
        if how == "power":
            for segment in self.disk.segments:
                lost = segment.rows[segment.synced :]
                self.world.lost_in_cut.update(row.leaf for row in lost)
                del segment.rows[segment.synced :]
            self.disk.clean = False
        else:
            self.end_sessions()
        self.live, self.on = {}, False
        self.booted = how == "kill" and self.booted

    def end_sessions(self) -> None:
        self.sync()
        for key in list(self.live):
            self._end_session(key)

    def sync(self) -> None:
        for segment in self.disk.segments:
            segment.sync()

    def _end_session(self, key: tuple[str, int]) -> None:
        segment = self.live.pop(key)
        segment.sync()
        segment.give_back(self.disk.spools[key[0]])

    def _recover_spools(self) -> None:
        disk = self.disk
        if disk.clean:
            return
        at = self.stamp()[0]
        for segment in disk.segments:
            for block in segment.blocks:
                if not block.open:
                    continue
                held = [row.n for row in segment.rows if block.first <= row.n < block.end]
                after = max(held, default=block.first - 1)
                block.open, block.next = False, block.end
                if after + 1 < block.end:
                    stop = Stop(segment.header.slot, segment.header.digest, after or None, block.end, at)
                    disk.spools[segment.header.slot].stops.append(stop)
            segment.closed = segment.closed or bool(segment.rows)
        disk.clean = True

    # -- numbers --------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Account for every number that the counter has reached."""
        disk, board = self.disk, self.board
        if disk.intent is not None and disk.head is not None and disk.head.seq == disk.intent["number"]:
            self.settle()
        disk.known = max(disk.known, disk.head.seq if disk.head else 0)
        quoted = [segment for segment in disk.segments if segment.quoted]
        new = [g.header for g in quoted if g.header.digest not in disk.tracked and g.header.number > disk.known]
        for header in sorted(new, key=lambda header: header.number):
            self._owe(range(disk.known + 1, header.number), "unknown")
            disk.opened(header)
        for segment in quoted:
            header = segment.header
            if header.digest not in disk.tracked and header.shared and header.prev == disk.newest:
                disk.opened(header)
        present = {segment.header.digest for segment in quoted}
        noted = {loss[0].header for losses in disk.losses.values() for loss in losses if loss[0] is not None}
        for digest, number in list(disk.tracked.items()):
            if digest not in present:
                del disk.tracked[digest]
                if digest not in noted:
                    disk.owed.append(Named(number, "damaged", digest))
        if disk.intent is not None and disk.known < disk.intent["number"] <= board.counter:
            self._owe(range(disk.known + 1, disk.intent["number"]), "unknown")
            self._owe([disk.intent["number"]], "crash")
        waiting = [g for g in disk.segments if not g.quoted and g.header.number == disk.known + 1]
        if board.counter > disk.known + bool(waiting):
            self._owe(range(disk.known + 1, board.counter + 1), "unknown")
            waiting = []
        disk.intent = None
        disk.segments = [g for g in disk.segments if g.quoted or g in waiting]

    def _owe(self, numbers: Any, reason: str) -> None:
        for number in numbers:
            self.disk.owed.append(Named(number, reason, None))
            self.disk.known = max(self.disk.known, number)

    def _take(self) -> int:
        if self.board.counter <= self.disk.known:
            self.board.counter += 1
        return self.disk.known + 1

    def recover(self) -> Steps:
        self.reconcile()
        yield
        if self.disk.owed:
            yield from self.tombstone(
                "default", sorted(self.disk.owed, key=lambda item: (item.number, item.header or 0))
            )
        for slot in list(self.disk.spools):
            yield from self._account(slot)

    # -- segments -------------------------------------------------------------------------------

    def session(self, slot: str, user: str, worker: int) -> Steps:
        """A session goes on in a segment of its kind, or opens one."""
        disk, key = self.disk, (slot, worker)
        segment = self.live.get(key)
        if segment is not None and segment.header.user == user:
            return segment
        if segment is not None:
            self._end_session(key)
        for segment in reversed(disk.segments):
            if segment.fits(self, slot, disk.active(slot), user, worker):
                self.live[key] = segment
                return segment
        segment = yield from self._open(slot, user, worker)
        self.live[key] = segment
        return segment

    def _open(self, slot: str, user: str, worker: int, *, after_kit: bool = False) -> Steps:
        disk = self.disk
        self.reconcile()
        last = disk.slots.get(slot)
        number, shared, count = disk.known + 1, False, disk.openings
        if not (after_kit or (last is not None and disk.head is not None and disk.head.seq > last)):
            day = max(disk.day, self.stamp()[0] // DAY)
            count = (disk.openings if day == disk.day else 0) + 1
            if count > OPENINGS_A_DAY and disk.segment is not None and self.board.counter <= disk.known:
                number, shared = disk.segment, True
            disk.day = day
        header = Header(
            self.world.uid(), disk.enrollment or "", disk.name, number, disk.newest, self.board.resets,
            slot, disk.active(slot), user, worker, shared,
        )  # fmt: skip
        segment = Segment(header)
        disk.segments.append(segment)
        yield
        disk.segments = [g for g in disk.segments if g.quoted or g is segment]
        if not shared:
            self._take()
            yield
        segment.quoted = True
        yield
        disk.openings = count if not shared else disk.openings
        disk.opened(header)
        return segment

    def record(self, slot: str, user: str, worker: int, count: int, cut: Cut = None) -> None:
        if not self.on or (self.full == "stop"):
            return
        if self.full:
            self.discard(slot)
        segment = self.run(self.session(slot, user, worker), cut)
        if segment is None or not self.on:
            return
        spool = self.disk.spools[slot]
        for _ in range(count):
            at, doubt = self.stamp()
            row = Row(segment.next_number(spool), at, doubt, self.world.uid())
            segment.rows.append(row)
            self.truth.append(Truth(self.disk, segment.header, row, self.world.now))

    def discard(self, slot: str) -> None:
        """The spool is full: end what is left open and give up the oldest segment; its loss is noted first."""
        disk = self.disk
        running = {segment.header.digest for segment in self.live.values()}
        for segment in disk.segments:
            header = segment.header
            if header.slot == slot and segment.quoted and segment.rows and header.digest not in running:
                segment.end(disk.spools[slot])
                disk.losses.setdefault(slot, []).append(
                    (_named(segment, "discarded"), segment.model, _lost(segment.rows, "discarded", segment.unused))
                )
                disk.segments.remove(segment)
                self.world.discarded.update(row.leaf for row in segment.rows)
                return

    # -- items ----------------------------------------------------------------------------------

    def _begin(self) -> tuple[int, int, bool]:
        at, doubt = self.stamp()
        floor = self.disk.floor
        self.disk.floor = max(floor, at)
        self.sync()
        return at, floor, doubt

    def _standing(self, moment: tuple[int, int, bool], *, but: Any = (), final: bool = False) -> Standing:
        listed = []
        for segment in self.disk.segments:
            if not segment.quoted or segment in but:
                continue
            header, rows = segment.header, segment.rows
            if rows:
                times = [row.at for row in rows]
                about = (rows[0].n, rows[-1].n, rows[-1].leaf, min(times), max(times), any(row.doubt for row in rows))
            else:
                about = (None, None, None, None, None, False)
            listed.append(OpenSegment(header.number, header.digest, header.slot, *about))
        stops = tuple(stop for spool in self.disk.spools.values() for stop in spool.stops)
        at, floor, doubt = moment
        return Standing(at, floor, doubt, final and not listed, self.disk.newest, tuple(sorted(listed)[:]), stops)

    def _number_item(self, intent: dict[str, Any]) -> Steps:
        disk = self.disk
        disk.intent = {"number": disk.known + 1, "segments": (), "losses": (), "named": (), "told": (), "stops": (), "events": 0, "labels": (), "slot": "default"} | intent  # fmt: skip
        yield
        disk.segments = [g for g in disk.segments if g.quoted]
        number = self._take()
        yield
        return number

    def _commit(self, item: Kit | Tombstone) -> Steps:
        yield  # signed and stored, but not yet the head of the series
        self.disk.head = item
        self.world.made.append((item, self.world.now))
        yield
        self.settle()

    def settle(self) -> None:
        """All that follows the commit of a kit or tombstone."""
        disk, intent, item = self.disk, self.disk.intent, self.disk.head
        assert intent is not None
        assert item is not None
        disk.known = max(disk.known, item.seq)
        disk.owed = [entry for entry in disk.owed if entry not in intent["named"]]
        sealed_now = {segment.header.digest for segment in intent["segments"]}
        for digest in sealed_now:
            disk.tracked.pop(digest, None)
        disk.segments = [g for g in disk.segments if g.header.digest not in sealed_now]
        disk.outbox.append(item)
        if isinstance(item, Kit):
            for sealed in item.segments:
                disk.numbers.update({(sealed.header.slot, row.n): sealed.header.model for row in sealed.rows})
        for slot, loss in intent["losses"]:
            disk.losses.setdefault(slot, []).append(loss)
        for slot, losses in disk.losses.items():
            told = [
                loss
                for loss in losses
                if (slot, loss) in intent["told"] or (loss[0] is not None and loss[0].header in sealed_now)
            ]
            disk.losses[slot] = [loss for loss in losses if loss not in told]
        for spool in disk.spools.values():
            spool.stops = [stop for stop in spool.stops if stop not in intent["stops"]]
        disk.events = disk.events[intent["events"] :]
        disk.labels = [label for label in disk.labels if label not in intent["labels"]]
        disk.sealed_at = self.world.now
        disk.intent = None

    def tombstone(self, slot: str, numbers: Any = (), losses: Any = ()) -> Steps:
        moment = self._begin()
        self.reconcile()
        standing = self._standing(moment)
        named = sorted(
            {*numbers, *(loss[0] for loss in losses if loss[0] is not None)}, key=lambda x: (x.number, x.header or 0)
        )
        lost = sorted(item for loss in losses for item in loss[2])
        number = yield from self._number_item({"named": tuple(named), "told": tuple((slot, loss) for loss in losses)})
        disk = self.disk
        yield from self._commit(
            Tombstone(
                self.world.uid(), disk.enrollment or "", disk.name, disk.certificate, number, disk.head.digest if disk.head else None,
                slot, disk.active(slot), tuple(named), tuple(lost), standing, self.board.resets, self.board.tick(),
            )
        )  # fmt: skip

    def seal(self, *, rest: bool = False) -> Steps:
        yield from self.recover()
        for slot in list(self.disk.spools):
            yield from self._rotate(slot)
            for work in self._plan(slot):
                yield from self._kit(slot, *work)
            yield from self._account(slot)
        old = self.disk.events and self.disk.events[0][1] <= self.world.now - DAY
        if old or (rest and (self.disk.events or self._empty())):
            yield from self._kit("default", self.disk.active("default"), [], self._empty(), [])

    def _rotate(self, slot: str) -> Steps:
        for key, segment in list(self.live.items()):
            if key[0] == slot and segment.rows:
                new = yield from self._open(slot, segment.header.user, key[1], after_kit=True)
                if new.header.model == segment.header.model:
                    self.live[key] = new
                else:
                    del self.live[key]
        running = {segment.header.digest for segment in self.live.values()}
        for segment in self.disk.segments:
            if segment.header.slot == slot and segment.rows and segment.header.digest not in running:
                segment.end(self.disk.spools[slot])

    def _account(self, slot: str) -> Steps:
        for model in dict.fromkeys(loss[1] for loss in self.disk.losses.get(slot, ())):
            yield from self.tombstone(slot, (), [loss for loss in self.disk.losses[slot] if loss[1] == model])

    def _empty(self) -> list[Segment]:
        return [
            g
            for g in self.disk.segments
            if g.quoted and not g.rows and not g.rotten and g.header.boot != self.board.resets
        ]

    def _plan(self, slot: str) -> list[tuple[str, list[Segment], list[Segment], list[Any]]]:
        disk = self.disk
        closed = [g for g in disk.segments if g.header.slot == slot and g.closed and g.rows]
        for segment in [g for g in closed if g.rotten == "all"]:
            closed.remove(segment)
            self.world.discarded.update(row.leaf for row in segment.rows)
            disk.losses.setdefault(slot, []).append(
                (_named(segment, "damaged"), segment.model, _lost(segment.rows, "damaged", segment.unused, known=False))
            )
            disk.segments.remove(segment)
        plan: list[tuple[str, list[Segment], list[Segment], list[Any]]] = []
        for segment in sorted(closed, key=lambda g: (g.header.number, g.header.digest)):
            if not plan or plan[-1][0] != segment.header.model:
                plan.append((segment.header.model, [], [], []))
            plan[-1][1].append(segment)
        for model in dict.fromkeys(label[1] for label in disk.labels if label[0] == slot):
            labels = [label for label in disk.labels if label[:2] == (slot, model)]
            known = [
                label
                for label in labels
                if (slot, label[2].n) in disk.numbers or any(row.n == label[2].n for g in closed for row in g.rows)
            ]
            mine = [work for work in plan if work[0] == model]
            if mine:
                mine[-1][3].extend(known)
            elif known:
                plan.append((model, [], [], known))
        if plan:
            plan[0][2].extend(self._empty())
        return plan

    def _kit(self, slot: str, model: str, segments: list[Segment], empty: list[Segment], labels: list[Any]) -> Steps:
        disk = self.disk
        moment = self._begin()
        self.reconcile()
        held = sorted([*segments, *empty], key=lambda g: (g.header.number, g.header.digest))
        standing = self._standing(moment, but=held)
        sealed, losses = [], []
        for segment in held:
            rows = segment.rows[::2] if segment.rotten == "part" else segment.rows
            gone = segment.rows[1::2] if segment.rotten == "part" else []
            if gone:
                self.world.discarded.update(row.leaf for row in gone)
                losses.append((slot, (None, segment.header.model, _lost(gone, "damaged", [], known=False))))
            sealed.append(Sealed(segment.header, tuple(rows), tuple(segment.unused)))
        events = tuple(disk.events)
        intent = {"segments": held, "losses": losses, "stops": standing.stops, "events": len(events), "labels": labels}
        number = yield from self._number_item(intent)
        yield from self._commit(
            Kit(
                self.world.uid(), disk.enrollment or "", disk.name, disk.certificate, number, disk.head.digest if disk.head else None,
                slot, model, tuple(sealed), tuple(label[2] for label in labels), standing, events,
                self.board.resets, self.board.tick(),
            )
        )  # fmt: skip

    def attest(self, *, nonce_at: int | None = None, final: bool = False) -> Steps:
        """A head; with ``final`` the end of the enrollment, if nothing is open."""
        yield from self.recover()
        if self.board.counter > self.disk.known:
            yield from self.tombstone("default")
        moment = self._begin()
        self.reconcile()
        disk = self.disk
        standing = self._standing(moment, final=final)
        if final and not standing.final:
            return None
        disk.ended = disk.ended or final
        head = Head(
            self.world.uid(), disk.enrollment or "", disk.name, disk.known, disk.head.digest if disk.head else None,
            nonce_at, standing, self.board.resets, self.board.tick(),
        )  # fmt: skip
        self.world.made.append((head, self.world.now))
        return head


def _named(segment: Segment, reason: str) -> Named:
    return Named(segment.header.number, reason, segment.header.digest)


def _lost(rows: list[Row], reason: str, unused: list[tuple[int, int]], *, known: bool = True) -> tuple[Lost, ...]:
    """Ranges of lost records, with numbers of the segment that were never given: ``count`` is below the range then."""
    result = []
    numbers = [row.n for row in rows]
    for first, last in ranges_of([*numbers, *(n for low, high in unused for n in range(low, high + 1))]):
        times = [row.at for row in rows]
        least, greatest = (min(times), max(times)) if known else (None, None)
        doubt = not known or any(row.doubt for row in rows)
        count = max(sum(first <= n <= last for n in numbers), 1)
        result.append(Lost(first, last, count, least, greatest, doubt, reason))
    return tuple(result)


__all__ = ["BLOCK", "Cut", "Device", "Spool", "Truth"]
