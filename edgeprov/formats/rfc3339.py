# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Moments as text: RFC 3339 in UTC, the only form that edgeprov writes.

Spec: RFC 3339, section 5.6.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from edgeprov.errors import FormatError

_LAST_S: Final = 253_402_300_799  # 9999-12-31T23:59:59Z: later moments have no text
_NS: Final = 10**9
_UTC_TEXT = re.compile(r"(?:19[7-9]|[2-9][0-9]{2})[0-9]-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(moment: datetime) -> str:
    """Whole seconds, such as ``2026-01-31T12:00:00Z``."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"


def rfc3339_ms(moment: datetime) -> str:
    """Milliseconds, such as ``2026-01-31T12:00:00.000Z``."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def rfc3339_of_s(seconds: float) -> str:
    """Whole seconds, from seconds since 1970; what lies outside of 1970 to 9999 is shown as its end."""
    return rfc3339(datetime.fromtimestamp(int(min(max(seconds, 0), _LAST_S)), UTC))


def rfc3339_of_ns(moment_ns: int) -> str:
    """Whole seconds, from nanoseconds since 1970; what lies outside of 1970 to 9999 is shown as its end."""
    return rfc3339_of_s(moment_ns // _NS)


def rfc3339_ms_of_ns(moment_ns: int) -> str:
    """Milliseconds, from nanoseconds since 1970; what lies outside of 1970 to 9999 is shown as its end."""
    seconds, rest_ns = divmod(min(max(moment_ns, 0), (_LAST_S + 1) * _NS - 1), _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns // 10**6:03d}Z"


def check_utc_text(text: str, what: str) -> str:
    """Return the text if it is a moment in UTC with ``Z``, of the years 1970 to 9999.

    Raises:
        FormatError: Anything else.
    """
    try:
        datetime.fromisoformat(text)
    except ValueError:
        text = ""
    if not _UTC_TEXT.fullmatch(text):
        raise FormatError(f"{what} is not an RFC 3339 time in UTC, of the years 1970 to 9999")
    return text


def parse_rfc3339(text: str) -> datetime:
    """Read a moment with its time zone.

    Raises:
        FormatError: Not RFC 3339, or without a time zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise FormatError(f"not an RFC 3339 time: {text[:40]!r}") from error
    if moment.tzinfo is None:
        raise FormatError(f"a time without time zone: {text[:40]!r}")
    return moment


def ns_of_rfc3339(text: str) -> int:
    """Nanoseconds since 1970. Errors as in parse_rfc3339."""
    passed = parse_rfc3339(text) - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * _NS + passed.microseconds * 1_000
