# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Column blocks give back the exact rows, and hold nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgeprov.errors import EdgeprovError, FormatError
from edgeprov.formats.columns import Block, encode_block, read_blocks
from edgeprov.formats.packing import Cursor, pack, unpack
from edgeprov.formats.record import encode_record, parse_record
from edgeprov.formats.segment import SegmentHeader, Tensor
from tests.support.kits import decode_block, record_rows, segment_header

HEADER = segment_header()
TWO = segment_header(
    outputs=[Tensor(name="a", shape=(-1,), dtype="uint8"), Tensor(name="b", shape=(2,), dtype="float32")]
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
    assert list(block.numbers()) == [r.n for r in records]
    assert list(block.recorded_at_ns()) == [r.recorded_at_ns for r in records]
    assert list(block.mono_ns()) == [r.mono_ns for r in records]
    assert list(block.durations_ns()) == [r.duration_ns for r in records]
    assert bytes(block.output(0)) == b"".join(r.outputs[0] for r in records)
    assert block.input_digests() == [r.input_digest for r in records]
    assert block.output_offsets(0) is None


def test_columns_are_views_of_the_input() -> None:
    data = encode_block(record_rows(10), 0, HEADER)
    block = decode_block(data, [HEADER])
    assert all(view.obj is data for view in block.columns.values())


@pytest.mark.parametrize(
    "rows",
    [
        [encode_record(1, 5, 5, 1, (b"abc",))],
        [
            encode_record(1, 5, 5, 1, (b"abc",)),
            encode_record(9, 3, 4, 0, (b"abc",), D),
        ],  # clock back, gap, digest in some
        [encode_record(1, 5, 5, 1, (b"abc",), None, {"k": 1}), encode_record(2, 5, 5, 1, (b"abc",), D, {"a": [1.5]})],
        [encode_record(1, 5, 5, 1, (b"",)), encode_record(2, 5, 5, 1, (b"abcd",))],  # not the tensor's size
        [
            encode_record(2**63 - 2, 0, 2**63 - 1, 0, (b"abc",)),
            encode_record(2**63 - 1, 2**63 - 1, 0, 2**63 - 1, (b"abc",)),
        ],
    ],
)
def test_unusual_rows_come_back(rows: list[bytes]) -> None:
    through(rows)


def test_several_outputs_of_fixed_and_varying_length() -> None:
    rows = [encode_record(i + 1, i, i, i, (b"x" * i, bytes(8))) for i in range(5)]
    block = through(rows, TWO)
    assert list(block.output_offsets(0) or ()) == [0, 0, 1, 3, 6, 10]
    assert block.output_offsets(1) is None


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
        [pack([1, 1, 1, 1, [b"abc"], None, {}])],
        [pack([1, 1, 1, 1, [b"abc"], None, [1]])],
        [pack([1, 1, 1, 1, b"abc", None, None])],
        [pack([1, 1, 1, 1, None, None, None])],
        [pack([None, 1, 1, 1, [b"abc"], None, None])],
    ],
)
def test_rows_of_another_form_are_not_encoded(rows: list[bytes]) -> None:
    with pytest.raises(FormatError):
        encode_block(rows, 0, HEADER)


def changed(change: Callable[[dict[str, Any]], object], rows: list[bytes] | None = None) -> bytes:
    obj = unpack(encode_block(rows or record_rows(4), 0, HEADER), max_bytes=100_000, what="block")
    change(obj)
    return pack(obj)


def q(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


MIXED = [encode_record(i + 1, 1, 1, 1, (b"abc",), D if i % 2 else None, {"k": i} if i else None) for i in range(4)]


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.pop("rows"), lambda o: o.pop("seg"), lambda o: o.pop("n"), lambda o: o.pop("mono"), lambda o: o.pop("out.0"),
        lambda o: o.update(rows=0), lambda o: o.update(rows=5), lambda o: o.update(rows=1025), lambda o: o.update(seg=1), lambda o: o.update(seg=-1),
        lambda o: o.update(extra=b""), lambda o: o.update({"out.1": b""}), lambda o: o.update({"out.00": b""}),
        lambda o: o.update(n=q(1, 1, 0, 1)), lambda o: o.update(n=q(5, -1, 1, 1)), lambda o: o.update(n=q(2**63 - 1, 1, 1, 1)), lambda o: o.update(n=q(-1, 1, 1, 1)),
        lambda o: o.update(recorded_at=q(1, -2, 1, 1)), lambda o: o.update(duration=q(1, -1, 1, 1)), lambda o: o.update(duration=b"x" * 31),
        lambda o: o.update({"out.0": b"x" * 11}), lambda o: o.update({"out.0.off": b"\0" * 20}), lambda o: o.update({"out.0.off": b"\0" * 7}),
        lambda o: o.update({"out.0.off": b"".join(n.to_bytes(4, "little") for n in (0, 3, 6, 9, 12))}),
        lambda o: o.update({"out.0.off": b"".join(n.to_bytes(4, "little") for n in (0, 9, 6, 9, 12))}),
        lambda o: o.update({"out.0.off": b"".join(n.to_bytes(4, "little") for n in (1, 3, 6, 8, 12))}),
        lambda o: o.update({"in": b"x" * 127}), lambda o: o.pop("in") and o.update({"in.set": b"\1\0\1\0"}), lambda o: o.update({"in.set": b"\1\1\1\1"}),
        lambda o: o.update({"in.set": b"\1\0\1\2"}), lambda o: o.update({"in": "text"}), lambda o: o.update(rows="4"),
        lambda o: o.update(params=[]), lambda o: o.update(params={}), lambda o: o.update(params=[[4, {"k": 1}]]), lambda o: o.update(params=[[0, {}]]),
        lambda o: o.update(params=[[1, {"k": 1}], [0, {"k": 1}]]), lambda o: o.update(params=[[0, {"k": 1}, 1]]), lambda o: o.update(params=[["0", {"k": 1}]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows", [record_rows(4), MIXED], ids=["plain", "mixed"])
def test_what_is_no_block_is_refused(change: Callable[[dict[str, Any]], object], rows: list[bytes]) -> None:
    data = changed(change, rows)
    with pytest.raises(FormatError):
        decode_block(data, [HEADER])


def test_nothing_may_follow_a_block_and_keys_are_in_order() -> None:
    data = encode_block(record_rows(4), 0, HEADER)
    with pytest.raises(FormatError):
        decode_block(data + b"\0", [HEADER])
    obj = unpack(data, max_bytes=100_000, what="block")
    import msgpack

    backwards = msgpack.packb(dict(sorted(obj.items(), reverse=True)), use_bin_type=True)
    with pytest.raises(FormatError):
        decode_block(backwards, [HEADER])


def test_a_block_knows_its_rows() -> None:
    block = through(record_rows(4))
    for row in (-1, 4):
        with pytest.raises(FormatError):
            block.record(row)


def blocks_of(data: bytes) -> list[Block]:
    return list(read_blocks(Cursor(data, "part"), [HEADER]))


def rows_or_none(read: Callable[[], list[Block]]) -> list[list[bytes]] | None:
    try:
        return [block.rows() for block in read()]
    except EdgeprovError:
        return None


def test_blocks_of_one_frame_are_read_as_each_by_itself() -> None:
    rows = record_rows(43)
    pieces = [encode_block(rows[start : start + 4], 0, HEADER) for start in range(0, 40, 4)]
    pieces.append(encode_block(rows[40:], 0, HEADER))
    for together, alone in zip(blocks_of(b"".join(pieces)), pieces, strict=True):
        by_itself = decode_block(alone, [HEADER])
        assert (together.first, together.last, together.rows()) == (by_itself.first, by_itself.last, by_itself.rows())


def test_no_byte_of_a_second_block_is_taken_on_trust() -> None:
    """Between the columns and in them: what one block refuses is refused behind another one of its frame too."""
    rows = record_rows(8)
    first, second = encode_block(rows[:4], 0, HEADER), encode_block(rows[4:], 0, HEADER)
    for position in range(len(second)):
        for bit in (1, 0x80):
            changed = second[:position] + bytes([second[position] ^ bit]) + second[position + 1 :]
            assert rows_or_none(lambda changed=changed: [decode_block(changed, [HEADER])]) == rows_or_none(
                lambda changed=changed: blocks_of(first + changed)[1:]
            ), f"byte {position}"
