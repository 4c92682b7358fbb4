# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device's series: gaps, forks, broken links, order, tombstones, and the head that closes it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from edgeprov.errors import EvidenceInvalid, FormatError
from edgeprov.formats.digest import Digest
from edgeprov.formats.evidence_part import DeviceEvent, SegmentEvidence
from edgeprov.formats.head import HeadClaims, encode_head, head_qualifying, parse_head
from edgeprov.formats.segment import parse_segment_header
from edgeprov.formats.standing import OpenSegment, Standing
from edgeprov.formats.tombstone import NumberEntry
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.head_check import verify_head
from edgeprov.verify.series import SeriesEnd, SeriesItem, check_series, series_end, series_item
from tests.support import pki
from tests.support.world import Sealed

BASE = 100
NONCE = bytes(range(16))
EVENT = DeviceEvent(kind="activate", at_ns=1, mono_ns=1)


def digest(text: str) -> Digest:
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def series(count: int) -> list[SeriesItem]:
    return [
        SeriesItem(
            seq=BASE + 1 + number,
            digest=digest(f"kit {number}"),
            prev=digest(f"kit {number - 1}") if number else None,
            reset_count=1 + number // 10,
            clock_ms=number * 1000,
        )
        for number in range(count)
    ]


def test_whole_series_in_any_order():
    items = series(30)
    for order in (items, items[::-1], items + items[:3]):
        report = check_series(order, BASE)
        assert report.whole
        assert (report.items, report.closed_until) == (30, BASE + 30)


def test_empty_series_is_whole_up_to_the_base():
    report = check_series([], BASE)
    assert report.whole
    assert report.closed_until == BASE


@pytest.mark.parametrize(("missing", "gap"), [([12], (113, 113)), ([0], (101, 101)), ([5, 6, 7], (106, 108))])
def test_counter_gap(missing, gap):
    items = [item for number, item in enumerate(series(30)) if number not in missing]
    report = check_series(items, BASE)
    assert report.gaps == (gap,)
    assert report.closed_until == gap[0] - 1
    assert not report.whole


def test_fork():
    """Root certified a second kit at the same counter value."""
    items = series(5)
    twin = replace(items[2], digest=digest("twin"))
    report = check_series([*items, twin], BASE)
    assert report.forks == (103,)
    assert report.closed_until == 102
    assert not report.whole


@pytest.mark.parametrize("wrong", [digest("elsewhere"), None])
def test_broken_link(wrong):
    items = series(5)
    items[3] = replace(items[3], prev=wrong)
    report = check_series(items, BASE)
    assert (report.broken_links, report.whole) == ((104,), False)


def test_first_item_with_predecessor_and_item_from_before_the_enrollment():
    items = series(2)
    assert check_series([replace(items[0], prev=digest("x")), *items[1:]], BASE).broken_links == (101,)
    assert check_series([replace(items[0], seq=100, digest=digest("x")), *items], BASE).broken_links == (100, 101)


@pytest.mark.parametrize("change", [{"reset_count": 0}, {"clock_ms": 0, "reset_count": 1}])
def test_reset_count_or_clock_that_falls(change):
    items = series(8)
    items[5] = replace(items[5], **change)
    report = check_series(items, BASE)
    assert (report.reordered, report.whole) == ((106,), False)


# -- numbers of segments ----------------------------------------------------------------------------


def items_of(world, unit, *evidence) -> list[SeriesItem]:
    device = unit.verified()
    return [
        series_item(verify_kit(item.evidence() if isinstance(item, Sealed) else item, device, world.policy, pki.NOW))
        for item in evidence
    ]


def listed(*segments: SegmentEvidence) -> tuple[OpenSegment, ...]:
    headers = [parse_segment_header(segment.header) for segment in segments]
    return tuple(OpenSegment(number=item.number, header=item.sha256, slot=item.slot) for item in headers)


def standing(unit, *segments: SegmentEvidence) -> Standing:
    return Standing(at_ns=1, newest=unit.prev_segment, open=listed(*segments))


def test_segments_explain_their_numbers(world, unit):
    kits = [unit.seal(segments=[unit.open_segment(), unit.open_segment()]) for _ in range(3)]
    report = check_series(items_of(world, unit, *kits), BASE)
    assert (report.whole, report.closed_until, report.items) == (True, BASE + 9, 3)


def test_tombstone_accounts_for_its_number_and_for_those_that_it_names(world, unit):
    evidence = [unit.seal(), unit.bury(), unit.bury(reason="unknown"), unit.bury(reason="damaged"), unit.seal()]
    report = check_series(items_of(world, unit, *evidence), BASE)
    assert (report.voided, report.closed_until, report.whole) == (tuple(range(103, 109)), 110, True)


def test_deleted_segment_file_is_a_missing_number(world, unit):
    """The file is gone before it was sealed: the number that its opening took is explained by nothing."""
    first = unit.seal()
    unit.open_segment()
    second = unit.seal()
    report = check_series(items_of(world, unit, first, second), BASE)
    assert (report.gaps, report.whole) == (((103, 103),), False)


def test_deleted_file_of_a_shared_number_breaks_the_chain_of_headers(world, unit):
    first = unit.seal()
    gone = unit.open_segment(shared=True)
    report = check_series(items_of(world, unit, first, unit.seal()), BASE)
    assert (report.gaps, report.broken_links, report.whole) == ((), (103,), False)
    del gone


def test_newest_header_that_nothing_explains_breaks_the_end(world, unit):
    unit.seal()
    unit.open_segment(shared=True)
    evidence = [unit.sealed[0], unit.seal(records=0, events=[EVENT])]
    assert check_series(items_of(world, unit, *evidence), BASE).broken_links == (103,)


def test_older_copy_of_the_disk_shows_in_the_chain_of_headers(world, unit):
    """Two headers name the same one before: the second was opened by a copy that does not know the first."""
    first = unit.seal()
    before = unit.prev_segment
    second = unit.seal()
    third = unit.seal(segments=[unit.open_segment(prev=before)])
    report = check_series(items_of(world, unit, first, second, third), BASE)
    assert (report.gaps, report.broken_links) == ((), (105,))


def test_open_segment_is_explained_by_the_newest_item_only(world, unit):
    unit.measure(world.model.digest, slot="left")
    left = unit.open_segment(slot="left")
    first = unit.seal(standing=standing(unit, left))
    assert check_series(items_of(world, unit, first), BASE).whole
    second = unit.seal()  # lists it no more, and does not seal it
    report = check_series(items_of(world, unit, first, second), BASE)
    assert (report.gaps, report.closed_until) == (((101, 101),), BASE)
    assert check_series(items_of(world, unit, first, second, unit.seal(records=0, segments=[left])), BASE).whole


def test_open_segment_is_explained_by_the_head(world, unit):
    first = unit.seal()
    still = unit.open_segment()
    head = verify_head(unit.head(NONCE, standing=standing(unit, still)), NONCE, unit.verified(), world.policy)
    assert check_series(items_of(world, unit, first), BASE, head=series_end(head)).whole
    hidden = verify_head(unit.head(NONCE), NONCE, unit.verified(), world.policy)
    assert check_series(items_of(world, unit, first), BASE, head=series_end(hidden)).gaps == ((103, 103),)


def test_segment_that_two_kits_seal(world, unit):
    segment = unit.open_segment()
    kits = [unit.seal(segments=[segment]), unit.seal(segments=[segment])]
    report = check_series(items_of(world, unit, *kits), BASE)
    assert (report.forks, report.whole) == ((101,), False)


def test_segment_that_one_kit_seals_and_a_tombstone_names_as_lost(world, unit):
    kit = unit.seal()
    header = parse_segment_header(kit.segments[0].header)
    buried = unit.bury(numbers=[NumberEntry(number=101, reason="damaged", header=header.sha256)])
    assert check_series(items_of(world, unit, kit, buried), BASE).forks == (101,)


def test_lost_segment_may_share_its_number(world, unit):
    taken = unit.open_segment()
    lost = parse_segment_header(unit.open_segment(shared=True).header)
    kit = unit.seal(segments=[taken])
    buried = unit.bury(numbers=[NumberEntry(number=lost.number, reason="discarded", header=lost.sha256)])
    assert check_series(items_of(world, unit, kit, buried), BASE).whole


@pytest.mark.parametrize("number", [101, 102])
def test_number_that_is_explained_and_that_a_tombstone_names(world, unit, number):
    kit = unit.seal()
    buried = unit.bury(numbers=[NumberEntry(number=number, reason="crash")])
    assert check_series(items_of(world, unit, kit, buried), BASE).forks == (number,)


def test_number_of_a_kit_that_a_tombstone_names_as_a_lost_segment(world, unit):
    kit = unit.seal()
    buried = unit.bury(numbers=[NumberEntry(number=102, reason="damaged", header=bytes(32))])
    assert check_series(items_of(world, unit, kit, buried), BASE).forks == (102,)


def test_number_of_a_kit_that_a_later_one_lists_as_open(world, unit):
    first = unit.seal()
    listed_one = OpenSegment(number=102, header=bytes(32), slot="left")
    second = unit.seal(standing=Standing(at_ns=1, newest=unit.prev_segment, open=(listed_one,)))
    assert check_series(items_of(world, unit, first, second), BASE).forks == (102,)


@pytest.mark.parametrize("reason", ["crash", "damaged"])
def test_missing_kit_is_a_gap_and_no_broken_link(world, unit, reason):
    """The header and the item that the next ones name may be in what is missing."""
    first, _, third = unit.seal(), unit.seal(), unit.seal()
    buried = unit.bury(reason=reason)
    report = check_series(items_of(world, unit, first, third, buried), BASE)
    assert (report.gaps, report.broken_links, report.forks) == (((103, 104),), (), ())


def test_number_that_two_tombstones_name(world, unit):
    unit.tpm.increment_counter()
    entry = NumberEntry(number=101, reason="unknown")
    twice = [unit.bury(numbers=[entry]), unit.bury(numbers=[entry])]
    assert check_series(items_of(world, unit, *twice), BASE).forks == (101,)


def test_two_segments_that_took_one_number(world, unit):
    first = unit.seal()
    unit.tpm.counter = 101
    twin = unit.open_segment(number=101)
    unit.tpm.counter = 102
    second = unit.seal(segments=[twin])
    assert check_series(items_of(world, unit, first, second), BASE).forks == (101,)


def test_kit_without_one_before_it_hides_nothing(world, unit):
    """prev `none` is for the first item only: a kit or tombstone before it is missing, or is there."""
    first = unit.seal()
    second = unit.seal(prev=None)
    assert check_series(items_of(world, unit, first, second), BASE).broken_links == (104,)
    assert check_series(items_of(world, unit, second), BASE).gaps == ((101, 102),)


# -- head -------------------------------------------------------------------------------------------


def test_withheld_tail_shows_by_the_head(world, unit):
    kits = [unit.seal() for _ in range(3)]
    head = verify_head(parse_head(encode_head(unit.head(NONCE))), NONCE, unit.verified(), world.policy)
    assert (head.seq, head.newest, head.nonce) == (106, kits[2].digest, NONCE)
    items = items_of(world, unit, *kits)
    whole = check_series(items, BASE, head=series_end(head))
    assert (whole.closed_until, whole.whole) == (106, True)
    assert check_series(items[:2], BASE, head=series_end(head)).gaps == ((105, 106),)


def test_head_without_a_nonce(world, unit):
    unit.seal()
    head = verify_head(unit.head(None), None, unit.verified(), world.policy)
    assert (head.seq, head.nonce) == (102, None)
    for made, asked in ((None, NONCE), (NONCE, None)):
        with pytest.raises(EvidenceInvalid, match="another nonce"):
            verify_head(unit.head(made), asked, unit.verified(), world.policy)


@pytest.mark.parametrize("named", [digest("exchanged"), None])
def test_newest_kit_exchanged_shows_by_the_head(unit, named):
    kit = unit.seal()
    item = SeriesItem(seq=101, digest=kit.digest, prev=None, reset_count=1, clock_ms=1)
    assert check_series([item], BASE, head=SeriesEnd(seq=101, newest=named)).broken_links == (101,)
    assert check_series([item], BASE, head=SeriesEnd(seq=100, newest=named)).reordered == (101,)
    assert check_series([item], BASE, head=SeriesEnd(seq=101, newest=kit.digest)).whole
    assert check_series([], BASE, head=SeriesEnd(seq=100, newest=kit.digest)).broken_links == (100,)


@pytest.mark.parametrize("number", [100, 103])
def test_head_that_lists_a_number_outside_of_base_and_counter(world, unit, number):
    unit.seal()
    open_one = OpenSegment(number=number, header=bytes(32), slot="left")
    bad = Standing(at_ns=1, newest=bytes(32), open=(open_one,))
    with pytest.raises(EvidenceInvalid, match="is not above 100 and below 103") as caught:
        verify_head(unit.head(NONCE, standing=bad), NONCE, unit.verified(), world.policy)
    assert caught.value.step == 9


def test_head_of_another_enrollment_or_from_before_it(world, unit):
    again = world.enroll("unit-0001", nonce=b"another nonce of the enroller")
    with pytest.raises(EvidenceInvalid, match="belongs to enrollment"):
        verify_head(again.head(NONCE), NONCE, unit.verified(), world.policy)


@pytest.mark.parametrize("counter", [0, 99])
def test_head_of_a_counter_below_the_base(world, unit, counter):
    unit.tpm.counter = counter
    with pytest.raises(EvidenceInvalid, match="below the enrollment's base"):
        verify_head(unit.head(NONCE), NONCE, unit.verified(), world.policy)


def test_old_head_is_refused(world, unit):
    old = unit.head(bytes(16))
    with pytest.raises(EvidenceInvalid, match="another nonce") as caught:
        verify_head(old, NONCE, unit.verified(), world.policy)
    assert caught.value.step == 3
    with pytest.raises(EvidenceInvalid, match="the quote was made for"):
        verify_head(replace(old, nonce=NONCE), NONCE, unit.verified(), world.policy)


def test_head_that_hides_the_newest_kit_or_comes_from_another_device(world, unit):
    first = unit.seal()
    unit.seal()
    head = replace(unit.head(NONCE), newest=first.digest)
    with pytest.raises(EvidenceInvalid, match="the quote was made for"):
        verify_head(head, NONCE, unit.verified(), world.policy)
    other = world.enroll("unit-0002")
    with pytest.raises(EvidenceInvalid, match="the head is of"):
        verify_head(other.head(NONCE), NONCE, unit.verified(), world.policy)
    other.serial, other.record = unit.serial, unit.record  # another TPM speaks for this device
    with pytest.raises(EvidenceInvalid, match="another signer"):
        verify_head(other.head(NONCE), NONCE, unit.verified(), world.policy)


@pytest.mark.parametrize("nonce", [b"", b"short", bytes(65)])
def test_nonce_that_is_not_fresh(nonce):
    claims = HeadClaims(device="", enrollment=bytes(32), nonce=nonce, newest=None, at="", standing=b"")
    with pytest.raises(FormatError, match="a nonce has"):
        head_qualifying(claims)
