# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Column blocks give back the exact rows, and hold nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgeprov.errors import EdgeprovError, FormatError, SubjectMismatch
from edgeprov.formats.block import Block, encode_block, join_blocks
from edgeprov.formats.columns import read_evidence_blocks
from edgeprov.formats.content_block import read_content_blocks
from edgeprov.formats.packing import Cursor, pack, unpack
from edgeprov.formats.record import encode_record, parse_record
from edgeprov.formats.segment import SegmentHeader, Tensor
from tests.support.kits import decode_block, record_rows, segment_header

HEADER = segment_header()
TWO = segment_header(
    outputs=[Tensor(name="a", shape=(-1,), dtype="uint8"), Tensor(name="b", shape=(2,), dtype="float32")]
)
DETECTOR = segment_header(
    outputs=[
        Tensor(name="boxes", shape=(-1, 4), dtype="float32"),
        Tensor(name="classes", shape=(-1,), dtype="int64"),
        Tensor(name="grid", shape=(1, -1, -1), dtype="uint8"),
        Tensor(name="count", shape=(), dtype="int32"),
    ]
)
D = bytes(32)


def through(rows: list[bytes], header: SegmentHeader = HEADER) -> Block:
    block = decode_block(encode_block(rows, 0, header), [header])
    assert block.rows() == rows
    return block


@pytest.mark.parametrize("count", [1, 2, 1023, 1024])
def test_rows_come_back_byte_for_byte(count: int) -> None:
    rows = record_rows(count)
    block = through(rows)
    assert block.count == count
    assert [block.record(i) for i in (0, count - 1)] == [parse_record(rows[0]), parse_record(rows[-1])]


def test_columns_hold_what_the_rows_say() -> None:
    rows = record_rows(40, first=7)
    block = through(rows)
    records = [parse_record(row) for row in rows]
    evidence, content = block.evidence, block.content
    assert list(evidence.numbers()) == [r.n for r in records]
    assert list(evidence.recorded_at_ns()) == [r.recorded_at_ns for r in records]
    assert list(evidence.mono_ns()) == [r.mono_ns for r in records]
    assert list(evidence.durations_ns()) == [r.duration_ns for r in records]
    assert evidence.flags() == bytes(40)
    assert bytes(content.output(0)) == b"".join(r.outputs[0] for r in records)
    assert content.input_digests() == [r.input_digest for r in records]
    assert content.output_shapes(0) is None
    assert content.first == 7


def test_columns_are_views_of_the_input() -> None:
    data = encode_block(record_rows(10), 0, HEADER)
    block = decode_block(data, [HEADER])
    assert all(view.obj is data[0] for view in block.evidence.columns.values())
    assert all(view.obj is data[1] for view in block.content.columns.values())


def test_evidence_holds_nothing_that_a_record_says() -> None:
    """Two sets of rows that differ in content only have the same evidence."""
    times = [(i + 1, 10 * i, 7 * i, i) for i in range(5)]
    one = [encode_record(*t, (b"abc",), D) for t in times]
    other = [encode_record(*t, (b"xyz",), bytes([7]) * 32, {"k": t[0]}) for t in times]
    assert encode_block(one, 0, HEADER)[0] == encode_block(other, 0, HEADER)[0]


def test_flags_come_back_and_cost_nothing_where_all_are_zero() -> None:
    rows = [encode_record(i + 1, i, i, i, (b"abc",), flags=int(i == 2)) for i in range(5)]
    assert through(rows).evidence.flags() == bytes([0, 0, 1, 0, 0])
    assert "flags" not in through(record_rows(5)).evidence.columns


def detected(n: int, boxes: int, grid: tuple[int, int]) -> bytes:
    outputs = (bytes(16 * boxes), bytes(8 * boxes), b"g" * (grid[0] * grid[1]), b"\1\0\0\0")
    return encode_record(n, n, n, n, outputs, shapes=[(boxes, 4), (boxes,), (1, *grid), None])


def test_actual_shapes_come_back() -> None:
    rows = [detected(1, 3, (2, 6)), detected(2, 0, (0, 9)), detected(3, 1, (3, 4)), detected(4, 1, (4, 3))]
    block = through(rows, DETECTOR)
    content = block.content
    assert content.output_shapes(0) == [(3, 4), (0, 4), (1, 4), (1, 4)]
    assert content.output_shapes(2) == [(1, 2, 6), (1, 0, 9), (1, 3, 4), (1, 4, 3)]  # the last two are equally long
    assert content.output_sizes(1) == [24, 0, 8, 8]
    assert content.output_shapes(3) is None
    assert block.record(1) == parse_record(rows[1])


SHAPES = [(1, 4), (1,), (1, 1, 1), None]
OUTPUTS = (bytes(16), bytes(8), b"g", bytes(4))


@pytest.mark.parametrize(
    ("shapes", "outputs"),
    [
        (None, OUTPUTS),
        (SHAPES[:3], OUTPUTS),
        ([*SHAPES, None], OUTPUTS),
        ([None, *SHAPES[1:]], OUTPUTS),
        ([*SHAPES[:3], ()], OUTPUTS),
        ([(2, 4), *SHAPES[1:]], OUTPUTS),  # another length
        ([(2, 2), *SHAPES[1:]], OUTPUTS),  # a fixed dimension
        ([(4,), *SHAPES[1:]], OUTPUTS),  # the rank
        ([(1, 4, 1), *SHAPES[1:]], OUTPUTS),
        ([(-1, -4), *SHAPES[1:]], OUTPUTS),
        ([(1.0, 4), *SHAPES[1:]], OUTPUTS),
        ([(2**31, 4), *SHAPES[1:]], (b"", *OUTPUTS[1:])),
        ([SHAPES[0], SHAPES[1], (1, 2**31, 0), None], (bytes(16), bytes(8), b"", bytes(4))),
        (SHAPES, (*OUTPUTS[:3], bytes(8))),
        ("abcd", OUTPUTS),
        ([1, 2, 3, None], OUTPUTS),
    ],
)
def test_shapes_that_contradict_the_segment_are_not_encoded(shapes: Any, outputs: tuple[bytes, ...]) -> None:
    through([encode_record(1, 1, 1, 1, OUTPUTS, shapes=SHAPES)], DETECTOR)
    with pytest.raises(FormatError):
        encode_block([encode_record(1, 1, 1, 1, outputs, shapes=shapes)], 0, DETECTOR)


def u32(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.pop("out.0.shape"),
        lambda o: o.update({"out.0.shape": u32(3)}),
        lambda o: o.update({"out.0.shape": u32(3, 0, 1)}),
        lambda o: o.update({"out.0.shape": u32(2, 0)}),
        lambda o: o.update({"out.0.shape": u32(4, 0)}),
        lambda o: o.update({"out.0.shape": u32(3, 2**31)}),
        lambda o: o.update({"out.2.shape": u32(0, 2**31, 0, 9), "out.2": b""}),
        lambda o: o.update({"out.3.shape": b""}),
        lambda o: o.update({"out.0.off": u32(0, 48, 48)}),
        lambda o: o.update({"out.1": bytes(32)}),
        lambda o: o.update({"out.3": bytes(4)}),
    ],
)
def test_content_whose_shapes_do_not_fit_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    evidence, content = encode_block([detected(1, 3, (2, 6)), detected(2, 0, (0, 9))], 0, DETECTOR)
    obj = unpack(content, max_bytes=100_000, what="block")
    change(obj)
    with pytest.raises(FormatError):
        decode_block((evidence, pack(obj)), [DETECTOR])


@pytest.mark.parametrize(
    "rows",
    [
        [encode_record(1, 5, 5, 1, (b"abc",))],
        [
            encode_record(1, 5, 5, 1, (b"abc",)),
            encode_record(9, 3, 4, 0, (b"abc",), D),
        ],  # clock back, gap, digest in some
        [encode_record(1, 5, 5, 1, (b"abc",), None, {"k": 1}), encode_record(2, 5, 5, 1, (b"abc",), D, {"a": [1.5]})],
        [
            encode_record(2**63 - 2, 0, 2**63 - 1, 0, (b"abc",)),
            encode_record(2**63 - 1, 2**63 - 1, 0, 2**63 - 1, (b"abc",)),
        ],
    ],
)
def test_unusual_rows_come_back(rows: list[bytes]) -> None:
    through(rows)


def test_several_outputs_of_fixed_and_varying_length() -> None:
    rows = [encode_record(i + 1, i, i, i, (b"x" * i, bytes(8)), shapes=[(i,), None]) for i in range(5)]
    content = through(rows, TWO).content
    assert content.output_sizes(0) == [0, 1, 2, 3, 4]
    assert content.output_sizes(1) is None


def test_a_model_without_outputs_and_with_empty_ones() -> None:
    none = segment_header(outputs=[])
    through([encode_record(1, 1, 1, 1, ())], none)
    empty = segment_header(outputs=[Tensor(name="e", shape=(0,), dtype="int8")])
    through([encode_record(1, 1, 1, 1, (b"",)), encode_record(2, 1, 1, 1, (b"",))], empty)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        record_rows(1025),
        [b""],
        [b"\x01"],
        [encode_record(1, 1, 1, 1, (b"abc", b"d"))],
        [encode_record(1, 1, 1, 1, ())],
        [encode_record(-1, 1, 1, 1, (b"abc",))],
        [encode_record(1, 2**63, 1, 1, (b"abc",))],
        [encode_record(1, 1, 1, 1, ("abc",))],  # type: ignore[arg-type]
        [encode_record(1, 1, 1, 1, (b"abc",), b"short")],
        [encode_record(1, 1, 1, 1, (b"abc",), "x" * 32)],  # type: ignore[arg-type]
        [encode_record(1, True, 1, 1, (b"abc",))],
        [encode_record(1, 1.5, 1, 1, (b"abc",))],  # type: ignore[arg-type]
        [encode_record(1, 5, 5, 1, (b"",))],
        [encode_record(1, 5, 5, 1, (b"abcd",))],
        [encode_record(1, 5, 5, 1, (b"abc",), flags=2)],
        [encode_record(1, 5, 5, 1, (b"abc",), flags=True)],
        [encode_record(1, 5, 5, 1, (b"abc",), shapes=[(1, 3)])],
        [encode_record(1, 5, 5, 1, (b"abc",), shapes=[None])],
        [pack([1, 1, 1, 1, 0, [b"abc"], None, None, {}])],
        [pack([1, 1, 1, 1, 0, [b"abc"], None, None, [1]])],
        [pack([1, 1, 1, 1, 0, b"abc", None, None, None])],
        [pack([1, 1, 1, 1, 0, None, None, None, None])],
        [pack([None, 1, 1, 1, 0, [b"abc"], None, None, None])],
        [pack([1, 1, 1, 1, [b"abc"], None, None])],
    ],
)
def test_rows_of_another_form_are_not_encoded(rows: list[bytes]) -> None:
    with pytest.raises(FormatError):
        encode_block(rows, 0, HEADER)


def changed(
    half: int, change: Callable[[dict[str, Any]], object], rows: list[bytes] | None = None
) -> tuple[bytes, bytes]:
    """Evidence (0) or content (1) of a block changed."""
    halves = list(encode_block(rows or record_rows(4), 0, HEADER))
    obj = unpack(halves[half], max_bytes=100_000, what="block")
    change(obj)
    halves[half] = pack(obj)
    return halves[0], halves[1]


def q(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


MIXED = [encode_record(i + 1, 1, 1, 1, (b"abc",), D if i % 2 else None, {"k": i} if i else None) for i in range(4)]


_BOTH: list[Callable[[dict[str, Any]], object]] = [
    lambda o: o.pop("rows"), lambda o: o.pop("seg"), lambda o: o.pop("n"), lambda o: o.update(rows=0), lambda o: o.update(rows=5),
    lambda o: o.update(rows=1025), lambda o: o.update(seg=1), lambda o: o.update(seg=-1), lambda o: o.update(extra=b""), lambda o: o.update(rows="4"),
    lambda o: o.update(rows=3), lambda o: o.update({"out.1": b""}), lambda o: o.update({"out.00": b""}), lambda o: o.update({"out.0.off": b"\0" * 20}),
]  # fmt: skip
_EVIDENCE: list[Callable[[dict[str, Any]], object]] = [
    lambda o: o.pop("mono"), lambda o: o.update({"out.0": b"x" * 12}), lambda o: o.update({"in": bytes(128)}), lambda o: o.update(params=[[0, {"k": 1}]]),
    lambda o: o.update(n=q(1, 1, 0, 1)), lambda o: o.update(n=q(5, -1, 1, 1)), lambda o: o.update(n=q(2**63 - 1, 1, 1, 1)), lambda o: o.update(n=q(-1, 1, 1, 1)),
    lambda o: o.update(n=1), lambda o: o.update(n=q(2, 1, 1, 1)),
    lambda o: o.update(recorded_at=q(1, -2, 1, 1)), lambda o: o.update(duration=q(1, -1, 1, 1)), lambda o: o.update(duration=b"x" * 31),
    lambda o: o.update(flags=bytes(4)), lambda o: o.update(flags=b"\1\0\0"), lambda o: o.update(flags=b"\0\0\2\0"), lambda o: o.update(flags=[0, 1, 0, 0]),
]  # fmt: skip
_CONTENT: list[Callable[[dict[str, Any]], object]] = [
    lambda o: o.pop("out.0"), lambda o: o.update(n=q(1, 1, 1, 1)), lambda o: o.update(n=2), lambda o: o.update(n=-1), lambda o: o.update(mono=q(1, 1, 1, 1)),
    lambda o: o.update({"out.0": b"x" * 11}), lambda o: o.update({"out.0.shape": b""}), lambda o: o.update({"out.0.shape": b"\3\0\0\0" * 4}),
    lambda o: o.update({"in": b"x" * 127}), lambda o: o.pop("in") and o.update({"in.set": b"\1\0\1\0"}), lambda o: o.update({"in.set": b"\1\1\1\1"}),
    lambda o: o.update({"in.set": b"\1\0\1\2"}), lambda o: o.update({"in": "text"}), lambda o: o.update(flags=b"\1\0\0\0"),
    lambda o: o.update(params=[]), lambda o: o.update(params={}), lambda o: o.update(params=[[4, {"k": 1}]]), lambda o: o.update(params=[[0, {}]]),
    lambda o: o.update(params=[[1, {"k": 1}], [0, {"k": 1}]]), lambda o: o.update(params=[[0, {"k": 1}, 1]]), lambda o: o.update(params=[["0", {"k": 1}]]),
]  # fmt: skip


@pytest.mark.parametrize(("half", "change"), [(0, c) for c in _BOTH + _EVIDENCE] + [(1, c) for c in _BOTH + _CONTENT])
@pytest.mark.parametrize("rows", [record_rows(4), MIXED], ids=["plain", "mixed"])
def test_what_is_no_block_is_refused(half: int, change: Callable[[dict[str, Any]], object], rows: list[bytes]) -> None:
    data = changed(half, change, rows)
    with pytest.raises(EdgeprovError) as told:
        decode_block(data, [HEADER])
    assert isinstance(told.value, FormatError | SubjectMismatch)


def test_content_of_other_records_does_not_belong_to_evidence() -> None:
    rows = record_rows(8)
    first, second = encode_block(rows[:4], 0, HEADER), encode_block(rows[4:], 0, HEADER)
    short, other = encode_block(rows[:3], 0, HEADER), segment_header(boot_id="another")
    for content in (second[1], short[1], b""):
        with pytest.raises((FormatError, SubjectMismatch)):
            decode_block((first[0], content), [HEADER])
    evidence = list(read_evidence_blocks(Cursor(first[0], "part"), [HEADER]))
    foreign = list(read_content_blocks(Cursor(first[1], "part"), [other]))
    for blocks in (foreign, foreign * 2, []):
        with pytest.raises(SubjectMismatch):
            join_blocks(evidence, blocks)


def test_nothing_may_follow_a_block_and_keys_are_in_order() -> None:
    import msgpack

    data = encode_block(record_rows(4), 0, HEADER)
    for half in (0, 1):
        obj = unpack(data[half], max_bytes=100_000, what="block")
        backwards = msgpack.packb(dict(sorted(obj.items(), reverse=True)), use_bin_type=True)
        for wrong in (data[half] + b"\0", backwards):
            with pytest.raises(FormatError):
                decode_block((wrong, data[1]) if half == 0 else (data[0], wrong), [HEADER])


def test_a_block_knows_its_rows() -> None:
    block = through(record_rows(4))
    for row in (-1, 4):
        with pytest.raises(FormatError):
            block.record(row)


def blocks_of(evidence: bytes, content: bytes) -> list[Block]:
    return list(
        join_blocks(
            list(read_evidence_blocks(Cursor(evidence, "part"), [HEADER])),
            list(read_content_blocks(Cursor(content, "part"), [HEADER])),
        )
    )


def rows_or_none(read: Callable[[], list[Block]]) -> list[list[bytes]] | None:
    try:
        return [block.rows() for block in read()]
    except EdgeprovError:
        return None


def test_blocks_of_one_frame_are_read_as_each_by_itself() -> None:
    rows = record_rows(683, first=100)  # numbers of one, two and three bytes
    pieces = [encode_block(rows[start : start + 4], 0, HEADER) for start in range(0, 680, 4)]
    pieces.append(encode_block(rows[680:], 0, HEADER))
    joined = blocks_of(b"".join(one for one, _ in pieces), b"".join(other for _, other in pieces))
    for together, alone in zip(joined, pieces, strict=True):
        by_itself = decode_block(alone, [HEADER])
        assert (together.first, together.last, together.rows()) == (by_itself.first, by_itself.last, by_itself.rows())


@pytest.mark.parametrize("half", [0, 1])
def test_no_byte_of_a_second_block_is_taken_on_trust(half: int) -> None:
    """Between the columns and in them: what one block refuses is refused behind another one of its frame too."""
    rows = record_rows(8, first=200)
    first, second = encode_block(rows[:4], 0, HEADER), encode_block(rows[4:], 0, HEADER)
    raw = second[half]
    for position in range(len(raw)):
        for bit in (1, 0x80):
            wrong = raw[:position] + bytes([raw[position] ^ bit]) + raw[position + 1 :]
            other = (wrong, second[1]) if half == 0 else (second[0], wrong)
            assert rows_or_none(lambda other=other: [decode_block(other, [HEADER])]) == rows_or_none(
                lambda other=other: blocks_of(first[0] + other[0], first[1] + other[1])[1:]
            ), f"byte {position}"
