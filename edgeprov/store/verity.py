# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""fs-verity: the kernel's own digest of a file, computed here while bytes stream by, and asked of the kernel.

A file with fs-verity enabled is read-only for good, the kernel checks each page that it reads, and
its digest is had in constant time. Ext4 (with the feature ``verity``), f2fs and btrfs have it; where
it is missing, enable() says False and measure() None, and the caller hashes the file as ever.

Spec: Linux Documentation/filesystems/fsverity.rst, "Merkle tree" and "fs-verity descriptor";
SHA-256, blocks of 4096 bytes, no salt.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from pathlib import Path
from typing import Final

from edgeprov.errors import DigestMismatch
from edgeprov.formats.digest import Digest
from edgeprov.store.atomic import open_regular, translate

BLOCK_BYTES: Final = 4096
_HASHES_PER_BLOCK: Final = BLOCK_BYTES // 32
_ALGORITHM_SHA256: Final = 1
_DESCRIPTOR: Final = struct.Struct("<BBBBIQ64s32s144s")
_ENABLE_ARGUMENT: Final = struct.Struct("<IIIIQIIQ88x")
FS_IOC_ENABLE_VERITY: Final = 0x40806685
FS_IOC_MEASURE_VERITY: Final = 0xC0046686

# No verity on this file system, in this kernel, for this file, or on a medium that cannot be written.
_WITHOUT: Final = frozenset(
    {errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOPKG, errno.EINVAL, errno.ETXTBSY}
)


class VerityHasher:
    """The fs-verity digest of a stream. Memory: one block of hashes per tree level."""

    def __init__(self) -> None:
        """Start an empty file."""
        self._size = 0
        self._rest = b""
        self._levels: list[list[bytes]] = []

    def update(self, data: bytes | bytearray | memoryview) -> VerityHasher:
        """Take the next bytes of the file."""
        view = memoryview(data)
        self._size += len(view)
        start = 0
        if self._rest:
            start = BLOCK_BYTES - len(self._rest)
            self._rest += bytes(view[:start])
            if len(self._rest) < BLOCK_BYTES:
                return self
            self._add(0, hashlib.sha256(self._rest).digest())
        end = start + (len(view) - start) // BLOCK_BYTES * BLOCK_BYTES
        for position in range(start, end, BLOCK_BYTES):
            self._add(0, hashlib.sha256(view[position : position + BLOCK_BYTES]).digest())
        self._rest = bytes(view[end:])
        return self

    def _add(self, level: int, value: bytes) -> None:
        if level == len(self._levels):
            self._levels.append([])
        hashes = self._levels[level]
        if len(hashes) == _HASHES_PER_BLOCK:  # full, and not the last of its level
            self._add(level + 1, hashlib.sha256(b"".join(hashes)).digest())
            hashes.clear()
        hashes.append(value)

    def digest(self) -> Digest:
        """The file's fs-verity digest; ends the stream."""
        if self._rest:
            self._add(0, hashlib.sha256(self._rest.ljust(BLOCK_BYTES, b"\0")).digest())
            self._rest = b""
        root = self._root()
        descriptor = _DESCRIPTOR.pack(1, _ALGORITHM_SHA256, 12, 0, 0, self._size, root, b"", b"")
        return Digest(hashlib.sha256(descriptor).hexdigest())

    def _root(self) -> bytes:
        if not self._levels:
            return b""  # the empty file: zeros
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            hashes = self._levels[level]
            self._add(level + 1, hashlib.sha256(b"".join(hashes).ljust(BLOCK_BYTES, b"\0")).digest())
            level += 1
        return self._levels[level][0]


def enable(path: Path) -> bool:
    """Have the kernel build the tree of a file that nobody has open for writing.

    Returns:
        False when this file system, kernel or medium has no fs-verity: hash the file instead.

    Raises:
        StoreFull: No space for the tree.
        StoreError: The file cannot be read.
    """
    fd, _ = open_regular(path, "fs-verity")
    try:
        fcntl.ioctl(fd, FS_IOC_ENABLE_VERITY, _ENABLE_ARGUMENT.pack(1, _ALGORITHM_SHA256, BLOCK_BYTES, 0, 0, 0, 0, 0))
    except OSError as error:
        if error.errno == errno.EEXIST:
            return True
        if error.errno in _WITHOUT:
            return False
        raise translate(error, f"fs-verity ({path})") from error
    finally:
        os.close(fd)
    return True


def measure(path: Path) -> Digest | None:
    """The digest that the kernel enforces for this file, in constant time; None when it has none.

    Raises:
        StoreError: The file cannot be opened.
    """
    fd, _ = open_regular(path, "fs-verity")
    try:
        return measure_open(fd)
    finally:
        os.close(fd)


def measure_open(fd: int) -> Digest | None:
    """As measure, for an open file: so that what is measured is what is then read."""
    buffer = bytearray(struct.pack("<HH", 0, 64) + bytes(64))
    try:
        fcntl.ioctl(fd, FS_IOC_MEASURE_VERITY, buffer)
    except OSError as error:
        if error.errno == errno.ENODATA or error.errno in _WITHOUT:
            return None
        raise translate(error, "fs-verity") from error
    algorithm, size = struct.unpack_from("<HH", buffer)
    if algorithm != _ALGORITHM_SHA256 or size != 32:
        return None
    return Digest(bytes(buffer[4:36]).hex())


def verify_measured(path: Path, expected: Digest) -> bool:
    """Compare the kernel's digest with a signed one.

    Returns:
        False when the kernel has none for this file: hash it instead.

    Raises:
        DigestMismatch: It enforces another content than was signed.
        StoreError: The file cannot be opened.
    """
    actual = measure(path)
    if actual is None:
        return False
    if actual != expected:
        raise DigestMismatch(f"{path.name} has fs-verity digest {actual}, signed is {expected}")
    return True
