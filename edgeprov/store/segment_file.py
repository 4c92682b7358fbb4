# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a spool: how a segment begins, gets its space on the disk, and ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeprov.errors import NotStored, StoreError, StoreFull
from edgeprov.limits import KIB, MIB
from edgeprov.store.atomic import DurableFile, exists, open_temporary, remove, rename, save_bytes, sync_dir, translated
from edgeprov.store.frames import (
    EVIDENCE,
    HEADER,
    Range,
    Segment,
    SegmentInfo,
    count_of,
    encode_end,
    encode_frame,
    load_segment_info,
    read_segment,
    verify_length,
)

if TYPE_CHECKING:
    from edgeprov.store.position import Quota

Quarantine = Callable[[Path, str], Path]

_NAME: Final = re.compile(r"([0-9]{20})(?:-([1-9][0-9]?))?\.seg")

ALLOCATED_BYTES: Final = 256 * KIB  # set aside at once
_TAIL_BYTES: Final = 1 * MIB  # of a damaged tail that is kept in quarantine
_SPARE_RANGES: Final = 8  # room that an END frame has at the least


def end_bytes(ranges: int) -> int:
    """Bytes to keep free for the END frame of a segment with so many ranges."""
    return len(encode_end(0, 0, ((0, 0),) * (ranges + _SPARE_RANGES)))


class NewSegment:
    """A segment whose header is on the disk, and which takes records once its evidence is there as well.

    Attributes:
        header_sha256: SHA-256 of its header.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        """Write the header under the segment's name, durably.

        Raises:
            LimitError: The header is too long.
            StoreFull: No space.
            StoreError: A file of this name is there, or the disk failed. No file is left.
        """
        verify_length(header, HEADER)
        self.header_sha256 = sha256(header).digest()
        self.file = _create(path, encode_frame(HEADER, header))

    @classmethod
    def opened(cls, path: Path) -> NewSegment:
        """A segment that another process wrote, header and evidence.

        Raises:
            NotStored: No such file.
            StoreError: It cannot be opened.
        """
        new = cls.__new__(cls)
        segment = read_segment(path)
        new.header_sha256 = sha256(segment.header).digest()
        new.file = DurableFile(path, create=False)
        new.file.size = segment.valid_bytes  # behind it lies space that was set aside
        return new

    @property
    def path(self) -> Path:
        """Its file."""
        return self.file.path

    def start(self, evidence: bytes) -> None:
        """Add the evidence, durably: from now on this header is never written again.

        Raises:
            LimitError: The evidence is too long.
            StoreFull: No space; the segment can be started again later.
            StoreError: The disk failed.
        """
        verify_length(evidence, EVIDENCE)
        size = self.file.size
        try:
            self.file.allocate(size + len(evidence) + end_bytes(1))
            self.file.write(encode_frame(EVIDENCE, evidence))
            self.file.sync()
        except StoreFull:
            with suppress(StoreError):
                self.file.truncate(size)
            raise

    def close(self) -> None:
        """Give the file up as it is; nothing that was written is undone."""
        self.file.close()


def _create(path: Path, frames: bytes) -> DurableFile:
    if exists(path):
        raise StoreError(f"segment {path.name} is there already")
    file = open_temporary(path.parent)
    try:
        file.write(frames)
        file.sync()
        rename(file.path, path)
        file.path = path
        sync_dir(path.parent)
    except BaseException:
        with suppress(StoreError):
            remove(file.path)
        file.close()
        raise
    return file


def end_segment(file: DurableFile, ranges: Sequence[Range], next_n: int, *, unsynced: bool) -> None:
    """Write the END frame, durably.

    Args:
        file: The segment, with all its rows written.
        ranges: Numbers of its records.
        next_n: Number after the slot's last record.
        unsynced: Some rows were not synced yet.

    Raises:
        StoreError: The disk failed.
    """
    if unsynced:
        file.sync()  # an END frame vouches for what is before it, so it must not reach the disk first
    file.write(encode_end(count_of(ranges), next_n, ranges))
    file.truncate(file.size)
    file.sync()


def end_file(
    segment: Segment, ranges: Sequence[Range], next_n: int, *, cut: int | None, records: int | None = None
) -> None:
    """Close a file that its writer left open, cut at ``cut`` (behind the last whole frame) or left as it is.

    Args:
        segment: A segment or a label log.
        ranges: Numbers of its records; none for a label log.
        next_n: Number after it.
        cut: Where it ends.
        records: Rows of a label log.

    Raises:
        StoreError: The disk failed.
    """
    with DurableFile(segment.path, create=False) as file:
        if cut is not None:
            file.truncate(cut)
        file.sync()  # an END frame vouches for what is before it, so it must not reach the disk first
        file.write(encode_end(count_of(ranges) if records is None else records, next_n, ranges))
        file.sync()


def segment_paths(folder: Path) -> list[Path]:
    """Segments or label logs in a folder, in order of opening.

    Raises:
        StoreError: The folder cannot be read.
    """
    with translated(folder):
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.glob("*.seg") if _NAME.fullmatch(path.name))


def segment_infos(folder: Path) -> Iterator[SegmentInfo]:
    """A look at the end of each segment, in order of opening. Errors as in segment_paths."""
    for path in segment_paths(folder):
        with suppress(NotStored):  # freed meanwhile
            yield load_segment_info(path)


def segment_name(order: int, lane: int) -> str:
    """The name of a segment file: names rise in order of opening, and those of two lanes differ."""
    return f"{order:020d}{lane_suffix(lane)}.seg"


def lane_of(path: Path) -> int:
    """The lane whose writer opened a segment."""
    found = _NAME.fullmatch(path.name)
    return int(found[2] or 0) if found else 0


def lane_suffix(lane: int) -> str:
    """What the names of a lane's files have behind their stem."""
    return f"-{lane}" if lane else ""


def is_damaged(segment: Segment, quarantine: Quarantine) -> bool:
    """Whether what is no frame, in an open segment, is damage in front of acknowledged rows; frames() was read."""
    from edgeprov.store.salvage import damage_within

    damaged = damage_within(segment)
    if damaged is False:
        with translated(segment.path), segment.path.open("rb") as file:
            file.seek(segment.valid_bytes)
            tail = file.read(_TAIL_BYTES)
        copy = segment.path.with_name(f"{segment.path.stem}.tail")
        save_bytes(copy, tail)
        quarantine(copy, f"bytes of {segment.path.name} behind a gap at {segment.valid_bytes}")
    return bool(damaged)


class SegmentSpace:
    """Space of one segment after the other.

    Attributes:
        allocated: Bytes of the open segment's file that the disk has set aside.
    """

    def __init__(self, quota: Quota | None) -> None:
        """Set nothing aside yet; without a quota only the disk limits."""
        self._quota = quota
        self.allocated = 0

    def verify_quota(self, more_bytes: int) -> int:
        """Require that ``more_bytes`` still fit.

        Returns:
            How many bytes would fit.

        Raises:
            StoreFull: They do not.
        """
        if self._quota is None:
            return ALLOCATED_BYTES + more_bytes
        used = self._quota.usage()
        left = self._quota.limit_bytes - used
        if more_bytes > left:
            raise StoreFull(f"{used} of {self._quota.limit_bytes} bytes of the quota are in use")
        return left

    def allocate(self, file: DurableFile, needed: int) -> None:
        """Set ``needed`` bytes aside for a segment, and as much more as quota and disk give.

        Raises:
            StoreFull: Not so much is left.
            StoreError: The disk failed.
        """
        left = self.verify_quota(needed - self.allocated)
        # All that quota and disk still give, so that the next look at them is far away.
        for more in (ALLOCATED_BYTES, ALLOCATED_BYTES // 16, 0):
            size = min(needed + more, self.allocated + left)
            try:
                file.allocate(size)
            except StoreFull:
                if not more:
                    raise
            else:
                self.allocated = size
                return
