# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The durable state of a device of the world: TPM, spool files, and the documents beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tests.machine.values import Header, Kit, LabelRow, Named, Row, Stop, Tombstone

if TYPE_CHECKING:
    from tests.machine.device import Device

BLOCK = 4
OPENINGS_A_DAY = 3


class Board:
    """The TPM: a counter that only rises, resets, a clock that orders what it attests."""

    def __init__(self, name: str, counter: int) -> None:
        self.name, self.counter, self.resets, self.clock = name, counter, 0, 0

    def boot(self) -> None:
        self.resets += 1

    def tick(self) -> int:
        self.clock += 1
        return self.clock


class Block:
    """Numbers that a session has for itself: ``first`` to ``end`` (not included), ``next`` is given next."""

    __slots__ = ("end", "first", "next", "open")

    def __init__(self, first: int, end: int) -> None:
        self.first, self.next, self.end, self.open = first, first, end, True

    def copy(self) -> Block:
        other = Block(self.first, self.end)
        other.next, other.open = self.next, self.open
        return other


class Spool:
    """Numbers and unclean stops of a slot."""

    __slots__ = ("given", "stops")

    def __init__(self) -> None:
        self.given, self.stops = 1, list[Stop]()

    def copy(self) -> Spool:
        other = Spool()
        other.given, other.stops = self.given, list(self.stops)
        return other


class Segment:
    """A file of the spool."""

    __slots__ = ("blocks", "closed", "header", "quoted", "rotten", "rows", "synced", "unused")

    def __init__(self, header: Header) -> None:
        self.header, self.quoted, self.closed, self.synced = header, False, False, 0
        self.rows, self.blocks, self.unused = list[Row](), list[Block](), list[tuple[int, int]]()
        self.rotten = ""

    @property
    def model(self) -> str:
        return self.header.model

    def copy(self) -> Segment:
        other = Segment(self.header)
        other.quoted, other.closed, other.synced, other.rotten = self.quoted, self.closed, self.synced, self.rotten
        other.rows, other.blocks, other.unused = list(self.rows), [b.copy() for b in self.blocks], list(self.unused)
        return other

    def fits(self, device: Device, slot: str, model: str, user: str, worker: int) -> bool:
        h, disk = self.header, device.disk
        here = (h.boot, h.enrollment, h.name) == (device.board.resets, disk.enrollment, disk.name)
        return (
            here
            and self.quoted
            and not self.closed
            and (h.slot, h.model, h.user, h.worker) == (slot, model, user, worker)
        )

    def next_number(self, spool: Spool) -> int:
        block = self.blocks[-1] if self.blocks else None
        if block is None or block.next >= block.end:
            block = Block(spool.given, spool.given + BLOCK)
            spool.given = block.end
            self.blocks.append(block)
        block.next += 1
        return block.next - 1

    def sync(self) -> None:
        self.synced = len(self.rows)
        for block in self.blocks:
            block.open = block.open and block.next < block.end

    def give_back(self, spool: Spool) -> None:
        """Give the rest of the last block back, where no other session has got numbers meanwhile."""
        block = self.blocks[-1] if self.blocks else None
        if block is not None and block.open and block.end == spool.given:
            spool.given = block.end = block.next
            block.open = False

    def end(self, spool: Spool) -> None:
        """END: no more records; numbers of its blocks that were never given are named."""
        if self.closed:
            return
        self.sync()
        self.give_back(spool)
        for block in self.blocks:
            if block.open and block.next < block.end:
                self.unused.append((block.next, block.end - 1))
                block.next, block.open = block.end, False
        self.closed = True


class Disk:
    """All that survives a loss of power."""

    def __init__(self, name: str) -> None:
        self.name, self.board = name, ""
        self.enrollment: str | None = None
        self.certificate = self.base = self.known = self.floor = self.day = self.openings = self.sealed_at = 0
        self.segments: list[Segment] = []
        self.spools: dict[str, Spool] = {"default": Spool(), "b": Spool()}
        self.models: dict[str, str] = {"default": "A", "b": "A"}
        self.slots: dict[str, int] = {}
        self.tracked: dict[int, int] = {}
        self.owed: list[Named] = []
        self.losses: dict[str, list[Any]] = {}
        self.events: list[tuple[str, int]] = []
        self.labels: list[tuple[str, str, LabelRow]] = []
        self.numbers: dict[tuple[str, int], str] = {}
        self.outbox: list[Any] = []
        self.intent: dict[str, Any] | None = None
        self.head: Kit | Tombstone | None = None
        self.newest: int | None = None
        self.segment: int | None = None
        self.ended, self.clean = False, True

    def active(self, slot: str) -> str:
        return self.models[slot]

    def opened(self, header: Header) -> None:
        self.known = max(self.known, header.number)
        self.newest, self.segment = header.digest, header.number
        self.slots[header.slot] = header.number
        self.tracked[header.digest] = header.number

    def copy(self) -> Disk:
        other = Disk.__new__(Disk)
        other.__dict__.update(self.__dict__)
        other.segments = [segment.copy() for segment in self.segments]
        other.spools = {slot: spool.copy() for slot, spool in self.spools.items()}
        other.losses = {slot: list(losses) for slot, losses in self.losses.items()}
        for name in ("models", "slots", "tracked", "numbers"):
            setattr(other, name, dict(getattr(self, name)))
        for name in ("owed", "events", "labels", "outbox"):
            setattr(other, name, list(getattr(self, name)))
        return other


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if result and n == result[-1][1] + 1:
            result[-1] = (result[-1][0], n)
        else:
            result.append((n, n))
    return result
