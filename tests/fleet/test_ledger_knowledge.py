# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From facts to rows and back: the conclusion drawn from a ledger is the one drawn from the facts themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprov.errors import FormatError
from edgeprov.fleet.conclusion.json_form import compared_report, from_json
from edgeprov.fleet.conclusion.judge import judge
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import TrustRules
from edgeprov.fleet.conclusion.types import (
    Chain,
    KitFacts,
    Knowledge,
    LabelRun,
    Noise,
    RecordFacts,
    SegmentFacts,
    SignatureFacts,
    StampFacts,
)
from edgeprov.fleet.ledger.close import Closer
from edgeprov.fleet.ledger.fact_rows import rows_of, signer_digest, signer_row
from edgeprov.fleet.ledger.knowledge import ToldChain, read_knowledge, signature_of
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder
from edgeprov.fleet.ledger.members import DeviceAct
from edgeprov.fleet.ledger.open_day import append_rows
from edgeprov.fleet.ledger.rows import BackRow, GoneRow, ListingRow, NoiseRow, SightingRow
from edgeprov.fleet.ledger.views import ask
from edgeprov.formats.standing import Standing
from tests.support.ledger import DAY_NS, NOW_NS, collector, digest, kit

ALL_CASES = [
    pytest.param(case, id=f"{case['rule']} {case['name']}")
    for path in sorted((Path(__file__).parents[1] / "vectors" / "conclusion").glob("*.json"))
    for case in json.loads(path.read_text())[:1]
]
CASES = ALL_CASES if os.environ.get("EDGEPROV_CRASH") == "all" else ALL_CASES[::5]
PLACE = {"source": "registry.example", "repo": "data/x"}
ITEMS = ("records", "kits", "tombstones", "heads", "models", "rosters")


def through_ledgers(path: Path, knowledge: Knowledge) -> Knowledge:
    """Write all facts into a ledger for each collector that tells them, and read them again."""
    folders: dict[str, LedgerFolder] = {}
    told = {item.checks.by for name in ITEMS for item in getattr(knowledge, name)}
    rosters = {item.digest: item.entries for item in knowledge.rosters}
    chains = []
    for number, by in enumerate(sorted(told, key=str)):
        name = f"chain-{number}"
        folders[name] = folder = LedgerFolder(path / name)
        rows = []
        for kind in ITEMS:
            for item in getattr(knowledge, kind):
                if item.checks.by == by:
                    acts = [DeviceAct("activation", 1, False, None, None)] * getattr(item, "events", 0)
                    rows += rows_of(item, NOW_NS, PLACE, events=acts)
        append_rows(folder, rows, NOW_NS)
        Closer(folder=folder, signer=collector()).close_due(NOW_NS + DAY_NS)
        chains.append(ToldChain(name=name, collector=by))
    read = ask(folders, lambda view: read_knowledge(view, chains, rosters=rosters))
    return replace(
        read, sightings=knowledge.sightings, chains=knowledge.chains, cuts=knowledge.cuts, noise=knowledge.noise
    )


def plain(items: Iterable[Any]) -> list[str]:
    """Facts in an order, with their unordered tuples in an order; tags come from the ledger's own places."""
    result = []
    for item in items:
        changes: dict[str, Any] = {"signatures": tuple(sorted(item.signatures, key=repr))}
        if isinstance(item, RecordFacts):  # the digest beside its certificate is the record's own
            changes["certificate"] = replace(item.certificate, digest=item.digest)
        if hasattr(item, "tags"):
            changes["tags"] = ()
        result.append(repr(replace(item, **changes)))
    return sorted(result)


@pytest.mark.parametrize("case", CASES)
def test_the_conclusion_is_the_same_through_a_ledger(tmp_path: Path, case: dict[str, Any]) -> None:
    knowledge = from_json(Knowledge, case["knowledge"])
    trust, question = from_json(TrustRules, case["trust"]), from_json(Question, case["question"])
    read = through_ledgers(tmp_path, knowledge)
    tags = {item.digest: item.tags for item in knowledge.models}
    read = replace(read, models=tuple(replace(item, tags=tags[item.digest]) for item in read.models))
    for kind in ITEMS:
        items = getattr(knowledge, kind)
        if len({(item.digest, item.checks.by) for item in items}) == len(items):
            assert plain(getattr(read, kind)) == plain(items)
    assert compared_report(judge(read, trust, question)) == compared_report(judge(knowledge, trust, question))


def facts(**changes: Any) -> KitFacts:
    key = SignatureFacts(
        digest=digest("signature"), identity="urn:edgeprov:device:u1", subject=(("CN", "unit 1"),), key=digest("key"),
        certificate=digest("certificate"), serial="serial:1f", anchor=digest("anchor"), not_before=5, not_after=2**62,
        stamps=tuple(StampFacts(anchor=anchor, at=77) for anchor in sorted((digest("tsa"), digest("tsa 2")))),
    )  # fmt: skip
    members: dict[str, Any] = {
        "digest": digest("kit"), "enrollment": digest("u1"), "device": "urn:edgeprov:device:u1",
        "record": digest("record"), "number": 7, "reset_count": 2, "clock_ms": 5, "standing": Standing(at_ns=NOW_NS),
        "firmware": 2**63 + 5, "pcrs": (((0, digest("a")), (4, digest("b"))), ((0, digest("c")),)), "signatures": (key,),
        "slot": "main", "model": digest("model"), "prev": None, "records": 6, "least": 1, "greatest": 9,
        "segments": (
            SegmentFacts(number=3, header=digest("h"), prev=None, slot="main", model=digest("model"),
                         ranges=((0, 2), (8, 9)), unused=((3, 4),), runtime="tflite"),
            SegmentFacts(number=5, header=digest("i"), prev=digest("h"), slot="aux", model=digest("other"), shared=True),
            SegmentFacts(number=6, header=digest("j"), prev=digest("i"), slot="main", model=digest("model"), ranges=((5, 5),)),
        ),
        "labels": (LabelRun(first=2, last=2), LabelRun(first=0, last=1, withdrawn=True), LabelRun(first=0, last=0)),
        "leaves": ((9, digest("leaf")),), "unavailable": ("outputs-1",), "doubtful": 3,
    }  # fmt: skip
    return KitFacts(**(members | changes))


def test_everything_of_a_kit_comes_back(tmp_path: Path) -> None:
    for item in (facts(), facts(doubtful=None, times_read=False, segments=(), signatures=(), labels=())):
        read = through_ledgers(tmp_path / str(item.times_read), Knowledge(kits=(item,)))
        assert read.kits == (item,)


def test_events_must_fit(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        rows_of(facts(events=1), NOW_NS, PLACE)


def test_the_digest_of_a_signer_is_that_of_its_json() -> None:
    row = signer_row(facts().signatures[0], 5)
    # Computed by hand from FORMAT.md: sorted members, hashes in hex, no white space.
    assert row.digest.hex() == "329699804f2b2e862624e53ac231b2c7e4dc74c580d607e7e729e8a897b66ce7"
    assert signer_digest(replace(row, seen_ns=9, digest=bytes(32))) == row.digest
    assert signer_digest(replace(row, serial="serial:20")) != row.digest
    assert signature_of(row, digest("signature"), facts().signatures[0].stamps) == facts().signatures[0]


def read_all(folder: LedgerFolder, **options: Any) -> Knowledge:
    told = ToldChain(name="own", **options)
    return ask({"own": folder}, lambda view: read_knowledge(view, [told], rosters={}))


def test_sightings_by_place_with_listings_that_lack_the_artifact(tmp_path: Path) -> None:
    hour = 3_600 * 10**9
    place = {"source": "registry.example", "repo": kit(1).repo}
    signature = kit(1).signatures[0].digest

    def seen(folder: LedgerFolder) -> dict[tuple[bytes, str], tuple[int, int, tuple[int, ...]]]:
        return {(s.digest, s.source): (s.first, s.last, s.missing) for s in read_all(folder).sightings}

    folder = LedgerFolder(tmp_path)
    append_rows(folder, [kit(1), ListingRow(seen_ns=NOW_NS + hour, count=3, **place)], NOW_NS + hour)
    there, mirror = f"registry.example/{kit(1).repo}", "mirror.example/m"
    assert seen(folder)[kit(1).digest, there] == (NOW_NS, NOW_NS + hour, ())
    assert seen(folder)[signature, there][0] == NOW_NS
    append_rows(
        folder,
        [SightingRow(seen_ns=NOW_NS + 2 * hour, digest=kit(1).digest, source="mirror.example", repo="m")],
        NOW_NS + 2 * hour,
    )
    assert seen(folder)[kit(1).digest, mirror] == (NOW_NS + 2 * hour, NOW_NS + 2 * hour, ())
    for later in (3, 5):
        gone = GoneRow(seen_ns=NOW_NS + later * hour, digest=kit(1).digest, **place)
        listing = ListingRow(seen_ns=NOW_NS + later * hour, count=2, **place)
        append_rows(folder, [listing, gone], NOW_NS + later * hour)
    assert seen(folder)[kit(1).digest, there] == (NOW_NS, NOW_NS + hour, (NOW_NS + 3 * hour, NOW_NS + 5 * hour))
    append_rows(folder, [BackRow(seen_ns=NOW_NS + 6 * hour, digest=kit(1).digest, **place)], NOW_NS + 6 * hour)
    assert seen(folder)[kit(1).digest, there] == (NOW_NS, NOW_NS + 6 * hour, ())


def test_a_late_signature_is_younger_than_its_kit(tmp_path: Path) -> None:
    from edgeprov.fleet.ledger.rows import VerdictRow

    folder = LedgerFolder(tmp_path)
    append_rows(folder, [kit(1, signatures=(), verdict=None)], NOW_NS)
    later = VerdictRow(seen_ns=NOW_NS + 9, digest=kit(1).digest, verdict="verified", signatures=kit(1).signatures)
    append_rows(folder, [later], NOW_NS + 9)
    found = {item.digest: item.first for item in read_all(folder).sightings}
    assert found == {kit(1).digest: NOW_NS, kit(1).signatures[0].digest: NOW_NS + 9}


def test_a_roster_whose_document_is_not_at_hand_is_not_judged(tmp_path: Path) -> None:
    from edgeprov.fleet.ledger.rows import RosterRow

    folder = LedgerFolder(tmp_path)
    append_rows(folder, [RosterRow(seen_ns=NOW_NS, digest=digest("r"), number=3, verdict="verified", **PLACE)], NOW_NS)
    assert [item.checks.state for item in read_all(folder).rosters] == ["not-judged"]


def test_stamps_of_a_day_and_noise_and_what_the_chain_says(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path)
    append_rows(folder, [kit(1), NoiseRow(seen_ns=NOW_NS, count=4, **PLACE)], NOW_NS)
    append_rows(folder, [kit(2, seen_ns=NOW_NS + DAY_NS), NoiseRow(seen_ns=NOW_NS, count=9, **PLACE)], NOW_NS + DAY_NS)
    stamp = StampFacts(anchor=digest("tsa"), at=NOW_NS + 60)
    chain = Chain(collector="urn:edgeprov:collector:desk", first=NOW_NS, last=NOW_NS)
    read = read_all(folder, collector="urn:edgeprov:collector:desk", chain=chain, stamps=((NOW_NS, (stamp,)),))
    stamps = {item.digest: item.stamps for item in read.sightings}
    assert stamps[kit(1).digest] == (stamp,)
    assert stamps[kit(2).digest] == ()
    assert {item.collector for item in read.sightings} == {"urn:edgeprov:collector:desk"}
    assert read.noise == (Noise(source="registry.example/data/x", kind="artifact", count=9),)
    assert read.chains == (chain,)


def test_one_device_of_many(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path)
    append_rows(folder, [kit(1), kit(1, unit="u2"), kit(2, unit="u2")], NOW_NS)
    told = ToldChain(name="own")
    read = ask(
        {"own": folder},
        lambda view: read_knowledge(view, [told], rosters={}, where="enrollment = ?", parameters=[digest("u2")]),
    )
    assert sorted(item.number for item in read.kits) == [1, 2]
    assert {item.digest for item in read.kits} <= {item.digest for item in read.sightings}
    assert kit(1).digest not in {item.digest for item in read.sightings}
