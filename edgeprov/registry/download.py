# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Fetch one large blob over a bad link: what has arrived is kept, and the next request asks for the rest.

One connection: a model is one or two large layers, and a second connection over the same thin link only
halves the first. Memory holds one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgeprov.errors import DigestMismatch
from edgeprov.formats.descriptor import Descriptor
from edgeprov.registry.base import Registry
from edgeprov.registry.retry import Pace


class Sink(Protocol):
    """Where a blob grows; store.partial.PartialBlob, by shape."""

    size: int

    def write(self, data: bytes) -> None:
        """Append."""

    def restart(self) -> None:
        """Drop what is there."""

    def finish(self) -> None:
        """Compare with the digest and keep it. Raises DigestMismatch."""


def download(
    registry: Registry,
    repo: str,
    blob: Descriptor,
    sink: Sink,
    pace: Pace,
    *,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> int:
    """Fetch ``blob`` into ``sink`` from where it stands, and finish it.

    Args:
        registry: Where from.
        repo: Repository.
        blob: What to fetch.
        sink: Holds what an earlier call got.
        pace: Decides how often and how long to try.
        progress: Told the size of each chunk.

    Returns:
        Bytes that were fetched by this call.

    Raises:
        OutOfTime: The budget ended; the sink keeps what arrived.
        DigestMismatch: The registry has other bytes under this digest; the sink was emptied.
        RegistryError: The registry failed for good, or too often.
        StoreError: The disk failed; StoreFull when it is full.
    """
    fetched = 0

    def fetch_rest() -> None:
        nonlocal fetched
        for chunk in registry.fetch_blob(repo, blob, offset=sink.size):
            sink.write(chunk)
            fetched += len(chunk)
            progress(len(chunk))
            pace.advanced()
            pace.spend(len(chunk))

    for resumed in (sink.size > 0, False):
        try:
            if sink.size < blob.size or not blob.size:
                pace.attempt(fetch_rest)
            sink.finish()
        except DigestMismatch:
            sink.restart()
            if not resumed:
                raise
            # The part of an earlier run may have been damaged by a power cut: once more, from the start.
        else:
            return fetched
    raise AssertionError("unreachable")
