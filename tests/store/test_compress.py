# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Compression: exact round trips, and every bound holds before memory is taken."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import zlib

import pytest

from edgeprov.errors import FormatError, LimitError
from edgeprov.limits import MIB
from edgeprov.store.compress import (
    LEVEL,
    STORE_LEVEL,
    Compressor,
    choose_level,
    compress,
    decompress,
    decompress_stream,
    gunzip,
)

SAMPLES = [b"", b"a", b"abc" * 100_000, bytes(range(256)) * 40, os.urandom(300_000)]


@pytest.mark.parametrize("data", SAMPLES, ids=len)
def test_a_frame_holds_what_went_in(data: bytes) -> None:
    frame = compress(data)
    assert decompress(frame, len(data)) == data
    assert b"".join(decompress_stream([frame[:7], frame[7:]], len(data))) == data


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("data", SAMPLES, ids=len)
def test_a_streamed_frame_holds_what_went_in(data: bytes, known: bool) -> None:
    stream = Compressor(len(data) if known else None)
    frame = b"".join([*(stream.write(data[i : i + 1000]) for i in range(0, len(data), 1000)), stream.finish()])
    assert decompress(frame, len(data)) == data


def test_incompressible_data_is_stored_and_the_rest_is_compressed() -> None:
    noise = os.urandom(1 * MIB)
    assert choose_level(noise) == STORE_LEVEL
    assert len(compress(noise)) < len(noise) + 1000
    assert choose_level(b"log line 1\n" * 5000) == LEVEL
    assert choose_level(b"short") == LEVEL


@pytest.mark.parametrize("streamed", [True, False])
def test_a_bomb_is_refused(streamed: bool) -> None:
    plain = bytes(64 * MIB)
    stream = Compressor()
    bomb = stream.write(plain) + stream.finish() if streamed else compress(plain)
    with pytest.raises(LimitError):
        decompress(bomb, 1 * MIB)
    with pytest.raises(LimitError):
        list(decompress_stream([bomb], 1 * MIB))


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    frame = bytearray(compress(b"x" * 1000, 1))
    assert frame[4] & 0xC0 == 0x40  # two bytes of content size, less 256
    struct.pack_into("<H", frame, 5, 2000 - 256)
    with pytest.raises(FormatError):
        decompress(bytes(frame), 4000)
    struct.pack_into("<H", frame, 5, 500 - 256)
    with pytest.raises(FormatError):
        decompress(bytes(frame), 4000)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_cut_followed_or_foreign_frame_is_refused(streamed: bool) -> None:
    stream = Compressor()
    frame = stream.write(b"abc" * 1000) + stream.finish() if streamed else compress(b"abc" * 1000)
    for bad in (frame[:-1], frame[:4], frame + b"x", frame + frame, b"", b"not zstd at all", frame[1:]):
        with pytest.raises(FormatError):
            decompress(bad, 10_000)


def test_a_frame_with_a_huge_window_is_refused() -> None:
    # Frame header: no content size, window exponent 27 (128 MiB); RFC 8878 section 3.1.1.1.2.
    with pytest.raises((FormatError, LimitError)):
        decompress(b"\x28\xb5\x2f\xfd\x00" + bytes([(27 - 10) << 3]) + b"\x01\x00\x00", 1 * MIB)


def test_gzip_members_are_read_and_bounds_hold() -> None:
    data = os.urandom(3000)
    packed = gzip.compress(data) + gzip.compress(b"tail")
    pieces = [packed[i : i + 7] for i in range(0, len(packed), 7)]
    assert b"".join(gunzip(pieces, 10_000)) == data + b"tail"
    with pytest.raises(LimitError):
        list(gunzip(pieces, 3003))


@pytest.mark.parametrize("bad", ["cut", "damaged", "trailing", "empty", "zlib"])
def test_a_damaged_gzip_stream_is_refused(bad: str) -> None:
    packed = gzip.compress(b"hello" * 100)
    damaged = bytearray(packed)
    damaged[-6] ^= 1
    stream = {
        "cut": packed[:-1],
        "damaged": bytes(damaged),
        "trailing": packed + b"junk",
        "empty": b"",
        "zlib": zlib.compress(b"x"),
    }
    with pytest.raises(FormatError):
        list(gunzip([stream[bad]], 10_000))


def test_a_gzip_bomb_ends_by_its_ratio_within_small_memory() -> None:
    bomb = gzip.compress(bytes(200 * MIB))
    script = (
        "import sys\n"
        "from edgeprov.store.compress import gunzip\n"
        "from edgeprov.errors import LimitError\n"
        "data = sys.stdin.buffer.read()\n"
        "total = 0\n"
        "try:\n"
        "    for chunk in gunzip([data], 1 << 40): total += len(chunk)\n"
        "except LimitError as error:\n"
        "    status = open('/proc/self/status').read()\n"
        "    print(total, status.partition('VmHWM:')[2].split()[0])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], input=bomb, capture_output=True, check=True)
    total, rss_kib = map(int, result.stdout.split())
    assert total <= 200 * len(bomb)
    assert rss_kib < 60 * 1024
