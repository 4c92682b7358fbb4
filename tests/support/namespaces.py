# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Namespaces of their own for programs under test, where this machine allows them."""

from __future__ import annotations

import os
import subprocess
from functools import cache

import pytest


def unshare(*options: str, probe: str = "true") -> list[str]:
    """The command that goes before a program; skipped where the machine forbids it, unless CI=true.

    Args:
        options: Of unshare(1); an unprivileged user gets a user namespace with them.
        probe: A shell command that must succeed inside.
    """
    command = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), *options]
    if reason := _refusal(tuple(command), probe):
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    return command


@cache
def _refusal(command: tuple[str, ...], probe: str) -> str:
    done = subprocess.run([*command, "sh", "-c", probe], capture_output=True, text=True)
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"this machine forbids it: {said}" if done.returncode else ""
