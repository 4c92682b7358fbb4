# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a slot's pointer holds beside the model: whether it is on trial, and the lock of every switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SWITCH_LOCK: Final = "switch"

ON_TRIAL: Final[Mapping[str, Any]] = {"trial": True, "loads": 0}
"""What activation adds: ``loads`` counts how often an application loaded the model without a record."""
