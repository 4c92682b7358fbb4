# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Where batches run: in this process, in a pool of processes, or on a cluster.

An engine is one method. Tasks are module-level functions of one picklable argument with a picklable
result, without side effects that a second run would harm: an engine may run a task again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

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


def open_engine(name: str, *, address: str = "", workers: int | None = None) -> Engine:
    """An engine by name: ``local`` or ``ray``. Another engine is one more file and one more line here.

    Raises:
        UsageError: Unknown, or its package is not installed.
    """
    if name == "local":
        from edgeprov.fleet.engines.local import LocalEngine

        return LocalEngine(workers)
    if name == "ray":
        from edgeprov.fleet.engines.ray import RayEngine

        return RayEngine(address)
    raise UsageError(f"unknown engine {name[:40]!r}", advice="Known: local, ray.")
