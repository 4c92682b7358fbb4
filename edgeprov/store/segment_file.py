# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The file of a spool's open segment: its start, its space on the disk, its end."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from edgeprov.errors import StoreError, StoreFull
from edgeprov.limits import KIB
from edgeprov.store.atomic import open_temporary, remove, rename
from edgeprov.store.frames import EVIDENCE, HEADER, encode_end, encode_frame, verify_length

if TYPE_CHECKING:
    from pathlib import Path

    from edgeprov.store.atomic import DurableFile
    from edgeprov.store.position import Quota

ALLOCATED_BYTES: Final = 256 * KIB  # set aside at once
END_BYTES: Final = len(encode_end(0, 0))


def first_frames(header: bytes, evidence: bytes | None) -> bytes:
    """The frames that a segment begins with.

    Args:
        header: Encoded segment header.
        evidence: Payload of an EVIDENCE frame, when it is there already.

    Raises:
        LimitError: The header is too long.
    """
    verify_length(header, HEADER)
    return encode_frame(HEADER, header) + (encode_frame(EVIDENCE, evidence) if evidence else b"")


def create_segment(path: Path, frames: bytes) -> DurableFile:
    """Write the first frames of a segment and give it its name; the caller syncs the folder.

    Args:
        path: Of the new file.
        frames: HEADER frame, and what follows it.

    Raises:
        StoreFull: No space.
        StoreError: A file of this name is there, or the disk failed. No file is left.
    """
    if path.exists():
        raise StoreError(f"segment {path.name} is there already")
    file = open_temporary(path.parent)
    try:
        file.write(frames)
        file.allocate(file.size + END_BYTES)
        file.sync()
        rename(file.path, path)
    except BaseException:
        with suppress(StoreError):
            remove(file.path)
        file.close()
        raise
    file.path = path
    return file


def end_segment(file: DurableFile, records: int, next_n: int, *, unsynced: bool) -> None:
    """Write the END frame, durably.

    Args:
        file: The segment, with all its rows written.
        records: How many.
        next_n: Number after the last record.
        unsynced: Some rows were not synced yet.

    Raises:
        StoreError: The disk failed.
    """
    if unsynced:
        file.sync()  # an END frame vouches for what is before it, so it must not reach the disk first
    file.write(encode_end(records, next_n))
    file.truncate(file.size)
    file.sync()


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
