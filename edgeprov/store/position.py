# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a spool writer is given: where its numbers go on, and how much disk it may use."""

from __future__ import annotations

from collections.abc import Callable

from edgeprov._dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A bound on disk use, looked at each time that space is set aside.

    Attributes:
        limit_bytes: What ``usage`` must not pass. Each writer may overshoot by one allocation (256 KiB).
        usage: Bytes in use now.
    """

    limit_bytes: int
    usage: Callable[[], int]
