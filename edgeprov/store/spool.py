# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The spool of one slot: records between inference and kit, in segments of frames.

A record number is used once, whatever happens: numbers are reserved ahead in ``head.json`` before
the first of them is given out, so a number that was handed out and then lost in a power cut is
skipped, and the next segment's header says how many were. A segment appears under its name only with
its header durable. Recovery cuts a torn tail at the last whole frame and closes the segment; nothing
that was synced lies behind that point. Closed segments never change; they are freed when their kit
lies in the outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, NotStored, StoreBusy, StoreError
from edgeprov.formats.jsonx import encode_json, get_int, parse_json_object
from edgeprov.limits import KIB, MIB
from edgeprov.store.atomic import (
    DurableFile,
    load_bytes,
    make_dirs,
    open_replace,
    remove,
    save_bytes,
    sweep,
    sync_dir,
    translated,
)
from edgeprov.store.frames import (
    END,
    EVIDENCE,
    HEADER,
    INPUT,
    LABEL,
    RECORD,
    Segment,
    SegmentInfo,
    encode_end,
    encode_frame,
    load_segment_info,
    read_segment,
)
from edgeprov.store.lock import Lock
from edgeprov.store.position import Position, Quota
from edgeprov.store.spool_writer import SpoolWriter

__all__ = [
    "END", "EVIDENCE", "HEADER", "INPUT", "LABEL", "RECORD", "LabelLog", "Position", "Quota", "Segment",
    "SegmentInfo", "SlotSpool", "SpoolWriter", "read_segment",
]  # fmt: skip

Quarantine = Callable[[Path, str], Path]

FIRST_NUMBER: Final = 1
_LABEL_LOG_BYTES: Final = 4 * MIB  # a label log is closed past this size
_TAIL_BYTES: Final = 1 * MIB  # of a damaged tail that is kept in quarantine


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolHead:
    """head.json: numbers below ``reserved`` may have been given out, those below ``next`` surely were.

    ``ended`` is the number after the last record that recovery found, ``prev`` the SHA-256 of the
    newest segment's header.
    """

    reserved: int = FIRST_NUMBER
    next: int = FIRST_NUMBER
    ended: int = FIRST_NUMBER
    prev: bytes | None = None


class SlotSpool:
    """The segments of a slot: one writer at a time, any number of readers."""

    def __init__(self, folder: Path, *, quarantine: Quarantine) -> None:
        """Use ``folder``, made when needed; ``quarantine`` moves damage out of the way."""
        self.folder = folder
        self._quarantine = quarantine

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments, oldest first; the last may be open.

        Raises:
            StoreError: The folder cannot be read.
        """
        found = []
        for path in _segment_paths(self.folder):
            with suppress(NotStored):  # freed meanwhile
                found.append(load_segment_info(path))
        return tuple(found)

    def recover(self) -> Position:
        """Close what a dead writer left open; does nothing after a clean stop.

        Returns:
            What the next segment's header has to say.

        Raises:
            StoreBusy: A writer is alive.
            StoreError: The folder cannot be read or written.
        """
        lock = self._lock()
        try:
            return _position(self._recover())
        finally:
            lock.release()

    def open_writer(
        self,
        *,
        sync: str = "interval",
        interval_ms: int = 200,
        quota: Quota | None = None,
    ) -> SpoolWriter:
        """Become the writer of this slot, after recovery.

        Args:
            sync: ``every`` record, every ``interval_ms``, or at ``seal`` (when a segment is closed).
            interval_ms: Longest time between an append and its sync, for ``interval``.
            quota: Bytes that may be used.

        Raises:
            StoreBusy: Another writer is alive.
            StoreFull: No space.
            StoreError: The folder cannot be read or written.
        """
        lock = self._lock()
        try:
            head = self._recover()
        except BaseException:
            lock.release()
            raise
        return SpoolWriter(
            self.folder, _position(head), save_head=self._save_head, lock=lock, sync=sync,
            interval_ms=interval_ms, quota=quota,
        )  # fmt: skip

    def free(self, segment: SegmentInfo | Path) -> None:
        """Remove a closed segment whose kit (or tombstone) lies in the outbox.

        Raises:
            StoreBusy: The segment is still open, or its writer has just closed it: try again.
            StoreError: It cannot be removed.
        """
        path = segment if isinstance(segment, Path) else segment.path
        try:
            info = load_segment_info(path)
        except NotStored:
            return
        if info.next_n is None:
            raise StoreBusy(f"segment {path.name} is not closed")
        head = self._load_head()
        if head is None or head.next < info.next_n:
            self.recover()  # the numbers must be known as used before the last trace of them goes
        remove(path)
        sync_dir(self.folder)

    def _lock(self) -> Lock:
        make_dirs(self.folder)
        try:
            return Lock(self.folder / "writer.lock")
        except StoreBusy as error:
            raise StoreBusy(f"slot {self.folder.name} has a writer in another process or object") from error

    def _recover(self) -> SpoolHead:
        sweep(self.folder)
        head = self._load_head() or SpoolHead()
        known = head
        infos = list(self.segments())
        newest: Segment | None = None
        empty: list[Path] = []
        for number, info in enumerate(infos):
            segment = read_segment(info.path)
            if not segment.header and info.closed:
                continue  # its records are counted: whoever seals it says that they are lost
            if not segment.header:
                self._quarantine(info.path, f"segment without a header: {info.size_bytes} bytes")
                head = SpoolHead(
                    reserved=head.reserved, next=max(head.next, known.reserved), ended=head.ended, prev=head.prev
                )
                continue
            newest = segment
            if info.next_n is None:
                last = number == len(infos) - 1
                bound = known.reserved if last else infos[number + 1].first
                records = sum(kind == RECORD for kind, _ in segment.frames())
                ended, torn_at = segment.first + records, segment.valid_bytes
                damaged = bool(segment.torn) and _is_damaged(segment, self._quarantine)
                if damaged:
                    ended = max(ended, _salvaged_end(segment, bound))
                    records = ended - segment.first
                next_n = max(bound, ended)
                if not records and not damaged:
                    # No kit will ever hold its header, so the next segment must not point to it.
                    head = SpoolHead(reserved=next_n, next=next_n, ended=head.ended, prev=head.prev)
                    empty.append(info.path)
                    continue
                _end(segment, records, next_n, cut=None if damaged else torn_at)
                info = load_segment_info(info.path)  # noqa: PLW2901
            if info.next_n is not None and info.records is not None and info.next_n >= head.next:
                head = SpoolHead(
                    reserved=info.next_n, next=info.next_n, ended=info.first + info.records,
                    prev=sha256(segment.header).digest(),
                )  # fmt: skip
        if newest is None or head.next == known.next:
            # A reservation without a segment was never used: the segment comes right after it.
            head = SpoolHead(reserved=head.next, next=head.next, ended=head.ended, prev=head.prev)
        if head != known:
            self._save_head(head.reserved, head.next, head.ended, head.prev)
        for path in empty:  # after their numbers are known as used
            remove(path)
        if empty:
            sync_dir(self.folder)
        return head

    def _load_head(self) -> SpoolHead | None:
        path = self.folder / "head.json"
        try:
            obj = parse_json_object(load_bytes(path, max_bytes=4 * KIB, what="spool head"), "spool head")
            prev = obj.get("prev")
            return SpoolHead(
                reserved=get_int(obj, "reserved", "spool head"),
                next=get_int(obj, "next", "spool head"),
                ended=get_int(obj, "ended", "spool head"),
                prev=None if prev is None else bytes.fromhex(prev),
            )
        except NotStored:
            return None
        except (FormatError, ValueError, TypeError) as error:
            self._quarantine(path, f"spool head: {error}")
            return None

    def _save_head(self, reserved: int, next_n: int, ended: int, prev: bytes | None) -> None:
        document: dict[str, Any] = {"v": 1, "reserved": reserved, "next": next_n, "ended": ended}
        document["prev"] = prev.hex() if prev else None
        save_bytes(self.folder / "head.json", encode_json(document))


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
        if _segment_paths(self.folder):
            lock = self._lock()
            try:
                self._close_current()
            finally:
                lock.release()

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All label logs, oldest first; the last may be open."""
        return tuple(load_segment_info(path) for path in _segment_paths(self.folder))

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
        paths = _segment_paths(self.folder)
        if paths and not load_segment_info(paths[-1]).closed:
            size = paths[-1].stat().st_size
            if self._seen is not None and self._seen[:2] == (paths[-1], size):
                return self._seen
            segment = read_segment(paths[-1])
            count = sum(kind == LABEL for kind, _ in segment.frames())
            size = segment.valid_bytes
            if not segment.torn or not _is_damaged(segment, self._quarantine):
                return paths[-1], size, count
            _end(segment, count, segment.first + 1, cut=None)  # what is behind the damage stays there
        # Names are not used again: a seal that was cut off knows its logs by name.
        counter = self.folder / "next"
        number = 1
        with suppress(NotStored, ValueError):
            number = int(load_bytes(counter, max_bytes=64, what="label log counter"))
        number = max([number, *(int(path.stem) + 1 for path in paths)])
        save_bytes(counter, str(number + 1).encode())
        path = self.folder / f"{number:020d}.seg"
        with open_replace(path):
            pass
        return path, 0, 0

    def _close_current(self) -> None:
        paths = _segment_paths(self.folder)
        if not paths or load_segment_info(paths[-1]).closed:
            return
        segment = read_segment(paths[-1])
        count = sum(kind == LABEL for kind, _ in segment.frames())
        size = segment.valid_bytes
        damaged = bool(segment.torn) and _is_damaged(segment, self._quarantine)
        _end(segment, count, segment.first + 1, cut=None if damaged else size)
        self._seen = None


def _segment_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with translated(folder):
        return sorted(path for path in folder.glob("*.seg") if path.stem.isdigit() and len(path.stem) == 20)


def _position(head: SpoolHead) -> Position:
    return Position(next=head.next, skipped=head.next - head.ended, prev=head.prev)


def _end(segment: Segment, records: int, next_n: int, *, cut: int | None) -> None:
    """Close a segment that its writer left open, cut at ``cut`` (behind the last whole frame) or left as it is."""
    with DurableFile(segment.path, create=False) as file:
        if cut is not None:
            file.truncate(cut)
        file.sync()  # an END frame vouches for what is before it, so it must not reach the disk first
        file.write(encode_end(records, next_n))
        file.sync()


def _is_damaged(segment: Segment, quarantine: Quarantine) -> bool:
    """Whether what is no frame, in an open segment, is damage in front of acknowledged rows; frames() was read."""
    from edgeprov.store.salvage import damage_within

    damaged = damage_within(segment)
    if damaged is False:
        with segment.path.open("rb") as file:
            file.seek(segment.valid_bytes)
            tail = file.read(_TAIL_BYTES)
        copy = segment.path.with_name(f"{segment.path.stem}.tail")
        save_bytes(copy, tail)
        quarantine(copy, f"bytes of {segment.path.name} behind a gap at {segment.valid_bytes}")
    return bool(damaged)


def _salvaged_end(segment: Segment, bound: int) -> int:
    from edgeprov.store.salvage import salvaged_end

    try:
        return salvaged_end(segment, end=bound)
    except FormatError:
        return segment.first
