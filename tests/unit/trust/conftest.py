# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.support.world import Unit, World


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def unit(world: World) -> Unit:
    """A device in its first boot, with the model measured."""
    return world.enroll("unit-0001")
