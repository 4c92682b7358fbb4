# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The question that a report answers."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprov.fleet.conclusion.types import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The question.

    Attributes:
        since: Start of the period.
        until: Its end, not included.
        at: The time at which it is asked.
        model: Manifest digest of one model; None: all.
        devices: URNs of the devices that are asked about; empty: all.
    """

    since: int
    until: int
    at: int
    model: Manifest | None = None
    devices: tuple[str, ...] = ()
