# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Segment headers: exact bytes, exact keys, sane tensors."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from edgeprov.errors import FormatError
from edgeprov.formats.packing import pack, unpack
from edgeprov.formats.segment import Tensor, check_slot, device_serial, device_urn, parse_segment_header
from tests.support.kits import segment_header


def test_a_header_comes_back_with_its_bytes() -> None:
    header = segment_header(prev=bytes(32), params={"threshold": 0.5})
    again = parse_segment_header(header.raw)
    assert again == header
    assert again.sha256 == hashlib.sha256(header.raw).digest()
    assert again.outputs[0].nbytes == 3


def test_the_size_of_a_tensor() -> None:
    assert Tensor(name="", shape=(), dtype="float32").nbytes == 4
    assert Tensor(name="", shape=(2, 0), dtype="float32").nbytes == 0
    assert Tensor(name="", shape=(1, -1), dtype="int8").nbytes is None


def changed(path: str, value: Any) -> bytes:
    obj = unpack(segment_header().raw, max_bytes=100_000, what="header")
    place: Any = obj
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return pack(obj)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("v", 2), ("v", KeyError), ("extra", 1), ("model", "sha1:00"), ("model", 5), ("slot", "Upper"), ("slot", ""), ("slot", "x" * 33),
        ("device", "dev042"), ("device", "urn:edgeprov:device:a.b"), ("device", "urn:edgeprov:device:"), ("boot_id", 7), ("boot_id", "x" * 65),
        ("number", -1), ("number", 2**63), ("number", None), ("shared", 0), ("enrollment", None), ("enrollment", b"short"), ("prev", b"short"), ("prev", "x"), ("first", 0), ("reset_count", True), ("input_key", b""),
        ("inputs", None), ("inputs", [1]), ("outputs", [{}] * 300), ("runtime", []), ("runtime.extra", 1), ("runtime.threads", -1), ("runtime.name", 5),
        ("params", []), ("params", {"k": "x" * 5000}),
        ("outputs.0.dtype", "int7"), ("outputs.0.shape", [-2]), ("outputs.0.shape", [2**31]), ("outputs.0.shape", [1] * 17), ("outputs.0.shape", [1.0]),
        ("outputs.0.shape", [2**30, 2**30]), ("outputs.0.scale", [1]), ("outputs.0.scale", [float("nan")]), ("outputs.0.zero_point", []),
        ("outputs.0.zero_point", [0.5]), ("outputs.0.axis", -1), ("outputs.0.name", KeyError),
    ],
)  # fmt: skip
def test_what_is_no_header_is_refused(path: str, value: object) -> None:
    with pytest.raises(FormatError):
        parse_segment_header(changed(path, value))


def test_scales_must_fit_their_axis() -> None:
    good = Tensor(name="w", shape=(1, 3), dtype="int8", scale=(0.1, 0.2, 0.3), zero_point=(0, 0, 0), axis=1)
    assert segment_header(outputs=[good]).outputs == (good,)
    for axis in (0, 2):
        bad = Tensor(name="w", shape=(1, 3), dtype="int8", scale=(0.1, 0.2, 0.3), zero_point=(0, 0, 0), axis=axis)
        with pytest.raises(FormatError):
            segment_header(outputs=[bad])


def test_names_of_devices_and_slots() -> None:
    assert device_serial(device_urn("Dev_04-2")) == "Dev_04-2"
    assert check_slot("left-camera") == "left-camera"
    for serial in ("", "a.b", "a b", "x" * 49, "é", "a\n"):
        with pytest.raises(FormatError):
            device_urn(serial)
    for slot in ("", "A", "a_b", "a\n"):
        with pytest.raises(FormatError):
            check_slot(slot)
