# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Standing: a device's signed list of the segments that no kit holds yet, and of its unclean stops.

Each kit, tombstone and head carries one. A segment number that no kit explains is explained by the newest
item that lists it as open; a record that an item listed must be in a later kit. So a deleted file, an
older copy of the disk and a lost tail show.

Spec: FORMAT.md section "Standing".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.fields import (
    bool_member,
    check_keys,
    hash_member,
    list_member,
    optional_hash_member,
    optional_uint_member,
    text_member,
    uint_member,
)
from edgeprov.formats.packing import Buffer, pack, unpack
from edgeprov.formats.segment import check_slot
from edgeprov.limits import LIMITS

DOUBTFUL: Final = 1
"""Bit 0 of ``flags``: the clock was doubtful."""

_KEYS: Final = frozenset(("at_ns", "floor_ns", "doubt", "final", "newest", "open", "stops"))
_OPEN_KEYS: Final = frozenset(("number", "header", "slot", "first", "last", "leaf", "least_ns", "greatest_ns", "flags"))
_STOP_KEYS: Final = frozenset(("slot", "header", "after", "resumed", "bound_ms", "at_ns"))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSegment:
    """A segment that no kit holds yet. All that it says was synced to the disk before.

    Attributes:
        number: Counter value of its opening.
        header: SHA-256 of its header.
        slot: Its slot.
        first: Number of its first record; None without records, and then the next four are None too.
        last: Number of its last record.
        leaf: Leaf hash (FORMAT.md "Merkle tree") of the last record.
        least_ns: Least ``recorded_at_ns`` of its records.
        greatest_ns: Greatest ``recorded_at_ns`` of its records.
        flags: Bit 0: the clock was doubtful for at least one of them.
    """

    number: int
    header: bytes
    slot: str
    first: int | None = None
    last: int | None = None
    leaf: bytes | None = None
    least_ns: int | None = None
    greatest_ns: int | None = None
    flags: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """An unclean stop (power cut) that may have lost the last records of a segment.

    Attributes:
        slot: Slot of the segment.
        header: SHA-256 of the segment's header.
        after: Number of the last record that is known; None when none is.
        resumed: The number that the slot's next record gets or got.
        bound_ms: Records of at most so many milliseconds before the stop may be lost.
        at_ns: Wall clock of the recovery, nanoseconds since 1970.
    """

    slot: str
    header: bytes
    after: int | None
    resumed: int
    bound_ms: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The state of a device's recording at one moment.

    Attributes:
        at_ns: Wall clock of that moment, nanoseconds since 1970.
        floor_ns: Proved lower bound of the wall clock.
        doubt: The clock was doubtful at that moment.
        final: Nothing follows under this enrollment; only with an empty ``open``.
        newest: SHA-256 of the header that was opened last on the device; None before the first.
        open: By (number, header), ascending.
        stops: Unclean stops that no kit carried yet.
    """

    at_ns: int
    floor_ns: int = 0
    doubt: bool = False
    final: bool = False
    newest: bytes | None = None
    open: tuple[OpenSegment, ...] = ()
    stops: tuple[Stop, ...] = ()


def encode_standing(standing: Standing) -> bytes:
    """The canonical bytes.

    Raises:
        FormatError: A value that the format does not allow.
        LimitError: More than a standing may hold.
    """
    raw = pack(standing_map(standing))
    parse_standing(raw)
    return raw


def parse_standing(raw: Buffer) -> Standing:
    """Read the canonical bytes.

    Raises:
        FormatError: Not canonical, an unknown or missing key, a wrong value, or an open segment out of order.
        LimitError: Too long, or more entries than allowed.
    """
    return standing_of(unpack(raw, max_bytes=LIMITS.standing_bytes, what="standing"))


def standing_map(standing: Standing) -> dict[str, Any]:
    """The map that is packed, also inside an evidence part."""
    return {
        "at_ns": standing.at_ns,
        "floor_ns": standing.floor_ns,
        "doubt": standing.doubt,
        "final": standing.final,
        "newest": standing.newest,
        "open": [
            {
                "number": item.number,
                "header": item.header,
                "slot": item.slot,
                "first": item.first,
                "last": item.last,
                "leaf": item.leaf,
                "least_ns": item.least_ns,
                "greatest_ns": item.greatest_ns,
                "flags": item.flags,
            }
            for item in standing.open
        ],
        "stops": [
            {
                "slot": item.slot,
                "header": item.header,
                "after": item.after,
                "resumed": item.resumed,
                "bound_ms": item.bound_ms,
                "at_ns": item.at_ns,
            }
            for item in standing.stops
        ],
    }


def standing_of(value: object) -> Standing:
    """Check a decoded map. Errors as in parse_standing."""
    what = "standing"
    obj = check_keys(value, _KEYS, what)
    standing = Standing(
        at_ns=uint_member(obj, "at_ns", what),
        floor_ns=uint_member(obj, "floor_ns", what),
        doubt=bool_member(obj, "doubt", what),
        final=bool_member(obj, "final", what),
        newest=optional_hash_member(obj, "newest", what),
        open=tuple(map(_open_segment, list_member(obj, "open", what, LIMITS.standing_open))),
        stops=tuple(map(_stop, list_member(obj, "stops", what, LIMITS.standing_stops))),
    )
    _verify_order(standing.open)
    if standing.final and standing.open:
        raise FormatError("standing: a final one lists open segments")
    if standing.open and standing.newest is None:
        raise FormatError("standing: open segments, but no newest header")
    return standing


def _open_segment(value: object) -> OpenSegment:
    what = "open segment"
    obj = check_keys(value, _OPEN_KEYS, what)
    item = OpenSegment(
        number=uint_member(obj, "number", what),
        header=hash_member(obj, "header", what),
        slot=check_slot(text_member(obj, "slot", what)),
        first=optional_uint_member(obj, "first", what),
        last=optional_uint_member(obj, "last", what),
        leaf=optional_hash_member(obj, "leaf", what),
        least_ns=optional_uint_member(obj, "least_ns", what),
        greatest_ns=optional_uint_member(obj, "greatest_ns", what),
        flags=uint_member(obj, "flags", what),
    )
    if item.flags & ~DOUBTFUL:
        raise FormatError(f"{what} has the unknown flags {item.flags}")
    if item.first is None or item.last is None or item.least_ns is None or item.greatest_ns is None:
        if (item.first, item.last, item.leaf, item.least_ns, item.greatest_ns, item.flags) != (*[None] * 5, 0):
            raise FormatError(f"{what} without records has something about records")
    elif item.leaf is None or item.first > item.last or item.least_ns > item.greatest_ns:
        raise FormatError(f"{what}: numbers, times and leaf of its records do not fit each other")
    return item


def _stop(value: object) -> Stop:
    what = "unclean stop"
    obj = check_keys(value, _STOP_KEYS, what)
    item = Stop(
        slot=check_slot(text_member(obj, "slot", what)),
        header=hash_member(obj, "header", what),
        after=optional_uint_member(obj, "after", what),
        resumed=uint_member(obj, "resumed", what),
        bound_ms=uint_member(obj, "bound_ms", what),
        at_ns=uint_member(obj, "at_ns", what),
    )
    if item.after is not None and item.resumed <= item.after:
        raise FormatError(f"{what}: the next record's number is not above the last one's")
    return item


def _verify_order(segments: Sequence[OpenSegment]) -> None:
    for before, item in pairwise(segments):
        if (item.number, item.header) <= (before.number, before.header):
            raise FormatError("standing: open segments are not in ascending order of number and header")
