# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Many artifacts of one registry over a few connections that are kept: results in the order of the questions.

At most ``connections`` requests are on their way, and at most four times as many results wait to be taken, so
memory does not grow with the list. A request that waiting may cure is repeated with the manners of retry.py; a
failure that concerns one artifact is its result; a line that is cut, and a login that is refused, end the iteration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from edgeprov.errors import EdgeprovError, LimitError, LoginRefused
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import Manifest
from edgeprov.limits import LIMITS
from edgeprov.registry.base import Registry
from edgeprov.registry.retry import Pace, WaitClock

_AHEAD: Final = 4  # results for each connection that may wait to be taken

Q = TypeVar("Q")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PoolAnswer(Generic[Q, T]):
    """What came of one question: a value, or an error that concerns this artifact alone."""

    asked: Q
    value: T | None
    error: EdgeprovError | None

    def result(self) -> T:
        """The value. Raises the error where there is none."""
        if self.error is not None:
            raise self.error
        assert self.value is not None  # noqa: S101 - narrowing for mypy
        return self.value


def fetch_manifests(
    registry: Registry,
    wanted: Iterable[tuple[str, Digest]],
    *,
    connections: int = LIMITS.registry_connections,
    clock: WaitClock | None = None,
) -> Iterator[PoolAnswer[tuple[str, Digest], Manifest]]:
    """Manifests by repository and digest, each verified, in the order of ``wanted``.

    Raises:
        LoginRefused: The registry refuses the account.
        RegistryError: The registry cannot be reached, however often it was tried.
    """
    return ask_in_order(lambda item: registry.fetch_manifest(*item), wanted, connections=connections, clock=clock)


def fetch_blobs(
    registry: Registry,
    wanted: Iterable[tuple[str, Descriptor]],
    *,
    max_bytes: int,
    connections: int = LIMITS.registry_connections,
    clock: WaitClock | None = None,
) -> Iterator[PoolAnswer[tuple[str, Descriptor], bytes]]:
    """Blobs by repository and descriptor, each whole in memory and verified. Errors as in fetch_manifests.

    A blob that is longer than ``max_bytes`` is not asked for: its error is a LimitError.
    """

    def fetch(item: tuple[str, Descriptor]) -> bytes:
        repo, blob = item
        if blob.size > max_bytes:
            raise LimitError(f"blob {blob.digest} has {blob.size} bytes, more than {max_bytes}")
        if blob.data is not None:
            return blob.data
        return b"".join(registry.fetch_blob(repo, blob))

    return ask_in_order(fetch, wanted, connections=connections, clock=clock)


def ask_in_order(
    ask: Callable[[Q], T],
    questions: Iterable[Q],
    *,
    connections: int = LIMITS.registry_connections,
    clock: WaitClock | None = None,
) -> Iterator[PoolAnswer[Q, T]]:
    """Call ``ask`` in at most ``connections`` threads, and give the answers in the order of the questions.

    The questions are taken one by one as room becomes free. An iteration that is left early sends nothing more.
    """

    def one(question: Q) -> PoolAnswer[Q, T]:
        try:
            return PoolAnswer(question, Pace(clock=clock).attempt(lambda: ask(question)), None)
        except EdgeprovError as error:
            return PoolAnswer(question, None, error)

    waiting: deque[Future[PoolAnswer[Q, T]]] = deque()
    pool = ThreadPoolExecutor(connections, thread_name_prefix="registry")
    try:
        for question in questions:
            waiting.append(pool.submit(one, question))
            if len(waiting) >= connections * _AHEAD:
                yield _verified(waiting.popleft().result())
        while waiting:
            yield _verified(waiting.popleft().result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def is_end(error: EdgeprovError) -> bool:
    """No answer at all, or a refused login: what is asked next gets none either. A 500 concerns what was asked for."""
    return isinstance(error, LoginRefused) or (error.retryable and getattr(error, "status", None) is None)


def _verified(answer: PoolAnswer[Q, T]) -> PoolAnswer[Q, T]:
    if answer.error is not None and is_end(answer.error):
        raise answer.error
    return answer
