# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data kits, their parts and tags."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprov.errors import DigestMismatch, FormatError, LimitError
from edgeprov.formats import merkle
from edgeprov.formats.block import encode_block
from edgeprov.formats.datakit import (
    Part,
    build_datakit,
    encode_part_header,
    kit_tag,
    parse_datakit,
    parse_datakit_annotations,
    parse_kit_tag,
    parse_part,
)
from edgeprov.formats.descriptor import Descriptor, encode_descriptor
from edgeprov.formats.digest import digest_of
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import Manifest, parse_manifest
from edgeprov.formats.packing import pack
from edgeprov.formats.record import encode_input
from edgeprov.formats.rfc3339 import rfc3339_ms_of_ns
from edgeprov.formats.tarball import iter_tar
from edgeprov.limits import LIMITS
from tests.support.kits import MODEL, blocks_of, data_kit, labels_of, record_rows, segment_header

KIT = data_kit()


def test_a_kit_comes_back() -> None:
    kit = parse_datakit(KIT.manifest, KIT.config)
    assert (kit.model, kit.device, kit.slot, kit.seq) == (MODEL.digest, "urn:edgeprov:device:dev042", "default", 41)
    assert (kit.records, kit.labels, kit.first, kit.last) == (1500, 2, 1, 1500)
    assert kit.prev == digest_of(b"previous")
    assert kit.recorded_first == "2026-01-01T00:00:00.000Z"
    assert [part.kind for part in kit.parts] == [
        "records", "records", "outputs", "outputs", "labels", "label-values", "evidence",
    ]  # fmt: skip
    assert [(one.path, other.path) for one, other in kit.pairs("records")][1] == (
        "records/000002.msgpack.zst",
        "outputs/000002.msgpack.zst",
    )
    assert kit.merkle == merkle.root(KIT.rows)
    (labels,) = labels_of([parse_part(plain) for plain in KIT.plain[:-1]])
    assert kit.labels_merkle == merkle.root(labels.rows())


def test_its_records_are_in_its_parts() -> None:
    parts = []
    for layer in KIT.layers[:4]:
        files = {m.path: b"".join(content) for m, content in iter_tar(io.BytesIO(layer).read) if not m.is_dir}
        (plain,) = files.values()
        parts.append(parse_part(plain))
    assert [row for block in blocks_of(parts) for row in block.rows()] == KIT.rows


def test_evidence_and_content_are_read_each_without_the_other() -> None:
    evidence, content = parse_part(KIT.plain[0]), parse_part(KIT.plain[2])
    assert [(block.first, block.last) for block in evidence.blocks] == [(1, 1024)]
    assert not evidence.outputs
    assert [(block.first, block.count, len(block.output(0))) for block in content.outputs] == [(1, 1024, 3072)]
    assert not content.blocks


def test_what_a_query_reads_is_under_a_kilobyte_and_enough() -> None:
    annotations = KIT.manifest.annotations
    assert sum(len(key) + len(value) for key, value in annotations.items()) <= LIMITS.kit_annotation_bytes
    summary = parse_datakit_annotations(annotations, MODEL.digest)
    kit = parse_datakit(KIT.manifest, KIT.config)
    assert (summary.seq, summary.records, summary.merkle) == (kit.seq, kit.records, kit.merkle)


def test_a_kit_of_late_labels_holds_no_record() -> None:
    late = data_kit(records=0, labels=3)
    kit = parse_datakit(late.manifest, late.config)
    assert (kit.records, kit.labels, kit.first, kit.last, kit.recorded_first) == (0, 3, None, None, None)
    assert kit.merkle == merkle.EMPTY_ROOT


def rebuilt(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> tuple[Manifest, bytes]:
    manifest, config = json.loads(KIT.manifest.raw), json.loads(KIT.config)
    change(manifest, config)
    raw = encode_json(config)
    if manifest["config"]["digest"] == str(KIT.manifest.config.digest):
        manifest["config"].update(digest=str(digest_of(raw)), size=len(raw))
        manifest["config"].pop("data")
    return parse_manifest(encode_json(manifest)), raw


def annotate(key: str, value: str | None) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    def change(manifest: dict[str, Any], _config: dict[str, Any]) -> None:
        if value is None:
            del manifest["annotations"]["dev.edgeprov." + key]
        else:
            manifest["annotations"]["dev.edgeprov." + key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        annotate("model", None), annotate("model", "x"), annotate("device", "dev042"), annotate("device", None), annotate("enrollment", None), annotate("enrollment", "A" * 64), annotate("enrollment", "0" * 63),
        annotate("slot", "A"), annotate("slot", None), annotate("seq", "041"), annotate("seq", "-1"), annotate("seq", "99999999999"), annotate("seq", None), annotate("seq", "\u0664"),
        annotate("prev", ""), annotate("prev", None), annotate("records", "x"), annotate("records", "0"), annotate("records", "1501"), annotate("records", "100000001"),
        annotate("labels", "0"), annotate("labels", None), annotate("labels", "1e3"), annotate("first", None), annotate("last", "10"), annotate("first", "9999"),
        annotate("recorded.first", "yesterday"), annotate("recorded.last", "2026-13-01T00:00:00Z"), annotate("recorded.last", "2026-01-01T00:00:00+02:00"), annotate("recorded.first", "0999-01-01T00:00:00Z"), annotate("recorded.first", "1969-12-31T23:59:59Z"),
        annotate("merkle", "sha256:00"), annotate("merkle", None), annotate("labels.merkle", "sha256:00"), annotate("labels.merkle", None),
        lambda m, _: m["annotations"].pop("org.opencontainers.image.created"),
        lambda m, _: m.update(subject=encode_descriptor(replace(MODEL, digest=digest_of(b"other")))),
        lambda m, _: m.pop("artifactType"), lambda m, _: m.update(artifactType="application/x"), lambda m, _: m["config"].update(mediaType="application/json"),
        lambda m, _: m["layers"].pop(), lambda m, _: m["layers"].reverse(), lambda m, _: m["layers"].append(m["layers"][0]), lambda m, _: m["layers"].clear(),
        lambda m, _: m["layers"][0].update(mediaType="application/vnd.kitops.modelkit.dataset.v1.tar+gzip"),
        lambda m, _: m["layers"][0].update(mediaType="application/vnd.kitops.modelkit.model.v1.tar"),
        lambda m, _: m["layers"][0].update(size=65 * 1024 * 1024),
        lambda _, c: c["datasets"][0].pop("digest"), lambda _, c: c["datasets"][0].update(diffId=str(digest_of(b"x"))), lambda _, c: c["datasets"].reverse(),
        lambda _, c: c["datasets"][0].update(path="../x"), lambda _, c: c["datasets"][0].update(path="records/000002.msgpack.zst"), lambda _, c: c["datasets"][0].update(name="records-000009"),
        lambda _, c: c["datasets"][0].update(path="other/file", name="other"), lambda _, c: c.pop("datasets"), lambda _, c: c.update(model={"path": "m"}), lambda _, c: c.pop("manifestVersion"),
        lambda _, c: c.update(datasets=c["datasets"][::-1]),
    ],
)  # fmt: skip
def test_a_kit_that_contradicts_itself_is_refused(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    manifest, config = rebuilt(change)
    with pytest.raises(FormatError):
        parse_datakit(manifest, config)


def test_a_kit_has_one_evidence_part() -> None:
    def drop(manifest: dict[str, Any], config: dict[str, Any]) -> None:
        for items in (manifest["layers"], config["datasets"]):
            del items[-1]

    def double(manifest: dict[str, Any], config: dict[str, Any]) -> None:
        for items in (manifest["layers"], config["datasets"]):
            items.append(items[-1])

    for change in (drop, double):
        with pytest.raises(FormatError, match="evidence"):
            parse_datakit(*rebuilt(change))


def test_parts_come_in_one_order() -> None:
    def swap(manifest: dict[str, Any], config: dict[str, Any]) -> None:
        for items in (manifest["layers"], config["datasets"]):
            items[0], items[3] = items[3], items[0]

    def gap(manifest: dict[str, Any], config: dict[str, Any]) -> None:
        for items in (manifest["layers"], config["datasets"]):
            del items[0]

    for change in (swap, gap):
        with pytest.raises(FormatError):
            parse_datakit(*rebuilt(change))


@pytest.mark.parametrize("kind", ["records", "outputs", "labels", "label-values"])
def test_a_part_without_its_other_half_is_refused(kind: str) -> None:
    def change(manifest: dict[str, Any], config: dict[str, Any]) -> None:
        place = max(n for n, item in enumerate(config["datasets"]) if item["path"].startswith(f"{kind}/"))
        for items in (manifest["layers"], config["datasets"]):
            del items[place]

    with pytest.raises(FormatError):
        parse_datakit(*rebuilt(change))


def test_another_config_is_refused() -> None:
    for config in (KIT.config + b" ", KIT.config[:-1] + b" ", b""):
        with pytest.raises(DigestMismatch):
            parse_datakit(KIT.manifest, config)


def test_a_kit_without_labels_has_no_root_of_labels() -> None:
    kit = data_kit(labels=0)
    with pytest.raises(FormatError):
        parse_datakit_annotations(
            {**kit.manifest.annotations, "dev.edgeprov.labels.merkle": str(digest_of(b""))}, MODEL.digest
        )


def test_a_kit_without_records_may_not_speak_of_them() -> None:
    late = data_kit(records=0, labels=1)
    for key, value in (("first", "1"), ("recorded.last", "2026-01-01T00:00:00Z"), ("merkle", str(digest_of(b"x")))):
        with pytest.raises(FormatError):
            parse_datakit_annotations({**late.manifest.annotations, "dev.edgeprov." + key: value}, MODEL.digest)


@pytest.mark.parametrize(
    "changes",
    [{"parts": []}, {"device": "dev1"}, {"enrollment": b"x"}, {"seq": -1}, {"records": 0}, {"labels": 1}, {"created": "now"}, {"created": "2026-01-01T00:00:00"}, {"merkle": b"x"}, {"labels_merkle": bytes(32)}, {"slot": "x" * 2000}],
)  # fmt: skip
def test_a_kit_that_would_be_refused_is_not_built(changes: dict[str, Any]) -> None:
    kit = parse_datakit(data_kit(labels=0).manifest, data_kit(labels=0).config)
    values: dict[str, Any] = {
        "model": MODEL.digest, "device": kit.device, "enrollment": kit.enrollment, "slot": kit.slot, "seq": kit.seq, "prev": None, "records": kit.records, "labels": 0, "first": kit.first,
        "last": kit.last, "recorded_first_ns": 1, "recorded_last_ns": 2, "merkle": kit.merkle, "labels_merkle": None, "parts": kit.parts, "created": kit.created,
    }  # fmt: skip
    build_datakit(**values)
    with pytest.raises(FormatError):
        build_datakit(**(values | changes))


HEADER = segment_header()
OTHER = segment_header(number=41, prev=HEADER.sha256)
HEAD = encode_part_header("records", [HEADER.raw])
HEADS = encode_part_header("records", [HEADER.raw, OTHER.raw])
OUTPUTS = encode_part_header("outputs", [HEADER.raw])
BOTH_OUTPUTS = encode_part_header("outputs", [HEADER.raw, OTHER.raw])
EVIDENCE, CONTENT = encode_block(record_rows(3), 0, HEADER)
LATER_EVIDENCE, LATER_CONTENT = encode_block(record_rows(3, first=9), 0, HEADER)
OTHER_EVIDENCE, OTHER_CONTENT = encode_block(record_rows(3), 1, OTHER)


def test_numbers_of_two_segments_may_interleave() -> None:
    blocks = parse_part(HEADS + LATER_EVIDENCE + OTHER_EVIDENCE).blocks
    outputs = parse_part(BOTH_OUTPUTS + LATER_CONTENT + OTHER_CONTENT).outputs
    assert [(block.segment, block.first) for block in blocks] == [(0, 9), (1, 1)]
    assert [(block.segment, block.first) for block in outputs] == [(0, 9), (1, 1)]


def test_a_part_of_inputs_comes_back() -> None:
    plain = encode_part_header("inputs", []) + encode_input(1, (b"a",)) + encode_input(2, (b"b",))
    part = parse_part(plain)
    assert [(item.n, bytes(item.inputs[0])) for item in part.inputs] == [(1, b"a"), (2, b"b")]


@pytest.mark.parametrize(
    "plain",
    [
        b"", HEAD[:-1], pack(["edgeprov.part", 2, "records", []]), pack(["other", 1, "records", []]), pack(["edgeprov.part", 1, "other", []]),
        pack(["edgeprov.part", 1, "records", [b"x"]]), pack(["edgeprov.part", 1, "records"]), pack(["edgeprov.part", 1, "records", ["x"]]),
        HEAD + b"\x01", HEAD + EVIDENCE[:-1], HEAD + encode_block(record_rows(3), 1, HEADER)[0], HEAD + CONTENT,
        HEAD + EVIDENCE * 2,  # numbers used twice
        HEAD + LATER_EVIDENCE + EVIDENCE,
        HEADS + OTHER_EVIDENCE + LATER_EVIDENCE, BOTH_OUTPUTS + OTHER_CONTENT + LATER_CONTENT,
        OUTPUTS + CONTENT[:-1], OUTPUTS + encode_block(record_rows(3), 1, HEADER)[1], OUTPUTS + EVIDENCE, OUTPUTS + CONTENT * 2, OUTPUTS + LATER_CONTENT + CONTENT,
        encode_part_header("labels", []) + b"\x01", encode_part_header("labels", []) + pack([1, "x" * 70_000, "s", 1]),
        encode_part_header("inputs", []) + b"\x92\x01\x91\xa1a", encode_part_header("inputs", []) + b"\x92\x01",
    ],
)  # fmt: skip
def test_what_is_no_part_is_refused(plain: bytes) -> None:
    with pytest.raises(FormatError):
        parse_part(plain)


def test_a_part_has_a_bound() -> None:
    with pytest.raises(LimitError):
        parse_part(bytes(LIMITS.part_plain_bytes + 1))


@pytest.mark.parametrize("subject", [None, MODEL])
def test_a_kit_may_have_its_model_as_subject(subject: Descriptor | None) -> None:
    def change(manifest: dict[str, Any], _: object = None) -> None:
        if subject is not None:
            manifest["subject"] = encode_descriptor(subject)

    manifest, config = rebuilt(change)
    assert parse_datakit(manifest, config).manifest.subject == subject


def test_tags() -> None:
    tag = kit_tag("dev_04-2", 41, digest_of(b"x"))
    assert tag == f"dev_04-2.0000000041.{digest_of(b'x').hex[:16]}"
    parsed = parse_kit_tag(tag)
    assert parsed is not None
    assert (parsed.device, parsed.seq, parsed.prefix) == ("dev_04-2", 41, digest_of(b"x").hex[:16])
    for other in (
        "latest",
        "sha256-" + "0" * 64,
        tag + "0",
        "a.b." + tag,
        tag.upper(),
        "x." + "1" * 11 + "." + "0" * 16,
    ):
        assert parse_kit_tag(other) is None
    for serial, seq in (("a.b", 1), ("a", 10**10), ("a", -1)):
        with pytest.raises(FormatError):
            kit_tag(serial, seq, digest_of(b"x"))


def test_times() -> None:
    assert rfc3339_ms_of_ns(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339_ms_of_ns(1_767_225_600_123_999_999) == "2026-01-01T00:00:00.123Z"
    assert rfc3339_ms_of_ns(2**63 - 1) == "2262-04-11T23:47:16.854Z"


def test_a_part_that_is_no_part_of_a_kit() -> None:
    part = parse_datakit(KIT.manifest, KIT.config).parts[0]
    assert isinstance(part, Part)
