# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tests.device.conftest import make_site, ready, site, template

__all__ = ["make_site", "ready", "site", "template"]
