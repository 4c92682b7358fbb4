# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Changes bytes at random, from a seed: for short runs without a coverage-guided fuzzer."""

from __future__ import annotations

import random
import re

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_WORDS = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b"18446744073709551616", b"[]", b"{}", b'""', b"\x00", b"\xff\xfe", b"..",
    b"/", b"\xc0", b"\xdc\x00\x10", b"\xc9", b"[" * 40, b"\xed\xa0\x80",
)  # fmt: skip


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to four changes of ``data``; pieces of ``other`` may come in."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(result) + 1)
        kind = rng.randrange(9)
        if kind == 0 and result:
            result[at - 1] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del result[at:]
        elif kind == 2:
            del result[at : at + rng.choice((1, 2, 4, 16, 100))]
        elif kind == 3:
            result[at:at] = rng.choice(_WORDS)
        elif kind == 4:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_NUMBERS) & ((1 << 8 * size) - 1)
            result[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 5:
            piece = result[at : at + rng.choice((1, 8, 64))]
            result[at:at] = piece * rng.choice((1, 2, 50))
        elif kind == 6 and other:
            start = rng.randrange(len(other))
            result[at : at + rng.choice((0, 8, 64))] = other[start : start + rng.choice((1, 8, 64, 1000))]
        elif kind == 7:
            numbers = list(re.finditer(rb"\d+", result))
            if numbers:
                found = rng.choice(numbers)
                result[found.start() : found.end()] = str(rng.choice(_NUMBERS)).encode()
        else:
            strings = list(re.finditer(rb'"[^"]*"', result))
            if strings:
                found = rng.choice(strings)
                result[found.start() : found.end()] = rng.choice((*_WORDS, b'"' + b"A" * 300 + b'"'))
    return bytes(result)
