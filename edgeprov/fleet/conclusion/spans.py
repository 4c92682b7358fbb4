# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Ranges of numbers, first and last included."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from edgeprov.fleet.conclusion.types import Range


def joined_ranges(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers as ascending ranges that neither overlap nor touch."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if first > last:
            continue
        if found and first <= found[-1][1] + 1:
            if last > found[-1][1]:
                found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def gaps_between(covered: Sequence[Range], first: int, last: int) -> list[Range]:
    """The numbers from first to last that joined ranges do not cover."""
    found = []
    expected = first
    for low, high in covered:
        if low > last:
            break
        if low > expected:
            found.append((expected, low - 1))
        expected = max(expected, high + 1)
    if expected <= last:
        found.append((expected, last))
    return found


def without(ranges: Iterable[Range], numbers: Sequence[int]) -> list[Range]:
    """Ranges with single numbers (ascending) taken out."""
    found = []
    for first, last in ranges:
        low = first
        for number in numbers[bisect_left(numbers, first) : bisect_right(numbers, last)]:
            found.append((low, number - 1))
            low = number + 1
        found.append((low, last))
    return [(low, high) for low, high in found if low <= high]


def common_part(one: Range, other: Range) -> Range:
    """The numbers that two overlapping ranges have in common."""
    return max(one[0], other[0]), min(one[1], other[1])


def count_common(one: Sequence[Range], other: Sequence[Range]) -> int:
    """How many numbers two joined sequences of ranges have in common."""
    total, place = 0, 0
    for first, last in one:
        while place < len(other) and other[place][1] < first:
            place += 1
        at = place
        while at < len(other) and other[at][0] <= last:
            total += min(last, other[at][1]) - max(first, other[at][0]) + 1
            at += 1
    return total
