# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Typed members of a canonical map that was decoded: exact keys, text, integers, hashes.

Spec: FORMAT.md section "Canonical msgpack".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.record import INT_MAX


def check_keys(value: object, expected: frozenset[str], what: str) -> dict[str, Any]:
    """Return the map if it has exactly the expected keys.

    Raises:
        FormatError: Not a map, or a key is unknown or missing.
    """
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a map")
    if value.keys() != expected:
        odd = sorted(value.keys() ^ expected)
        raise FormatError(f"{what} has unknown or missing keys: {', '.join(map(str, odd))[:200]}")
    return value


def text_member(obj: Mapping[str, Any], key: str, what: str, maximum: int = 256) -> str:
    """A string of at most ``maximum`` characters.

    Raises:
        FormatError: Another type, or longer.
    """
    value = obj[key]
    if not isinstance(value, str) or len(value) > maximum:
        raise FormatError(f"{what}: {key!r} is not a string of at most {maximum} characters")
    return value


def uint_member(obj: Mapping[str, Any], key: str, what: str) -> int:
    """An integer from 0 to 2**63-1; a bool is none.

    Raises:
        FormatError: Anything else.
    """
    value = obj[key]
    if type(value) is not int or not 0 <= value <= INT_MAX:
        raise FormatError(f"{what}: {key!r} is not an integer from 0 to 2**63-1")
    return value


def optional_uint_member(obj: Mapping[str, Any], key: str, what: str) -> int | None:
    """As uint_member, or nil."""
    return None if obj[key] is None else uint_member(obj, key, what)


def bool_member(obj: Mapping[str, Any], key: str, what: str) -> bool:
    """True or false.

    Raises:
        FormatError: Anything else.
    """
    value = obj[key]
    if not isinstance(value, bool):
        raise FormatError(f"{what}: {key!r} is not a bool")
    return value


def hash_member(obj: Mapping[str, Any], key: str, what: str) -> bytes:
    """A binary value of 32 bytes.

    Raises:
        FormatError: Anything else.
    """
    value = obj[key]
    if not isinstance(value, bytes) or len(value) != 32:
        raise FormatError(f"{what}: {key!r} is not a binary value of 32 bytes")
    return value


def optional_hash_member(obj: Mapping[str, Any], key: str, what: str) -> bytes | None:
    """As hash_member, or nil."""
    return None if obj[key] is None else hash_member(obj, key, what)


def binary_member(obj: Mapping[str, Any], key: str, what: str, maximum: int) -> bytes:
    """A binary value of at most ``maximum`` bytes.

    Raises:
        FormatError: Another type.
        LimitError: Longer.
    """
    value = obj[key]
    if not isinstance(value, bytes):
        raise FormatError(f"{what}: {key!r} is not binary")
    if len(value) > maximum:
        raise LimitError(f"{what}: {key!r} has {len(value)} bytes, more than {maximum}")
    return value


def list_member(obj: Mapping[str, Any], key: str, what: str, maximum: int) -> list[Any]:
    """An array of at most ``maximum`` items.

    Raises:
        FormatError: Another type.
        LimitError: More items.
    """
    value = obj[key]
    if not isinstance(value, list):
        raise FormatError(f"{what}: {key!r} is not an array")
    if len(value) > maximum:
        raise LimitError(f"{what}: {key!r} has {len(value)} items, more than {maximum}")
    return value


def number_ranges(value: list[Any], what: str) -> tuple[tuple[int, int], ...]:
    """Check ranges ``[first, last]`` of record numbers, both included: ascending, not touching each other.

    Raises:
        FormatError: Something else than pairs of integers, out of order, or two that are one range.
    """
    result: list[tuple[int, int]] = []
    end = -2
    for item in value:
        if not isinstance(item, list) or len(item) != 2 or any(type(bound) is not int for bound in item):
            raise FormatError(f"{what}: a range is not a pair of record numbers")
        first, last = item
        if not 0 <= first <= last <= INT_MAX or first <= end + 1:
            raise FormatError(f"{what}: ranges of record numbers are out of order, or overlap or touch each other")
        end = last
        result.append((first, last))
    return tuple(result)
