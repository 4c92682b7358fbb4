# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rosters: the form that is read, who may sign them, and what a later version must keep."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from hashlib import sha256

import pytest

from edgeprov.errors import (
    DigestMismatch,
    FormatError,
    PolicyDenied,
    RosterInvalid,
    SignatureInvalid,
    SignerUntrusted,
    SubjectMismatch,
)
from edgeprov.formats.digest import Digest
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.mediatypes import DEVICE_PREDICATE, ROSTER_PREDICATE
from edgeprov.formats.roster import (
    Roster,
    RosterEntry,
    build_roster,
    encode_roster,
    encode_roster_statement,
    parse_roster,
)
from edgeprov.verify.deny import parse_deny
from edgeprov.verify.roster_check import VerifiedRoster, verify_current, verify_roster, verify_successor
from tests.support import pki
from tests.support.world import World, sign_bundle

ONE, TWO = (sha256(text).digest() for text in (b"one", b"two"))
URN = "urn:edgeprov:device:"


def entry(enrollment: bytes = ONE, device: str = URN + "ward-1", **changes: object) -> RosterEntry:
    values: dict = {"enrollment": enrollment, "device": device, "base": 100, "since": "2026-01-01T00:00:00Z"}
    return RosterEntry(**(values | changes))


def roster(
    *entries: RosterEntry, version: int = 1, previous: Digest | None = None, issued: str = "2026-02-01T00:00:00Z"
):
    ordered = tuple(sorted(entries or (entry(),), key=lambda item: item.enrollment))
    return Roster(
        version=version, issued_at=issued, expires_at="2026-04-01T00:00:00Z", previous=previous, entries=ordered
    )


def signed(world: World, made: Roster, *, signer=None, statement: bytes | None = None, kind: str = ROSTER_PREDICATE):
    manifest, raw = build_roster(made)
    statement = statement or encode_roster_statement(manifest.digest, made)
    return manifest, raw, [sign_bundle(manifest.descriptor, statement, signer or world.roster, kind)]


def verified(world: World, made: Roster) -> VerifiedRoster:
    return verify_roster(*signed(world, made), world.policy, pki.NOW)


def test_a_roster_is_read_as_it_was_written(world: World):
    ended = entry(
        TWO, URN + "ward-2", ended="retired", until="2026-01-05T00:00:00Z", end=120, bin="07", names=(URN + "old",)
    )
    made = roster(entry(), ended)
    assert parse_roster(encode_roster(made)) == made
    found = verified(world, made)
    assert (found.roster, found.signer) == (made, "urn:edgeprov:roster:desk")


BAD: dict[str, dict] = {
    "unknown member": {"more": 1},
    "another format": {"v": 2},
    "version 0": {"version": 0},
    "a first version with a predecessor": {"previous": "sha256:" + "ab" * 32},
    "a second version without": {"version": 2},
    "expired when issued": {"expires_at": "2026-02-01T00:00:00Z"},
    "local time": {"issued_at": "2026-02-01T00:00:00+01:00"},
    "fractions of a second": {"issued_at": "2026-02-01T00:00:00.5Z"},
    "entries that are no list": {"entries": {}},
}
BAD_ENTRIES: dict[str, dict] = {
    "unknown member": {"more": 1},
    "no device": {"device": "ward-1"},
    "a serial that is none": {"device": URN + "-x"},
    "no enrollment id": {"enrollment": "ab"},
    "its own earlier name": {"names": [URN + "ward-1"]},
    "an earlier name twice": {"names": [URN + "a", URN + "a"]},
    "names that are no text": {"names": [5]},
    "ended otherwise": {"ended": "stolen", "until": "2026-01-05T00:00:00Z"},
    "ended without time": {"ended": "lost"},
    "a time without end": {"until": "2026-01-05T00:00:00Z"},
    "ended before it began": {"ended": "lost", "until": "2025-01-05T00:00:00Z"},
    "lost with a last number": {"ended": "lost", "until": "2026-01-05T00:00:00Z", "end": 120},
    "a last number below the base": {"ended": "retired", "until": "2026-01-05T00:00:00Z", "end": 99},
    "a bin that leaves its folder": {"bin": "../x"},
    "a base below zero": {"base": -1},
}


@pytest.mark.parametrize("fault", BAD)
def test_a_malformed_roster_is_refused(fault: str):
    value = json.loads(encode_roster(roster()))
    with pytest.raises(FormatError):
        parse_roster(encode_json(value | BAD[fault]))


@pytest.mark.parametrize("fault", BAD_ENTRIES)
def test_a_malformed_entry_is_refused(fault: str):
    value = json.loads(encode_roster(roster()))
    value["entries"][0] |= BAD_ENTRIES[fault]
    with pytest.raises(FormatError):
        parse_roster(encode_json(value))


def test_entries_are_ascending_each_once():
    value = json.loads(encode_roster(roster(entry(), entry(TWO, URN + "ward-2"))))
    for entries in (value["entries"][::-1], value["entries"][:1] * 2):
        with pytest.raises(FormatError, match="ascending"):
            parse_roster(encode_json(value | {"entries": entries}))


def test_only_the_role_roster_signs_it(world: World):
    for signer in (world.enroller, world.importer, world.collector, world.publisher):
        with pytest.raises(SignerUntrusted):
            verify_roster(*signed(world, roster(), signer=signer), world.policy, pki.NOW)
    foreign = pki.role_certificate(pki.root("Foreign"), "roster")
    with pytest.raises(SignerUntrusted):
        verify_roster(*signed(world, roster(), signer=foreign), world.policy, pki.NOW)
    manifest, raw, _ = signed(world, roster())
    with pytest.raises(SignatureInvalid):
        verify_roster(manifest, raw, [], world.policy, pki.NOW)
    serial = f"serial:{world.roster.certificate.serial_number:x}"
    denied = replace(world.policy, deny=parse_deny([{"type": "certificate", "value": serial}]))
    with pytest.raises(PolicyDenied):
        verify_roster(*signed(world, roster()), denied, pki.NOW)


def test_the_statement_is_about_this_very_roster(world: World):
    made, other = roster(), roster(entry(base=101))
    manifest, raw, _ = signed(world, made)
    with pytest.raises(DigestMismatch):
        verify_roster(manifest, encode_roster(other), signed(world, made)[2], world.policy, pki.NOW)
    with pytest.raises(SubjectMismatch):
        verify_roster(manifest, raw, signed(world, other)[2], world.policy, pki.NOW)
    later = encode_roster_statement(manifest.digest, replace(made, expires_at="2027-01-01T00:00:00Z"))
    with pytest.raises(SubjectMismatch, match="version, times"):
        verify_roster(*signed(world, made, statement=later), world.policy, pki.NOW)
    kind = encode_roster_statement(manifest.digest, made).replace(ROSTER_PREDICATE.encode(), DEVICE_PREDICATE.encode())
    with pytest.raises(SubjectMismatch, match="does not vouch"):
        verify_roster(*signed(world, made, statement=kind, kind=DEVICE_PREDICATE), world.policy, pki.NOW)


def test_a_later_version_takes_nothing_back(world: World):
    gone = entry(TWO, URN + "ward-2", ended="lost", until="2026-01-05T00:00:00Z")
    first = verified(world, roster(entry(), gone))

    def later(*entries: RosterEntry, version: int = 2, previous: Digest | None = first.digest, **more: str):
        return verified(world, roster(*entries, version=version, previous=previous, **more))

    renamed = entry(device=URN + "ward-9", names=(URN + "ward-1",))
    added = entry(sha256(b"three").digest(), URN + "ward-3")
    for good in (
        later(entry(), gone),
        later(renamed, gone, added),
        later(replace(entry(), ended="lost", until=gone.until), gone),
    ):
        verify_successor(first, good)
    verify_successor(first, first)
    verify_successor(first, later(entry(), gone, version=5, previous=Digest("ab" * 32)))
    bad = {
        "lacks the enrollment": later(entry()),
        "changes what the entry": later(entry(base=120), gone),
        "changes what": later(entry(since="2026-01-02T00:00:00Z"), gone),
        "changes": later(entry(device=URN + "ward-9"), gone),  # the earlier name is forgotten
        "what the entry": later(entry(), entry(TWO, URN + "ward-2")),  # the end was taken back
        "does not name as its predecessor": later(entry(), gone, previous=Digest("ab" * 32)),
        "was issued before": later(entry(), gone, issued="2026-01-31T00:00:00Z"),
    }
    for why, version in bad.items():
        with pytest.raises(RosterInvalid, match=why) as refused:
            verify_successor(first, version)
        assert str(first.digest) in refused.value.message
        assert str(version.digest) in refused.value.message


def test_two_documents_of_one_version_are_told(world: World):
    one, two = verified(world, roster()), verified(world, roster(entry(), entry(TWO, URN + "ward-2")))
    with pytest.raises(RosterInvalid, match="another document"):
        verify_successor(one, two)
    later = verified(world, roster(version=2, previous=one.digest))
    with pytest.raises(RosterInvalid, match="is older than"):
        verify_successor(later, one)


def test_a_roster_is_used_from_its_issue_to_its_expiry():
    made = roster()
    verify_current(made, pki.NOW)
    for moment in (dt.datetime(2026, 1, 31, tzinfo=dt.UTC), dt.datetime(2026, 4, 1, 0, 0, 1, tzinfo=dt.UTC)):
        with pytest.raises(RosterInvalid):
            verify_current(made, moment)
