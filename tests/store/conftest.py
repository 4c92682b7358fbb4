# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Fault injection through the store's one hook."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from edgeprov.store import atomic


@pytest.fixture
def fail_at() -> Callable[..., AbstractContextManager[list[str]]]:
    """``with fail_at(n, errno)``: the n-th change of the disk (from 0) fails; yields the list of changes."""

    @contextmanager
    def injected(number: int, code: int = errno.EIO, only: str = "") -> Iterator[list[str]]:
        seen: list[str] = []

        def hook(operation: str, path: str, *_: object) -> None:
            if only and operation != only:
                return
            seen.append(operation)
            if len(seen) == number + 1:
                raise OSError(code, os.strerror(code), path)

        atomic.hook = hook
        try:
            yield seen
        finally:
            atomic.hook = None

    return injected
