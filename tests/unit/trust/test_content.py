# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Changed records and labels: whatever is changed, and however consistently, something refuses it."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest

from edgeprov._dataclass import replace as replace_part
from edgeprov.errors import DigestMismatch, EdgeprovError, SubjectMismatch, VerificationError
from edgeprov.formats.block import encode_block
from edgeprov.formats.datakit import encode_part_header, parse_datakit, parse_part
from edgeprov.formats.label import Label
from edgeprov.formats.manifest import parse_manifest
from edgeprov.formats.record import encode_record, parse_record
from edgeprov.formats.segment import parse_segment_header
from edgeprov.formats.tarball import iter_tar
from edgeprov.store.compress import decompress
from edgeprov.verify.content import ContentCheck
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.place import RecordPlaces, nth_record
from tests.support import pki
from tests.support.kits import encode_label_parts, encode_record_parts


def plain_parts(sealed):
    """Name and decompressed bytes of each layer."""
    import io

    for part in sealed.kit.parts:
        for member, chunks in iter_tar(io.BytesIO(sealed.blobs[part.layer.digest]).read):
            if not member.is_dir:
                yield part, decompress(b"".join(chunks), 1 << 20)


def check(sealed, changes=None, **options):
    """Check a kit; ``changes`` are other plain bytes for some kinds of parts, None for one that is lost."""
    plain = {part.kind: data for part, data in plain_parts(sealed) if part.kind != "evidence"} | (changes or {})
    parts = {kind: data and parse_part(data) for kind, data in plain.items()}
    work = ContentCheck(sealed.kit, sealed.segments, **options)
    if "records" in parts:
        work.add_records(parts["records"], parts["outputs"])
    if "labels" in parts:
        work.add_labels(parts["labels"], parts["label-values"])
    work.finish()


LABELS = [Label(n=n, value=n % 2, source="pathology", labelled_at_ns=n) for n in range(3)]


def test_honest_kit(unit):
    check(unit.seal(records=7, labels=LABELS))
    check(unit.seal(records=0, labels=LABELS))


def test_changed_byte_in_any_layer_is_not_what_the_manifest_names(unit):
    """Record, label and evidence alike: the layer's digest is in the manifest, whose digest is signed."""
    sealed = unit.seal(records=7, labels=LABELS)
    for layer in sealed.manifest.layers:
        data = bytearray(sealed.blobs[layer.digest])
        data[len(data) // 2] ^= 1
        with pytest.raises(DigestMismatch):
            layer.verify(bytes(data), "layer")


@pytest.mark.parametrize("what", ["records", "label-values"])
def test_changed_layer_with_a_manifest_that_names_it_is_not_the_signed_one(world, unit, what):
    """The attacker repacks: new layer, new config, new manifest. Then the digest is another, and nobody signed it."""
    sealed = unit.seal(records=7, labels=LABELS)
    other = unit.world.enroll("unit-0001").seal(records=7, labels=[replace(item, value=9) for item in LABELS])
    old, new = ({part.kind: part for part in item.kit.parts}[what].layer.digest for item in (sealed, other))
    if what == "records":
        new = {part.kind: part for part in other.kit.parts}["label-values"].layer.digest
    config = sealed.config.replace(str(old).encode(), str(new).encode())
    from edgeprov.formats.digest import digest_of

    raw = sealed.manifest.raw.replace(str(old).encode(), str(new).encode())
    raw = raw.replace(str(sealed.manifest.config.digest).encode(), str(digest_of(config)).encode())
    raw = raw.replace(b64encode(sealed.config), b64encode(config))
    forged = parse_datakit(parse_manifest(raw), config)
    with pytest.raises(VerificationError, match="hangs on another artifact"):
        verify_kit(sealed.evidence(kit=forged), unit.verified(), world.policy, pki.NOW)


def test_changed_record_that_the_device_itself_repacked(unit):
    """Root on the device seals other records than it announces: the Merkle root shows it."""
    sealed = unit.seal(records=7)
    header = parse_segment_header(sealed.segments[0].header)
    old = parse_record(sealed.rows[3])
    other = encode_record(old.n, old.recorded_at_ns, old.mono_ns, old.duration_ns, (b"\0\0",))
    changed = encode_record_parts([*sealed.rows[:3], other, *sealed.rows[4:]], header)
    with pytest.raises(DigestMismatch, match="Merkle root"):
        check(sealed, changed)
    check(sealed, changed, merkle=False)


@pytest.mark.parametrize("change", [{"value": 9}, {"source": "x"}, {"labelled_at_ns": 9}, {"n": 6}])
def test_changed_label_that_the_device_itself_repacked(unit, change):
    """The labels have a Merkle root of their own in the manifest."""
    sealed = unit.seal(records=7, labels=LABELS)
    with pytest.raises(DigestMismatch, match="Merkle root of labels"):
        check(sealed, encode_label_parts([LABELS[0], replace(LABELS[1], **change), LABELS[2]]))


def test_labels_in_another_order(unit):
    """Their order says which label of a record counts."""
    sealed = unit.seal(records=7, labels=LABELS)
    with pytest.raises(DigestMismatch, match="Merkle root of labels"):
        check(sealed, encode_label_parts(LABELS[::-1]))


@pytest.mark.parametrize("lost", [{"outputs": None}, {"label-values": None}, {"outputs": None, "label-values": None}])
def test_lost_content_leaves_the_evidence_judged(unit, lost):
    sealed = unit.seal(records=7, labels=LABELS)
    check(sealed, lost)
    header = parse_segment_header(sealed.segments[0].header)
    fewer = encode_record_parts(sealed.rows[:-1], header) | encode_label_parts(LABELS)
    with pytest.raises(SubjectMismatch, match="6 records"):
        check(sealed, fewer | lost)
    with pytest.raises(SubjectMismatch, match="2 labels"):
        check(sealed, encode_label_parts(LABELS[1:]) | lost)


def test_content_of_one_kind_is_checked_where_the_other_is_lost(unit):
    sealed = unit.seal(records=7, labels=LABELS)
    with pytest.raises(DigestMismatch, match="Merkle root of labels"):
        check(sealed, encode_label_parts(LABELS[::-1]) | {"outputs": None})
    rows = unit.rows(7)
    moved = encode_record_parts(rows, parse_segment_header(sealed.segments[0].header))
    with pytest.raises(SubjectMismatch, match="other records"):
        check(sealed, {"outputs": moved["outputs"], "label-values": None})


def test_record_left_out_or_added(unit):
    sealed = unit.seal(records=7)
    header = parse_segment_header(sealed.segments[0].header)
    for rows in (sealed.rows[:-1], sealed.rows[1:], sealed.rows + unit.rows(1)):
        with pytest.raises(SubjectMismatch):
            check(sealed, encode_record_parts(rows, header))


def test_label_left_out(unit):
    sealed = unit.seal(records=2, labels=LABELS)
    with pytest.raises(SubjectMismatch, match="0 labels"):
        check(sealed, encode_label_parts([]))


def test_segment_without_evidence(unit):
    sealed = unit.seal(records=3)
    foreign = unit.segment_header(reset_count=9)
    with pytest.raises(SubjectMismatch, match="no evidence"):
        check(sealed, encode_record_parts(sealed.rows, foreign))


def test_record_moved_to_the_segment_of_another_model(unit):
    """Two segments in one kit: a record of the second may not pass for one of the first."""
    sealed = unit.seal(records=[4, 3], segments=[unit.open_segment(), unit.open_segment()])
    check(sealed)
    headers = [parse_segment_header(segment.header) for segment in sealed.segments]

    def moved(headers, *rows):
        made = {kind: encode_part_header(kind, [header.raw for header in headers]) for kind in ("records", "outputs")}
        for place, mine in enumerate(rows):
            blocks = encode_block(mine, place, headers[place]) if mine else (b"", b"")
            made = {kind: made[kind] + block for kind, block in zip(made, blocks, strict=True)}
        return made

    for count in (7, 5, 3, 0):
        with pytest.raises(SubjectMismatch, match="not the next ones"):
            check(sealed, moved(headers, sealed.rows[:count], sealed.rows[count:]))
    with pytest.raises(SubjectMismatch, match="not the next ones"):
        check(sealed, moved(headers[::-1], sealed.rows[4:], sealed.rows[:4]))


def test_numbers_of_two_segments_may_interleave(unit):
    """Two workers of one slot: each has a segment, and numbers in blocks."""
    first, second = unit.open_segment(), unit.open_segment()
    segments = [
        replace_part(first, ranges=((0, 1), (4, 4))),
        replace_part(second, ranges=((2, 3), (6, 7)), unused=((5, 5),)),
    ]
    headers = [parse_segment_header(segment.header) for segment in segments]
    places = RecordPlaces(segments)
    places.take(headers[0].raw, [0, 1, 4])
    places.take(headers[1].raw, [2, 3, 6])
    places.take(headers[1].raw, [7])
    places.finish()
    for numbers in ([0, 1, 2], [0, 2], [1], [0, 1, 4, 5]):
        with pytest.raises(SubjectMismatch, match="not the next ones"):
            RecordPlaces(segments).take(headers[0].raw, numbers)
    short = RecordPlaces(segments)
    short.take(headers[0].raw, [0, 1])
    with pytest.raises(SubjectMismatch, match="all records"):
        short.finish()
    with pytest.raises(SubjectMismatch, match="not the next ones"):
        short.take(headers[1].raw, [2])
    named = [nth_record(segments, index) for index in range(8)]
    assert [item and item[1] for item in named] == [0, 1, 4, 2, 3, 6, 7, None]


def test_every_one_byte_change_of_the_signed_manifest_is_refused(world, unit):
    sealed = unit.seal(records=2)
    device, policy = unit.verified(), world.policy
    for position in range(0, len(sealed.manifest.raw), 17):
        raw = bytearray(sealed.manifest.raw)
        raw[position] ^= 0x04
        with pytest.raises(EdgeprovError):
            forged = parse_datakit(parse_manifest(bytes(raw)), sealed.config)
            verify_kit(sealed.evidence(kit=forged), device, policy, pki.NOW)
