# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Tombstones: numbers with reasons, lost ranges, and annotations that agree with the layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edgeprov._dataclass import replace
from edgeprov.errors import DigestMismatch, FormatError
from edgeprov.formats.descriptor import Descriptor, describe, encode_descriptor
from edgeprov.formats.digest import digest_of
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import Manifest, parse_manifest
from edgeprov.formats.standing import OpenSegment, Standing
from edgeprov.formats.tombstone import LostRange, NumberEntry, build_tombstone, parse_tombstone
from tests.support.kits import ENROLLMENT, MODEL

A, B = bytes(32), b"\1" * 32
CRASH = NumberEntry(number=5, reason="crash")
UNKNOWN = NumberEntry(number=6, reason="unknown")
LOST = NumberEntry(number=7, reason="discarded", header=A)
SHARED = NumberEntry(number=7, reason="damaged", header=B)
RANGE = LostRange(first=1, last=5, count=4, least=10, greatest=20, doubt=False, reason="discarded")
BLIND = LostRange(first=9, last=9, count=1, least=None, greatest=None, doubt=True, reason="damaged")
STANDING = Standing(at_ns=5, newest=B, open=(OpenSegment(number=8, header=B, slot="default"),))


def tombstone(**changes: Any) -> tuple[Manifest, bytes]:
    values: dict[str, Any] = {
        "model": MODEL.digest, "device": "urn:edgeprov:device:dev042", "enrollment": ENROLLMENT, "slot": "default", "seq": 9, "prev": None,
        "numbers": [CRASH], "standing": STANDING, "at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return build_tombstone(**(values | changes))


def test_a_tombstone_comes_back() -> None:
    numbers, lost = (CRASH, UNKNOWN, LOST, SHARED), (RANGE, BLIND)
    manifest, layer = tombstone(numbers=numbers, lost=lost, prev=digest_of(b"p"))
    stone = parse_tombstone(manifest, layer)
    assert (stone.seq, stone.numbers, stone.lost, stone.prev) == (9, numbers, lost, digest_of(b"p"))
    assert (stone.enrollment, stone.standing, stone.at) == (ENROLLMENT, STANDING, "2026-01-01T00:00:00Z")
    assert stone.manifest is manifest
    assert parse_tombstone(*tombstone(numbers=[])).prev is None


@pytest.mark.parametrize("subject", [None, MODEL])
def test_a_tombstone_may_have_its_model_as_subject(subject: Descriptor | None) -> None:
    assert parse_tombstone(*tombstone(subject=subject)).manifest.subject == subject


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "x"}, {"slot": ""}, {"seq": -1}, {"seq": 5}, {"enrollment": b"x"}, {"at": "now"}, {"at": "0999-01-01T00:00:00Z"},
        {"numbers": [CRASH, CRASH]}, {"numbers": [UNKNOWN, CRASH]}, {"numbers": [SHARED, LOST]}, {"numbers": [LOST, LOST]}, {"numbers": [replace(CRASH, number=7), LOST]},
        {"numbers": [LOST, replace(CRASH, number=7)]}, {"numbers": [replace(CRASH, number=-1)]}, {"numbers": [replace(CRASH, reason="other")]}, {"numbers": [replace(CRASH, header=A)]},
        {"numbers": [replace(UNKNOWN, header=A)]}, {"numbers": [replace(LOST, header=None)]}, {"numbers": [replace(LOST, header=b"short")]},
        {"lost": [BLIND, RANGE]}, {"lost": [RANGE, RANGE]}, {"lost": [replace(RANGE, count=6)]}, {"lost": [replace(RANGE, count=0)]}, {"lost": [replace(RANGE, first=6)]}, {"lost": [replace(RANGE, first=-1)]},
        {"lost": [replace(RANGE, least=None)]}, {"lost": [replace(RANGE, least=21)]}, {"lost": [replace(RANGE, reason="crash")]}, {"lost": [replace(RANGE, doubt=None)]},
    ],
)  # fmt: skip
def test_what_is_no_tombstone_is_not_built(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        tombstone(**changes)


@pytest.mark.parametrize("number", [CRASH, LOST])
def test_a_number_stands_once(number: NumberEntry) -> None:
    tombstone(numbers=[number])
    for again in (number, replace(UNKNOWN, number=number.number)):
        with pytest.raises(FormatError, match="named twice"):
            tombstone(numbers=[number, again])
    with pytest.raises(FormatError, match="not below"):
        tombstone(numbers=[replace(number, number=9)])


@pytest.mark.parametrize("number", [replace(CRASH, header=A), replace(UNKNOWN, header=A), replace(LOST, header=None)])
def test_a_header_belongs_to_a_lost_segment(number: NumberEntry) -> None:
    with pytest.raises(FormatError, match="header belongs"):
        tombstone(numbers=[number])


@pytest.mark.parametrize(
    "change", [{"count": 6}, {"count": 0}, {"least": 21}, {"greatest": None}, {"reason": "unknown"}]
)
def test_lost_ranges_fit_their_counts_and_times(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"fit|reason"):
        tombstone(lost=[replace(RANGE, **change)])
    with pytest.raises(FormatError, match="overlap"):
        tombstone(lost=[RANGE, replace(RANGE, first=5, last=8, count=1)])


def annotate(key: str, value: str | None) -> Callable[[dict[str, Any]], object]:
    def change(manifest: dict[str, Any]) -> None:
        if value is None:
            del manifest["annotations"][key]
        else:
            manifest["annotations"][key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("artifactType"), lambda m: m.update(subject=encode_descriptor(replace(MODEL, digest=digest_of(b"x")))), lambda m: m["layers"].clear(),
        lambda m: m["layers"][0].update(mediaType="application/json"), *(annotate("dev.edgeprov." + key, None) for key in ("device", "enrollment", "slot", "model", "seq", "prev")),
        annotate("dev.edgeprov.seq", "10"), annotate("dev.edgeprov.enrollment", "0" * 64), annotate("org.opencontainers.image.created", "2026-01-01T00:00:01Z"),
    ],
)  # fmt: skip
def test_a_tombstone_that_contradicts_itself_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    manifest, layer = tombstone()
    obj = json.loads(manifest.raw)
    change(obj)
    with pytest.raises(FormatError):
        parse_tombstone(parse_manifest(encode_json(obj)), layer)


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"v": 2}, {"numbers": [5]}, {"lost": [{}]}, {"standing": ""}, {"standing": None}]
)
def test_a_layer_of_another_form_is_refused(change: dict[str, Any]) -> None:
    manifest, layer = tombstone()
    other = encode_json(json.loads(layer) | change)
    obj = json.loads(manifest.raw)
    named = describe(other, obj["layers"][0]["mediaType"])
    obj["layers"][0].update(digest=str(named.digest), size=named.size)
    with pytest.raises(FormatError):
        parse_tombstone(parse_manifest(encode_json(obj)), other)
    with pytest.raises(DigestMismatch):
        parse_tombstone(manifest, layer + b" ")
