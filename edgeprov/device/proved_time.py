# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The lower bound of time that this device has proved, and stamps that never lie below it.

Each kit, tombstone and head raises it, and so do an activation, a receipt and the device's own certificate. A
wall clock that says less is wrong: what is stamped then gets the bound, and says that its time is in doubt.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

from edgeprov._dataclass import dataclass

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State

_DOCUMENT: Final = "floor"
_LOCK: Final = "floor"
_INT_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A moment of this device.

    Attributes:
        at_ns: Nanoseconds since 1970, not below ``floor_ns``.
        floor_ns: The proved lower bound.
        doubt: The wall clock said less than the bound.
    """

    at_ns: int
    floor_ns: int
    doubt: bool


def load_floor_ns(context: Context, state: State) -> int:
    """The proved lower bound, nanoseconds since 1970: the image's floor, or what this device has proved since.

    Raises:
        StoreError: The state cannot be read.
    """
    document = state.load_document(_DOCUMENT) or {}
    proved = document.get("ns")
    image_ns = int(context.config.trust.time_floor.timestamp()) * 1_000_000_000
    return max(image_ns, proved if isinstance(proved, int) else 0, 0)


def stamp(context: Context, state: State) -> Stamp:
    """The time now. Errors as in load_floor_ns."""
    floor_ns, now_ns = load_floor_ns(context, state), time.time_ns()
    return Stamp(at_ns=max(now_ns, floor_ns), floor_ns=floor_ns, doubt=now_ns < floor_ns)


def raise_floor(state: State, ns: int) -> None:
    """Raise the bound to a time that is proved to be past; a lower one changes nothing.

    Raises:
        StoreError: The state cannot be written.
    """
    with state.lock(_LOCK, wait=True):
        document = state.load_document(_DOCUMENT) or {}
        known = document.get("ns")
        if 0 < ns <= _INT_MAX and not (isinstance(known, int) and known >= ns):
            state.save_document(_DOCUMENT, {"ns": ns})


def ns_of(moment: datetime) -> int:
    """Nanoseconds since 1970 of a moment with a time zone."""
    return int(moment.timestamp()) * 1_000_000_000
