# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Moments as text: one form, in UTC, with an end at each side of the calendar."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprov.errors import FormatError
from edgeprov.formats.rfc3339 import (
    ns_of_rfc3339,
    parse_rfc3339,
    rfc3339,
    rfc3339_ms,
    rfc3339_ms_of_ns,
    rfc3339_of_ns,
    rfc3339_of_s,
)

ROOT = Path(__file__).parents[3] / "edgeprov"
EAST = dt.timezone(dt.timedelta(hours=2))


def test_a_moment_of_another_zone_is_written_in_utc() -> None:
    moment = dt.datetime(2026, 1, 31, 1, 30, 0, 999_999, tzinfo=EAST)
    assert rfc3339(moment) == "2026-01-30T23:30:00Z"
    assert rfc3339_ms(moment) == "2026-01-30T23:30:00.999Z"


@pytest.mark.parametrize(
    ("moment_ns", "text"),
    [
        (-1, "1970-01-01T00:00:00"),
        (0, "1970-01-01T00:00:00"),
        (1_767_225_600_123_999_999, "2026-01-01T00:00:00"),
        (2**63 - 1, "2262-04-11T23:47:16"),
        (2**80, "9999-12-31T23:59:59"),
    ],
)
def test_nanoseconds_outside_of_the_calendar_are_shown_as_its_end(moment_ns: int, text: str) -> None:
    assert rfc3339_of_ns(moment_ns) == text + "Z"
    assert re.fullmatch(re.escape(text) + r"\.\d{3}Z", rfc3339_ms_of_ns(moment_ns))


def test_seconds_without_an_end_are_shown_as_the_calendars_end() -> None:
    assert rfc3339_of_s(float("inf")) == "9999-12-31T23:59:59Z"
    assert rfc3339_of_s(float("-inf")) == "1970-01-01T00:00:00Z"


@given(st.integers(0, 253_402_300_799 * 10**9))
def test_what_is_written_is_read_again_to_the_millisecond(moment_ns: int) -> None:
    assert ns_of_rfc3339(rfc3339_ms_of_ns(moment_ns)) == moment_ns // 10**6 * 10**6
    assert parse_rfc3339(rfc3339_of_ns(moment_ns)).timestamp() == moment_ns // 10**9


@pytest.mark.parametrize("text", ["", "2026-01", "2026-01-31T12:00:00", "yesterday", "2026-02-30T00:00:00Z", "9" * 50])
def test_what_is_no_moment_with_a_zone_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_rfc3339(text)


def test_no_other_module_writes_moments() -> None:
    """One home: a second form of time text would be told apart by nobody."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "rfc3339.py"
        for line in path.read_text().splitlines()
        if ("strftime(" in line and "pc.strftime" not in line) or ("%H:%M" in line and "pc.strftime" not in line)
    ]
    assert found == []
