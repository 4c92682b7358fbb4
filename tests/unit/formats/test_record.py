# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of spool and kit: records, labels, captured inputs."""

from __future__ import annotations

import hashlib

import pytest

from edgeprov.errors import FormatError
from edgeprov.formats.packing import pack
from edgeprov.formats.record import (
    CapturedInput,
    encode_input,
    encode_record,
    keyed_input_digest,
    pack_record,
    parse_input,
    parse_record,
)

DIGEST = bytes(range(32))


def test_a_record_comes_back() -> None:
    raw = encode_record(
        5,
        1_700_000_000_000_000_000,
        99,
        15_000,
        (b"\x01\x02", b""),
        DIGEST,
        {"b": 1, "a": [0.5]},
        flags=1,
        shapes=[None, (0, 3)],
    )
    record = parse_record(raw)
    assert (record.n, record.recorded_at_ns, record.mono_ns, record.duration_ns) == (
        5,
        1_700_000_000_000_000_000,
        99,
        15_000,
    )
    assert record.outputs == (b"\x01\x02", b"")
    assert record.input_digest == DIGEST
    assert record.params == {"a": [0.5], "b": 1}
    assert (record.flags, record.shapes) == (1, (None, (0, 3)))
    row = [
        5,
        1_700_000_000_000_000_000,
        99,
        15_000,
        1,
        [b"\x01\x02", b""],
        [None, [0, 3]],
        DIGEST,
        {"a": [0.5], "b": 1},
    ]
    assert pack(row) == raw


def test_the_recorders_short_way_gives_the_same_row() -> None:
    assert pack_record((5, 6, 7, 8, 0, [b"ab"], None, DIGEST, None)) == encode_record(5, 6, 7, 8, [b"ab"], DIGEST)


def test_empty_parameters_are_no_parameters() -> None:
    assert encode_record(1, 2, 3, 4, (b"",), None, {}) == encode_record(1, 2, 3, 4, (b"",))


def test_views_are_packed_as_bytes() -> None:
    assert encode_record(1, 2, 3, 4, (memoryview(b"ab"),)) == encode_record(1, 2, 3, 4, (b"ab",))


@pytest.mark.parametrize(
    "row",
    [
        [1, 2, 3, 4, [b""], None, None],
        [1, 2, 3, 4, 0, [b""], None, None],
        [1, 2, 3, 4, 0, [b""], None, None, None, None],
        {"n": 1},
        [-1, 2, 3, 4, 0, [b""], None, None, None],
        [1, 2**63, 3, 4, 0, [b""], None, None, None],
        [True, 2, 3, 4, 0, [b""], None, None, None],
        [1.0, 2, 3, 4, 0, [b""], None, None, None],
        [1, 2, 3, 4, 2, [b""], None, None, None],
        [1, 2, 3, 4, -1, [b""], None, None, None],
        [1, 2, 3, 4, True, [b""], None, None, None],
        [1, 2, 3, 4, None, [b""], None, None, None],
        [1, 2, 3, 4, 0, b"", None, None, None],
        [1, 2, 3, 4, 0, ["text"], None, None, None],
        [1, 2, 3, 4, 0, [b""] * 257, None, None, None],
        [1, 2, 3, 4, 0, [b""], [None], None, None],
        [1, 2, 3, 4, 0, [b""], [], None, None],
        [1, 2, 3, 4, 0, [b""], [[1], [1]], None, None],
        [1, 2, 3, 4, 0, [b""], [[-1]], None, None],
        [1, 2, 3, 4, 0, [b""], [[1.0]], None, None],
        [1, 2, 3, 4, 0, [b""], [[1] * 17], None, None],
        [1, 2, 3, 4, 0, [b""], [1], None, None],
        [1, 2, 3, 4, 0, [b""], None, b"short", None],
        [1, 2, 3, 4, 0, [b""], None, "x" * 32, None],
        [1, 2, 3, 4, 0, [b""], None, None, {}],
        [1, 2, 3, 4, 0, [b""], None, None, [1]],
    ],
)
def test_what_is_no_record_is_refused(row: object) -> None:
    with pytest.raises(FormatError):
        parse_record(pack(row))


def test_the_input_digest_depends_on_key_lengths_and_order() -> None:
    key = bytes(32)
    expected = hashlib.sha256(key + (2).to_bytes(8, "little") + b"ab" + (1).to_bytes(8, "little") + b"c").digest()
    assert keyed_input_digest(key, [b"ab", memoryview(b"c")]) == expected
    others = {keyed_input_digest(key, x) for x in ([b"a", b"bc"], [b"abc"], [b"c", b"ab"], [])} | {
        keyed_input_digest(DIGEST, [b"ab", b"c"])
    }
    assert len(others | {expected}) == 6


def test_the_input_digest_counts_bytes_not_items() -> None:
    wide = memoryview(bytes(8)).cast("d")
    assert keyed_input_digest(DIGEST, [wide]) == keyed_input_digest(DIGEST, [bytes(8)])


def test_a_captured_input_comes_back_uncopied() -> None:
    raw = encode_input(3, (b"a" * 500, b""))
    value = parse_input(raw)
    assert value == CapturedInput(n=3, inputs=(b"a" * 500, b""))
    assert isinstance(value.inputs[0], memoryview)
    assert value.inputs[0].obj is raw


@pytest.mark.parametrize("row", [[3], [3, b"a"], [3, ["a"]], [-3, [b"a"]], [3, [b"a"], 1]])
def test_what_is_no_captured_input_is_refused(row: object) -> None:
    with pytest.raises(FormatError):
        parse_input(pack(row))
