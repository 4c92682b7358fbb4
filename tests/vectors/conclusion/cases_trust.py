# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Histories about merged knowledge, trust, records, items that do not count, and strangers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgeprov.fleet.conclusion.trust import BootSet, Denial
from edgeprov.fleet.conclusion.types import Checks, Cut, KitFacts, Knowledge, Noise, RecordFacts
from tests.vectors.conclusion.history import (
    COLLECTOR,
    MODEL,
    TRUST,
    Device,
    chain,
    changed,
    day,
    digest,
    known,
    model,
    roster,
    seen,
    signed,
    stamp,
    working,
)
from tests.vectors.conclusion.vector import COMPLETE, GAPS, NO_DATA, NOT_JUDGED, UNPROVED, UP_TO, Vector, better, worse

STRANGER = "urn:edgeprov:stranger:mallory"


def kit_of(device: Device, place: int = 0) -> KitFacts:
    kit = device.made[place]
    assert isinstance(kit, KitFacts)
    return kit


def told(knowledge: Knowledge, item: Any, by: str, **checks: Any) -> Knowledge:
    return changed(knowledge, item, checks=Checks(by=by, **checks))


def merged() -> Iterator[Vector]:
    device = working()
    kit, plain = kit_of(device), known(device)
    yield worse("R-con-1", "a stranger tells a kit", GAPS, told(plain, kit, STRANGER), "number-missing")
    yield worse("R-con-1", "a collector whose chain nobody with the role signed tells a kit", GAPS,
                replace(told(plain, kit, COLLECTOR), chains=(chain(signatures=(signed("publisher", digest("x"), "desk"),)),)), "number-missing")  # fmt: skip
    yield worse("R-con-1", "a collector signs for another identity", GAPS,
                replace(told(plain, kit, COLLECTOR), chains=(chain(signatures=(signed("collector", digest("x"), "other"),)),)), "number-missing")  # fmt: skip
    yield better("R-con-1", "a trusted collector tells a kit", COMPLETE, told(plain, kit, COLLECTOR))

    bad = replace(kit, checks=Checks(state="refused", rule="9", by=COLLECTOR))
    unread = replace(kit, checks=Checks(state="not-judged", by=COLLECTOR))
    yield better(
        "R-con-2",
        "a good copy beside a refused one and one that was not judged",
        COMPLETE,
        replace(plain, kits=(bad, unread, *plain.kits)),
        told="bad-copy",
    )
    yield worse(
        "R-con-2",
        "a refused copy beside one that was not judged",
        GAPS,
        replace(plain, kits=(bad, unread, *plain.kits[1:])),
        "item-refused",
    )
    early = seen(device.made[2], 9.5, collector=None, source="stick")
    yield worse(
        "R-con-2",
        "a second collector saw the closing head before the period ended",
        UP_TO,
        replace(plain, sightings=(*plain.sightings, early)),
        "not-closed",
    )
    yield better(
        "R-con-2",
        "only a stranger saw the closing head before the period ended",
        COMPLETE,
        replace(plain, sightings=(*plain.sightings, replace(early, collector=STRANGER))),
    )

    other = replace(kit, slot="b", checks=Checks(by=COLLECTOR))
    yield worse(
        "R-con-3",
        "two readings of a kit say different slots",
        GAPS,
        replace(plain, kits=(other, *plain.kits)),
        "facts-contradict",
    )
    later = replace(device.made[2], number=109, checks=Checks(by=COLLECTOR))
    yield worse(
        "R-con-3",
        "two readings of a head say different counters",
        GAPS,
        replace(plain, heads=(later, *plain.heads)),
        "facts-contradict",
    )  # type: ignore[arg-type]
    shallow = replace(kit, leaves=(), times_read=False, doubtful=None, checks=Checks(by=COLLECTOR))
    yield better("R-con-3", "a collector read less of a kit", COMPLETE, replace(plain, kits=(shallow, *plain.kits)))


def signers() -> Iterator[Vector]:
    device = working()
    kit, plain = kit_of(device), known(device)
    own = kit.signatures[0]

    def signature(**changes: Any) -> Knowledge:
        return changed(plain, kit, signatures=(replace(own, **changes),))

    yield worse(
        "R-con-4",
        "the device's certificate leads to no anchor of devices",
        GAPS,
        signature(anchor=digest("?")),
        "item-not-admitted",
    )
    yield worse(
        "R-con-4",
        "the certificate had ended, and nothing proves the signature's age",
        GAPS,
        signature(not_after=day(8)),
        "item-not-admitted",
    )
    yield better(
        "R-con-4",
        "the certificate has ended, a trusted stamp is older",
        COMPLETE,
        signature(not_after=day(8), stamps=(stamp(5),)),
    )
    seen_signature = replace(
        signature(not_after=day(8)), sightings=(*plain.sightings, replace(plain.sightings[0], digest=own.digest))
    )
    yield better(
        "R-con-4",
        "the certificate has ended, a trusted collector had seen the signature before",
        COMPLETE,
        seen_signature,
    )
    yield worse(
        "R-con-4",
        "the publisher has not the role",
        GAPS,
        known(device, models=(model(signatures=(signed("enroller", MODEL),)),)),
        "model-not-vouched",
    )

    strict = replace(TRUST, stamps_required=True)
    stamped = replace(
        plain,
        kits=tuple(replace(one, signatures=(replace(one.signatures[0], stamps=(stamp(8),)),)) for one in plain.kits),
    )
    foreign = replace(stamp(8), anchor=digest("?"))
    yield worse("R-con-5", "a stamp is required and there is none", UNPROVED, plain, "item-not-admitted", trust=strict)
    yield worse(
        "R-con-5",
        "a stamp is required, and there is one of a stranger",
        GAPS,
        changed(stamped, kit, signatures=(replace(own, stamps=(foreign,)),)),
        "item-not-admitted",
        trust=strict,
    )
    yield better("R-con-5", "a stamp is required and there", COMPLETE, stamped, trust=strict)
    table = replace(plain, sightings=tuple(replace(one, stamps=(stamp(9),), digest=one.digest) for one in plain.sightings) + tuple(
        replace(plain.sightings[0], digest=item.signatures[0].digest, stamps=(stamp(9),)) for item in plain.kits))  # fmt: skip
    yield better(
        "R-con-5", "the collector's tables that hold the signatures are stamped", COMPLETE, table, trust=strict
    )

    def deny(kind: Any, value: str, since: float | None = None) -> Any:
        return replace(TRUST, deny=(Denial(type=kind, value=value, since=None if since is None else day(since)),))

    for kind, value, code in (
        ("kit", "sha256:" + kit.digest.hex(), "item-not-admitted"),
        ("model", "sha256:" + MODEL.hex(), "item-not-admitted"),
        ("key", own.key.hex(), "record-not-admitted"),
        ("certificate", own.serial, "record-not-admitted"),
        ("certificate", own.certificate.hex() if own.certificate else "", "record-not-admitted"),
        ("device", device.name, "record-not-admitted"),
        ("device", device.id.hex(), "record-not-admitted"),
    ):
        got = UNPROVED if kind != "kit" else GAPS
        yield worse("R-con-6", f"a denied {kind} ({value[:12]})", got, plain, code, trust=deny(kind, value))
    denied = deny("kit", "sha256:" + kit.digest.hex(), 9)
    yield worse(
        "R-con-6",
        "a kit is denied from a date on, and nothing proves its age",
        GAPS,
        plain,
        "item-not-admitted",
        trust=denied,
    )
    yield better("R-con-6", "a kit is denied from a date on, a trusted stamp is older", COMPLETE, stamped, trust=denied)
    yield better("R-con-6", "another kit is denied", COMPLETE, plain, trust=deny("kit", "sha256:" + digest("?").hex()))

    sets = replace(
        TRUST,
        boot_sets=(
            BootSet(name="release-1", pcrs=((0, digest("a")), (4, digest("b")))),
            BootSet(name="release-2", pcrs=((0, digest("c")),)),
        ),
    )

    def booted(*quotes: Any) -> Knowledge:
        return replace(
            plain,
            kits=tuple(replace(one, pcrs=quotes) for one in plain.kits),
            heads=tuple(replace(one, pcrs=quotes) for one in plain.heads),
        )

    good = ((0, digest("a")), (4, digest("b")), (7, digest("d")))
    yield better(
        "R-con-7",
        "each quote matches a set, also with more PCRs",
        COMPLETE,
        booted(good, ((0, digest("c")),)),
        trust=sets,
    )
    yield worse(
        "R-con-7",
        "a quote matches parts of two sets",
        UNPROVED,
        booted(((0, digest("a")),)),
        "item-not-admitted",
        trust=sets,
    )
    yield worse(
        "R-con-7",
        "one quote of several matches no set",
        UNPROVED,
        booted(good, ((0, digest("x")),)),
        "item-not-admitted",
        trust=sets,
    )
    yield worse(
        "R-con-7", "a model PCR that is not admitted", GAPS, changed(plain, kit, model_pcr=12), "item-not-admitted"
    )


def records() -> Iterator[Vector]:
    device = working()
    plain, record = known(device), device.record

    def with_record(**changes: Any) -> Knowledge:
        return changed(plain, record, **changes)

    yield worse(
        "R-con-8", "an assurance that is not admitted", UNPROVED, with_record(assurance="dev"), "record-not-admitted"
    )
    yield worse(
        "R-con-8",
        "the record's certificate was not valid when it was issued",
        UNPROVED,
        with_record(certificate=replace(record.certificate, not_before=day(-1))),
        "record-not-admitted",
    )
    yield worse(
        "R-con-8", "the record was refused", UNPROVED, with_record(checks=Checks(state="refused")), "record-refused"
    )
    yield worse(
        "R-con-8",
        "the record could not be judged",
        NOT_JUDGED,
        with_record(checks=Checks(state="not-judged")),
        "record-not-judged",
    )
    renewed = replace(record, digest=digest("renewed"), enrolled=day(5))
    moved = changed(replace(plain, records=(record, renewed)), device.made[1], record=renewed.digest)
    yield better("R-con-8", "a renewed certificate", COMPLETE, moved, results=[7, 7])
    second = Device("unit-9", 100)
    ghost = replace(
        second.record, device=device.name, signatures=(signed("enroller", digest("g"), anchor=digest("?")),)
    )
    yield better("R-con-8", "a stranger's record for the device", COMPLETE, replace(plain, records=(record, ghost)))

    kit = kit_of(device)
    yield worse(
        "R-con-9",
        "the record of the kit's certificate is not at hand",
        GAPS,
        replace(moved, records=(record,)),
        "number-missing",
    )
    yield worse(
        "R-con-9",
        "a TPM firmware that is not admitted",
        GAPS,
        changed(plain, kit, firmware=2),
        "item-not-admitted",
        trust=replace(TRUST, firmware=(0,)),
    )
    yield worse(
        "R-con-9",
        "a kit says another enrollment than its record",
        GAPS,
        changed(plain, kit, enrollment=digest("?")),
        "number-missing",
    )
    yield better("R-con-9", "a TPM firmware that is admitted", COMPLETE, plain, trust=replace(TRUST, firmware=(0,)))

    yield worse(
        "R-con-16",
        "a kit that the device signed is refused",
        GAPS,
        changed(plain, kit, checks=Checks(state="refused", rule="7")),
        "item-refused",
    )
    yield worse(
        "R-con-16",
        "a head that the device attested is refused",
        GAPS,
        changed(plain, device.made[2], checks=Checks(state="refused")),
        "item-refused",
    )
    extra = replace(kit, digest=digest("x"), number=150, checks=Checks(state="refused", signed=False))
    yield better("R-con-16", "a refused kit that nobody signed", COMPLETE, replace(plain, kits=(*plain.kits, extra)))
    yield worse(
        "R-con-17",
        "a denied kit of the period beside all the others",
        GAPS,
        replace(
            plain,
            kits=(
                *plain.kits,
                replace(extra, checks=Checks(), signatures=(replace(kit.signatures[0], anchor=digest("?")),)),
            ),
        ),
        "item-not-admitted",
    )
    yield worse(
        "R-con-17", "a tombstone whose signer is not admitted", GAPS, _buried(anchor=digest("?")), "item-not-admitted"
    )
    yield better("R-con-17", "a tombstone whose signer is admitted", COMPLETE, _buried())
    yield worse(
        "R-con-18",
        "evidence of a signed kit is not at hand",
        NOT_JUDGED,
        changed(plain, kit, checks=Checks(state="not-judged"), segments=(), leaves=()),
        "item-not-judged",
    )
    yield worse(
        "R-con-18",
        "a signed tombstone could not be judged",
        NOT_JUDGED,
        _buried(checks=Checks(state="not-judged")),
        "item-not-judged",
    )
    yield better(
        "R-con-18",
        "a kit that nobody signed could not be judged",
        COMPLETE,
        replace(plain, kits=(*plain.kits, replace(extra, checks=Checks(state="not-judged", signed=False)))),
    )


def _buried(anchor: bytes | None = None, **changes: Any) -> Knowledge:
    device = Device()
    device.run(2, 2)
    device.seal(3)
    tombstone = device.bury(4)
    device.run(2, 5)
    device.seal(6)
    device.head(11)
    if anchor is not None:
        changes["signatures"] = (replace(tombstone.signatures[0], anchor=anchor),)
    return changed(known(device), tombstone, **changes)


def lines() -> Iterator[Vector]:
    old = working()
    new = Device("unit-2", 104, enrolled=12, like=old)
    ended = roster(old.entry(until=day(12), ended="retired", end=104), new.entry())
    yield better(
        "R-con-19", "a later enrollment of the same TPM begins at the end", COMPLETE, known(old, new, rosters=(ended,))
    )
    yield worse(
        "R-con-19",
        "two enrollments of one TPM, none ended for the other",
        GAPS,
        replace(known(old, new), records=(old.record, replace(new.record, replaces=None))),
        "line-contradicted",
    )
    wrong = roster(old.entry(until=day(12), ended="retired", end=105), new.entry())
    yield worse(
        "R-con-19",
        "roster and replacing record give different ends",
        GAPS,
        known(old, new, rosters=(wrong,)),
        "end-contradicted",
    )
    yield worse(
        "R-con-19",
        "the replaced enrollment is not at hand",
        UP_TO,
        known(working("unit-3"), replace_of(), rosters=(roster(working("unit-3").entry()),)),
        "replaced-unknown",
    )


def replace_of() -> Device:
    device = working("unit-4", 200)
    device.record = replace(device.record, replaces=digest("unknown"))
    return device


def strangers() -> Iterator[Vector]:
    device = working()
    plain, kit = known(device), kit_of(device)
    junk = replace(plain,
        kits=(*plain.kits, replace(kit, digest=digest("junk"), checks=Checks(state="refused", signed=False)), replace(kit, digest=digest("junk-2"), record=None)),
        records=(*plain.records, RecordFacts(digest=digest("r"), enrollment=digest("e"), device=device.name, base=0, line=device.line, enrolled=day(1), assurance="hardware", certificate=signed("device", digest("c"), anchor=digest("?")))),
        models=(*plain.models, model(digest("m"), signatures=())),
        rosters=(*plain.rosters, roster(version=9, signatures=())),
        chains=(*plain.chains, chain(STRANGER, whole=False, signatures=())),
        noise=(Noise(source="registry/data", kind="manifest", count=7),))  # fmt: skip
    yield better("R-con-83", "junk of many kinds", COMPLETE, junk, results=[7, 7])
    yield worse(
        "R-con-83",
        "junk in place of a kit",
        GAPS,
        replace(junk, kits=tuple(one for one in junk.kits if one.digest != kit.digest)),
        "number-missing",
    )
    yield worse(
        "R-con-83",
        "an unsigned kit explains no number",
        GAPS,
        changed(plain, kit, checks=Checks(signed=False)),
        "number-missing",
    )
    yield worse(
        "R-con-84",
        "a limit ended reading",
        NOT_JUDGED,
        replace(plain, cuts=(Cut(source="registry/data", limit="signatures"),)),
        "limit-reached",
    )
    yield worse(
        "R-con-84",
        "a limit ended reading of two sources",
        NOT_JUDGED,
        replace(plain, cuts=(Cut(source="a", limit="tags"), Cut(source="b", limit="tags"))),
        "limit-reached",
    )
    yield better("R-con-84", "no limit was reached", COMPLETE, plain)
    yield worse(
        "R-con-85",
        "a trusted collector's chain lacks a table",
        NOT_JUDGED,
        replace(plain, chains=(chain(whole=False),)),
        "ledger-not-whole",
    )
    yield worse(
        "R-con-85",
        "one of two trusted chains lacks a table",
        NOT_JUDGED,
        replace(plain, chains=(chain(), chain("urn:edgeprov:collector:two", whole=False))),
        "ledger-not-whole",
    )
    yield better(
        "R-con-85",
        "a stranger's chain lacks a table",
        COMPLETE,
        replace(plain, chains=(chain(), chain(STRANGER, whole=False))),
    )
    yield worse("R-con-87", "nothing is known at all", NO_DATA, Knowledge(), "no-roster")


ALL = (merged, signers, records, lines, strangers)
