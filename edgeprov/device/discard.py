# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Records that will be in no kit, and for which a signed tombstone is owed.

``discarded``: ``record.full = "discard-oldest"`` made room. ``damaged``: the storage did not give them
back. The ranges are written down before a segment goes; the next seal signs them. The TPM is not
touched here: discarding runs on the inference path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from edgeprov import journal
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.segment import parse_segment_header
from edgeprov.store.spool import read_segment

if TYPE_CHECKING:
    from edgeprov.store.state import State

Range = tuple[int, int]
Why = Literal["discarded", "damaged"]

_LOCK: Final = "discard"  # recorder and seal change the notes


def discard_oldest(state: State, slot: str, needed_bytes: int) -> int:
    """Remove the oldest closed segments of the slot until ``needed_bytes`` are free.

    Returns:
        Bytes freed; 0 when there is nothing closed to discard.

    Raises:
        StoreError: The state cannot be changed.
    """
    freed = 0
    spool = state.spool(slot)
    with state.lock(_LOCK, wait=True):  # note and removal are one step for whoever looks at the notes
        for info in spool.segments():
            if freed >= needed_bytes or not info.closed:
                break
            header = read_segment(info.path).header
            if info.records and not header:
                continue  # damaged: the seal accounts for it
            if info.records:
                last = info.first + info.records - 1
                _add(state, slot, parse_segment_header(header).model, [(info.first, last)], "discarded")
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


def note_lost(state: State, slot: str, model: Digest, ranges: Sequence[Range], why: Why) -> None:
    """Owe a tombstone for ranges of records (first and last number). Repeating it changes nothing.

    Raises:
        StoreError: The note cannot be written.
    """
    if ranges:
        with state.lock(_LOCK, wait=True):
            _add(state, slot, model, ranges, why)


def lost_ranges(state: State, slot: str, why: Why) -> dict[Digest, list[Range]]:
    """Ranges by model that no tombstone names yet, ascending."""
    document = state.load_document(_name(slot, why)) or {}
    return {
        parse_digest(model): sorted({(int(first), int(last)) for first, last in ranges})
        for model, ranges in document.items()
    }


def forget_lost(state: State, slot: str, model: Digest, named: Sequence[Sequence[int]], why: Why) -> None:
    """Drop the ranges that a tombstone (or a kit) names; what was lost meanwhile stays owed."""
    with state.lock(_LOCK, wait=True):
        ranges = lost_ranges(state, slot, why)
        _keep(state, slot, model, ranges, [(int(first), int(last)) for first, last in named], why)


def forget_present(state: State, slot: str) -> None:
    """Drop ranges whose segment is still here: the discarding process was stopped before the removal."""
    with state.lock(_LOCK, wait=True):
        ranges = lost_ranges(state, slot, "discarded")
        if ranges:
            here = [
                (info.first, info.first + info.records - 1) for info in state.spool(slot).segments() if info.records
            ]
            for model in tuple(ranges):
                ranges = _keep(state, slot, model, ranges, here, "discarded")


def _keep(
    state: State, slot: str, model: Digest, ranges: dict[Digest, list[Range]], named: Sequence[Range], why: Why
) -> dict[Digest, list[Range]]:
    known = ranges.get(model, [])
    kept = [item for item in known if not any(a <= item[0] and item[1] <= b for a, b in named)]
    if kept == known:
        return ranges
    ranges = {**ranges, model: kept} if kept else {key: value for key, value in ranges.items() if key != model}
    _save(state, slot, ranges, why)
    return ranges


def _add(state: State, slot: str, model: Digest, added: Sequence[Range], why: Why) -> None:
    ranges = lost_ranges(state, slot, why)
    _save(state, slot, {**ranges, model: sorted({*ranges.get(model, ()), *added})}, why)


def _save(state: State, slot: str, ranges: Mapping[Digest, Sequence[Range]], why: Why) -> None:
    state.save_document(_name(slot, why), {str(model): items for model, items in ranges.items()})


def _name(slot: str, why: Why) -> str:
    return f"{why}-{slot}"
