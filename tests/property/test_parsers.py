# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes come in, a parser returns a value or refuses with an error of this project.

Three kinds of input for each parser: random bytes, one flipped bit of a good input, a good input
cut short. A flipped bit that is still accepted must show in the value.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprov.errors import EdgeprovError, FormatError
from edgeprov.formats.block import encode_block
from edgeprov.formats.content_block import read_content_blocks
from edgeprov.formats.datakit import encode_evidence, encode_part_header, parse_datakit, parse_evidence, parse_part
from edgeprov.formats.digest import digest_of
from edgeprov.formats.kitfile import parse_kitfile
from edgeprov.formats.label import Label, encode_label, parse_label
from edgeprov.formats.manifest import Manifest, parse_index, parse_manifest
from edgeprov.formats.merkle import MerkleBuilder, inclusion_path, root, verify_inclusion
from edgeprov.formats.modelkit import parse_modelkit
from edgeprov.formats.packing import Cursor, pack, unpack, unpack_rows
from edgeprov.formats.record import encode_input, encode_record, parse_input, parse_record
from edgeprov.formats.segment import Tensor, parse_segment_header
from edgeprov.formats.standing import Standing
from edgeprov.formats.tarball import iter_tar
from edgeprov.formats.tombstone import LostRange, NumberEntry, build_tombstone, parse_tombstone
from tests.support.kits import (
    MODEL,
    data_kit,
    decode_block,
    encode_label_parts,
    encode_tar,
    golden_kit,
    record_rows,
    segment_header,
)

HEADER = segment_header(params={"threshold": 0.5})
KIT = data_kit(records=30)
BLOCK, CONTENT = encode_block(
    [*record_rows(3), encode_record(9, 1, 2, 3, (b"xyz",), None, {"k": 1}, flags=1)], 0, HEADER
)
VARYING = segment_header(outputs=[Tensor(name="y", shape=(-1, 2), dtype="int8")])
SHAPED = encode_block([encode_record(n, n, n, n, (b"ab" * n,), shapes=[(n, 2)]) for n in (1, 0, 3)][:1], 0, VARYING)[1]
LABELS = encode_label_parts([Label(n=1, value=True, source="s", labelled_at_ns=5)])
STONE = build_tombstone(
    model=MODEL.digest,
    device="urn:edgeprov:device:d",
    enrollment=bytes(32),
    slot="s",
    seq=3,
    prev=None,
    numbers=[NumberEntry(number=2, reason="damaged", header=bytes(32))],
    lost=[LostRange(first=1, last=5, count=5, least=1, greatest=2, doubt=False, reason="damaged")],
    standing=Standing(at_ns=1),
    at="2026-01-01T00:00:00Z",
)


def read_tar(data: bytes) -> object:
    return [(member, b"".join(content)) for member, content in iter_tar(io.BytesIO(data).read)]


def config_of(parse: Callable[[Manifest, bytes], object], manifest: Manifest) -> Callable[[bytes], object]:
    """Lets a changed config through its digest check, so that the parser behind it is reached."""

    def call(config: bytes) -> object:
        from dataclasses import replace

        described = replace(manifest.config, digest=digest_of(config), size=len(config))
        return parse(replace(manifest, config=described), config)

    return call


def stone_layer(layer: bytes) -> object:
    from dataclasses import replace

    manifest = STONE[0]
    described = replace(manifest.layers[0], digest=digest_of(layer), size=len(layer))
    return parse_tombstone(replace(manifest, layers=(described,)), layer)


def kit_manifest(raw: bytes) -> object:
    return parse_datakit(parse_manifest(raw), KIT.config)


GOLDEN = golden_kit("kit-1.11-modelpack-gzip")
CASES: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "unpack": (
        lambda data: unpack(data, max_bytes=1000, what="x"),
        pack({"a": [1, -5, 2.5, b"b", "c", None], "b": {}}),
    ),
    "unpack_rows": (lambda data: unpack_rows([data], width=9, what="x"), record_rows(1)[0]),
    "record": (parse_record, encode_record(1, 2, 3, 4, (b"abc",), bytes(32), {"k": [1.5]})),
    "label": (parse_label, encode_label(Label(n=1, value=("a", 1.5), source="s", labelled_at_ns=5))),
    "input": (parse_input, encode_input(3, (b"abc", b""))),
    "segment": (parse_segment_header, HEADER.raw),
    "evidence block": (lambda data: decode_block((data, CONTENT), [HEADER]).rows(), BLOCK),
    "content block": (lambda data: decode_block((BLOCK, data), [HEADER]).rows(), CONTENT),
    "content block with shapes": (
        lambda data: [item.shapes() for item in read_content_blocks(Cursor(data, "x"), [VARYING])],
        SHAPED,
    ),
    "part": (parse_part, encode_part_header("records", [HEADER.raw]) + BLOCK),
    "outputs part": (parse_part, encode_part_header("outputs", [HEADER.raw]) + CONTENT),
    "labels part": (parse_part, LABELS["labels"]),
    "label-values part": (parse_part, LABELS["label-values"]),
    "inputs part": (parse_part, encode_part_header("inputs", []) + encode_input(3, (b"abc",))),
    "evidence": (parse_evidence, KIT.plain[-1]),
    "tar": (read_tar, encode_tar({"a/b": b"hello", "a/é": b"x" * 600})),
    "manifest": (parse_manifest, KIT.manifest.raw),
    "index": (
        parse_index,
        b'{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"sha256:' + b"0" * 64 + b'","size":2}]}',
    ),
    "kitfile": (parse_kitfile, KIT.config),
    "data kit config": (config_of(parse_datakit, KIT.manifest), KIT.config),
    "data kit manifest": (kit_manifest, KIT.manifest.raw),
    "model kit config": (config_of(parse_modelkit, golden_kit("kit-1.7-tar")[0]), golden_kit("kit-1.7-tar")[1]),
    "modelpack manifest": (lambda raw: parse_modelkit(parse_manifest(raw), GOLDEN[1]), GOLDEN[0].raw),
    "tombstone": (stone_layer, STONE[1]),
}
NAMES = sorted(CASES)


def attempt(name: str, data: bytes) -> object:
    try:
        return CASES[name][0](data)
    except EdgeprovError:
        return EdgeprovError


@pytest.mark.parametrize("name", NAMES)
def test_the_good_input_is_read(name: str) -> None:
    assert attempt(name, CASES[name][1]) is not EdgeprovError


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=1200))
def test_random_bytes(name: str, data: bytes) -> None:
    attempt(name, data)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_random_msgpack_or_json_like_bytes(name: str, data: st.DataObject) -> None:
    good = CASES[name][1]
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 12)))
    attempt(name, good[:start] + data.draw(st.binary(max_size=12)) + good[end:])


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation(name: str) -> None:
    good = CASES[name][1]
    for size in range(0, len(good), max(1, len(good) // 400)):
        attempt(name, good[:size])


@pytest.mark.parametrize("name", NAMES)
def test_flipped_bits(name: str) -> None:
    parse, good = CASES[name]
    before = parse(good)
    step = max(1, len(good) * 8 // 3000)
    for bit in range(0, len(good) * 8, step):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        after = attempt(name, bytes(changed))
        if name in {"record", "label", "input", "segment", "block", "unpack", "evidence"}:
            assert after is EdgeprovError or after != before, f"bit {bit} has no meaning"


uints = st.integers(0, 2**63 - 1)
params = st.none() | st.dictionaries(
    st.text(max_size=5), st.integers(-5, 5) | st.text(max_size=5) | st.floats(allow_nan=False), min_size=1, max_size=3
)


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(uints, min_size=1, max_size=30, unique=True).map(sorted),
    data=st.data(),
)
def test_blocks_reproduce_rows(numbers: list[int], data: st.DataObject) -> None:
    rows = [
        encode_record(
            n, data.draw(uints), data.draw(uints), data.draw(uints),
            (out := (data.draw(st.binary(max_size=4)), b"12"))[:2], data.draw(st.none() | st.binary(min_size=32, max_size=32)),
            data.draw(params), flags=data.draw(st.integers(0, 1)), shapes=[(1, len(out[0])), None],
        )
        for n in numbers
    ]  # fmt: skip
    outputs = [Tensor(name="y", shape=(1, -1), dtype="int8"), Tensor(name="z", shape=(2,), dtype="uint8")]
    header = segment_header(outputs=outputs)
    block = decode_block(encode_block(rows, 0, header), [header])
    assert block.rows() == rows
    assert [parse_record(row) for row in rows] == [block.record(i) for i in range(len(rows))]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(value=plain)
def test_packing_is_a_bijection(value: object) -> None:
    try:
        data = pack(value)
    except FormatError:
        return  # nested deeper than the bound
    assert unpack(data, max_bytes=1_000_000, what="x") == value
    assert pack(unpack(data, max_bytes=1_000_000, what="x")) == data


@settings(max_examples=30, deadline=None)
@given(
    leaves=st.lists(st.binary(max_size=3), min_size=1, max_size=70), cut=st.integers(0, 70), index=st.integers(0, 69)
)
def test_trees(leaves: list[bytes], cut: int, index: int) -> None:
    builder = MerkleBuilder()
    builder.add_all(leaves[:cut])
    for leaf in leaves[cut:]:
        builder.add(leaf)
    assert builder.root() == root(leaves)
    index %= len(leaves)
    verify_inclusion(leaves[index], index, len(leaves), inclusion_path(leaves, index), root(leaves))


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["C", "Z"]), min_size=1, max_size=150
).filter(lambda name: name not in {".", ".."} and name.isprintable())


@settings(max_examples=30, deadline=None)
@given(
    files=st.dictionaries(st.lists(names, min_size=1, max_size=2).map("/".join), st.binary(max_size=700), max_size=5)
)
def test_archives_come_back(files: dict[str, bytes]) -> None:
    paths = [tuple(path.split("/")) for path in files]
    if any(a != b and b[: len(a)] == a for a in paths for b in paths) or any(len(p.encode()) > 1024 for p in files):
        return
    assert {
        member.path: b"".join(content)
        for member, content in iter_tar(io.BytesIO(encode_tar(files)).read)
        if not member.is_dir
    } == files


def test_evidence_example_is_canonical() -> None:
    part = parse_evidence(KIT.plain[-1])
    assert encode_evidence(part.segments, part.standing, part.events) == KIT.plain[-1]
