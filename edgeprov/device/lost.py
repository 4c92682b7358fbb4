# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Records that will be in no kit, and for which a signed tombstone is owed.

``discarded``: ``record.full = "discard-oldest"`` made room. ``damaged``: the storage did not give them back. A note
is written before a segment goes; the next seal signs it. The TPM is not touched here: discarding runs on the
inference path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.tombstone import LostRange, NumberEntry
from edgeprov.store.spool import read_segment

if TYPE_CHECKING:
    from edgeprov.store.state import State

Why = Literal["discarded", "damaged"]

LOST_LOCK: Final = "discard"
"""Held by whoever changes the notes; note and removal of a segment are one step for whoever looks at them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What was lost of one segment.

    Attributes:
        model: The model that made the records; None where the header could not be read.
        number: Number and header hash of the segment, where all of it is lost; None where a kit holds the rest.
        ranges: The lost records.
    """

    model: Digest | None
    number: NumberEntry | None
    ranges: tuple[LostRange, ...]


def load_losses(state: State, slot: str) -> tuple[Loss, ...]:
    """Losses of a slot that no tombstone names yet, oldest first.

    Raises:
        StoreError: The state cannot be read.
    """
    document = state.load_document(_name(slot)) or {}
    return tuple(map(_parse, document.get("losses", ())))


def note_loss(state: State, slot: str, loss: Loss) -> None:
    """Owe a tombstone for a loss; under LOST_LOCK. Repeating it changes nothing.

    Raises:
        StoreError: The note cannot be written.
    """
    losses = load_losses(state, slot)
    if loss not in losses:
        _save(state, slot, (*losses, loss))


def forget_losses(state: State, slot: str, named: Collection[Loss]) -> None:
    """Drop what a tombstone names; what was lost meanwhile stays owed.

    Raises:
        StoreError: The note cannot be written.
    """
    if not named:
        return
    with state.lock(LOST_LOCK, wait=True):
        losses = load_losses(state, slot)
        kept = tuple(loss for loss in losses if loss not in named)
        if kept != losses:
            _save(state, slot, kept)


def forget_present(state: State, slot: str) -> None:
    """Drop losses whose segment is still in the spool: the discarding process was stopped.

    Raises:
        StoreError: The spool cannot be read, or the note not written.
    """
    # Note and removal are one step under this lock: a note that a recorder has just written must not be dropped.
    with state.lock(LOST_LOCK, wait=True):
        losses = load_losses(state, slot)
        if any(loss.number is not None for loss in losses):
            headers = [read_segment(info.path).header for info in state.spool(slot).segments()]
            _drop(state, slot, losses, {sha256(header).digest() for header in headers if header})


def forget_sealed(state: State, headers: Collection[bytes]) -> None:
    """Drop losses of segments (SHA-256 of the header) that a kit holds: they were discarded while it was made.

    Raises:
        StoreError: A note cannot be written.
    """
    if not headers:
        return
    with state.lock(LOST_LOCK, wait=True):
        for slot in state.slots():
            _drop(state, slot, load_losses(state, slot), headers)


def _drop(state: State, slot: str, losses: tuple[Loss, ...], headers: Collection[bytes]) -> None:
    kept = tuple(loss for loss in losses if loss.number is None or loss.number.header not in headers)
    if kept != losses:
        _save(state, slot, kept)


def noted_headers(state: State) -> frozenset[bytes]:
    """Hashes of the headers of segments whose loss is noted in any slot.

    Raises:
        StoreError: The state cannot be read.
    """
    losses = [loss for slot in state.slots() for loss in load_losses(state, slot)]
    return frozenset(loss.number.header for loss in losses if loss.number is not None and loss.number.header)


def encode_losses(losses: Iterable[Loss]) -> list[list[Any]]:
    """Losses as JSON, for an intent."""
    return [
        [
            str(loss.model) if loss.model else None,
            _number_row(loss.number),
            [
                [item.first, item.last, item.count, item.least, item.greatest, item.doubt, item.reason]
                for item in loss.ranges
            ],
        ]
        for loss in losses
    ]


def parse_losses(rows: Iterable[Any]) -> tuple[Loss, ...]:
    """Read encode_losses' rows."""
    return tuple(map(_parse, rows))


def _number_row(entry: NumberEntry | None) -> list[Any] | None:
    if entry is None:
        return None
    return [entry.number, entry.reason, entry.header.hex() if entry.header else None]


def _parse(row: Any) -> Loss:
    model, number, ranges = row
    return Loss(
        model=parse_digest(str(model)) if model else None,
        number=None if number is None else _parse_number(*number),
        ranges=tuple(
            LostRange(first=first, last=last, count=count, least=least, greatest=greatest, doubt=doubt, reason=reason)
            for first, last, count, least, greatest, doubt, reason in ranges
        ),
    )


def _parse_number(number: int, reason: Any, header: str | None) -> NumberEntry:
    return NumberEntry(number=number, reason=reason, header=bytes.fromhex(header) if header else None)


def _save(state: State, slot: str, losses: Iterable[Loss]) -> None:
    state.save_document(_name(slot), {"losses": encode_losses(losses)})


def _name(slot: str) -> str:
    return f"lost-{slot}"
