# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A slot's ring under a name, and the document beside it that tells where its bytes go: what a restart needs.

The number of bytes that were copied is nowhere written down: it is what the segment file holds. So a kill at any
moment loses no record and doubles none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgeprov import journal
from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, NotStored, StoreBusy
from edgeprov.formats.jsonx import encode_json, get_int, get_str, parse_json_object
from edgeprov.limits import KIB
from edgeprov.store.atomic import DurableFile, load_bytes, make_dirs, open_regular, save_bytes, translated
from edgeprov.store.frames import END, FRAME_BYTES, RANGE, Segment, count_records, numbering, read_segment
from edgeprov.store.ring import POSITIONS, RingReader, create_memory_ring, create_ring, ring_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RingPlace:
    """Where the bytes of a ring go: byte ``position`` of the ring is byte ``offset`` of the file ``segment``.

    Attributes:
        segment: Name of the file.
        offset: In the file.
        position: In the ring.
        size_bytes: Of the ring's data.
        pid: The process that appends.
        started: When it started, in clock ticks since boot: numbers of processes are used again.
    """

    segment: str
    offset: int
    position: int
    size_bytes: int
    pid: int
    started: int

    @property
    def appended_elsewhere(self) -> bool:
        """Whether another process than this one is alive and appends."""
        return self.pid != os.getpid() and process_start(self.pid) == self.started


class RingFile:
    """The ring of one slot. Without a folder it is an anonymous memory file, which ends with its process.

    Attributes:
        size_bytes: Of the ring's data.
    """

    def __init__(self, path: Path | None, *, largest_frame_bytes: int = 0, pid: int | None = None) -> None:
        """Use ``path``, in a tmpfs; nothing is made yet.

        Args:
            path: The ring's; its document has the suffix ``.json``.
            largest_frame_bytes: Of one record with its captured input.
            pid: The process that appends; None is this one.
        """
        self._path = path
        self._pid = os.getpid() if pid is None else pid
        self._started = process_start(self._pid)
        self.size_bytes = ring_bytes(largest_frame_bytes)

    def create(self) -> int:
        """Make the ring anew and return its descriptor. Errors as in create_ring()."""
        if self._path is None:
            return create_memory_ring(self.size_bytes)
        make_dirs(self._path.parent, 0o700)
        self.remove()
        return create_ring(self._path, self.size_bytes)

    def save(self, *, segment: str, offset: int, position: int) -> None:
        """Note where the ring's bytes go from now on. Not synced: it has to survive a kill, not a power cut.

        Raises:
            StoreError: It cannot be written.
        """
        if self._path is None:
            return
        place = {
            "segment": segment,
            "offset": offset,
            "position": position,
            "size": self.size_bytes,
            "pid": self._pid,
            "started": self._started or 0,
        }
        path = self._place_path
        with translated(path):
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(encode_json(place))
            temporary.replace(path)

    def load(self) -> tuple[RingPlace, RingReader] | None:
        """What a process that was killed left; None where there is no ring, or a document that tells nothing.

        Raises:
            StoreError: It cannot be read just now, so nobody knows yet whether records wait there.
        """
        if self._path is None:
            return None
        try:
            obj = parse_json_object(load_bytes(self._place_path, max_bytes=4 * KIB, what="ring"), "ring")
            place = RingPlace(
                segment=get_str(obj, "segment", "ring"),
                offset=get_int(obj, "offset", "ring"),
                position=get_int(obj, "position", "ring"),
                size_bytes=get_int(obj, "size", "ring"),
                pid=get_int(obj, "pid", "ring"),
                started=get_int(obj, "started", "ring"),
            )
            with translated(self._path):
                fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FormatError, NotStored):
            return None
        return place, RingReader(fd, place.size_bytes, tail=place.position)

    def remove(self) -> None:
        """Remove ring and document; what was not copied is gone."""
        if self._path is not None:
            for path in (self._place_path, self._path):
                with suppress(OSError):
                    path.unlink()

    @property
    def _place_path(self) -> Path:
        return (self._path or Path()).with_suffix(".json")


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), stat, field 22); None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def copy_ring(
    ring: RingFile,
    folder: Path,
    quarantine: Callable[[Path, str], Path],
    *,
    resume: bool,
    reserved: int | None,
) -> RingReader | None:
    """Copy what waits in a ring into its segment, durably, after the owner of the segments was killed.

    A ring of a dead application is removed.

    Args:
        ring: Of the slot.
        folder: Of the slot's segments; no writer is alive.
        quarantine: Moves a file out of the way, with the reason.
        resume: The application that appends may be alive; its ring is kept.
        reserved: The application may have used numbers below this one; None where that is not known.

    Returns:
        The owner's end, from which copying goes on; None where there is no ring that fits the segment: then
        acknowledged records may be lost.

    Raises:
        StoreBusy: An application appends, and ``resume`` is false.
        StoreError: The segment cannot be written; the ring is kept.
    """
    left = ring.load()
    if left is None:
        return None
    place, reader = left
    kept = False
    try:
        if place.appended_elsewhere and not resume:
            raise StoreBusy(
                f"process {place.pid} records in slot {folder.name}, and the device service does not run",
                advice="Start it (systemctl start edgeprov), or end the application.",
            )
        kept = _copy(place, reader, folder, quarantine, reserved)
        if not (resume and place.appended_elsewhere):
            ring.remove()
    finally:
        if not kept:
            reader.close()
    return reader if kept else None


def _copy(
    place: RingPlace,
    reader: RingReader,
    folder: Path,
    quarantine: Callable[[Path, str], Path],
    reserved: int | None,
) -> bool:
    path = folder / place.segment
    try:
        segment, copied, ended = _scan(path, place.offset)
        reader.tail = (place.position + copied) % POSITIONS
        rows = bytearray()
        reader.drain(rows.extend)
        _verify_numbers(path, count_records(bytes(rows)), reserved)
    except (FormatError, NotStored) as error:
        journal.event("failed", f"{place.segment}: its ring does not fit it: {error.message}", priority=journal.WARNING)
        return False
    if rows and ended:
        lost = folder / f"{path.stem}.rows"
        save_bytes(lost, bytes(rows))
        quarantine(lost, f"records of {place.segment}, which ended before they were copied")
        return False
    if rows:
        with DurableFile(path, create=False) as file:
            file.truncate(segment.valid_bytes)
            file.write(rows)
            file.sync()
    return True


def _verify_numbers(path: Path, records: int, reserved: int | None) -> None:
    if records and reserved is not None:
        _, following = numbering(read_segment(path).frames())
        if (following or 0) + records > reserved:
            raise FormatError("more records than there were numbers for")


def _scan(path: Path, offset: int) -> tuple[Segment, int, bool]:
    """A segment whose ``valid_bytes`` end behind its last row, bytes that came from its ring, and whether it ended."""
    segment = read_segment(path)
    ended, copied = False, 0
    fd, size = open_regular(path, "segment")
    try:
        if size < offset:
            raise FormatError(f"{path.name} is shorter than when its ring was begun")
        segment.valid_bytes = offset
        for kind, payload in segment.scan(fd, offset):
            if kind == END:
                ended = True
                segment.valid_bytes -= FRAME_BYTES + len(payload)
            elif kind != RANGE:  # which this side wrote
                copied += FRAME_BYTES + len(payload)
    finally:
        os.close(fd)
    return segment, copied, ended
