# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""``record.full = "discard-oldest"``: make room, and owe a signed tombstone for what went.

The ranges are written down before a segment is removed; the next seal signs them. The TPM is not
touched here: this runs on the inference path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from edgeprov import journal
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.segment import parse_segment_header
from edgeprov.store.spool import read_segment

if TYPE_CHECKING:
    from edgeprov.store.state import State

_LOCK: Final = "discard"  # recorder and seal change the note


def discard_oldest(state: State, slot: str, needed_bytes: int) -> int:
    """Remove the oldest closed segments of the slot until ``needed_bytes`` are free.

    Returns:
        Bytes freed; 0 when there is nothing closed to discard.

    Raises:
        StoreError: The state cannot be changed.
    """
    freed = 0
    spool = state.spool(slot)
    for info in spool.segments():
        if freed >= needed_bytes or not info.closed:
            break
        if info.records:
            model = parse_segment_header(read_segment(info.path).header).model
            note_discarded(state, slot, model, info.first, info.first + info.records - 1)
        spool.free(info)
        freed += info.size_bytes
        journal.event(
            "records-discarded",
            f"slot {slot}: {info.records} records discarded, the spool is full",
            priority=journal.WARNING,
            slot=slot,
            first=info.first,
            records=info.records,
        )
    return freed


def note_discarded(state: State, slot: str, model: Digest, first: int, last: int) -> None:
    """Owe a tombstone for a range of records.

    Raises:
        StoreError: The note cannot be written.
    """
    with state.lock(_LOCK, wait=True):
        ranges = discarded_ranges(state, slot)
        _save(state, slot, {**ranges, model: [*ranges.get(model, ()), (first, last)]})


def discarded_ranges(state: State, slot: str) -> dict[Digest, list[tuple[int, int]]]:
    """Ranges (first and last number) by model that no tombstone names yet, as they were discarded."""
    document = state.load_document(_name(slot)) or {}
    return {
        parse_digest(model): sorted({(int(first), int(last)) for first, last in ranges})
        for model, ranges in document.items()
    }


def forget_discarded(state: State, slot: str, model: Digest, named: Sequence[Sequence[int]]) -> None:
    """Drop the ranges that a tombstone names; what was discarded meanwhile stays owed."""
    with state.lock(_LOCK, wait=True):
        ranges = discarded_ranges(state, slot)
        kept = [item for item in ranges.pop(model, []) if not any(a <= item[0] and item[1] <= b for a, b in named)]
        _save(state, slot, {**ranges, model: kept} if kept else ranges)


def _save(state: State, slot: str, ranges: Mapping[Digest, Sequence[tuple[int, int]]]) -> None:
    state.save_document(_name(slot), {str(model): items for model, items in ranges.items()})


def _name(slot: str) -> str:
    return f"discarded-{slot}"
