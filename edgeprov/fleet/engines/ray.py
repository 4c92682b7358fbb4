# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Batches on an existing Ray cluster. The only importer of ray, which is not a dependency: install it where it runs.

Ray waits for minutes where nothing answers, and logs meanwhile. So whoever listens is asked first, in
a few bytes and seconds, whether it can be Ray at all.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from edgeprov import __version__
from edgeprov.errors import EdgeprovError, EngineError, UsageError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD: Final = 4  # batches in flight for each processor of the cluster
_RETRIES: Final = 10
_ANSWER_S: Final = 5.0
_CLIENT: Final = "ray://"
# Ray speaks gRPC, which is HTTP/2: its preface and an empty SETTINGS frame (RFC 9113, 3.4 and 6.5).
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_HEADER: Final = 9
_SETTINGS: Final = 4


class RayEngine:
    """Tasks on a cluster whose machines have the same edgeprov[fleet] and reach the same registries and output."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: ``host:port`` of the head, from a machine of the cluster; ``ray://host:port`` from any
                machine; empty: $RAY_ADDRESS, or the cluster that was last started on this machine.

        Raises:
            UsageError: Ray is not installed, or the address is none.
            EngineError: No cluster answers there, or one of another version of Ray or Python.
        """
        address = address or os.environ.get("RAY_ADDRESS", "")
        if address in ("", "auto"):
            address = _newest_cluster()
        _verify_listener(address)
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "the package `ray` is not installed", advice="pip install edgeprov[cluster], or use --engine local."
            ) from error
        self._ray: Any = ray
        # Of several batches that fail, the first one is told, by us.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        try:
            with _silence():
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # ray raises many kinds: RuntimeError, ConnectionError, its own
            raise _not_connected(address, error) from error

    def run(self, task: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
        """As Engine.run. A worker or machine that dies loses nothing: Ray runs its batch again.

        Raises:
            EngineError: The cluster failed, or a machine of it has another edgeprov.
            EdgeprovError: What a task raised.
        """
        ray = self._ray
        remote = ray.remote(max_retries=_RETRIES, num_cpus=1)(_call)
        width = max(2, int(ray.cluster_resources().get("CPU", 1)) * _AHEAD)
        waiting: deque[Any] = deque()
        source = iter(arguments)
        try:
            while True:
                waiting.extend(
                    remote.remote(__version__, task, argument) for argument in islice(source, width - len(waiting))
                )
                if not waiting:
                    return
                yield self._result(waiting.popleft())
        finally:
            for reference in waiting:
                ray.cancel(reference)

    def _result(self, reference: Any) -> Any:
        ray = self._ray
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EdgeprovError):
                raise error.cause from None
            raise EngineError(f"a task failed: {_last_line(error)}") from error
        except ray.exceptions.RayError as error:
            raise EngineError(f"the Ray cluster failed: {_last_line(error)}") from error


def _call(version: str, task: Callable[[T], R], argument: T) -> R:
    if version != __version__:
        raise EngineError(
            f"{socket.gethostname()} of the Ray cluster has edgeprov {__version__}, this machine {version}",
            advice="Install the same edgeprov[fleet] on each machine of the cluster.",
        )
    return task(argument)


@contextmanager
def _silence() -> Iterator[None]:
    """Ray's core writes a line a second past Python while it tries to connect; what it raises says all."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _newest_cluster() -> str:
    """What `ray start` left behind, where it always does."""
    path = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"  # noqa: S108
    try:
        return path.read_text().strip()
    except OSError as error:
        raise EngineError(
            "no Ray cluster on this machine",
            advice="Name one with --address HOST:PORT, or start one with `ray start --head`.",
        ) from error


def _verify_listener(address: str) -> None:
    """Raises unless something that may be Ray answers within seconds."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(
            f"{address[:100]!r} is no address of a Ray cluster", advice="Give host:port or ray://host:port."
        )
    received = b""
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S) as connection:
            connection.sendall(_PREFACE)
            while len(received) < _FRAME_HEADER and (piece := connection.recv(_FRAME_HEADER - len(received))):
                received += piece
    except TimeoutError as error:
        raise _no_cluster(address, f"no answer within {_ANSWER_S:.0f} s") from error
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from error
    if len(received) < _FRAME_HEADER or received[3] != _SETTINGS:
        raise _no_cluster(address, "what listens there is not Ray")


def _no_cluster(address: str, why: str) -> EngineError:
    return EngineError(
        f"no Ray cluster at {address}: {why}",
        advice="Name the head's host:port as `ray start --head` prints it, or ray://host:10001.",
    )


def _not_connected(address: str, error: Exception) -> EngineError:
    if "ersion mismatch" in str(error):
        return EngineError(
            f"the Ray cluster at {address} is of another version: {' '.join(str(error).split())[:300]}",
            advice="Install the cluster's versions of Ray and Python here.",
        )
    return _no_cluster(address, _last_line(error))


def _last_line(error: Exception) -> str:
    """Of Ray's long texts the line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def open_engine(*, address: str, workers: int | None) -> RayEngine:
    """For engines.open_engine; the cluster knows how many workers it has."""
    del workers
    return RayEngine(address)
