# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A folder in memory, and fault injection through the store's one hook."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from edgeprov.store import atomic


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """As pytest's own, in memory where that exists: a sync costs nothing there."""
    memory = "/dev/shm"
    folder = Path(tempfile.mkdtemp(prefix="edgeprov-store-", dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


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
