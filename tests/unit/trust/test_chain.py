# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device's series: gaps, forks, broken links, order, tombstones, and the head that closes it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from edgeprov.errors import EvidenceInvalid, FormatError
from edgeprov.formats.digest import Digest
from edgeprov.formats.head import encode_head, head_qualifying, parse_head
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.head_check import verify_head
from edgeprov.verify.series import SeriesItem, check_series
from tests.support import pki

BASE = 100
NONCE = bytes(range(16))


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
    assert check_series([replace(items[0], seq=100), *items], BASE).broken_links == (100,)


@pytest.mark.parametrize("change", [{"reset_count": 0}, {"clock_ms": 0, "reset_count": 1}])
def test_reset_count_or_clock_that_falls(change):
    items = series(8)
    items[5] = replace(items[5], **change)
    report = check_series(items, BASE)
    assert (report.reordered, report.whole) == ((106,), False)


def test_tombstone_accounts_for_its_number(world, unit):
    device, policy = unit.verified(), world.policy
    evidence = [unit.seal().evidence(), unit.bury(), unit.seal().evidence()]
    verdicts = [verify_kit(item, device, policy, pki.NOW) for item in evidence]
    items = [
        SeriesItem(
            seq=item.seq,
            digest=item.digest,
            prev=item.prev,
            reset_count=item.reset_count,
            clock_ms=item.clock_ms,
            kind=item.kind,
        )
        for item in verdicts
    ]
    report = check_series(items, device.record.counter_base)
    assert (report.voided, report.closed_until, report.whole) == ((102,), 103, True)


def test_withheld_tail_shows_by_the_head(world, unit):
    kits = [unit.seal() for _ in range(3)]
    head = verify_head(parse_head(encode_head(unit.head(NONCE))), NONCE, unit.verified(), world.policy)
    assert (head.seq, head.newest) == (103, kits[2].digest)
    items = [
        SeriesItem(seq=kit.kit.seq, digest=kit.digest, prev=kit.kit.prev, reset_count=1, clock_ms=number)
        for number, kit in enumerate(kits)
    ]
    whole = check_series(items, 100, head=head.seq, newest=head.newest)
    assert (whole.closed_until, whole.whole) == (103, True)
    assert check_series(items[:2], 100, head=head.seq, newest=head.newest).gaps == ((103, 103),)


def test_newest_kit_exchanged_shows_by_the_head(unit):
    kit = unit.seal()
    item = SeriesItem(seq=101, digest=digest("exchanged"), prev=None, reset_count=1, clock_ms=1)
    assert check_series([item], 100, head=101, newest=kit.digest).broken_links == (101,)
    assert check_series([item], 100, head=100, newest=None).reordered == (101,)


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
    with pytest.raises(EvidenceInvalid, match="another signer"):
        verify_head(replace(other.head(NONCE), device=unit.urn), NONCE, unit.verified(), world.policy)


@pytest.mark.parametrize("nonce", [b"", b"short", bytes(65)])
def test_nonce_that_is_not_fresh(nonce):
    with pytest.raises(FormatError, match="a nonce has"):
        head_qualifying(nonce, None)
