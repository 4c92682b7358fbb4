# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Changed records and labels: whatever is changed, and however consistently, something refuses it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprov.errors import DigestMismatch, EdgeprovError, SubjectMismatch, VerificationError
from edgeprov.formats.columns import encode_block
from edgeprov.formats.datakit import encode_part_header, parse_datakit, parse_part
from edgeprov.formats.manifest import parse_manifest
from edgeprov.formats.record import Label
from edgeprov.formats.segment import parse_segment_header
from edgeprov.formats.tarball import iter_tar
from edgeprov.store.compress import decompress
from edgeprov.verify.content import ContentCheck
from edgeprov.verify.evidence import verify_kit
from tests.support import pki


def plain_parts(sealed):
    """Name and decompressed bytes of each layer."""
    import io

    for part in sealed.kit.parts:
        for member, chunks in iter_tar(io.BytesIO(sealed.blobs[part.layer.digest]).read):
            if not member.is_dir:
                yield part, decompress(b"".join(chunks), 1 << 20)


def check(sealed, parts=None, **options):
    work = ContentCheck(sealed.kit, sealed.segments, **options)
    for part, plain in parts if parts is not None else plain_parts(sealed):
        if part.kind != "evidence":
            work.add(parse_part(plain))
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


@pytest.mark.parametrize("what", ["records", "labels"])
def test_changed_layer_with_a_manifest_that_names_it_is_not_the_signed_one(world, unit, what):
    """The attacker repacks: new layer, new config, new manifest. Then the digest is another, and nobody signed it."""
    sealed = unit.seal(records=7, labels=LABELS)
    other = unit.world.enroll("unit-0001").seal(records=7, labels=[replace(item, value=9) for item in LABELS])
    old, new = ({part.kind: part for part in item.kit.parts}[what].layer.digest for item in (sealed, other))
    if what == "records":
        new = {part.kind: part for part in other.kit.parts}["labels"].layer.digest
    config = sealed.config.replace(str(old).encode(), str(new).encode())
    from edgeprov.formats.digest import digest_of

    raw = sealed.manifest.raw.replace(str(old).encode(), str(new).encode())
    raw = raw.replace(str(sealed.manifest.config.digest).encode(), str(digest_of(config)).encode())
    forged = parse_datakit(parse_manifest(raw), config)
    with pytest.raises(VerificationError, match="hangs on another artifact"):
        verify_kit(sealed.evidence(kit=forged), unit.verified(), world.policy, pki.NOW)


def test_changed_record_that_the_device_itself_repacked(unit):
    """Root on the device seals other records than it announces: the Merkle root shows it."""
    sealed = unit.seal(records=7)
    header = parse_segment_header(sealed.segments[0].header)
    part = sealed.kit.parts[0]
    rows = [
        *sealed.rows[:3],
        sealed.rows[3].replace(b"\xc4\x02", b"\xc4\x02", 1)[:-4] + b"\x00\x00\xc0\xc0",
        *sealed.rows[4:],
    ]
    plain = encode_part_header("records", [header.raw]) + encode_block(rows, 0, header)
    with pytest.raises(DigestMismatch, match="Merkle root"):
        check(sealed, [(part, plain)])
    check(sealed, [(part, plain)], merkle=False)


def test_record_left_out_or_added(unit):
    sealed = unit.seal(records=7)
    header = parse_segment_header(sealed.segments[0].header)
    part = sealed.kit.parts[0]
    for rows in (sealed.rows[:-1], sealed.rows[1:], sealed.rows + unit.rows(1)):
        plain = encode_part_header("records", [header.raw]) + encode_block(rows, 0, header)
        with pytest.raises(SubjectMismatch):
            check(sealed, [(part, plain)])


def test_label_left_out(unit):
    sealed = unit.seal(records=2, labels=LABELS)
    with pytest.raises(SubjectMismatch, match="0 labels"):
        check(sealed, [item for item in plain_parts(sealed) if item[0].kind == "records"])


def test_segment_without_evidence(unit):
    sealed = unit.seal(records=3)
    foreign = unit.segment_header(first=0, skipped=1)
    plain = encode_part_header("records", [foreign.raw]) + encode_block(sealed.rows, 0, foreign)
    with pytest.raises(SubjectMismatch, match="no evidence"):
        check(sealed, [(sealed.kit.parts[0], plain)])


def test_record_moved_to_the_segment_of_another_model(unit):
    """Two segments in one kit: a record of the second may not pass for one of the first."""
    first = unit.open_segment()
    second = unit.open_segment(first=4)
    sealed = unit.seal(records=7, segments=[first, second])
    header = parse_segment_header(first.header)
    plain = encode_part_header("records", [first.header]) + encode_block(sealed.rows, 0, header)
    with pytest.raises(SubjectMismatch, match="outside of their segment"):
        check(sealed, [(sealed.kit.parts[0], plain)])


def test_every_one_byte_change_of_the_signed_manifest_is_refused(world, unit):
    sealed = unit.seal(records=2)
    device, policy = unit.verified(), world.policy
    for position in range(0, len(sealed.manifest.raw), 17):
        raw = bytearray(sealed.manifest.raw)
        raw[position] ^= 0x04
        with pytest.raises(EdgeprovError):
            forged = parse_datakit(parse_manifest(bytes(raw)), sealed.config)
            verify_kit(sealed.evidence(kit=forged), device, policy, pki.NOW)
