# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""All histories."""

from __future__ import annotations

from collections.abc import Iterator

from tests.vectors.conclusion import cases_period, cases_series, cases_trust
from tests.vectors.conclusion.vector import Vector


def all_histories() -> Iterator[Vector]:
    """Every vector of the conclusion; each has an id of its own."""
    names: set[str] = set()
    for room in (cases_series, cases_trust, cases_period):
        for histories in room.ALL:
            for vector in histories():
                assert vector.id not in names, vector.id
                names.add(vector.id)
                yield vector
