# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Merkle tree over the records of a kit, so that one result can be proved without showing the others.

A leaf is the canonical encoding of one record. Leaves and nodes are hashed apart (0x00, 0x01), so
that no node can pass for a record.

Spec: RFC 6962, sections 2.1 and 2.1.1.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from edgeprov.errors import DigestMismatch, FormatError

EMPTY_ROOT: Final = sha256(b"").digest()

_CHUNK: Final = 1_024


class MerkleBuilder:
    """Builds the root in constant memory: one pending hash per level, at most 64."""

    __slots__ = ("_levels", "_size")

    def __init__(self) -> None:
        """An empty tree."""
        # _levels[k] is the root of a full subtree of 2**k leaves that waits for its right sibling.
        self._levels: list[bytes | None] = []
        self._size = 0

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def add(self, leaf: bytes) -> None:
        """Append one leaf (the record's bytes, not their hash)."""
        self._push(sha256(b"\0" + leaf).digest(), 0)

    def add_all(self, leaves: Sequence[bytes]) -> None:
        """Append many leaves; a third of the cost of as many calls of add.

        Full aligned subtrees are folded level by level outside of the pending list.
        """
        start, count = 0, len(leaves)
        while start < count:
            # The largest aligned subtree that the tree's size and the rest of the leaves allow.
            aligned = self._size & -self._size or _CHUNK
            width = min(aligned, 1 << ((count - start).bit_length() - 1), _CHUNK)
            hashes = [sha256(b"\0" + leaf).digest() for leaf in leaves[start : start + width]]
            while len(hashes) > 1:
                pairs = iter(hashes)
                hashes = [sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
            self._push(hashes[0], width.bit_length() - 1)
            start += width

    def root(self) -> bytes:
        """The root (32 bytes) over all leaves so far; more may be added afterwards."""
        result: bytes | None = None
        for pending in self._levels:
            if pending is not None:
                result = pending if result is None else _node(pending, result)
        return EMPTY_ROOT if result is None else result

    def _push(self, digest: bytes, level: int) -> None:
        self._size += 1 << level
        levels = self._levels
        while len(levels) <= level:
            levels.append(None)
        while (left := levels[level]) is not None:
            digest = _node(left, digest)
            levels[level] = None
            level += 1
            if level == len(levels):
                levels.append(None)
        levels[level] = digest


def root(leaves: Sequence[bytes]) -> bytes:
    """The root (32 bytes) over leaves in memory."""
    builder = MerkleBuilder()
    builder.add_all(leaves)
    return builder.root()


def inclusion_path(leaves: Iterable[bytes], index: int) -> list[bytes]:
    """The sibling hashes (32 bytes each) from leaf ``index`` up to the root.

    Raises:
        FormatError: There is no such leaf.
    """
    hashes = [sha256(b"\0" + leaf).digest() for leaf in leaves]
    if not 0 <= index < len(hashes):
        raise FormatError(f"the tree has {len(hashes)} leaves, none with index {index}")
    path = []
    while len(hashes) > 1:
        sibling = index ^ 1
        if sibling < len(hashes):
            path.append(hashes[sibling])
        # An odd last node moves up unchanged: the same tree as RFC 6962's split at a power of two.
        folded = [_node(hashes[i], hashes[i + 1]) for i in range(0, len(hashes) - 1, 2)]
        if len(hashes) % 2:
            folded.append(hashes[-1])
        hashes = folded
        index //= 2
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> None:
    """Prove that ``leaf`` is number ``index`` of the ``size`` leaves under a root.

    Raises:
        FormatError: Index, size and path length do not fit each other.
        DigestMismatch: The path leads to another root.
    """
    if not 0 <= index < size:
        raise FormatError(f"leaf {index} cannot be in a tree of {size} leaves")
    digest, last, used = sha256(b"\0" + leaf).digest(), size - 1, 0
    while last:
        if index & 1 or index < last:
            if used == len(path):
                raise FormatError("inclusion path is too short")
            sibling = path[used]
            if len(sibling) != 32:
                raise FormatError("inclusion path holds something that is not a SHA-256 digest")
            digest = _node(sibling, digest) if index & 1 else _node(digest, sibling)
            used += 1
        index >>= 1
        last >>= 1
    if used != len(path):
        raise FormatError("inclusion path is too long")
    if not hmac.compare_digest(digest, expected_root):
        raise DigestMismatch("the inclusion path does not lead to the kit's Merkle root")


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
