# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The two small documents of a slot's spool that outlive its segments.

``head.json`` (one for each lane, which is a place for one writer) says which record numbers its writer may have
given out. Numbers are reserved ahead before the first of them is given out. A reservation of a segment that is
``writing`` tells of an unclean stop: its numbers are skipped, never used again, and ``stops.json`` names them until a
kit carries them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, NotStored
from edgeprov.formats.jsonx import encode_json, get_int, parse_json_object
from edgeprov.limits import KIB
from edgeprov.store.atomic import load_bytes, save_bytes
from edgeprov.store.frames import Range
from edgeprov.store.lock import lock

FIRST_NUMBER = 1
RESERVED_NUMBERS = 32_768  # at most so many are skipped after an unclean stop
_MAX_BYTES = 1_024 * KIB
_MAX_STOPS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStop:
    """An unclean stop: records after ``after`` and below ``resumed`` may have been acknowledged and are not there.

    Attributes:
        header: SHA-256 of the header of the segment that was written; None where that is not known.
        after: Number of the last record that is known to be there, or the number before the first.
        resumed: Number that is given out next.
        bound_ms: The records are younger than this at the stop, in milliseconds.
        at_ns: When the stop was noticed.
    """

    header: bytes | None
    after: int
    resumed: int
    bound_ms: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """The segment that a living writer appends to: file name, SHA-256 of its header, and its bound on a loss (ms)."""

    name: str
    header: bytes
    bound_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenState:
    """Size and record numbers of an open segment at its writer's clean end."""

    size: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolHead:
    """Numbers below ``reserved`` may have been given out by the lane's writer, those below ``next`` surely were.

    Attributes:
        order: Highest number in the name of a segment file so far.
        writing: None after a clean stop.
        open: Open segments by file name, as their writers left them.
    """

    reserved: int = FIRST_NUMBER
    next: int = FIRST_NUMBER
    order: int = 0
    writing: Writing | None = None
    open: Mapping[str, OpenState] = field(default_factory=dict)


def encode_head(head: SpoolHead) -> bytes:
    """The document."""
    writing = head.writing
    return encode_json(
        {
            "v": 1,
            "reserved": head.reserved,
            "next": head.next,
            "order": head.order,
            "writing": [writing.name, writing.header.hex(), writing.bound_ms] if writing else None,
            "open": {name: [state.size, [list(item) for item in state.ranges]] for name, state in head.open.items()},
        }
    )


def parse_head(raw: bytes) -> SpoolHead:
    """Read the document.

    Raises:
        FormatError: Malformed.
    """
    obj = parse_json_object(raw, "spool head", max_bytes=_MAX_BYTES)
    try:
        writing = obj["writing"]
        return SpoolHead(
            reserved=get_int(obj, "reserved", "spool head"),
            next=get_int(obj, "next", "spool head"),
            order=get_int(obj, "order", "spool head"),
            writing=_parse_writing(writing) if writing is not None else None,
            open={
                str(name): OpenState(size=int(size), ranges=tuple((int(a), int(b)) for a, b in ranges))
                for name, (size, ranges) in dict(obj["open"]).items()
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"spool head: {error}") from error


def load_head(path: Path) -> SpoolHead | None:
    """The document of a lane; None when there is none.

    Raises:
        FormatError: It is damaged.
        StoreError: It cannot be read.
    """
    try:
        return parse_head(load_bytes(path, max_bytes=_MAX_BYTES, what="spool head"))
    except NotStored:
        return None


def save_head(path: Path, head: SpoolHead) -> None:
    """Replace the document.

    Raises:
        StoreError: It cannot be written; StoreFull when that is for want of space.
    """
    save_bytes(path, encode_head(head))


def load_stops(folder: Path) -> tuple[SpoolStop, ...]:
    """Unclean stops of a slot that no kit carries yet, oldest first.

    Raises:
        FormatError: The document is damaged.
        StoreError: It cannot be read.
    """
    try:
        obj = parse_json_object(load_bytes(folder / "stops.json", max_bytes=_MAX_BYTES, what="stops"), "stops")
    except NotStored:
        return ()
    try:
        return tuple(_parse_stop(item) for item in obj["stops"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"stops: {error}") from error


def add_stop(folder: Path, stop: SpoolStop) -> None:
    """Note an unclean stop. One that was noted before is not added again; many in a row become one.

    Raises:
        FormatError: The document is damaged.
        StoreError: It cannot be written.
    """
    with lock(folder / "stops.lock", wait=True):
        stops = load_stops(folder)
        if not any((item.after, item.resumed) == (stop.after, stop.resumed) for item in stops):
            _save_stops(folder, _with_stop(stops, stop))


def forget_stops(folder: Path, known: Collection[SpoolStop]) -> None:
    """Drop stops that a kit carries.

    Raises:
        FormatError: The document is damaged.
        StoreError: It cannot be written.
    """
    with lock(folder / "stops.lock", wait=True):
        stops = load_stops(folder)
        kept = tuple(stop for stop in stops if stop not in known)
        if kept != stops:
            _save_stops(folder, kept)


def _save_stops(folder: Path, stops: tuple[SpoolStop, ...]) -> None:
    rows = [
        [stop.header.hex() if stop.header else None, stop.after, stop.resumed, stop.bound_ms, stop.at_ns]
        for stop in stops
    ]
    save_bytes(folder / "stops.json", encode_json({"v": 1, "stops": rows}))


def _with_stop(stops: tuple[SpoolStop, ...], stop: SpoolStop) -> tuple[SpoolStop, ...]:
    """Stops with one more; one that follows another of the same segment without a record between is one with it."""
    last = stops[-1] if stops else None
    if last is None or not (
        (last.resumed == stop.after + 1 and last.header == stop.header) or len(stops) >= _MAX_STOPS
    ):
        return (*stops, stop)
    merged = SpoolStop(
        header=last.header,
        after=last.after,
        resumed=stop.resumed,
        bound_ms=max(last.bound_ms, stop.bound_ms),
        at_ns=stop.at_ns,
    )
    return (*stops[:-1], merged)


def _parse_writing(item: Any) -> Writing:
    name, header, bound_ms = item
    return Writing(name=str(name), header=bytes.fromhex(header), bound_ms=int(bound_ms))


def _parse_stop(item: Any) -> SpoolStop:
    header, after, resumed, bound_ms, at_ns = item
    return SpoolStop(
        header=bytes.fromhex(header) if header else None,
        after=int(after),
        resumed=int(resumed),
        bound_ms=int(bound_ms),
        at_ns=int(at_ns),
    )
