# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Devices and moments as people write them, as the index holds them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from edgeprov.errors import UsageError
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX
from edgeprov.formats.rfc3339 import rfc3339_ms


def device_name(text: str) -> str:
    """A device's URN from its URN or serial."""
    return text if text.startswith(DEVICE_URN_PREFIX) else DEVICE_URN_PREFIX + text


def parse_moment(text: str, *, end: bool = False) -> str:
    """A day, month or time as people write it, as RFC 3339 in UTC.

    Args:
        text: ``2026-01``, ``2026-01-31``, or a full RFC 3339 time.
        end: A day or month stands for its end (the next one's start).

    Raises:
        UsageError: Not a time.
    """
    try:
        if re.fullmatch(r"\d{4}-\d{2}", text):
            moment = datetime.fromisoformat(text + "-01").replace(tzinfo=UTC)
            if end:
                moment = (moment + timedelta(days=32)).replace(day=1)
        elif re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            moment = datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=1 if end else 0)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text[:60]!r} is not a time", advice="Write 2026-01, 2026-01-31 or 2026-01-31T12:00:00Z."
        ) from error
    return rfc3339_ms(moment)
