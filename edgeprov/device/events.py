# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Acts of the device that its next kit seals: activation, refusal, install, clock step, unclean stop, storage fault.

An event is durable when add_event returns. Events use no number of their own; where nothing else is sealed, they
get a kit after ``seal.max_age_s``.

Spec: FORMAT.md section "Events".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import StoreError

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.formats.evidence_part import DeviceEvent
    from edgeprov.store.state import State

_DOCUMENT: Final = "events"
_LOCK: Final = "events"
_MOST: Final = 1_000  # a kit holds no more
_MOST_BYTES: Final = 60_000  # of 64 KiB
_DETAIL_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Events that no kit holds yet, oldest first, and the number of the last one, for forget_events()."""

    events: tuple[DeviceEvent, ...]
    last: int


def add_event(
    context: Context, state: State, kind: str, slot: str | None = None, details: Mapping[str, Any] | None = None
) -> None:
    """Note an event, durably; the newest ones are dropped once a kit could not hold more.

    Args:
        context: The device.
        state: Its state folder, opened for writing.
        kind: 1 to 64 of ``a-z0-9-``.
        slot: The slot that it belongs to.
        details: Of the kind: text and integers.

    Raises:
        StoreError: It cannot be written.
    """
    from edgeprov.device.proved_time import stamp

    moment = stamp(context, state)
    shown = {
        key: value[:_DETAIL_CHARACTERS] if isinstance(value, str) else value for key, value in (details or {}).items()
    }
    row = [kind, moment.at_ns, max(time.monotonic_ns(), 0), int(moment.doubt), slot, shown]
    with state.lock(_LOCK, wait=True):
        rows, first = _load(state)
        if len(rows) < _MOST and len(str(rows)) + len(str(row)) < _MOST_BYTES:
            state.save_document(_DOCUMENT, {"first": first, "rows": [*rows, row]})


def note_event(context: Context, kind: str, slot: str | None = None, details: Mapping[str, Any] | None = None) -> None:
    """As add_event, where the act counts more than its note: on a state that cannot be written nothing happens."""
    with suppress(StoreError):
        add_event(context, context.state(), kind, slot, details)


def waiting_events(state: State) -> Waiting:
    """What the next kit has to hold.

    Raises:
        StoreError: The state cannot be read.
    """
    from edgeprov.formats.evidence_part import DeviceEvent

    rows, first = _load(state)
    events = tuple(
        DeviceEvent(kind=kind, at_ns=at_ns, mono_ns=mono_ns, flags=flags, slot=slot, details=details)
        for kind, at_ns, mono_ns, flags, slot, details in rows
    )
    return Waiting(events=events, last=first + len(rows) - 1)


def forget_events(state: State, last: int) -> None:
    """Drop the events up to number ``last``: a kit holds them. Repeating it changes nothing.

    Raises:
        StoreError: The state cannot be written.
    """
    with state.lock(_LOCK, wait=True):
        rows, first = _load(state)
        if rows and last >= first:
            state.save_document(_DOCUMENT, {"first": last + 1, "rows": rows[last + 1 - first :]})


def _load(state: State) -> tuple[list[list[Any]], int]:
    document = state.load_document(_DOCUMENT) or {}
    rows, first = document.get("rows", []), document.get("first", 1)
    return (rows, first) if isinstance(rows, list) and isinstance(first, int) else ([], 1)
