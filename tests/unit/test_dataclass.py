# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Value classes behave as data classes do; the standard library's are the oracle."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError

import pytest

from edgeprov import _dataclass


@_dataclass.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    tags: list[str] = _dataclass.field(default_factory=list, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Other:
    x: int
    y: int = 2
    tags: list[str] = dataclasses.field(default_factory=list, repr=False)


@_dataclass.dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    a: int
    b: str = "b"


@_dataclass.dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Base):
    c: bytes


@_dataclass.dataclass(frozen=True, slots=True, order=True)
class Version:
    major: int
    minor: int

    def __post_init__(self) -> None:
        if self.major < 0:
            raise ValueError("negative")


@_dataclass.dataclass(slots=True)
class Open:
    n: int = 0


def test_as_the_standard_librarys() -> None:
    ours, theirs = Point(1, tags=["t"]), Other(1, tags=["t"])
    assert repr(ours).removeprefix("Point") == repr(theirs).removeprefix("Other")
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)  # type: ignore[call-overload]
    assert [(f.name, f.repr, f.default) for f in dataclasses.fields(Point)] == [
        (f.name, f.repr, f.default) for f in dataclasses.fields(Other)
    ]
    assert Point.__match_args__ == Other.__match_args__
    assert dataclasses.replace(ours, x=5) == _dataclass.replace(ours, x=5) == Point(5, 2, ["t"])
    assert not hasattr(ours, "__dict__")


def test_equality_hash_and_order() -> None:
    assert Version(1, 2) == Version(1, 2) != Version(1, 3)
    assert hash(Version(1, 2)) == hash(Version(1, 2)) == hash((1, 2))
    assert Version(1, 2) < Version(1, 3) < Version(2, 0) >= Version(2, 0)
    assert Version(1, 2) != (1, 2)
    assert Point(1) != Other(1)
    with pytest.raises(TypeError):
        hash(Open())


def test_defaults_are_made_anew() -> None:
    one, other = Point(1), Point(1)
    assert one == other
    assert one.tags is not other.tags


def test_frozen_and_open() -> None:
    with pytest.raises(FrozenInstanceError):
        Version(1, 2).major = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del Version(1, 2).major
    value = Open()
    value.n = 5
    assert value == Open(5)


def test_wrong_arguments_are_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(TypeError):
            Base(1)  # type: ignore[misc]
        with pytest.raises(TypeError):
            Derived(a=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            _dataclass.replace(Base(a=1), z=1)
    with pytest.raises(ValueError, match="negative"):
        Version(-1, 0)


def test_inheritance_copies_and_processes() -> None:
    value = Derived(a=1, c=b"c")
    assert _dataclass.field_names(Derived) == ("a", "b", "c")
    for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert again == value
        assert isinstance(again, Derived)
    assert Base(a=1) != Derived(a=1, c=b"")
