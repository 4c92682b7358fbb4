# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Where batches run: in this process, in a pool of processes, or on a cluster.

An engine is one method. Tasks are module-level functions of one picklable argument with a picklable
result, without side effects that a second run would harm: an engine may run a task again.

Another engine is one file in this package: ``open_engine(*, address, workers) -> Engine`` in NAME.py is
what ``--engine NAME`` calls.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Protocol, TypeVar, cast

from edgeprov.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")


class Engine(Protocol):
    """Runs tasks; results come in the order of the arguments, so that output does not depend on the engine."""

    def run(self, task: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
        """Apply ``task`` to each argument, some of them at once.

        Arguments are taken as workers get free, results given as they are asked for: memory stays
        bounded by the number of workers, whatever the number of arguments.
        """


def engine_names() -> list[str]:
    """All engines that there are, by the files of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def open_engine(name: str, *, address: str = "", workers: int | None = None) -> Engine:
    """An engine by name.

    Args:
        name: One of engine_names().
        address: Of a cluster; an engine of one machine ignores it.
        workers: How many at once; None is for the engine to decide, and a cluster ignores it.

    Raises:
        UsageError: Unknown, or its package is not installed.
        EngineError: There is nothing at the address.
    """
    if name not in engine_names():
        raise UsageError(f"unknown engine {name[:40]!r}", advice=f"Known: {', '.join(engine_names())}.")
    module = import_module(f"{__name__}.{name}")
    return cast("Engine", module.open_engine(address=address, workers=workers))
