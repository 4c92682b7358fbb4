# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A board swapped under warranty: one serial, two enrollments, each with record numbers of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from edgeprov.formats.label import Label
from tests.support.fleet import push_device, push_kit
from tests.support.softtpm import SoftTpm


@pytest.mark.parametrize("counter", [500, 5, 100])
def test_labels_and_duplicates_belong_to_the_enrollment(hub: Any, tmp_path: Path, counter: int) -> None:
    """Both boards give the same numbers; each row keeps its own label, and no row is a duplicate of the other's."""
    first = hub.device("a1")
    second = hub.world.enroll("a1", tpm=SoftTpm("board B", counter=counter))
    push_device(hub.registry, second)
    assert first.record.enrollment != second.record.enrollment
    for unit, value in ((first, 1), (second, 0)):
        numbers = range(unit.next_n, unit.next_n + 6)
        push_kit(hub.registry, unit, unit.seal(records=6))
        labels = [Label(n=n, value=value, source=f"truth {value}", labelled_at_ns=10**18) for n in numbers]
        push_kit(hub.registry, unit, unit.seal(records=0, labels=labels))
    hub.sync()
    run = hub.run("verify", "--records")
    assert run.code == 0, run.out
    item = hub.run("collect", "-o", tmp_path / "set", "--json").last("collected")
    assert (item["rows"], item["labelled"], item["refused"]) == (12, 12, 0)
    rows = ds.dataset(tmp_path / "set").to_table(columns=["kit", "n", "label", "label_source"]).to_pylist()
    boards = {kit: [row for row in rows if row["kit"] == kit] for kit in sorted({row["kit"] for row in rows})}
    assert len(boards) == 2
    assert sorted((row["n"], row["label"]) for row in rows) == sorted([(n, v) for n in range(6) for v in (0, 1)])
    for some in boards.values():
        assert len({row["label_source"] for row in some}) == 1
