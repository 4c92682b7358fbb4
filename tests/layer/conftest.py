# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The layer's Python is imported as BitBake and the native interpreter import it: from the layer's lib."""

from __future__ import annotations

import sys
from pathlib import Path

LAYER = Path(__file__).parents[2] / "meta-provenance"
sys.path.insert(0, str(LAYER / "lib"))
