# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Drift: spreads and accuracy are what a plain count over the records gives."""

from __future__ import annotations

from collections import Counter

import pytest

from edgeprov.fleet.drift import drift
from edgeprov.formats.record import Label, parse_record
from tests.support.fleet import fleet, push_kit


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def test_spread_and_accuracy(hub, tmp_path):
    unit = hub.device("a1")
    old, new = hub.world.model, hub.world.make_model("wdbc", b"version 2")
    push_kit(hub.registry, unit, unit.seal(records=40, model=old))
    labels = [Label(n=n, value=n % 2, source="x", labelled_at_ns=10_000) for n in range(30)]
    push_kit(hub.registry, unit, unit.seal(records=0, labels=labels, model=old))
    unit.reboot()
    unit.measure(new.digest)
    push_kit(hub.registry, unit, unit.seal(records=50, model=new))
    hub.sync()
    assert hub.run("collect", "-o", tmp_path / "out").code == 0
    report = drift(tmp_path / "out")
    first, second = report["models"]
    records = [parse_record(row) for row in unit.sealed[0].rows]
    decided = [int(signed(r.outputs[0][1]) > signed(r.outputs[0][0])) for r in records]
    assert first["spread"] == {str(k): v for k, v in sorted(Counter(decided).items())}
    right = sum(decided[record.n] == record.n % 2 for record in records if record.n < 30)
    assert (first["labelled"], first["right"]) == (30, right)
    assert first["accuracy"] == pytest.approx(right / 30, abs=1e-4)
    assert (second["rows"], second["labelled"], second["accuracy"]) == (50, 0, None)
    assert report["pairs"][0]["from"] == str(old.digest)
    page = tmp_path / "audit.html"
    run = hub.run("audit", "--from", "2026-02", "--to", "2026-02", "--data", tmp_path / "out", "--html", page)
    assert run.code == 0, run.err
    assert "Model versions compared" in page.read_text()


def test_not_a_data_set(tmp_path, hub):
    push_kit(hub.registry, hub.device("a1"), hub.units["a1"].seal(records=2))
    hub.sync()
    assert hub.run("audit", "--from", "2026-02", "--to", "2026-02", "--data", tmp_path).code == 35
    assert fleet("audit", "--data", tmp_path).code == 2
