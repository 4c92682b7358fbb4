# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The JSON form of knowledge, trust, question and report: canonical, and derived from the types.

An object has exactly the members of its type, a tuple is an array, a pair an array of two, an unknown value null.
Canonical bytes: UTF-8, members sorted by name, no white space, no escapes except those that JSON needs.

Spec: FORMAT.md part "Conclusion", section "JSON form".
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeprov.errors import FormatError
from edgeprov.fleet.conclusion.fleet_report import FleetReport
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import TrustRules
from edgeprov.fleet.conclusion.types import Knowledge
from edgeprov.formats.jsonx import encode_json

T = TypeVar("T")

PREFIX: Final = "sha256:"
_MANIFEST: Final = "manifest"
_INT_MAX: Final = 2**63 - 1
_HEX: Final = frozenset("0123456789abcdef")
_SHOWN: Final = 40


def encode_knowledge(knowledge: Knowledge) -> bytes:
    """The canonical bytes."""
    return encode_json(to_json(knowledge))


def parse_knowledge(raw: bytes) -> Knowledge:
    """Read the JSON form. Raises FormatError."""
    return _parse(Knowledge, raw)


def encode_trust(trust: TrustRules) -> bytes:
    """The canonical bytes."""
    return encode_json(to_json(trust))


def parse_trust(raw: bytes) -> TrustRules:
    """Read the JSON form. Raises FormatError."""
    return _parse(TrustRules, raw)


def encode_question(question: Question) -> bytes:
    """The canonical bytes."""
    return encode_json(to_json(question))


def parse_question(raw: bytes) -> Question:
    """Read the JSON form. Raises FormatError."""
    return _parse(Question, raw)


def encode_report(report: FleetReport) -> bytes:
    """The canonical bytes."""
    return encode_json(to_json(report))


def compared_report(report: FleetReport) -> bytes:
    """The canonical bytes without the member ``knowledge``: equal for equal knowledge, trust and question."""
    value = to_json(report)
    del value["knowledge"]
    return encode_json(value)


def parse_report(raw: bytes) -> FleetReport:
    """Read the JSON form. Raises FormatError."""
    return _parse(FleetReport, raw)


def to_json(value: Any) -> Any:
    """A value of this room as JSON objects."""
    return _codec(type(value))[0](value)


def from_json(kind: type[T], value: Any) -> T:
    """A value of ``kind`` from JSON objects. Raises FormatError."""
    read: T = _codec(kind)[1](value)
    return read


def _parse(kind: type[T], raw: bytes) -> T:
    try:
        value = json.loads(raw, object_pairs_hook=_members, parse_float=_no_number, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}") from None
    return from_json(kind, value)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) != len(pairs):
        raise FormatError("a member stands twice")
    return obj


def _no_number(text: str) -> Any:
    raise FormatError(f"{text[:_SHOWN]} is not an integer")


Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]


_codecs: dict[Any, Codec] = {}


def _codec(kind: Any) -> Codec:
    if kind not in _codecs:
        _codecs[kind] = _make_codec(kind)
    return _codecs[kind]


def _make_codec(kind: Any) -> Codec:  # noqa: PLR0911 - one line for each form
    origin: Any = get_origin(kind)
    args = get_args(kind)
    if origin is Annotated:
        return _bytes(PREFIX) if _MANIFEST in args[1:] else _codec(args[0])
    if origin in (Union, types.UnionType):
        return _optional(*_codec(next(arg for arg in args if arg is not type(None))))
    if origin is Literal:
        return _same, _checked(lambda value: value in args, f"one of {', '.join(map(str, args))}")
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return _array(*_codec(args[0]))
        return _fixed(tuple(map(_codec, args)))
    if kind is bytes:
        return _bytes("")
    if kind is bool:
        return _same, _checked(lambda value: type(value) is bool, "true or false")
    if kind is int:
        return _same, _checked(lambda value: type(value) is int and abs(value) <= _INT_MAX, "an integer")
    if kind is str:
        return _same, _checked(_is_text, "text")
    return _object(kind)


def _is_text(value: Any) -> bool:
    """Any Unicode text without lone surrogates, which UTF-8 cannot write; people's eyes are the renderer's business."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _same(value: Any) -> Any:
    return value


def _checked(good: Callable[[Any], bool], what: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not good(value):
            raise FormatError(f"{str(value)[:_SHOWN]!r} is not {what}")
        return value

    return read


def _bytes(prefix: str) -> Codec:
    def read(value: Any) -> bytes:
        if not isinstance(value, str) or not value.startswith(prefix):
            raise FormatError(f"{str(value)[:_SHOWN]!r} is not {prefix}hex")
        text = value[len(prefix) :]
        if len(text) % 2 or not _HEX.issuperset(text) or (prefix and len(text) != 64):
            raise FormatError(f"{value[:_SHOWN]!r} is not lower-case hex")
        return bytes.fromhex(text)

    return lambda value: prefix + value.hex(), read


def _optional(write: Callable[[Any], Any], read: Callable[[Any], Any]) -> Codec:
    return (
        lambda value: None if value is None else write(value),
        lambda value: None if value is None else read(value),
    )


def _array(write: Callable[[Any], Any], read: Callable[[Any], Any]) -> Codec:
    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise FormatError("not an array")
        return tuple(map(read, value))

    return lambda value: list(map(write, value)), parse


def _fixed(items: tuple[Codec, ...]) -> Codec:
    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(items):
            raise FormatError(f"not an array of {len(items)}")
        return tuple(read(item) for (_, read), item in zip(items, value, strict=True))

    return lambda value: [write(item) for (write, _), item in zip(items, value, strict=True)], parse


def _object(kind: Any) -> Codec:
    hints = get_type_hints(kind, include_extras=True)
    names = [item.name for item in dataclasses.fields(kind)]
    members = [(name, *_codec(hints[name])) for name in names]

    def write(value: Any) -> dict[str, Any]:
        return {name: encode(getattr(value, name)) for name, encode, _ in members}

    def read(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != set(names):
            found = sorted(set(value) ^ set(names)) if isinstance(value, dict) else "no object"
            raise FormatError(f"{kind.__name__}: members are unknown or missing: {str(found)[:200]}")
        return kind(**{name: decode(value[name]) for name, _, decode in members})

    return write, read
