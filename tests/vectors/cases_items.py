# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Cases of tombstones and heads, each with the device record that judges it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgeprov._dataclass import replace
from edgeprov.formats.descriptor import describe
from edgeprov.formats.head import Head, build_head_manifest, encode_head
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    A_DEVICE,
    A_ENROLLMENT,
    ANNOTATION_CREATED,
    SLSA_PROVENANCE,
    TOMBSTONE,
    TOMBSTONE_PREDICATE,
)
from edgeprov.formats.packing import pack
from edgeprov.formats.segment import parse_segment_header
from edgeprov.formats.standing import OpenSegment, Standing, encode_standing, standing_map
from edgeprov.formats.statement import SealedKit, SealEvidence, encode_tombstone_statement
from edgeprov.formats.tombstone import LostRange, NumberEntry, build_tombstone
from tests.support.softtpm import SoftTpm
from tests.support.world import CREATED, START_NS, VERSION, Unit, sign_bundle
from tests.vectors.cases_device import Case, Stage, case
from tests.vectors.make import b64, flip

NONCE = bytes(range(16))
HEADERS = sorted(hashlib.sha256(name).digest() for name in (b"one", b"two"))
Edit = Callable[[dict[str, Any]], object]


def device(unit: Unit) -> dict[str, Any]:
    return written(unit.record_manifest, unit.record_signatures, unit.record_blob)


def written(manifest: Manifest, signatures: Sequence[Any], layer: bytes) -> dict[str, Any]:
    signed = [{"manifest": b64(item.manifest.raw), "blob": b64(item.blob)} for item in signatures]
    return {"manifest": b64(manifest.raw), "signatures": signed, "layer": b64(layer)}


def entry(number: int, reason: Any, header: bytes | None = None) -> NumberEntry:
    return NumberEntry(number=number, reason=reason, header=header)


def left(number: int, header: bytes = HEADERS[0]) -> OpenSegment:
    return OpenSegment(number=number, header=header, slot="left")


# -- tombstones -------------------------------------------------------------------------------------


class Grave(Stage):
    """A device whose counter stands at 103: no kit has 101 to 103."""

    def __init__(self) -> None:
        super().__init__()
        for _ in range(3):
            self.unit.tpm.increment_counter()

    def bury(
        self,
        *numbers: NumberEntry,
        lost: Sequence[tuple[int, int]] = (),
        standing: Standing | None = None,
        edit: Edit = lambda _body: None,
        notes: Edit = lambda _notes: None,
        statement: Callable[[bytes], bytes] = lambda made: made,
        quote: Callable[[SoftTpm, bytes], Any] = lambda tpm, bound: tpm.quote(bound),
        counter: Callable[[SoftTpm, bytes], Any] = lambda tpm, bound: tpm.certify_counter(bound),
        log: bytes | None = None,
        signer: SoftTpm | None = None,
    ) -> dict[str, Any]:
        unit = self.unit
        ranges = [
            LostRange(
                first=first, last=last, count=last - first + 1, least=5, greatest=9, doubt=False, reason="damaged"
            )
            for first, last in lost
        ]
        made, layer = build_tombstone(
            model=self.world.model.digest,
            device=unit.urn,
            enrollment=unit.record.enrollment,
            slot=unit.slot,
            seq=unit.tpm.increment_counter(),
            prev=None,
            numbers=numbers,
            lost=ranges,
            standing=standing or Standing(at_ns=START_NS),
            at=CREATED,
        )
        body, annotations = json.loads(layer), dict(made.annotations)
        edit(body)
        for name in ("device", "enrollment", "seq", "prev"):
            annotations[f"dev.edgeprov.{name}"] = str(body[name])
        notes(annotations)
        layer = encode_json(body)
        manifest = build_manifest(
            config=EMPTY_CONFIG, layers=[describe(layer, TOMBSTONE)], artifact_type=TOMBSTONE, annotations=annotations
        )
        bound = manifest.digest.raw
        evidence = SealEvidence(
            quote=quote(unit.tpm, bound), counter=counter(unit.tpm, bound), log=unit.log if log is None else log
        )
        said = encode_tombstone_statement(
            SealedKit(digest=manifest.digest, seq=body["seq"], reset_count=unit.tpm.reset_count, evidence=evidence),
            model=self.world.model.digest,
            slot=unit.slot,
            device=body["device"],
            assurance="dev",
            version=VERSION,
            created=CREATED,
        )
        signature = sign_bundle(manifest.descriptor, statement(said), signer or unit.tpm, TOMBSTONE_PREDICATE)
        return {"kind": "tombstone", "item": written(manifest, [signature], layer), "device": device(unit)}


def first_number(**changes: object) -> Edit:
    return lambda body: body["numbers"][0].update(changes)


def lost_range(**changes: object) -> Edit:
    return lambda body: body["lost"][0].update(changes)


def tombstones() -> Iterator[tuple[int, Case]]:
    crash, unknown = entry(101, "crash"), entry(102, "unknown")
    damaged, other = (entry(103, "damaged", header) for header in HEADERS)
    one, two = HEADERS
    yield 0, case("crash", "a number whose intent was on the disk", Grave().bury(crash))
    yield 0, case("several", "three numbers, and lost records", Grave().bury(crash, unknown, damaged, lost=[(0, 4)]))
    yield 0, case("shared-number", "two segments that share a number", Grave().bury(damaged, other))
    yield 0, case("nothing-named", "both lists are empty", Grave().bury())
    kept = Standing(at_ns=9, newest=one, open=(left(103),))
    yield 0, case("open-segment", "a segment is open", Grave().bury(crash, standing=kept))

    changed: list[tuple[str, str, Edit]] = [
        ("number-above", "it names a number above its own", first_number(number=105)),
        ("number-own", "it names its own number", first_number(number=104)),
        ("numbers-fall", "numbers fall", lambda body: body["numbers"].reverse()),
        ("number-twice", "a number twice", lambda body: body["numbers"].insert(1, dict(body["numbers"][0]))),
        ("headers-fall", "two headers of one number in falling order", lambda body: body["numbers"].append(
            {"number": 103, "reason": "damaged", "header": "00" * 32})),
        ("header-beside-crash", "a header beside crash", first_number(header=one.hex())),
        ("no-header", "damaged without a header", first_number(reason="damaged")),
        ("reason-of-no-number", "a reason that is none", first_number(reason="power")),
        ("header-upper-case", "a header in capitals", lambda body: body["numbers"][2].update(header=one.hex().upper())),
        ("range-falls", "a lost range that falls", lost_range(first=5, last=4)),
        ("count-too-high", "more records than numbers", lost_range(count=6)),
        ("count-zero", "no record", lost_range(count=0)),
        ("one-time", "the least time alone", lost_range(greatest=None)),
        ("times-fall", "the greatest time before the least", lost_range(greatest=4)),
        ("lost-by-crash", "records that a crash lost", lost_range(reason="crash")),
        ("doubt-is-a-number", "a doubt that is no bool", lost_range(doubt=0)),
        ("member-unknown", "one member more", lambda body: body.update(note="x")),
        ("member-missing", "no time", lambda body: body.pop("at")),
        ("numbers-null", "no list of numbers", lambda body: body.update(numbers=None)),
        ("version", "another version", lambda body: body.update(v=2)),
        ("final-and-open", "final, and yet a segment is open", lambda body: body.update(
            standing=b64(pack(standing_map(replace(kept, final=True)))))),
    ]  # fmt: skip
    for name, comment, edit in changed:
        grave = Grave()
        yield -1, case(name, comment, grave.bury(crash, unknown, damaged, lost=[(0, 4)], edit=edit))
    yield (
        -1,
        case("notes-differ", "another slot in the annotations", Grave().bury(crash, notes=note("slot", "left"))),
    )
    yield -1, case("time-differs", "another time there", Grave().bury(crash, notes=note_time("2026-02-03T04:05:07Z")))

    wrong = bytes(32).hex()
    yield (
        1,
        case(
            "other-enrollment", "of another enrollment", Grave().bury(edit=lambda body: body.update(enrollment=wrong))
        ),
    )
    yield (
        1,
        case("other-device", "of another device", Grave().bury(edit=lambda b: b.update(device=b["device"] + "9"))),
    )
    kits = TOMBSTONE_PREDICATE.encode(), SLSA_PROVENANCE.encode()
    as_kit = Grave().bury(statement=lambda made: made.replace(*kits))
    yield 2, case("kit-predicate", "the statement is a kit's", as_kit)
    slot = Grave().bury(statement=lambda made: made.replace(b'"slot":"default"', b'"slot":"left"'))
    yield 2, case("other-slot", "the statement names another slot", slot)
    yield 2, case("other-signer", "another device signed", Grave().bury(signer=Stage("unit-0009").unit.tpm))
    yield 3, case("old-quote", "a quote for another item", Grave().bury(quote=lambda tpm, _: tpm.quote(bytes(32))))
    yield (
        3,
        case(
            "old-counter", "a counter for another", Grave().bury(counter=lambda tpm, _: tpm.certify_counter(bytes(32)))
        ),
    )
    foreign = SoftTpm("unit-0009")
    yield 4, case("other-ak", "another TPM quoted", Grave().bury(quote=lambda _, bound: foreign.quote(bound)))
    yield (
        4,
        case("other-ak-counts", "another TPM certified", Grave().bury(counter=lambda _, b: foreign.certify_counter(b))),
    )
    yield 6, case("other-log", "a log that gives another PCR", Grave().bury(log=b""), trust="other-pcrs")
    measured = Grave()
    measured.unit.measure(measured.world.model.digest)
    yield 6, case("log-cut", "the log of the boot is missing", measured.bury(log=b""))
    yield 8, case("number-claimed", "the TPM shows another value", Grave().bury(edit=lambda b: b.update(seq=105)))
    yield (
        8,
        case("number-of-before", "a value from before", Grave().bury(
            counter=lambda tpm, b: tpm.certify_counter(b, value=103))),
    )  # fmt: skip
    yield 9, case("number-of-the-base", "it names the base", Grave().bury(entry(100, "crash")))
    yield 9, case("number-before", "it names a number from before", Grave().bury(entry(7, "unknown"), unknown))
    gone = Standing(at_ns=9, newest=one, open=(left(103),))
    yield 9, case("lost-and-open", "a segment is lost and open", Grave().bury(damaged, standing=gone))
    twice = Standing(at_ns=9, newest=two, open=(left(103, two),))
    yield 9, case("other-lost-and-open", "the second of two", Grave().bury(damaged, other, standing=twice))
    above = Standing(at_ns=9, newest=one, open=(left(104),))
    yield 9, case("open-above", "an open segment with its own number", Grave().bury(crash, standing=above))
    below = Standing(at_ns=9, newest=one, open=(left(100),))
    yield 9, case("open-below", "an open segment with the base", Grave().bury(crash, standing=below))


def note(name: str, value: str) -> Edit:
    return lambda notes: notes.update({f"dev.edgeprov.{name}": value})


def note_time(value: str) -> Edit:
    return lambda notes: notes.update({ANNOTATION_CREATED: value})


# -- heads ------------------------------------------------------------------------------------------


def head_case(
    unit: Unit, head: Head, nonce: bytes | None = NONCE, *, artifact: bool = False, edit: Edit | None = None
) -> dict[str, Any]:
    raw = encode_head(head)
    if edit is not None:
        body = json.loads(raw)
        edit(body)
        raw = encode_json(body)
    return {
        "kind": "head",
        "nonce": None if nonce is None else b64(nonce),
        "head": b64(raw),
        "manifest": b64(build_head_manifest(head)[0].raw) if artifact else None,
        "device": device(unit),
    }


def with_notes(head: Head, name: str, value: str) -> str:
    manifest, _ = build_head_manifest(head)
    notes = dict(manifest.annotations) | {name: value}
    made = build_manifest(
        config=EMPTY_CONFIG, layers=manifest.layers, artifact_type=manifest.artifact_type, annotations=notes
    )
    return b64(made.raw)


def heads() -> Iterator[tuple[int, Case]]:
    def asked(standing: Standing | None = None) -> tuple[Unit, Head]:
        stage = Stage()
        stage.seal()
        return stage.unit, stage.unit.head(NONCE, standing=standing)

    unit, head = asked()
    yield 0, case("answer", "an answer to a nonce", head_case(unit, head))
    plain = unit.head(None)
    yield 0, case("unasked", "without a nonce, as an artifact", head_case(unit, plain, None, artifact=True))
    fresh = Stage().unit
    yield 0, case("first-word", "nothing was sealed yet", head_case(fresh, fresh.head(NONCE)))
    final = Standing(at_ns=9, newest=unit.prev_segment, final=True)
    yield 0, case("final", "nothing follows", head_case(unit, unit.head(NONCE, standing=final)))
    opened = parse_segment_header(unit.open_segment().header)
    standing = Standing(at_ns=9, newest=opened.sha256, open=(left(opened.number, opened.sha256),))
    yield 0, case("open-segment", "a segment is open", head_case(unit, unit.head(NONCE, standing=standing)))

    unit, head = asked()
    other = Stage("unit-0002").unit
    changed: list[tuple[int, str, str, Edit]] = [
        (-1, "member-unknown", "one member more", lambda body: body.update(note="x")),
        (-1, "member-missing", "no log", lambda body: body.pop("log")),
        (-1, "version", "another version", lambda body: body.update(v=2)),
        (-1, "time-without-zone", "a time without Z", lambda body: body.update(at="2026-02-03T04:05:06")),
        (-1, "enrollment-upper-case", "the id in capitals", lambda body: body.update(enrollment="AB" * 32)),
        (-1, "pcr-missing", "no PCR values", lambda body: body["quote"].pop("pcrs")),
        (-1, "pcrs-null", "PCR values that are no list", lambda body: body["quote"].update(pcrs=None)),
        (-1, "counter-with-pcrs", "a member more in the counter", lambda body: body["counter"].update(pcrs=[])),
        (-1, "pcrs-fall", "PCRs that do not rise", lambda body: body["quote"]["pcrs"].append([1, b64(bytes(32))])),
        (1, "other-device", "of another device", lambda body: body.update(device=other.urn)),
        (1, "other-enrollment", "of another enrollment", lambda body: body.update(enrollment=bytes(32).hex())),
        (3, "other-newest", "another newest item", lambda body: body.update(newest=f"sha256:{'00' * 32}")),
        (3, "no-newest", "no newest item", lambda body: body.update(newest=None)),
        (3, "later-time", "another time", lambda body: body.update(at="2026-03-03T04:05:06Z")),
        (3, "other-standing", "another standing", lambda body: body.update(
            standing=b64(encode_standing(Standing(at_ns=9))))),
        (4, "quote-signature", "one bit of a signature", lambda body: body["quote"].update(
            signature=flip(body["quote"]["signature"]))),
        (4, "counter-signature", "one bit of the other", lambda body: body["counter"].update(
            signature=flip(body["counter"]["signature"]))),
        (6, "other-pcr-value", "another value beside the quote", lambda body: body["quote"]["pcrs"][0].__setitem__(
            1, b64(b"\x01" * 32))),
        (6, "pcr-more", "a value that is not quoted", lambda body: body["quote"]["pcrs"].append([15, b64(bytes(32))])),
    ]  # fmt: skip
    for group, name, comment, edit in changed:
        yield group, case(name, comment, head_case(unit, head, edit=edit))
    again = unit.head(None)
    for name, key, value in (
        ("notes-time", ANNOTATION_CREATED, "2026-02-03T04:05:07Z"),
        ("notes-device", A_DEVICE, other.urn),
        ("notes-enrollment", A_ENROLLMENT, bytes(32).hex()),
    ):
        document = head_case(unit, again, None) | {"manifest": with_notes(again, key, value)}
        yield -1, case(name, "annotations say something else", document)
    moved = head_case(unit, again, None) | {"manifest": b64(build_head_manifest(unit.head(NONCE))[0].raw)}
    yield -1, case("other-layer", "the manifest of another head", moved)

    yield 3, case("other-nonce", "an answer to another nonce", head_case(unit, head, NONCE[::-1]))
    yield 3, case("nonce-not-given", "no nonce where one was asked for", head_case(unit, again, NONCE))
    yield 3, case("nonce-not-asked", "a nonce where none was asked for", head_case(unit, head, None))
    yield 3, case("quote-of-another", "the quote of another head", head_case(unit, replace(head, quote=again.quote)))
    rebooted, now = asked()
    before = now.quote
    rebooted.reboot()
    later = rebooted.head(NONCE)
    yield 5, case("two-boots", "quote and counter of two boots", head_case(rebooted, replace(later, quote=before)))
    yield (
        5,
        case("two-boots-back", "the same the other way", head_case(rebooted, replace(now, counter=later.counter))),
    )
    counted, _ = asked()
    counted.tpm.counter_index += 1
    yield 8, case("other-index", "another counter of this TPM", head_case(counted, counted.head(NONCE)))
    counted.tpm.counter_index -= 1
    short = counted.tpm.certify_counter
    counted.tpm.certify_counter = lambda bound, **_: short(bound, offset=1)  # type: ignore[method-assign]
    yield 8, case("part-of-counter", "a part of the counter", head_case(counted, counted.head(NONCE)))
    for name, value in (("below-base", 99), ("zero", 0)):
        early = Stage().unit
        early.tpm.counter = value
        yield 9, case(name, "a value from before the enrollment", head_case(early, early.head(NONCE)))
    for name, number in (("open-above", 103), ("open-base", 100)):
        unit, _ = asked()
        standing = Standing(at_ns=9, newest=HEADERS[0], open=(left(number),))
        yield 9, case(name, "an open segment with no number of this enrollment", head_case(
            unit, unit.head(NONCE, standing=standing)))  # fmt: skip
