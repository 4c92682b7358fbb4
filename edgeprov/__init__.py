# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Proof of which model version produced which data.

The names an application needs are resolved on first use, so that ``import edgeprov`` costs a boot
path nothing: ``open_device`` and what it returns live in ``edgeprov.device.api``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprov.device.api import Device, Model, Result, open_device

__version__ = "0.1.0"
__all__ = ["Device", "Model", "Result", "__version__", "open_device"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from edgeprov.device import api  # noqa: PLC0415 - lazy by design, see the module docstring

        return getattr(api, name)
    raise AttributeError(f"module 'edgeprov' has no attribute {name!r}")
