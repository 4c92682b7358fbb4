# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The labels of one slot: appended a few at a time by any process, in files that a seal closes and frees."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeprov.errors import NotStored, StoreBusy, StoreError
from edgeprov.limits import MIB
from edgeprov.store.atomic import (
    DurableFile,
    load_bytes,
    make_dirs,
    open_replace,
    remove,
    save_bytes,
    sync_dir,
    translated,
)
from edgeprov.store.frames import LABEL, SegmentInfo, encode_frame, load_segment_info, order_of, read_segment
from edgeprov.store.lock import Lock
from edgeprov.store.segment_file import Quarantine, end_file, is_damaged, segment_name, segment_paths

_LABEL_LOG_BYTES: Final = 4 * MIB  # a label log is closed past this size


class LabelLog:
    """Labels of a slot: appended a few at a time by any process, durable when append() returns."""

    def __init__(self, folder: Path, *, quarantine: Quarantine) -> None:
        """Use ``folder``, made when needed."""
        self.folder = folder
        self._quarantine = quarantine
        self._seen: tuple[Path, int, int] | None = None  # file, its size and rows after our last append

    def append(self, rows: Iterable[bytes]) -> int:
        """Add label rows, all or (after an error) a part of them; a repeated label is for readers to merge.

        Returns:
            How many.

        Raises:
            StoreFull: No space.
            StoreError: The folder cannot be written.
        """
        frames = [encode_frame(LABEL, row) for row in rows]
        if not frames:
            return 0
        lock = self._lock()
        try:
            path, size, count = self._current()
            with DurableFile(path, create=False) as file:
                if file.size != size:
                    file.truncate(size)
                try:
                    file.write(b"".join(frames))
                    file.sync()
                except StoreError:
                    with suppress(StoreError):
                        file.truncate(size)
                    self._seen = None
                    raise
                self._seen = (path, file.size, count + len(frames))
            if self._seen[1] > _LABEL_LOG_BYTES:
                self._close_current()
        finally:
            lock.release()
        return len(frames)

    def rotate(self) -> None:
        """Close the log that is being written, so that it can be sealed. Errors as in append."""
        if segment_paths(self.folder):
            lock = self._lock()
            try:
                self._close_current()
            finally:
                lock.release()

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All label logs, oldest first; the last may be open."""
        return tuple(load_segment_info(path) for path in segment_paths(self.folder))

    def free(self, segment: SegmentInfo | Path) -> None:
        """Remove a closed log whose kit lies in the outbox. Errors as in SlotSpool.free."""
        path = segment if isinstance(segment, Path) else segment.path
        try:
            closed = load_segment_info(path).closed
        except NotStored:
            return
        if not closed:
            raise StoreBusy(f"label log {path.name} is not closed")
        remove(path)
        sync_dir(self.folder)

    def _lock(self) -> Lock:
        make_dirs(self.folder)
        return Lock(self.folder / "writer.lock", wait=True)  # held for one append only

    def _current(self) -> tuple[Path, int, int]:
        paths = segment_paths(self.folder)
        if paths and not load_segment_info(paths[-1]).closed:
            with translated(paths[-1]):
                size = paths[-1].stat().st_size
            if self._seen is not None and self._seen[:2] == (paths[-1], size):
                return self._seen
            segment = read_segment(paths[-1])
            count = sum(kind == LABEL for kind, _ in segment.frames())
            size = segment.valid_bytes
            if not segment.torn or not is_damaged(segment, self._quarantine):
                return paths[-1], size, count
            end_file(segment, (), segment.order + 1, cut=None, records=count)  # what is behind the damage stays there
        # Names are not used again: a seal that was cut off knows its logs by name.
        counter = self.folder / "next"
        number = 1
        with suppress(NotStored, ValueError):
            number = int(load_bytes(counter, max_bytes=64, what="label log counter"))
        number = max([number, *(order_of(path) + 1 for path in paths)])
        save_bytes(counter, str(number + 1).encode())
        path = self.folder / segment_name(number, 0)
        with open_replace(path):
            pass
        return path, 0, 0

    def _close_current(self) -> None:
        paths = segment_paths(self.folder)
        if not paths or load_segment_info(paths[-1]).closed:
            return
        segment = read_segment(paths[-1])
        count = sum(kind == LABEL for kind, _ in segment.frames())
        size = segment.valid_bytes
        damaged = bool(segment.torn) and is_damaged(segment, self._quarantine)
        end_file(segment, (), segment.order + 1, cut=None if damaged else size, records=count)
        self._seen = None
