# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The JSON form of the conclusion's values: one form, read back as it was, and the schema in the tree is that of the types."""

from __future__ import annotations

import json

import pytest

from edgeprov.errors import FormatError
from edgeprov.fleet.conclusion.json_form import (
    encode_knowledge,
    encode_question,
    encode_trust,
    parse_knowledge,
    parse_question,
    parse_trust,
)
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.schema import PATH, schema_text
from edgeprov.fleet.conclusion.trust import BootSet, Denial, Role, TrustRules
from edgeprov.fleet.conclusion.types import (
    KitFacts,
    Knowledge,
    LabelRun,
    RecordFacts,
    SegmentFacts,
    Sighting,
    SignatureFacts,
    StampFacts,
    TombstoneFacts,
)
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.standing import OpenSegment, Standing, Stop
from edgeprov.formats.tombstone import LostRange, NumberEntry

D = bytes(range(32))
SIGNATURE = SignatureFacts(digest=D, identity="urn:a", key=D, anchor=D, stamps=(StampFacts(anchor=D, at=2**62),))
STANDING = Standing(
    at_ns=7,
    newest=D,
    open=(OpenSegment(number=1, header=D, slot="s"),),
    stops=(Stop(slot="s", header=D, after=None, resumed=1, bound_ms=9, at_ns=2),),
)
KIT = KitFacts(
    digest=D,
    enrollment=D,
    device="urn:d",
    record=D,
    number=3,
    reset_count=1,
    clock_ms=2,
    standing=STANDING,
    slot="s",
    model=D,
    prev=None,
    records=2,
    segments=(SegmentFacts(number=2, header=D, prev=None, slot="s", model=D, ranges=((0, 1),)),),
    labels=(LabelRun(first=0, last=1),),
    leaves=((1, D),),
    signatures=(SIGNATURE,),
    pcrs=(((0, D),),),
)
TOMBSTONE = TombstoneFacts(
    digest=D,
    enrollment=D,
    device="urn:d",
    record=None,
    number=4,
    reset_count=1,
    clock_ms=3,
    standing=Standing(at_ns=8),
    slot="s",
    model=D,
    prev=D,
    numbers=(NumberEntry(number=2, reason="damaged", header=D),),
    lost=(LostRange(first=2, last=3, count=2, least=None, greatest=None, doubt=True, reason="damaged"),),
)
RECORD = RecordFacts(
    digest=D, enrollment=D, device="urn:d", base=0, line=D, enrolled=1, assurance="dev", certificate=SIGNATURE
)
KNOWLEDGE = Knowledge(
    records=(RECORD,),
    kits=(KIT,),
    tombstones=(TOMBSTONE,),
    sightings=(Sighting(digest=D, source="r", first=1, last=2),),
)
TRUST = TrustRules(
    roles=(Role(name="device", anchors=(D,)),),
    boot_sets=(BootSet(name="b", pcrs=((0, D),)),),
    deny=(Denial(type="kit", value="sha256:" + D.hex()),),
)


def test_values_come_back_as_they_were() -> None:
    assert parse_knowledge(encode_knowledge(KNOWLEDGE)) == KNOWLEDGE
    assert parse_trust(encode_trust(TRUST)) == TRUST
    question = Question(since=1, until=2, at=3, model=D, devices=("urn:d",))
    assert parse_question(encode_question(question)) == question


def test_the_form_is_canonical() -> None:
    raw = encode_knowledge(KNOWLEDGE)
    assert raw == encode_json(json.loads(raw))
    assert b'"digest":"sha256:' + D.hex().encode() in raw
    assert b'"enrollment":"' + D.hex().encode() in raw


def _changed(**members: object) -> bytes:
    value = json.loads(encode_question(Question(since=1, until=2, at=3)))
    return json.dumps({**value, **members}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b"{",
        b"{}",
        b'{"at":1,"at":1}',
        _changed(more=1),
        _changed(at=1.0),
        _changed(at=True),
        _changed(at=2**63),
        _changed(at=None),
        _changed(model="sha256:00"),
        _changed(model=D.hex()),
        _changed(model="sha256:" + D.hex().upper()),
        _changed(devices=["a\ud800b"]),
        _changed(devices="a"),
    ],
)
def test_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_question(raw)


def test_the_schema_in_the_tree_is_that_of_the_types() -> None:
    assert PATH.read_text() == schema_text()
