# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Switch off one rule of the conclusion, or weaken it, in this process: what watches the rules has to notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pkgutil import iter_modules
from types import FunctionType
from typing import Any

import edgeprov.fleet.conclusion as room
from edgeprov.fleet.conclusion.view import RULES


def rules() -> dict[str, FunctionType]:
    """The functions that give reasons, by the id of their rule."""
    found: dict[str, FunctionType] = {}
    for name, place in RULES.items():
        for module in iter_modules(room.__path__, room.__name__ + "."):
            function = getattr(vars(import_module(module.name)).get(place), "__wrapped__", None)
            if isinstance(function, FunctionType):
                found[name] = function
    return found


def _nothing(*arguments: Any) -> Iterator[Any]:
    del arguments
    return
    yield


@contextmanager
def replaced(function: Callable[..., Any], by: Callable[..., Any]) -> Iterator[None]:
    """Let a function do what another one does, wherever it is named."""
    assert isinstance(function, FunctionType)
    assert isinstance(by, FunctionType)
    before = function.__code__, function.__defaults__, function.__kwdefaults__
    function.__code__, function.__defaults__, function.__kwdefaults__ = by.__code__, by.__defaults__, by.__kwdefaults__
    try:
        yield
    finally:
        function.__code__, function.__defaults__, function.__kwdefaults__ = before


@contextmanager
def switched_off(rule: str) -> Iterator[None]:
    """Let a rule give no reason."""
    with replaced(rules()[rule], _nothing):
        yield
