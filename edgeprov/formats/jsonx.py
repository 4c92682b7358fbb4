# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: bounded in size and depth, no duplicate keys, no NaN; and one canonical way to write it.

Duplicate keys are refused because two readers may pick different values of one signed document.
Spec: RFC 8259; FORMAT.md section "JSON".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from edgeprov.errors import FormatError, LimitError
from edgeprov.limits import LIMITS

JsonObject = dict[str, Any]

_STRING = rb'(?s)"(?>[^"\\]*(?:\\.[^"\\]*)*)"?'  # never backtracks: linear in any input
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


def parse_json(raw: bytes, what: str, *, max_bytes: int = LIMITS.manifest_bytes) -> Any:
    """Decode UTF-8 JSON into plain Python values.

    Raises:
        LimitError: Too long or too deep.
        FormatError: Not JSON, duplicate keys, NaN or Infinity, or not UTF-8.
    """
    if len(raw) > max_bytes:
        raise LimitError(f"{what} has {len(raw)} bytes, more than {max_bytes}")
    _verify_depth(raw, what)
    try:
        return _DECODER.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{what} is not valid JSON: {error}") from error


def parse_json_object(raw: bytes, what: str, *, max_bytes: int = LIMITS.manifest_bytes) -> JsonObject:
    """As parse_json, but the top level must be an object."""
    value = parse_json(raw, what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    return value


def encode_json(value: Mapping[str, Any]) -> bytes:
    """The one way we write JSON: UTF-8, sorted keys, no spaces, no NaN. Same value, same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def get_str(obj: Mapping[str, Any], key: str, what: str) -> str:
    """A required string member."""
    value = obj.get(key)
    if not isinstance(value, str):
        raise FormatError(f"{what}: {key!r} is missing or not a string")
    return value


def get_int(obj: Mapping[str, Any], key: str, what: str, *, maximum: int = 2**63 - 1) -> int:
    """A required non-negative integer member (bool does not count)."""
    value = obj.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
        raise FormatError(f"{what}: {key!r} is missing or not an integer from 0 to {maximum}")
    return value


def get_list(obj: Mapping[str, Any], key: str, what: str, *, maximum: int) -> list[Any]:
    """A list member; absent reads as empty.

    Raises:
        LimitError: More than ``maximum`` items.
    """
    value = obj.get(key, [])
    if value is None:
        return []
    if not isinstance(value, list):
        raise FormatError(f"{what}: {key!r} is not a list")
    if len(value) > maximum:
        raise LimitError(f"{what}: {key!r} has {len(value)} items, more than {maximum}")
    return value


def get_object(obj: Mapping[str, Any], key: str, what: str) -> JsonObject:
    """A required object member."""
    value = obj.get(key)
    if not isinstance(value, dict):
        raise FormatError(f"{what}: {key!r} is missing or not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"JSON object has the key {twice[:80]!r} twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise FormatError(f"JSON holds {name}")


def _verify_depth(raw: bytes, what: str) -> None:
    # An upper bound that needs no parser: brackets inside strings count too, and documents with
    # that many are refused only when the real depth could pass the bound as well.
    if raw.count(b"{") + raw.count(b"[") <= LIMITS.json_depth:
        return
    depth = 0
    for byte in re.sub(_STRING, b"", raw).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"{[" else -1
        if depth > LIMITS.json_depth:
            raise LimitError(f"{what} is nested deeper than {LIMITS.json_depth}")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
