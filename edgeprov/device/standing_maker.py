# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The standing of the device: the list of segments that no kit holds yet, for a kit, head or tombstone.

Before it is made, every recorder writes out what it has in memory; what is listed is synced first. So nothing
that an item of this device has shown can be lost by a power cut.

Spec: FORMAT.md section "Standing".
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprov._dataclass import dataclass
from edgeprov.device.proved_time import Stamp, raise_floor, stamp
from edgeprov.device.rotation import reach, request_sync
from edgeprov.device.segment_summary import SegmentSummary, summarize
from edgeprov.errors import FormatError, NotStored
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.formats.standing import OpenSegment, Standing, Stop
from edgeprov.store.atomic import sync_file
from edgeprov.store.spool import SegmentInfo, SpoolStop, read_segment

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenItem:
    """A quoted segment in the spool of a slot."""

    slot: str
    info: SegmentInfo
    header: SegmentHeader


class StandingMaker:
    """Makes standings; a segment that did not change meanwhile is read once."""

    def __init__(self, context: Context, state: State) -> None:
        """Read nothing yet."""
        self._context = context
        self._state = state
        self._known: dict[tuple[Path, int], SegmentSummary | None] = {}

    def begin(self) -> Stamp:
        """Take the time, raise the proved bound to it, and have every recorder write out what it has in memory.

        Not under COUNTER_LOCK: a recorder may wait for that before it answers.

        Raises:
            StoreError: A recorder does not answer, or a spool cannot be recovered.
        """
        moment = stamp(self._context, self._state)
        raise_floor(self._state, moment.at_ns)  # before recorders are told, so that none stamps below it
        for slot in self._state.slots():
            self._write_out(slot)
        return moment

    def _write_out(self, slot: str) -> None:
        for lane in self._state.spool(slot).lanes():
            reach(partial(request_sync, self._context, lane.name), lane.recover)

    def make(
        self, moment: Stamp, newest: bytes | None, *, sealed: Collection[Path] = (), final: bool = False
    ) -> tuple[Standing, list[list[Any]]]:
        """The standing, under COUNTER_LOCK, after begin().

        Args:
            moment: What begin() returned.
            newest: SHA-256 of the header that was opened last.
            sealed: Segments that the kit itself holds.
            final: Nothing follows under this enrollment.

        Returns:
            The standing, and its stops as rows of an intent, for forget_stops().

        Raises:
            StoreError: The spool cannot be read, or the disk failed.
        """
        items = []
        for item in quoted_segments(self._state):
            if item.info.path in sealed:
                continue
            summary = self._summary(item.info)
            items.append(
                OpenSegment(
                    number=item.header.number,
                    header=item.header.sha256,
                    slot=item.slot,
                    first=summary.first if summary else None,
                    last=summary.last if summary else None,
                    leaf=summary.leaf if summary else None,
                    least_ns=summary.least_ns if summary else None,
                    greatest_ns=summary.greatest_ns if summary else None,
                    flags=summary.flags if summary else 0,
                )
            )
        stops = [(slot, stop) for slot in self._state.slots() for stop in self._state.spool(slot).stops()]
        standing = Standing(
            at_ns=moment.at_ns,
            floor_ns=moment.floor_ns,
            doubt=moment.doubt,
            final=final and not items,
            newest=newest,
            open=tuple(sorted(items, key=lambda item: (item.number, item.header))),
            stops=tuple(_stop(slot, stop) for slot, stop in stops),
        )
        rows = [
            [slot, stop.header.hex() if stop.header else None, stop.after, stop.resumed, stop.bound_ms, stop.at_ns]
            for slot, stop in stops
        ]
        return standing, rows

    def _summary(self, info: SegmentInfo) -> SegmentSummary | None:
        key = (info.path, info.size_bytes)
        if info.closed and key in self._known:
            return self._known[key]
        with suppress(NotStored):
            summary = summarize(read_segment(info.path), size_bytes=info.size_bytes)
            if not info.closed:
                sync_file(info.path)
            self._known[key] = summary
            return summary
        return None


def quoted_segments(state: State) -> list[OpenItem]:
    """Segments of all slots that have a quote, in order of opening within a slot.

    Raises:
        StoreError: The spool cannot be read.
    """
    found = []
    for slot in state.slots():
        for info in state.spool(slot).segments():
            with suppress(NotStored, FormatError):
                segment = read_segment(info.path)
                if segment.header and segment.evidence:
                    found.append(OpenItem(slot=slot, info=info, header=parse_segment_header(segment.header)))
    return found


def forget_stops(state: State, rows: Collection[Collection[Any]]) -> None:
    """Drop the stops that a kit carries. Repeating it changes nothing.

    Raises:
        StoreError: The state cannot be written.
    """
    by_slot: dict[str, list[SpoolStop]] = {}
    for slot, header, after, resumed, bound_ms, at_ns in rows:
        stop = SpoolStop(
            header=bytes.fromhex(header) if header else None,
            after=after,
            resumed=resumed,
            bound_ms=bound_ms,
            at_ns=at_ns,
        )
        by_slot.setdefault(str(slot), []).append(stop)
    for slot, stops in by_slot.items():
        state.spool(slot).forget_stops(stops)


def _stop(slot: str, stop: SpoolStop) -> Stop:
    return Stop(
        slot=slot,
        header=stop.header or bytes(32),
        after=stop.after or None,
        resumed=stop.resumed,
        bound_ms=stop.bound_ms,
        at_ns=stop.at_ns,
    )
