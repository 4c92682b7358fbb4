# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rows to parts: evidence and its content end behind the same row, however their sizes differ."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

from edgeprov.device.part_writer import PartWriter
from edgeprov.formats.datakit import Part, PartContents, parse_part
from edgeprov.formats.label import Label, encode_label, split_labels
from edgeprov.formats.record import encode_record
from edgeprov.formats.segment import Tensor
from edgeprov.formats.tarball import iter_tar
from edgeprov.store.compress import decompress
from edgeprov.store.layout import Layout
from tests.support.kits import blocks_of, labels_of, segment_header

WIDE = segment_header(outputs=[Tensor(name="mask", shape=(-1,), dtype="uint8")])
KIB = 1024


def contents(layout: Layout, parts: list[Part]) -> list[PartContents]:
    found = []
    for part in parts:
        layer = layout.load_blob(part.layer, max_bytes=1 << 26)
        files = [b"".join(data) for member, data in iter_tar(io.BytesIO(layer).read) if not member.is_dir]
        found.append(parse_part(decompress(files[0], 1 << 26)))
        assert found[-1].kind == part.kind
    return found


def numbers(parts: list[Any], kind: str) -> list[str]:
    return [part.path for part in parts if part.kind == kind]


@pytest.mark.parametrize("size", [0, 40, 4_000])
def test_evidence_and_content_are_cut_together(tmp_path: Path, size: int) -> None:
    """Records with much content and with none, labels with long values: part k of both kinds holds the same rows."""
    rng = random.Random(size)
    layout = Layout.create(tmp_path / "layout")
    records = PartWriter(layout, ("records", "outputs"), 40 * KIB)
    rows = []
    for start in range(1, 20_000 if size < 100 else 600, 100):
        some = [
            encode_record(n, rng.randrange(2**60), rng.randrange(2**60), n, [rng.randbytes(size)], shapes=[(size,)])
            for n in range(start, start + 100)
        ]
        records.write_block(some, WIDE)
        rows += some
    parts = records.finish()
    read = contents(layout, parts)
    assert len(numbers(parts, "records")) == len(numbers(parts, "outputs")) > 2
    assert [row for block in blocks_of(read) for row in block.rows()] == rows

    labels = [
        Label(n=n, value=rng.randbytes(size), source="lab", labelled_at_ns=rng.randrange(2**60)) for n in range(20_000)
    ]
    writer = PartWriter(layout, ("labels", "label-values"), 40 * KIB)
    for row in split_labels([encode_label(label) for label in labels]):
        writer.write_row(*row)
    parts = writer.finish()
    assert len(numbers(parts, "labels")) == len(numbers(parts, "label-values")) > 1
    assert [label for some in labels_of(contents(layout, parts)) for label in some] == labels


def test_both_kinds_repeat_the_headers_of_their_segments(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path / "layout")
    writer = PartWriter(layout, ("records", "outputs"), 1024 * KIB)
    headers = [segment_header(boot_id=f"boot {n}") for n in range(200)]
    for n, header in enumerate(headers, 1):
        writer.write_block([encode_record(n, n, n, n, [b"abc"])], header)
    parts = writer.finish()
    read = contents(layout, parts)
    evidence, content = ([part for part in read if part.kind == kind] for kind in ("records", "outputs"))
    assert len(evidence) == len(content) == 4  # 64 segments a part
    for one, other in zip(evidence, content, strict=True):
        assert one.headers == other.headers
    assert [block.header.raw for block in blocks_of(read)] == [header.raw for header in headers]
