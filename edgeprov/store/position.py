# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a spool writer is given: where its numbers go on, how it keeps them, and how much disk it may use."""

from __future__ import annotations

from collections.abc import Callable

from edgeprov._dataclass import dataclass

SaveHead = Callable[[int, int, int, bytes | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What the next segment's header has to say.

    Attributes:
        next: Number of its first record.
        skipped: Numbers before it that were reserved but have no record.
        prev: SHA-256 of the header of the segment before; None for the first.
    """

    next: int
    skipped: int
    prev: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A bound on disk use, looked at each time that space is set aside.

    Attributes:
        limit_bytes: What ``usage`` must not pass. Each writer may overshoot by one allocation (256 KiB).
        usage: Bytes in use now.
    """

    limit_bytes: int
    usage: Callable[[], int]
