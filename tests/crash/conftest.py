# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Prints what the crash tests tried; works in memory, where a sync costs nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crashpoints import TOTALS

MEMORY = "/dev/shm"  # what a stop leaves is decided by the order of the calls, not by the medium


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """As pytest's own, in memory where there is such a file system, and gone after the test."""
    folder = Path(tempfile.mkdtemp(prefix="edgeprov-crash-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOTALS:
        terminalreporter.section("crash tests")
        for name, count in sorted(TOTALS.items()):
            terminalreporter.write_line(f"{count:8}  {name}")
