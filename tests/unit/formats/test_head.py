# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Heads: every member is bound by the qualifying data; with and without a nonce; their OCI form and tag."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeprov._dataclass import replace
from edgeprov.errors import DigestMismatch, FormatError, LimitError
from edgeprov.formats.digest import digest_of
from edgeprov.formats.head import (
    Head,
    build_head_manifest,
    encode_head,
    head_qualifying,
    head_tag,
    parse_head,
    parse_head_artifact,
    parse_head_tag,
)
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import parse_manifest
from edgeprov.formats.standing import Standing, encode_standing
from edgeprov.formats.tpmt import Attestation
from edgeprov.limits import LIMITS
from tests.support.kits import ENROLLMENT

HEAD = Head(
    device="urn:edgeprov:device:dev042",
    enrollment=ENROLLMENT,
    nonce=b"12345678",
    newest=digest_of(b"newest"),
    at="2026-01-01T00:00:00Z",
    standing=encode_standing(Standing(at_ns=5)),
    quote=Attestation(attest=b"a", signature=b"s", pcrs=((14, bytes(32)),)),
    counter=Attestation(attest=b"c", signature=b"t"),
    log=b"",
)


def test_a_head_comes_back() -> None:
    for head in (HEAD, replace(HEAD, nonce=None, newest=None)):
        assert parse_head(encode_head(head)) == head
    assert HEAD.parsed_standing() == Standing(at_ns=5)


def test_the_qualifying_data_names_every_claim() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"device": "urn:edgeprov:device:other"}, {"enrollment": bytes(32)}, {"nonce": b"87654321"}, {"nonce": None}, {"newest": None}, {"newest": digest_of(b"x")},
        {"at": "2026-01-01T00:00:01Z"}, {"standing": encode_standing(Standing(at_ns=6))},
    ]  # fmt: skip
    assert len({head_qualifying(replace(HEAD, **change)) for change in changes}) == len(changes)
    assert head_qualifying(replace(HEAD, log=b"x", quote=HEAD.counter)) == head_qualifying(HEAD)
    for nonce in (b"", b"1234567", bytes(65)):
        with pytest.raises(FormatError):
            head_qualifying(replace(HEAD, nonce=nonce))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2}, {"extra": 1}, {"device": "x"}, {"enrollment": "x"}, {"enrollment": None}, {"nonce": 5}, {"newest": "x"}, {"newest": 5}, {"at": "now"}, {"standing": ""}, {"standing": None},
        {"quote": None}, {"quote": {}}, {"quote": {"attest": "", "signature": "", "pcrs": [[14]]}}, {"quote": {"attest": "", "signature": "", "pcrs": [[14, 5]]}},
        {"counter": {"attest": ""}}, {"log": None},
    ],
)  # fmt: skip
def test_what_is_no_head_is_refused(change: dict[str, Any]) -> None:
    obj = json.loads(encode_head(HEAD)) | change
    with pytest.raises(FormatError):
        parse_head(encode_json(obj))
    for name in change.keys() & HEAD.__dataclass_fields__.keys():
        with pytest.raises(FormatError):
            parse_head(encode_json({key: value for key, value in obj.items() if key != name}))


def test_a_head_has_a_bound() -> None:
    with pytest.raises(LimitError):
        parse_head(b" " * (LIMITS.head_bytes + 1))


def test_a_head_as_an_artifact() -> None:
    head = replace(HEAD, nonce=None)
    manifest, layer = build_head_manifest(head)
    assert parse_head_artifact(manifest, layer) == head
    for key in ("dev.edgeprov.device", "dev.edgeprov.enrollment", "org.opencontainers.image.created"):
        for value in ("urn:edgeprov:device:other", None):
            obj = json.loads(manifest.raw)
            obj["annotations"] = {**obj["annotations"], key: value} if value else {
                name: text for name, text in obj["annotations"].items() if name != key
            }  # fmt: skip
            with pytest.raises(FormatError):
                parse_head_artifact(parse_manifest(encode_json(obj)), layer)


@pytest.mark.parametrize("change", [{"artifactType": "application/x"}, {"layers": []}, {"annotations": {}}])
def test_what_is_no_head_artifact_is_refused(change: dict[str, Any]) -> None:
    manifest, layer = build_head_manifest(replace(HEAD, nonce=None))
    with pytest.raises(FormatError):
        parse_head_artifact(parse_manifest(encode_json(json.loads(manifest.raw) | change)), layer)
    with pytest.raises(DigestMismatch):
        parse_head_artifact(manifest, layer + b" ")


def test_tags_of_heads() -> None:
    tag = head_tag("dev_04-2", 41, digest_of(b"x"))
    assert tag == f"dev_04-2.h0000000041.{digest_of(b'x').hex[:16]}"
    parsed = parse_head_tag(tag)
    assert parsed is not None
    assert (parsed.device, parsed.counter, parsed.prefix) == ("dev_04-2", 41, digest_of(b"x").hex[:16])
    for other in ("latest", tag + "0", tag.replace(".h", "."), tag.upper()):
        assert parse_head_tag(other) is None
    for serial, counter in (("a.b", 1), ("a", 10**10), ("a", -1)):
        with pytest.raises(FormatError):
            head_tag(serial, counter, digest_of(b"x"))
