# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Run by test_scripts.py through tests/run, and not collected with the others: tells what a test sees."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path


def test_tell() -> None:
    Path(os.environ["HYPOTHESIS_PROFILE"]).write_text(json.dumps(dict(os.environ)))


def test_hang() -> None:
    """With a child in a session of its own, as a server that a test started, and a folder."""
    subprocess.Popen(["sleep", "7071"], start_new_session=True)
    Path(os.environ["TMPDIR"], "made").mkdir()
    Path(os.environ["HYPOTHESIS_PROFILE"]).write_text("hangs")
    time.sleep(600)
