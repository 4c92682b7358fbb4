# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers of the one counter on a device: who takes one, who goes on without, and how each is explained afterwards."""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np
import pytest

import edgeprov
from edgeprov.device.attest import attest
from edgeprov.device.boot import boot_check
from edgeprov.device.discard import discard_oldest
from edgeprov.device.doctor import examine
from edgeprov.device.events import waiting_events
from edgeprov.device.seal import seal
from edgeprov.device.sequencer import Sequencer
from edgeprov.errors import TpmError
from edgeprov.formats.head import parse_head
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.formats.standing import DOUBTFUL
from edgeprov.store.spool import read_segment
from tests.device.test_recorder import configure, decoded, record
from tests.support.site import Site

X = np.zeros((1, 30), np.int8)


def headers(site: Site) -> list[SegmentHeader]:
    infos = site.context.state().spool("default").segments()
    return [parse_segment_header(read_segment(info.path).header) for info in infos]


def evidence(site: Site, item: Any) -> Any:
    site.verify(site.context.state().layout, item.entry.digest)
    return site.last_evidence


def stone(site: Site, item: Any) -> Any:
    assert item.entry.kind == "tombstone"
    _, (contents,) = site.verify(site.context.state().layout, item.entry.digest)
    return contents


def reboot(site: Site) -> None:
    site.reboot()
    boot_check(site.context)


def test_doctor_knows_the_numbers_of_segments(ready: Site) -> None:
    def found() -> Any:
        return next(item for item in examine() if item.check == "kit counter")

    record(ready, 1)
    assert found().verdict == "ok"
    ready.tpm.increment_counter()
    assert (found().verdict, found().found) == (
        "note",
        "the TPM says 102, this device has used the numbers up to 101",
    )


def test_ten_sessions_between_two_seals_take_one_number(ready: Site) -> None:
    base = ready.tpm.counter
    for _ in range(10):
        record(ready, 2)
    assert ready.tpm.counter == base + 1
    (kit,) = seal(ready.context)
    assert kit.entry.seq == base + 2
    (segment,) = evidence(ready, kit).segments
    assert segment.ranges == ((1, 20),)
    for _ in range(10):
        record(ready, 1)
    assert ready.tpm.counter == base + 3  # an opening after a kit takes a number


def test_another_kind_boot_or_capture_has_a_segment_of_its_own(ready: Site) -> None:
    record(ready, 1)
    with edgeprov.open_device() as device:
        device.load_model(params={"threshold": 0.5}).run(X)
    record(ready, 1)
    reboot(ready)
    record(ready, 1)
    found = headers(ready)
    assert [header.number for header in found] == [101, 102, 103]
    assert [header.prev for header in found] == [None, found[0].sha256, found[1].sha256]
    (kit,) = seal(ready.context)
    assert [item.ranges for item in evidence(ready, kit).segments] == [((1, 1), (3, 3)), ((2, 2),), ((4, 4),)]


def test_a_kit_ends_what_it_seals_and_lists_what_goes_on(ready: Site) -> None:
    with edgeprov.open_device() as device:
        model = device.load_model()
        model.run(X)
        (kit,) = seal(ready.context)
        shown = evidence(ready, kit)
        assert [item.number for item in shown.standing.open] == [102]
        assert shown.standing.open[0].first is None
        assert model.run(X).record.n == 2
        head = parse_head(attest(ready.context, "00" * 16)).parsed_standing()
        (open_segment,) = head.open
        assert (open_segment.number, open_segment.first, open_segment.last) == (102, 2, 2)
        assert open_segment.header == headers(ready)[0].sha256
    assert (kit.entry.seq, ready.tpm.counter) == (103, 103)


def test_a_deleted_spool_file_is_signed_as_damaged(ready: Site) -> None:
    record(ready, 3)
    (info,) = ready.context.state().spool("default").segments()
    digest = headers(ready)[0].sha256
    info.path.unlink()
    reboot(ready)
    record(ready, 2)
    tombstone, kit = seal(ready.context)
    (entry,) = stone(ready, tombstone).numbers
    assert (entry.number, entry.reason, entry.header) == (101, "damaged", digest)
    assert [row.n for row in decoded(ready, kit)["records"]] == [4, 5]
    assert seal(ready.context) == []


def test_an_older_copy_of_the_disk_is_signed_as_unknown(ready: Site) -> None:
    record(ready, 2)
    shutil.copytree(ready.root / "state", ready.root / "copy")
    seal(ready.context)
    record(ready, 5)
    seal(ready.context)
    counter = ready.tpm.counter
    shutil.rmtree(ready.root / "state")
    shutil.move(ready.root / "copy", ready.root / "state")
    tombstone, _ = seal(ready.context)
    named = stone(ready, tombstone).numbers
    assert [item.number for item in named] == list(range(102, counter + 1))
    assert {item.reason for item in named} == {"unknown"}


def test_state_of_another_tpm_is_refused(ready: Site) -> None:
    record(ready, 2)
    seal(ready.context)
    ready.tpm.counter = 100
    with pytest.raises(TpmError, match="has used number 102"):
        seal(ready.context)


def test_boots_take_forty_numbers_a_day_and_share_the_last_one_beyond(ready: Site) -> None:
    for _ in range(43):
        reboot(ready)
        record(ready, 1)
    found = headers(ready)
    assert [header.shared for header in found] == [False] * 40 + [True] * 3
    assert ready.tpm.counter == 140
    assert {header.number for header in found[39:]} == {140}
    (kit,) = seal(ready.context)
    assert kit.contents is not None
    assert kit.contents.records == 43
    evidence(ready, kit)
    reboot(ready)
    record(ready, 1)  # after a kit: a number in any case
    assert (headers(ready)[0].number, headers(ready)[0].shared) == (142, False)


@pytest.mark.parametrize("taker", ["segment", "kit", "head"])
def test_a_header_without_a_quote_leaves_its_number_to_the_next(
    ready: Site, monkeypatch: pytest.MonkeyPatch, taker: str
) -> None:
    record(ready, 1)
    ready.context.state().spool("default").end_open()
    with monkeypatch.context() as patch:

        def quote(*_: object, **__: object) -> None:
            raise TpmError("the TPM does not answer")

        patch.setattr(ready.tpm, "quote", quote)
        with pytest.raises(TpmError), edgeprov.open_device() as device:
            device.load_model()
    assert ready.tpm.counter == 102
    assert len(headers(ready)) == 2
    if taker == "segment":
        record(ready, 1)
        assert [header.number for header in headers(ready)] == [101, 102]
        assert ready.tpm.counter == 102
    elif taker == "kit":
        (kit,) = seal(ready.context)
        assert (kit.entry.seq, ready.tpm.counter) == (102, 102)
    else:
        head = parse_head(attest(ready.context, "00" * 16))
        assert [entry.seq for entry in ready.context.state().outbox()] == [102]
        assert [item.number for item in head.parsed_standing().open] == [101]
    for item in seal(ready.context):
        ready.verify(ready.context.state().layout, item.entry.digest)


def test_an_empty_segment_goes_into_the_next_kit_once_its_boot_has_ended(ready: Site) -> None:
    with edgeprov.open_device() as device:
        device.load_model()
    reboot(ready)
    record(ready, 1)
    (kit,) = seal(ready.context)
    assert [item.ranges for item in evidence(ready, kit).segments] == [(), ((1, 1),)]
    assert ready.context.state().spool("default").segments() == ()


def test_no_record_lies_below_the_proved_time_and_one_that_would_says_so(
    ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time_ns
    with edgeprov.open_device() as device:
        model = device.load_model()
        model.run(X)
        (first,) = seal(ready.context)  # a kit raises the bound under the running session
        bound = evidence(ready, first).standing.at_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600 * 10**9)
        model.run(X)
    (second,) = seal(ready.context)
    (row,) = decoded(ready, second)["records"]
    assert row.recorded_at_ns >= bound
    assert row.flags == DOUBTFUL
    shown = evidence(ready, second).standing
    assert shown.doubt
    assert shown.at_ns >= bound


def test_events_get_a_kit_of_their_own_only_when_they_are_old(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [event.kind for event in waiting_events(ready.context.state()).events]
    assert kinds == ["model-installed", "model-activated"]
    assert seal(ready.context) == []
    configure(ready, "[seal]\nmax_age_s = 60")
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 120 * 10**9)
    (kit,) = seal(ready.context)
    assert [event.kind for event in evidence(ready, kit).events] == kinds
    assert waiting_events(ready.context.state()).events == ()
    assert seal(ready.context) == []


def test_a_power_cut_is_told_by_heads_and_kits_until_a_kit_carries_it(ready: Site) -> None:
    with edgeprov.open_device() as device:
        model = device.load_model()
        model.run(X)
        model.sync()
        shutil.copytree(ready.root / "state", ready.root / "cut")
    shutil.rmtree(ready.root / "state")
    shutil.move(ready.root / "cut", ready.root / "state")
    reboot(ready)
    head = parse_head(attest(ready.context, "00" * 16)).parsed_standing()
    (stop,) = head.stops
    assert (stop.slot, stop.after, stop.bound_ms) == ("default", 1, ready.context.config.record.interval_ms)
    record(ready, 1)
    (kit,) = seal(ready.context)
    shown = evidence(ready, kit)
    assert shown.standing.stops == (stop,)
    assert [row.n for row in decoded(ready, kit)["records"]] == [1, stop.resumed]
    assert parse_head(attest(ready.context, "00" * 16)).parsed_standing().stops == ()


def test_a_discarded_segment_is_signed_for_before_a_head_lists_what_is_open(ready: Site) -> None:
    record(ready, 2)
    state = ready.context.state()
    state.spool("default").end_open()
    assert discard_oldest(state, "default", 1) > 0
    head = parse_head(attest(ready.context, "00" * 16))
    assert head.parsed_standing().open == ()
    (entry,) = state.outbox()
    _, (contents,) = ready.verify(state.layout, entry.digest)
    assert [(item.number, item.reason) for item in contents.numbers] == [(ready.tpm.counter - 1, "discarded")]
    assert head.newest == entry.digest


def test_a_segment_that_is_discarded_while_a_kit_seals_it_is_not_signed_as_lost(
    ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(ready, 2)
    state, commit = ready.context.state(), Sequencer.commit

    def after_discard(sequencer: Sequencer, signed: Any) -> None:
        assert discard_oldest(state, "default", 1) > 0
        commit(sequencer, signed)

    with monkeypatch.context() as patch:
        patch.setattr(Sequencer, "commit", after_discard)
        (kit,) = seal(ready.context)
    assert evidence(ready, kit).segments[0].ranges == ((1, 2),)
    assert seal(ready.context, rest=True) == []
