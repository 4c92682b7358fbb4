# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rows and blocks of one kind to parts of a kit, in constant memory; evidence and its content are cut together.

Spec: FORMAT.md section "Part".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from edgeprov.formats.block import encode_block
from edgeprov.formats.datakit import PART_LAYER, Part, PartKind, encode_part_header, part_name, part_path
from edgeprov.formats.segment import SegmentHeader
from edgeprov.formats.tarball import tar_prefix, tar_suffix
from edgeprov.limits import KIB, LIMITS
from edgeprov.store.compress import Compressor, choose_level
from edgeprov.store.layout import Layout

_PIECE_BYTES: Final = 256 * KIB  # given to the compressor at once
# A part repeats the headers of its segments; this many at most, so that a kit of very many small
# segments does not carry all of them in each part.
_PART_HEADERS: Final = 64


class PartWriter:
    """Collects rows or blocks of some kinds that belong together: part k of each kind holds the same rows."""

    def __init__(self, layout: Layout, kinds: Sequence[PartKind], part_bytes: int) -> None:
        """Begin without a part.

        Args:
            layout: Where the parts go.
            kinds: One kind, or a kind of evidence and that of its content.
            part_bytes: Compressed size at which a part, and the one beside it, ends.
        """
        self._layout = layout
        self._limit = part_bytes
        self._streams = [_Stream(kind) for kind in kinds]
        self._done: dict[PartKind, list[Part]] = {kind: [] for kind in kinds}
        self._headers: list[bytes] = []

    def write_block(self, rows: list[bytes], header: SegmentHeader) -> None:
        """Add records of one segment; their parts get its header."""
        if header.raw not in self._headers:
            # The header list comes first in the part: once that is compressed, none can be added.
            if any(stream.begun for stream in self._streams) or len(self._headers) == _PART_HEADERS:
                self._flush()
            self._headers.append(header.raw)
        self._add(encode_block(rows, self._headers.index(header.raw), header))

    def write_row(self, *items: bytes) -> None:
        """Add a row: one item for each kind."""
        for stream, item in zip(self._streams, items, strict=True):
            if stream.plain_bytes + len(item) > LIMITS.part_plain_bytes:
                self._flush()
                break
        self._add(items)

    def finish(self) -> list[Part]:
        """All parts, kind by kind."""
        self._flush()
        return [part for parts in self._done.values() for part in parts]

    def _add(self, items: Sequence[bytes]) -> None:
        full = False
        for stream, item in zip(self._streams, items, strict=True):
            stream.add(item, self._headers)
            full |= stream.compressed_bytes >= self._limit or stream.plain_bytes >= LIMITS.part_plain_bytes // 2
        if full:
            self._flush()

    def _flush(self) -> None:
        for stream in self._streams:
            compressed = stream.finish(self._headers)
            if compressed:
                number = len(self._done[stream.kind]) + 1
                name, path = part_name(stream.kind, number), part_path(stream.kind, number)
                self._done[stream.kind].append(save_part(self._layout, stream.kind, name, path, *compressed))
        self._headers = []


class _Stream:
    """The part of one kind that grows; ``plain_bytes`` and ``compressed_bytes`` are its sizes so far."""

    def __init__(self, kind: PartKind) -> None:
        self.kind = kind
        self._compressor: Compressor | None = None
        self._begin()

    def _begin(self) -> None:
        self.plain_bytes = self.compressed_bytes = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0  # not compressed yet
        self._compressed: list[bytes] = []  # joined once, in the layer
        self._compressor = None

    @property
    def begun(self) -> bool:
        """Whether the part's head is compressed already."""
        return self._compressor is not None

    def add(self, item: bytes, headers: Sequence[bytes]) -> None:
        self._waiting.append(item)
        self._waiting_bytes += len(item)
        self.plain_bytes += len(item)
        if self._waiting_bytes >= _PIECE_BYTES:
            self._compress(headers)

    def finish(self, headers: Sequence[bytes]) -> list[bytes]:
        """The whole compressed part in pieces, nothing where nothing was added; the next one begins."""
        if self._waiting:
            self._compress(headers)
        if self._compressor is not None:
            self._keep(self._compressor.finish())
        compressed = self._compressed
        self._begin()
        return compressed

    def _compress(self, headers: Sequence[bytes]) -> None:
        plain = b"".join(self._waiting)
        if self._compressor is None:
            plain = encode_part_header(self.kind, headers) + plain
            self._compressor = Compressor(level=choose_level(plain))
        self._keep(self._compressor.write(plain))
        self._waiting = []
        self._waiting_bytes = 0

    def _keep(self, compressed: bytes) -> None:
        self._compressed.append(compressed)
        self.compressed_bytes += len(compressed)


def save_part(layout: Layout, kind: PartKind | Literal["evidence"], name: str, path: str, *compressed: bytes) -> Part:
    """Write one part, given in compressed pieces, as a layer."""
    size = sum(map(len, compressed))
    data = b"".join((tar_prefix(path, size), *compressed, tar_suffix(size)))
    layer = layout.save_blob(data, PART_LAYER)
    if kind == "evidence":  # what every reader of the kit needs
        layer = layer.with_data(data)
    return Part(kind=kind, name=name, path=path, layer=layer)
