# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a dead writer left in its lane of a spool: torn tails are cut, its ring is copied, its stop is noted."""

from __future__ import annotations

import time
from typing import Final

from edgeprov._dataclass import replace
from edgeprov.errors import FormatError
from edgeprov.store.atomic import DurableFile, sweep
from edgeprov.store.frames import END, Range, Segment, load_segment_info, numbering, read_segment
from edgeprov.store.number_blocks import LanePlace
from edgeprov.store.ring import RingReader
from edgeprov.store.ring_file import RingFile, copy_ring
from edgeprov.store.segment_file import Quarantine, end_file, is_damaged, lane_of, segment_infos
from edgeprov.store.spool_head import (
    FIRST_NUMBER,
    RESERVED_NUMBERS,
    OpenState,
    SpoolHead,
    SpoolStop,
    add_stop,
    load_head,
    save_head,
)

_UNKNOWN_BOUND_MS: Final = 2**53 - 1  # where the document that told it is lost


class LaneRecovery:
    """Makes one lane whole again; its writer lock is held."""

    def __init__(self, place: LanePlace, ring: RingFile, quarantine: Quarantine) -> None:
        """Look at nothing yet.

        Args:
            place: The lane.
            ring: Of the lane.
            quarantine: Moves damage out of the way.
        """
        self._place = place
        self._ring = ring
        self._quarantine = quarantine

    def run(self, *, resume: bool) -> tuple[SpoolHead, RingReader | None]:
        """Cut torn tails, copy what waits in the ring, skip numbers that may have been given, and note that stop.

        Args:
            resume: The application that appends may be alive; its ring is kept.

        Returns:
            The lane's document as it is now, and the owner's end of a ring from which copying goes on, if any.

        Raises:
            StoreBusy: An application appends, and ``resume`` is false.
            StoreError: The folder cannot be read or written.
        """
        sweep(self._place.folder)
        found = self._load_head()
        reserved = found.reserved if found else None
        reader = copy_ring(self._ring, self._place.folder, self._quarantine, resume=resume, reserved=reserved)
        try:
            keep = resume and reader is not None
            return self._recover_numbers(found, ended_clean=reader is not None, keep=keep), reader
        except BaseException:
            if reader is not None:
                reader.close()
            raise

    def _recover_numbers(self, found: SpoolHead | None, *, ended_clean: bool, keep: bool) -> SpoolHead:
        """Recover once the ring was copied; ``ended_clean``: it was there, so that a killed writer lost nothing."""
        known = found or SpoolHead()
        next_n = known.next
        last, order = FIRST_NUMBER - 1, known.order
        opened: dict[str, OpenState] = {}
        rebuilt_open = False
        for info in segment_infos(self._place.folder):
            path, order = info.path, max(order, info.order)
            if lane_of(path) != self._place.lane:
                continue
            segment = read_segment(path)
            state = known.open.get(path.name)
            clean = state is not None and state.size == info.size_bytes
            if info.next_n is None and not clean and self._cut_behind_end(segment):
                info = load_segment_info(path)  # noqa: PLW2901
            if info.next_n is not None:
                next_n = max(next_n, info.next_n)
                last = max([last, *(high for _, high in info.ranges)])
                ended_clean |= known.writing is not None and path.name == known.writing.name
                continue
            if not segment.header:
                self._quarantine(path, f"segment without a header: {info.size_bytes} bytes")
                rebuilt_open = True
                continue
            if not segment.evidence:
                continue  # whoever opens the next segment takes its number
            rebuilt_open |= found is None
            if not clean:
                state, following = self._mend(segment, known.reserved if found else 2**62)
                next_n = max(next_n, following)  # where a block was changed, and the document does not say so
            if state is not None:
                opened[path.name] = state
            ranges = state.ranges if state is not None else load_segment_info(path).ranges
            last = max([last, *(high for _, high in ranges)])
        next_n = max(next_n, last + 1)
        resumed = next_n
        if found is None:  # the document that told how many were reserved is lost, or there was none yet
            first, end = self._place.blocks.newest(next_n)
            next_n = max(next_n, first)
            resumed = max(next_n + RESERVED_NUMBERS if rebuilt_open else next_n, end)
        elif not ended_clean and (known.writing is not None or rebuilt_open):
            resumed = max(known.reserved, next_n)
        if resumed > next_n:
            self._note_stop(known, next_n, resumed)
            next_n = resumed
        head = SpoolHead(reserved=max(known.reserved, next_n), next=next_n, order=order, writing=None, open=opened)
        return self._give_back(head, found, keep=keep)

    def _note_stop(self, known: SpoolHead, next_n: int, resumed: int) -> None:
        writing = known.writing
        stop = SpoolStop(
            header=writing.header if writing else None,
            after=next_n - 1,
            resumed=resumed,
            bound_ms=writing.bound_ms if writing else _UNKNOWN_BOUND_MS,
            at_ns=max(time.time_ns(), 0),
        )
        add_stop(self._place.folder, stop)

    def _give_back(self, head: SpoolHead, found: SpoolHead | None, *, keep: bool) -> SpoolHead:
        """Save the document, and with ``keep`` the numbers that a living application may use."""
        saved = head

        def save(reserved: int) -> None:
            nonlocal saved
            saved = replace(head, reserved=reserved)
            if saved != found:
                save_head(self._place.head, saved)

        reserved = self._place.blocks.end_of(head.reserved)
        if keep:
            save(reserved)
        else:
            self._place.blocks.give_back(reserved, head.next, save)
        return saved

    def _cut_behind_end(self, segment: Segment) -> bool:
        """Cut the space that was set aside behind an END frame; False when the segment has none."""
        if not any(kind == END for kind, _ in segment.frames()):
            return False
        with DurableFile(segment.path, create=False) as file:
            file.truncate(segment.valid_bytes)
            file.sync()
        return True

    def _mend(self, segment: Segment, bound: int) -> tuple[OpenState | None, int]:
        """Cut an open segment behind its last whole frame; None where damage ended it. And its next number, or 0."""
        ranges, following = numbering(segment.frames())
        size = segment.valid_bytes
        if segment.torn and is_damaged(segment, self._quarantine):
            ranges = _with_salvaged(ranges, following, segment, bound)
            end_file(segment, ranges, max([0, *(last + 1 for _, last in ranges)]), cut=None)
            return None, 0
        with DurableFile(segment.path, create=False) as file:
            if file.size != size:
                file.truncate(size)
            file.sync()
        return OpenState(size=size, ranges=ranges), following or 0

    def _load_head(self) -> SpoolHead | None:
        try:
            return load_head(self._place.head)
        except FormatError as error:
            self._quarantine(self._place.head, error.message)
            return None


def _with_salvaged(ranges: tuple[Range, ...], following: int | None, segment: Segment, bound: int) -> tuple[Range, ...]:
    """Ranges of a damaged open segment, with the numbers up to the highest that any frame behind the damage names."""
    from edgeprov.store.salvage import salvaged_end

    try:
        end = salvaged_end(segment, end=bound)
    except FormatError:
        return ranges
    if following is None or end <= following:
        return ranges
    if ranges and ranges[-1][1] == following - 1:
        return (*ranges[:-1], (ranges[-1][0], end - 1))
    return (*ranges, (following, end - 1))
