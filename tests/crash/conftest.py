# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Prints what the crash tests tried."""

from __future__ import annotations

import pytest

from tests.support.crashpoints import TOTALS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOTALS:
        terminalreporter.section("crash tests")
        for name, count in sorted(TOTALS.items()):
            terminalreporter.write_line(f"{count:8}  {name}")
