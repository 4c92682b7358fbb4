# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Style sheets, scripts and the page of the web service; the audit page uses the same styles."""

from __future__ import annotations

from importlib import resources


def asset(name: str) -> str:
    """Read a file of this folder."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
