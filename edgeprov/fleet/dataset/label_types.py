# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The one type that a data set's label column has, whatever values labels were given."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

LabelType = Literal["null", "bool", "int", "float", "str", "json"]


def column_kind(values: Sequence[object]) -> LabelType:
    """The narrowest type that holds all of these label values."""
    if isinstance(values, array) and len(values):
        return "float" if values.typecode == "d" else "int"  # of 64 bits
    known: Mapping[type, LabelType] = {type(None): "null", bool: "bool", int: "int", float: "float", str: "str"}
    kinds = {known.get(kind, "json") for kind in set(map(type, values))}
    if "int" in kinds and any(type(value) is int and not -(2**63) <= value < 2**63 for value in values):
        return "json"
    return join_kinds(kinds)


def join_kinds(kinds: Iterable[LabelType]) -> LabelType:
    """The type that holds all of these: JSON text where nothing simpler does."""
    found = set(kinds) - {"null"}
    if not found:
        return "null"
    if len(found) == 1:
        return found.pop()
    return "float" if found == {"int", "float"} else "json"
