# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Compression, bounded in both directions: the only importer of zstandard.

Kits hold one zstd frame per part, level 1: on records it is 2.5 times cheaper than level 3 and not
larger. What does not compress (camera frames, noise) is found by a probe and stored at a level that
hardly looks at it; it is a zstd frame all the same, so readers know one form. Decompression stops at
a bound given by the caller before memory is taken, and frames whose window is larger than ours are
refused.

Spec: RFC 8878 (zstd), RFC 1952 (gzip).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import zstandard

from edgeprov.errors import FormatError, LimitError
from edgeprov.limits import KIB, LIMITS, MIB

LEVEL: Final = 1
STORE_LEVEL: Final = -50  # "fast" levels: matches are hardly searched for, literals stay raw
PROBE_BYTES: Final = 16 * KIB
PROBE_RATIO: Final = 0.98
_WINDOW_BYTES: Final = 8 * MIB  # what RFC 8878 asks every decoder to support
_PIECE_BYTES: Final = 512  # of a frame of unstated size: 128 blocks of 128 KiB at most come out of it
_GZIP_GRACE_BYTES: Final = 1 * MIB  # the ratio is not judged on less


def choose_level(sample: bytes | memoryview) -> int:
    """LEVEL, or STORE_LEVEL when a sample of the data hardly shrinks."""
    probe = bytes(sample[:PROBE_BYTES])
    if len(probe) < 1 * KIB:
        return LEVEL
    return STORE_LEVEL if len(zstandard.compress(probe, LEVEL)) > PROBE_RATIO * len(probe) else LEVEL


def compress(data: bytes | bytearray | memoryview, level: int | None = None) -> bytes:
    """One zstd frame that states its content size.

    Args:
        data: Plain bytes.
        level: None probes the data first.
    """
    if level is None:
        level = choose_level(memoryview(data))
    return zstandard.ZstdCompressor(level=level, write_checksum=False).compress(data)


class Compressor:
    """One zstd frame in constant memory: write() and finish() give out compressed bytes."""

    def __init__(self, size: int | None = None, level: int = LEVEL) -> None:
        """Start a frame; ``size`` (plain bytes), when known, is stated in it and then binding."""
        compressor = zstandard.ZstdCompressor(level=level)
        self._object: Any = compressor.compressobj(size=-1 if size is None else size)

    def write(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take plain bytes; returns what is ready, often nothing."""
        return self._object.compress(data)  # type: ignore[no-any-return]

    def finish(self) -> bytes:
        """End the frame; returns the rest."""
        return self._object.flush()  # type: ignore[no-any-return]


def decompress(data: bytes | memoryview, max_bytes: int) -> bytes:
    """The content of exactly one zstd frame.

    Raises:
        LimitError: More than ``max_bytes`` plain bytes, or a window over 8 MiB.
        FormatError: Not a zstd frame, cut, damaged, or followed by other bytes.
    """
    size = _stated_size(data)
    if size is not None and size > max_bytes:
        raise LimitError(f"zstd frame states {size} plain bytes, more than {max_bytes}")
    if size is None:
        return b"".join(decompress_stream([bytes(data)], max_bytes))
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    try:
        plain: bytes = decompressor.decompress(data, max_output_size=size or 1, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"damaged zstd frame: {error}") from error
    return plain


def decompress_stream(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The content of one zstd frame that arrives in chunks, in constant memory. Errors as in decompress."""
    decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
    total = 0
    ended = False
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), _PIECE_BYTES):
            if ended:
                raise FormatError("bytes after the zstd frame")
            try:
                plain = decoder.decompress(view[start : start + _PIECE_BYTES])
            except zstandard.ZstdError as error:
                raise FormatError(f"damaged zstd frame: {error}") from error
            total += len(plain)
            if total > max_bytes:
                raise LimitError(f"zstd frame holds more than {max_bytes} bytes")
            if plain:
                yield plain
            if decoder.eof:
                ended = True
                if decoder.unused_data:
                    raise FormatError("bytes after the zstd frame")
    if not ended:
        raise FormatError("the zstd frame is cut")


def gunzip(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The content of a gzip stream (all its members) in constant memory.

    Args:
        chunks: Compressed bytes.
        max_bytes: Bound on the plain bytes.

    Raises:
        LimitError: Past one of the bounds.
        FormatError: Not gzip, cut, damaged, or followed by other bytes.
    """
    decoder = zlib.decompressobj(wbits=31)
    taken = total = 0
    for chunk in chunks:
        taken += len(chunk)
        rest = chunk
        while rest:
            if decoder.eof:
                decoder = zlib.decompressobj(wbits=31)
            try:
                plain = decoder.decompress(rest, 64 * KIB)
            except zlib.error as error:
                raise FormatError(f"damaged gzip stream: {error}") from error
            total += len(plain)
            if total > max_bytes:
                raise LimitError(f"gzip stream holds more than {max_bytes} bytes")
            if total > _GZIP_GRACE_BYTES and total > LIMITS.unpack_ratio * taken:
                raise LimitError(f"gzip stream unpacks to more than {LIMITS.unpack_ratio} times its size")
            if plain:
                yield plain
            rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    if not decoder.eof:
        yield from _gunzip_rest(decoder, max_bytes - total)


def _gunzip_rest(decoder: zlib._Decompress, max_bytes: int) -> Iterator[bytes]:
    # What zlib still holds back of input that it has taken in whole.
    try:
        plain = decoder.flush()
    except zlib.error as error:
        raise FormatError(f"damaged gzip stream: {error}") from error
    if len(plain) > max_bytes:
        raise LimitError("gzip stream holds more than allowed")
    if plain:
        yield plain
    if not decoder.eof:
        raise FormatError("the gzip stream is cut")


def _stated_size(data: bytes | memoryview) -> int | None:
    try:
        parameters = zstandard.get_frame_parameters(bytes(data[:32]))
    except zstandard.ZstdError as error:
        raise FormatError(f"not a zstd frame: {error}") from error
    if parameters.window_size > _WINDOW_BYTES and parameters.content_size > _WINDOW_BYTES:
        raise LimitError(f"zstd frame needs a window of {parameters.window_size} bytes")
    unknown = parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN
    return None if unknown else int(parameters.content_size)
