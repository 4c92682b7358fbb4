# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Record numbers of a slot, given to its writers in blocks: several sessions of one slot record at once.

``blocks.json`` says which number no writer has yet, and the newest block of each lane (a place for one writer). A
block grows while it is the last one; so a slot with one writer has no gaps. It is written before the writer's own
document says that it has the block: a block that a crash left between the two is given to the same lane again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeprov._dataclass import dataclass, replace
from edgeprov.errors import FormatError, NotStored, StoreError
from edgeprov.formats.jsonx import encode_json, get_int, parse_json_object
from edgeprov.limits import KIB
from edgeprov.store.atomic import load_bytes, save_bytes, translated
from edgeprov.store.frames import Range
from edgeprov.store.lock import lock
from edgeprov.store.segment_file import Quarantine, segment_infos
from edgeprov.store.spool_head import FIRST_NUMBER, RESERVED_NUMBERS, load_head

_MAX_BYTES: Final = 64 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """The document: the first number that nobody has, and the newest block of each lane (its end not included)."""

    next: int
    lanes: Mapping[int, Range]


class NumberBlocks:
    """The blocks of one slot, as one of its writers sees them."""

    def __init__(self, folder: Path, lane: int, quarantine: Quarantine) -> None:
        """Use the document of a slot's folder; nothing is read yet.

        Args:
            folder: The slot's.
            lane: Of the writer.
            quarantine: Moves a damaged document out of the way.
        """
        self._folder = folder
        self._lane = lane
        self._quarantine = quarantine

    def claim(self, reserved: int, count: int) -> Range:
        """Take a block of its own, durably.

        Args:
            reserved: The end of the block that the writer knows of.
            count: Numbers.

        Returns:
            Its first number, and the number behind its last.

        Raises:
            StoreError: The document cannot be written.
        """
        with lock(self._folder / "blocks.lock", wait=True):
            blocks = self._load()
            pending = blocks.lanes.get(self._lane)
            if pending is not None and pending[0] >= reserved and pending[1] > pending[0]:
                return pending  # taken before a crash, and the writer's own document does not say so
            first = max(blocks.next, reserved)
            taken = (first, first + count)
            self._save(replace(blocks, next=taken[1], lanes={**blocks.lanes, self._lane: taken}))
            return taken

    def extend(self, reserved: int, wanted: int) -> int:
        """Let the block that ends at ``reserved`` end at ``wanted``, durably, where no other block follows it.

        Returns:
            Where it ends now.

        Raises:
            StoreError: The document cannot be written.
        """
        if wanted <= reserved:
            return reserved
        with lock(self._folder / "blocks.lock", wait=True):
            blocks = self._load()
            first, end = blocks.lanes.get(self._lane, (reserved, reserved))
            if first <= reserved < end:
                reserved = end  # extended before, and the writer's own document could not be written
            if blocks.next != reserved or wanted <= reserved:
                return reserved
            self._save(replace(blocks, next=wanted, lanes={**blocks.lanes, self._lane: (first, wanted)}))
            return wanted

    def end_of(self, n: int) -> int:
        """Where the lane's newest block ends, if ``n`` is in it or right behind it; else ``n``.

        Raises:
            StoreError: The document cannot be read.
        """
        first, end = self.newest(n)
        return end if first <= n <= end else n

    def newest(self, n: int) -> Range:
        """The lane's newest block, its end not included; an empty one at ``n`` where it never had one.

        Raises:
            StoreError: The document cannot be read.
        """
        with lock(self._folder / "blocks.lock", wait=True):
            return self._load().lanes.get(self._lane, (n, n))

    def give_back(self, reserved: int, next_n: int, save: Callable[[int], None]) -> None:
        """Shorten the block that ends at ``reserved`` to ``next_n``, where no other block follows it.

        Args:
            reserved: Its end.
            next_n: The first of its numbers that was not given.
            save: Writes the end that the block has from now on into the writer's own document; called once.

        Raises:
            StoreError: ``save`` failed.
        """
        with lock(self._folder / "blocks.lock", wait=True):
            blocks = self._load()
            last = blocks.next == reserved
            save(next_n if last else reserved)
            if last and next_n < reserved:
                first, _ = blocks.lanes.get(self._lane, (next_n, next_n))
                shorter = {**blocks.lanes, self._lane: (min(first, next_n), next_n)}
                with suppress(StoreError):  # then the lane finds the whole block again
                    self._save(replace(blocks, next=next_n, lanes=shorter))

    def _load(self) -> _Blocks:
        path = self._folder / "blocks.json"
        try:
            return _parse(load_bytes(path, max_bytes=_MAX_BYTES, what="blocks of numbers"))
        except NotStored:
            return _Blocks(next=self._known_end(), lanes={})
        except FormatError as error:
            self._quarantine(path, error.message)
            return _Blocks(next=self._known_end() + RESERVED_NUMBERS, lanes={})

    def _known_end(self) -> int:
        """The number behind all that the other documents and the segments name."""
        end = FIRST_NUMBER
        with translated(self._folder):
            paths = list(self._folder.glob("head*.json"))
        for path in paths:
            with suppress(FormatError):
                head = load_head(path)
                end = max(end, head.reserved if head else end)
        for info in segment_infos(self._folder):
            end = max([end, *(last + 1 for _, last in info.ranges)])
        return end

    def _save(self, blocks: _Blocks) -> None:
        lanes = {str(lane): list(block) for lane, block in sorted(blocks.lanes.items())}
        save_bytes(self._folder / "blocks.json", encode_json({"v": 1, "next": blocks.next, "lanes": lanes}))


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePlace:
    """Where the documents and segments of one lane are.

    Attributes:
        folder: The slot's.
        lane: Its number.
        head: Its document.
        blocks: The slot's blocks of numbers, as this lane sees them.
    """

    folder: Path
    lane: int
    head: Path
    blocks: NumberBlocks


def _parse(raw: bytes) -> _Blocks:
    obj = parse_json_object(raw, "blocks of numbers", max_bytes=_MAX_BYTES)
    try:
        lanes = {int(lane): (int(first), int(end)) for lane, (first, end) in dict(obj["lanes"]).items()}
        return _Blocks(next=get_int(obj, "next", "blocks of numbers"), lanes=lanes)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"blocks of numbers: {error}") from error
