# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.sender import Sender


@pytest.fixture
def make_sender(tmp_path: Path) -> Callable[..., Sender]:
    return lambda serial="unit-1": Sender(tmp_path / serial, serial)


@pytest.fixture
def sender(make_sender: Callable[..., Sender]) -> Sender:
    return make_sender()
