# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The environment of other people's readers and of Ray: `hil/setup readers` makes it, from its own lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / ".venv" / "readers"


def readers_python() -> Path:
    """Its interpreter; skipped where there is none, unless CI=true."""
    python = HOME / "bin" / "python"
    if not (HOME / "stamp").exists():
        assert os.environ.get("CI") != "true", "no .venv/readers: run hil/setup readers"
        pytest.skip("no .venv/readers: run hil/setup readers")
    return python
