# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Sets of integers and the ranges `[first, last]` of the JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

Fact = dict[str, Any]


def integers(ranges: Iterable[Iterable[int]]) -> set[int]:
    """All integers of ranges, both ends included."""
    return {n for first, last in ranges for n in range(first, last + 1)}


def as_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Ascending ranges of integers, as few as possible."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def canonical(value: Any) -> str:
    """Canonical JSON (section 1), as text that can be compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def least(values: Iterable[int | None]) -> int | None:
    """The least of what is known; null of nothing."""
    return min((value for value in values if value is not None), default=None)


def greatest(values: Iterable[int | None]) -> int | None:
    """The greatest of what is known; null of nothing."""
    return max((value for value in values if value is not None), default=None)


def reason(rule: str, code: str, effect: str, **members: Any) -> Fact:
    """A reason of the report, without `text`.

    Args:
        rule: Without `R-con-`.
        members: What is known of it, by the names of the JSON form; `numbers` may be any integers, `apart` two numbers
            that stay two ranges.
    """
    fact: Fact = {
        "code": code, "rule": f"R-con-{rule}", "effect": effect, "enrollment": None, "device": None, "slot": None,
        "numbers": [], "digests": [], "count": None, "since": None, "until": None, "bound_ms": None,
    }  # fmt: skip
    apart = members.pop("apart", None)
    fact.update(members)
    fact["numbers"] = as_ranges(fact["numbers"]) if apart is None else [[number, number] for number in sorted(apart)]
    return fact
