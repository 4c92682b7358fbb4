# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Recording and sealing: captures, rotation, full disks, late labels, several slots and models."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edgeprov
from edgeprov import journal
from edgeprov.device.labels import add_labels
from edgeprov.device.seal import seal
from edgeprov.device.series_state import load_head
from edgeprov.errors import ModelNotReady, StoreFull, UsageError
from edgeprov.formats.record import keyed_input_digest
from edgeprov.formats.segment import parse_segment_header
from edgeprov.store.spool import read_segment
from tests.device.conftest import use
from tests.support.kits import blocks_of, labels_of
from tests.support.site import DIGITS, Site

X = np.arange(30, dtype=np.int8).reshape(1, 30)


def configure(site: Site, settings: str) -> Site:
    site.config_file.write_text(site.config_file.read_text() + "\n" + settings + "\n")
    return site


def record(site: Site, count: int = 1, slot: str | None = None) -> list[edgeprov.Result]:
    with edgeprov.open_device() as device:
        model = device.load_model(slot)
        shape = model.inputs[0].shape
        return [model.run(np.full(shape, n % 100, np.int8)) for n in range(count)]


def decoded(site: Site, sealed: Any) -> dict[str, list[Any]]:
    _, parts = site.verify(site.context.state().layout, sealed.entry.digest)
    result: dict[str, list[Any]] = {"records": [], "labels": [], "inputs": [], "headers": []}
    result["records"] = [block.record(i) for block in blocks_of(parts) for i in range(block.count)]
    result["labels"] = [label for labels in labels_of(parts) for label in labels]
    for part in parts:
        result["inputs"] += part.inputs
        result["headers"] += part.headers
    return result


@pytest.mark.parametrize("sync", ["every", "interval", "seal"])
def test_every_sync_mode_keeps_every_record(ready: Site, sync: str) -> None:
    configure(ready, f"[record]\nsync = '{sync}'")
    with edgeprov.open_device() as device:
        model = device.load_model()
        for expected in range(1, 51):
            assert model.run(X).record.n == expected
            if sync == "every":
                assert model._recorder.synced_n == expected + 1
        model.sync()
        assert model._recorder.synced_n == 51
    (sealed,) = seal(ready.context)
    assert [row.n for row in decoded(ready, sealed)["records"]] == list(range(1, 51))


def test_capture_of_digests(ready: Site) -> None:
    configure(ready, "[record]\ncapture = 'digest'")
    with edgeprov.open_device() as device:
        device.load_model().run(X)
    (sealed,) = seal(ready.context)
    kit = decoded(ready, sealed)
    key = kit["headers"][0].input_key
    assert kit["records"][0].input_digest == keyed_input_digest(key, [X.tobytes()])
    assert kit["inputs"] == []


def test_capture_of_everything(ready: Site) -> None:
    configure(ready, "[record]\ncapture = 'full'")
    record(ready, 20)
    (sealed,) = seal(ready.context)
    kit = decoded(ready, sealed)
    assert [item.n for item in kit["inputs"]] == list(range(1, 21))
    for row, item in zip(kit["records"], kit["inputs"], strict=True):
        assert row.input_digest == keyed_input_digest(kit["headers"][0].input_key, item.inputs)


def test_capture_of_a_sample(ready: Site) -> None:
    configure(ready, "[record]\ncapture = 'sampled'\ncapture_rate = 0.3")
    record(ready, 400)
    (sealed,) = seal(ready.context)
    kit = decoded(ready, sealed)
    assert all(row.input_digest for row in kit["records"])
    assert 60 < len(kit["inputs"]) < 180  # 120 expected; 6 standard deviations to either side
    by_number = {row.n: row for row in kit["records"]}
    for item in kit["inputs"]:
        digest = by_number[item.n].input_digest
        assert int.from_bytes(digest[:8], "big") < 0.3 * 2**64


def test_no_capture_without_asking(ready: Site) -> None:
    record(ready, 3)
    (sealed,) = seal(ready.context)
    kit = decoded(ready, sealed)
    assert [row.input_digest for row in kit["records"]] == [None] * 3
    assert kit["headers"][0].input_key is None


def test_header_says_what_ran_where_and_when(ready: Site) -> None:
    with edgeprov.open_device() as device:
        model = device.load_model(params={"threshold": 0.5})
        model.run(X, params={"threshold": 0.7})
        (info,) = ready.context.state().spool("default").segments()
        header = parse_segment_header(read_segment(info.path).header)
    assert header.device == "urn:edgeprov:device:unit-1"
    assert header.boot_id == ready.boot_id
    assert header.reset_count == ready.tpm.reset_count
    assert 60_000 <= header.tpm_clock_ms <= ready.tpm.clock_ms
    assert abs(header.opened_at_ns - time.time_ns()) < 600e9
    assert header.runtime.name == ("tflite-runtime" if sys.version_info < (3, 12) else "ai-edge-litert")
    assert dict(header.params) == {"threshold": 0.5}
    assert header.inputs[0].dtype == "int8"
    (sealed,) = seal(ready.context)
    assert dict(decoded(ready, sealed)["records"][0].params) == {"threshold": 0.7}


def test_segments_end_by_count_and_stay_one_kit(ready: Site) -> None:
    configure(ready, "[seal]\nmax_records = 10")
    with edgeprov.open_device() as device:
        model = device.load_model()
        for _ in range(25):
            model.run(X)
            model._recorder._owner._rotate(forced=False)  # what the recorder's thread does when a segment is due
    sealed = seal(ready.context)
    assert [item.contents.records for item in sealed] == [10, 10, 5]
    # Numbers 101 to 103 are those of the three segments; each kit lists those that the next kits hold.
    assert [item.entry.seq for item in sealed] == [104, 105, 106]
    for item in sealed:
        ready.verify(ready.context.state().layout, item.entry.digest)


def test_records_of_two_boots_are_one_kit_with_two_quotes(ready: Site) -> None:
    from edgeprov.device.boot import boot_check

    record(ready, 3)
    ready.reboot()
    boot_check(ready.context)
    record(ready, 4)
    (sealed,) = seal(ready.context)
    kit = decoded(ready, sealed)
    assert [row.n for row in kit["records"]] == list(range(1, 8))
    assert len({header.boot_id for header in kit["headers"]}) == 2


def test_labels_weeks_later_come_in_a_kit_of_their_own(ready: Site) -> None:
    results = record(ready, 5)
    (first,) = seal(ready.context)
    with edgeprov.open_device() as device:
        device.label(results[2].record, "malignant", source="pathology")
        device.label_many([(results[0].record, 1), (results[1].record, [0.25, None, True, b"x"])])
        with pytest.raises(UsageError, match="no record 6"):
            device.label(edgeprov.device.api.RecordId("default", 6), 1)  # type: ignore[attr-defined]
    (late,) = seal(ready.context)
    kit = decoded(ready, late)
    assert kit["records"] == []
    assert [(label.n, label.value, label.source) for label in kit["labels"]] == [
        (3, "malignant", "pathology"),
        (1, 1, "application"),
        (2, (0.25, None, True, b"x"), "application"),
    ]
    assert late.entry.info["model"] == first.entry.info["model"]
    assert seal(ready.context) == []


def test_a_withdrawn_label_leaves_no_source(ready: Site) -> None:
    (result,) = record(ready)
    with edgeprov.open_device() as device:
        device.label(result.record, 1, source="dr-a")
        device.label(result.record, None, source="dr-b")
    (sealed,) = seal(ready.context)
    assert [(label.value, label.source) for label in decoded(ready, sealed)["labels"]] == [(1, "dr-a"), (None, None)]


def test_label_of_an_old_model_goes_to_its_own_kit(ready: Site) -> None:
    first = ready.context.state().active("default").model
    record(ready, 2)
    second = ready.install(ready.publish(DIGITS.read_bytes(), name="digits"))
    record(ready, 3)
    add_labels(ready.context.state(), "default", [(1, 0), (4, 7)], source="x")
    kits = seal(ready.context)
    assert [(item.entry.info["model"], item.contents.records, item.contents.labels) for item in kits] == [
        (str(first), 2, 1),
        (str(second), 3, 1),
    ]
    for item in kits:
        ready.verify(ready.context.state().layout, item.entry.digest)


def test_slots_record_side_by_side(make_site: Callable[..., Site]) -> None:
    site = make_site(slots='["camera", "lab"]')
    site.install_identity()
    camera = site.install(site.publish(DIGITS.read_bytes(), name="digits"), slot="camera")
    lab = site.install(slot="lab")
    with edgeprov.open_device() as device:
        models = device.load_model("camera"), device.load_model("lab")
        for n in (1, 2):
            for model in models:
                result = model.run(np.zeros(model.inputs[0].shape, np.int8))
                assert (result.record.slot, result.record.n) == (model.slot, n)
    kits = seal(site.context)
    assert [(item.entry.info["slot"], item.entry.info["model"]) for item in kits] == [
        ("camera", str(camera)),
        ("lab", str(lab)),
    ]
    for item in kits:
        site.verify(site.context.state().layout, item.entry.digest)


def test_two_sessions_of_a_slot_have_a_segment_each_and_a_label_finds_both(ready: Site) -> None:
    with edgeprov.open_device() as first, edgeprov.open_device() as second:
        models = [first.load_model(), second.load_model()]
        results = [models[n % 2].run(X) for n in range(10)]
        numbers = [result.record.n for result in results]
        assert len(set(numbers)) == 10
        second.label(results[-1].record, 1)
        first.label(results[-2].record, 1)
        models[1].close()
        assert second.load_model().run(X).record.n == numbers[-1] + 1  # its lane goes on, in the same segment
    (sealed,) = seal(ready.context)
    assert sealed.contents is not None
    assert (sealed.contents.records, sealed.contents.labels, len(sealed.contents.segments)) == (11, 2, 2)
    assert sorted(record.n for record in decoded(ready, sealed)["records"]) == sorted([*numbers, numbers[-1] + 1])


def test_switch_under_a_running_application(ready: Site) -> None:
    with edgeprov.open_device() as device:
        model = device.load_model()
        model.run(X)
        ready.install(ready.publish(DIGITS.read_bytes(), name="digits"))
        model.run(X)  # its evidence was taken when the segment was opened
        model._recorder._owner._rotate(forced=True)
        with pytest.raises(ModelNotReady):
            model.run(X)
        model = device.load_model()
        assert model.run(np.zeros(model.inputs[0].shape, np.int8)).record.n == 3
    kits = seal(ready.context)
    assert [item.contents.records for item in kits] == [2, 1]
    for item in kits:
        ready.verify(ready.context.state().layout, item.entry.digest)


def fill(site: Site, model: Any) -> int:
    count = 0
    try:
        while count < 20_000:
            model.run(X)
            count += 1
    except StoreFull:
        pass
    return count


def test_full_spool_stops_and_loses_nothing(make_site: Callable[..., Site]) -> None:
    site = make_site(settings="[record]\nquota_bytes = 600000\n")
    site.install_identity()
    site.install()
    with edgeprov.open_device() as device:
        model = device.load_model()
        count = fill(site, model)
        assert 1000 < count < 20_000
        with pytest.raises(StoreFull):
            model.run(X)
        (sealed,) = seal(site.context)
        assert sealed.contents is not None
        assert sealed.contents.records == count
        assert model.run(X).record.n == count + 1  # there is room again, and no number was lost


@pytest.mark.slow
def test_full_spool_discards_the_oldest_and_signs_for_it(make_site: Callable[..., Site]) -> None:
    site = make_site(settings="[record]\nquota_bytes = 400000\nfull = 'discard-oldest'\n[seal]\nmax_records = 1000\n")
    site.install_identity()
    model_digest = site.install()
    with edgeprov.open_device() as device:
        model = device.load_model()
        for _ in range(16_000):
            n = model.run(X).record.n
            if n % 1000 == 0:
                model._recorder._owner._rotate(forced=False)
    sealed = seal(site.context)
    tombstone, kits = sealed[0], sealed[1:]
    assert tombstone.entry.kind == "tombstone"
    _, (contents,) = site.verify(site.context.state().layout, tombstone.entry.digest)
    assert {item.reason for item in (*contents.lost, *contents.numbers)} == {"discarded"}
    gone = {n for item in contents.lost for n in range(item.first, item.last + 1)}
    assert len(contents.numbers) == len({entry.header for entry in contents.numbers}) > 0
    assert all(item.count == item.last - item.first + 1 and item.least <= item.greatest for item in contents.lost)
    kept = {row.n for item in kits for row in decoded(site, item)["records"]}
    assert gone
    assert gone | kept == set(range(1, 16_001))
    assert not gone & kept
    assert tombstone.entry.info["model"] == str(model_digest)
    assert seal(site.context) == []  # said once


def test_due_by_age_and_interval(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    record(ready, 2)
    assert seal(ready.context, due_only=True) == []  # too young
    configure(ready, "[seal]\nmax_age_s = 1")
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10_000_000_000)
    assert len(seal(ready.context, due_only=True)) == 1
    monkeypatch.undo()
    use(ready, monkeypatch)
    record(ready, 2)
    settings = ready.config_file.read_text()
    ready.config_file.write_text(settings.replace("max_age_s = 1\n", "max_age_s = 15\nmax_records = 1\n"))
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10_500_000_000)
    assert seal(ready.context, due_only=True) == []  # within min_kit_interval_s of the last kit
    monkeypatch.setattr(time, "time_ns", lambda: real() + 60_000_000_000)
    assert len(seal(ready.context, due_only=True)) == 1  # what is too old does not wait for the interval


def test_clock_that_went_back_does_not_keep_records_for_ever(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    record(ready, 2)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert len(seal(ready.context, due_only=True)) == 1


@pytest.mark.parametrize("moved_s", [3600, -3600, -1_700_000_000])
def test_a_clock_that_jumps_is_noted_and_breaks_no_order(
    ready: Site, monkeypatch: pytest.MonkeyPatch, moved_s: int
) -> None:
    noted: list[dict[str, object]] = []
    real_ns, real_event = time.time_ns, journal.event
    monkeypatch.setattr(journal, "event", lambda name, text, **more: noted.append({"name": name, **more}))
    with edgeprov.open_device() as device:
        model = device.load_model()
        model.run(X)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + moved_s * 10**9)
        model.run(X)
        model.run(X)
    monkeypatch.setattr(journal, "event", real_event)
    (jump,) = [item for item in noted if item["name"] == "clock-jumped"]  # once, not with each record
    assert abs(float(str(jump["seconds"])) - max(moved_s, -time.time())) < 5
    (sealed,) = seal(ready.context)
    rows = decoded(ready, sealed)["records"]
    assert [row.n for row in rows] == [1, 2, 3]
    assert rows[0].mono_ns < rows[1].mono_ns < rows[2].mono_ns


def test_numbers_burnt_by_others_are_unknown(ready: Site) -> None:
    record(ready, 1)
    seal(ready.context)
    ready.tpm.increment_counter()
    record(ready, 1)
    tombstone, kit = seal(ready.context)
    # 101 and 102: segment and kit; 103: unknown; 104: the second segment.
    assert (tombstone.entry.kind, tombstone.entry.seq) == ("tombstone", 105)
    assert (kit.entry.kind, kit.entry.seq) == ("kit", 106)
    for item in (tombstone, kit):
        ready.verify(ready.context.state().layout, item.entry.digest)
    _, (stone,) = ready.verify(ready.context.state().layout, tombstone.entry.digest)
    assert [(entry.number, entry.reason, entry.header) for entry in stone.numbers] == [(103, "unknown", None)]
    assert [item.number for item in stone.standing.open] == [104]
    assert seal(ready.context) == []


def test_damaged_segment_goes_to_quarantine_with_a_tombstone(ready: Site) -> None:
    record(ready, 400)
    ready.context.state().spool("default").end_open()
    (info,) = ready.context.state().spool("default").segments()
    data = bytearray(info.path.read_bytes())
    data[len(data) // 2] ^= 1
    info.path.write_bytes(data)
    record(ready, 5)
    seal(ready.context)
    sealed = seal(ready.context)
    kinds = [entry.kind for entry in ready.context.state().outbox()]
    assert "tombstone" in kinds, (kinds, sealed)
    ((path, reason),) = ready.context.state().quarantined()
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(bytes(data)).digest()
    assert "damaged" in reason


def test_series_is_a_chain(ready: Site) -> None:
    previous = None
    for _ in range(3):
        record(ready, 1)
        (sealed,) = seal(ready.context)
        manifest = ready.context.state().layout.load_manifest(sealed.entry.digest)
        assert manifest.annotations["dev.edgeprov.prev"] == (str(previous) if previous else "none")
        previous = sealed.entry.digest
        head = load_head(ready.context.state())
        assert head is not None
        assert (head.seq, head.digest) == (sealed.entry.seq, previous)


@pytest.mark.parametrize(
    "document", ["series", "models", "numbers-default", "labels-default", "lost-default", "seal", "floor", "events"]
)
@pytest.mark.parametrize("damage", ["garbage", "lost"])
def test_damaged_documents_lose_no_kit(ready: Site, document: str, damage: str) -> None:
    record(ready, 2)
    add_labels(ready.context.state(), "default", [(1, 0)], source="x")
    (first,) = seal(ready.context)
    record(ready, 3)
    path = ready.root / "state" / "documents" / f"{document}.json"
    path.write_bytes(b"{") if damage == "garbage" else path.unlink(missing_ok=True)
    (second,) = seal(ready.context)
    state = ready.context.state()
    assert [entry.digest for entry in state.outbox()] == [first.entry.digest, second.entry.digest]
    assert second.entry.seq == first.entry.seq + 2  # behind its segment's number
    manifest = state.layout.load_manifest(second.entry.digest)
    assert manifest.annotations["dev.edgeprov.prev"] == str(first.entry.digest)
    for sealed in (first, second):
        ready.verify(state.layout, sealed.entry.digest)


@pytest.mark.parametrize("damage", ["garbage", "lost"])
def test_damaged_outbox_entry_is_written_anew(ready: Site, damage: str) -> None:
    from edgeprov.device.upload import upload

    record(ready, 2)
    add_labels(ready.context.state(), "default", [(1, 0)], source="x")
    seal(ready.context)
    record(ready, 1)
    seal(ready.context)
    before = ready.context.state().outbox()
    path = ready.root / "state" / "outbox" / f"{before[0].digest.hex}.json"
    path.write_bytes(b"{") if damage == "garbage" else path.unlink()
    assert seal(ready.context) == []
    after = ready.context.state().outbox()
    assert [(entry.digest, entry.repo, entry.tag, entry.kind) for entry in after] == [
        (entry.digest, entry.repo, entry.tag, entry.kind) for entry in before
    ]
    assert sorted(after[0].info["signatures"]) == sorted(before[0].info["signatures"])
    assert after[0].info["records"] == 2
    upload(ready.context)
    assert ready.context.state().outbox() == ()
    seal(ready.context)
    assert ready.context.state().outbox() == ()  # what was sent does not come back
    for entry in before:
        ready.verify(ready.layout, entry.digest)
