# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One store scenario as a program: ``python -m tests.support.store_program NAME FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgeprov.errors import EdgeprovError
from tests.support.store_scenarios import scenario

if __name__ == "__main__":
    try:
        scenario(sys.argv[1]).run(Path(sys.argv[2]), lambda text: os.write(1, f"{text}\n".encode()) and None)
    except EdgeprovError as error:
        sys.exit(error.exit_code)
