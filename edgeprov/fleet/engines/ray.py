# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Batches on an existing Ray cluster. The only importer of ray, which is not a dependency: install it where it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar

from edgeprov.errors import EdgeprovError, UsageError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD: Final = 4  # batches in flight for each processor of the cluster
_RETRIES: Final = 10


class RayEngine:
    """Tasks on a cluster whose machines have edgeprov[fleet] installed and reach the same registries and folders."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: ``host:port`` of the head, or ``ray://host:port``; empty: the cluster of this machine.

        Raises:
            UsageError: Ray is not installed.
            EdgeprovError: No cluster answers.
        """
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "the package `ray` is not installed", advice="pip install ray, or use --engine local."
            ) from error
        self._ray: Any = ray
        try:
            ray.init(address=address or "auto", log_to_driver=False, configure_logging=False)
        except Exception as error:  # ray raises many kinds: RuntimeError, ConnectionError, its own
            raise EdgeprovError(
                f"no Ray cluster at {address or 'this machine'}: {str(error)[:200]}",
                advice="Start one with `ray start --head`, or name it with --address.",
            ) from error

    def run(self, task: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
        """As Engine.run. A worker or machine that dies loses nothing: Ray runs its batch again."""
        ray = self._ray
        remote = ray.remote(max_retries=_RETRIES, num_cpus=1)(_call)
        width = max(2, int(ray.cluster_resources().get("CPU", 1)) * _AHEAD)
        waiting: deque[Any] = deque()
        source = iter(arguments)
        while True:
            waiting.extend(remote.remote(task, argument) for argument in islice(source, width - len(waiting)))
            if not waiting:
                return
            try:
                result: R = ray.get(waiting.popleft())
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if hasattr(error, "cause") else None
                raise cause if isinstance(cause, EdgeprovError) else EdgeprovError(f"a task failed: {error}") from error
            except ray.exceptions.RayError as error:
                raise EdgeprovError(
                    f"the Ray cluster failed: {error}", advice="Repeat the command: what is done stays done."
                ) from error
            yield result


def _call(task: Callable[[T], R], argument: T) -> R:
    return task(argument)
