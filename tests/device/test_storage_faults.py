# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of a device's storage are events of its next kit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edgeprov
from edgeprov.device import storage_faults
from edgeprov.device.events import add_event, waiting_events
from edgeprov.device.seal import Sealed, seal
from edgeprov.errors import StoreError, StoreFull
from edgeprov.store.atomic import DurableFile
from tests.device.test_damage import flip, frame_starts, rewrite, segment_files
from tests.device.test_recorder import X, fill, record
from tests.support.site import Site


def faults(site: Site, sealed: list[Sealed]) -> list[dict[str, Any]]:
    """Details of the storage faults that these kits hold."""
    found = []
    for item in sealed:
        site.verify(site.context.state().layout, item.entry.digest)
        if item.entry.kind == "kit":
            found += [event.details for event in site.last_evidence.events if event.kind == "storage-fault"]
    return found


def test_each_damaged_file_is_an_event_of_a_kit_once(ready: Site) -> None:
    for expected in ("one", "two"):
        record(ready, 4)
        (path,) = segment_files(ready)
        rewrite(path, flip(frame_starts(path)[-2][0] + 20))
        assert faults(ready, seal(ready.context)) == [], expected
        record(ready, 1)
        (told,) = faults(ready, seal(ready.context))
        assert told["file"].startswith(path.name)
        assert "damaged" in told["reason"]
    record(ready, 1)
    assert faults(ready, seal(ready.context)) == []


def test_many_damaged_files_leave_room_for_other_events(ready: Site) -> None:
    state = ready.context.state()
    for number in range(70):
        file = state.root / f"part-{number}"
        file.write_bytes(b"?")
        state.quarantine(file, "it cannot be read")
    told = faults(ready, seal(ready.context, rest=True))
    assert len(told) == 51
    assert told[-1] == {"files": 20}


def small(make_site: Callable[..., Site]) -> Site:
    site = make_site(settings="[record]\nquota_bytes = 600000\n")
    site.install_identity()
    site.install()
    return site


def test_refused_records_are_counted_in_an_event(make_site: Callable[..., Site]) -> None:
    site = small(make_site)
    with edgeprov.open_device() as device:
        model = device.load_model()
        fill(site, model)
        for _ in range(3):
            with pytest.raises(StoreFull):
                model.run(X)
    first, rest = faults(site, seal(site.context))
    assert [first["refused"], rest["refused"]] == [1, 3], "the first at once, the others when the session ends"
    assert "StoreFull" in first["error"]
    record(site, 1)
    assert faults(site, seal(site.context)) == []


def test_an_event_that_finds_no_place_either_waits(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = small(make_site)

    def full(*_of: object) -> None:
        raise StoreFull("no space left on the device")

    with edgeprov.open_device() as device:
        model = device.load_model()
        monkeypatch.setattr(storage_faults, "add_event", full)
        count = fill(site, model)
        assert not [event for event in waiting_events(site.context.state()).events if event.kind == "storage-fault"]
        monkeypatch.setattr(storage_faults, "add_event", add_event)
        held = seal(site.context)
        assert sum(item.contents.records for item in held if item.contents) == count
        model.run(X)  # there is room again
    (told,) = faults(site, seal(site.context))
    assert told["refused"] == 1


def test_a_disk_that_fails_is_told_after_the_session(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_file: DurableFile) -> None:
        raise StoreError("Input/output error")

    with edgeprov.open_device() as device:
        model = device.load_model()
        model.run(np.zeros((1, 30), np.int8))
        with monkeypatch.context() as patch:
            patch.setattr(DurableFile, "sync", broken)
            with pytest.raises(StoreError):
                model.sync()
    record(ready, 1)
    (told,) = faults(ready, seal(ready.context))
    assert told == {"error": "StoreError: Input/output error", "refused": 0}
