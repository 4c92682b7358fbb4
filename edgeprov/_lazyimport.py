# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Imports at each start only what is used: a library's own import of something heavy waits until it is needed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def later(name: str) -> Iterator[None]:
    """What is imported inside gets the module ``name`` at its first use of it, instead of now."""
    if name in sys.modules:
        yield
        return
    standing_in = ModuleType(name)
    standing_in.__dict__["__getattr__"] = lambda member: getattr(importlib.import_module(name), member)
    sys.modules[name] = standing_in
    try:
        yield
    finally:
        if sys.modules.get(name) is standing_in:
            del sys.modules[name]  # all others get the real one
