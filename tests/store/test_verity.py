# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""fs-verity digests against a second implementation and, where the machine allows, against the kernel."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.errors import DigestMismatch, NotStored, StoreError
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.store.verity import VerityHasher, enable, measure, verify_measured

SIZES = [0, 1, 4095, 4096, 4097, 128 * 4096 - 1, 128 * 4096, 128 * 4096 + 1, 128 * 128 * 4096 + 1]


def verity_digest(*chunks: bytes) -> Digest:
    hasher = VerityHasher()
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.digest()


def whole_tree_digest(data: bytes) -> Digest:
    """The definition, written down without streaming."""
    level = [hashlib.sha256(data[i : i + 4096].ljust(4096, b"\0")).digest() for i in range(0, len(data), 4096)]
    while len(level) > 1:
        joined = b"".join(level)
        level = [hashlib.sha256(joined[i : i + 4096].ljust(4096, b"\0")).digest() for i in range(0, len(joined), 4096)]
    root = level[0] if level else b""
    fields = struct.pack("<BBBBIQ64s32s144s", 1, 1, 12, 0, 0, len(data), root, b"", b"")
    return digest_of(fields)


def test_the_empty_file_has_the_digest_that_fsverity_prints() -> None:
    known = "sha256:3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"
    assert str(verity_digest()) == known


@pytest.mark.parametrize("size", SIZES)
def test_the_streamed_digest_is_that_of_the_whole_tree(size: int) -> None:
    data = hashlib.shake_128(str(size).encode()).digest(size)
    expected = whole_tree_digest(data)
    assert verity_digest(data) == expected
    assert verity_digest(*(data[i : i + 60_001] for i in range(0, size, 60_001))) == expected
    if size < 10_000:
        hasher = VerityHasher()
        for position in range(size):
            hasher.update(data[position : position + 1])
        assert hasher.digest() == expected


@pytest.mark.parametrize("change", ["bit", "cut", "longer"])
def test_another_content_has_another_digest(change: str) -> None:
    data = bytes(10_000)
    other = {"bit": b"\1" + data[1:], "cut": data[:-1], "longer": data + b"\0"}[change]
    assert verity_digest(other) != verity_digest(data)


def test_a_file_system_without_verity_is_told_apart_from_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    if enable(path):
        pytest.skip("the temporary folder lies on a file system with fs-verity")
    assert measure(path) is None
    assert verify_measured(path, digest_of(b"anything")) is False
    with pytest.raises(NotStored):
        measure(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError):
        enable(tmp_path / "pipe")


@pytest.fixture(scope="module")
def verity_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An ext4 image with the verity feature, mounted by loop."""
    folder = tmp_path_factory.mktemp("verity")
    image, mount = folder / "image", folder / "mount"
    mount.mkdir()
    if os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4; hil/ runs the same on the device image")
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-O", "verity", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{done.stderr.strip()}; hil/ runs the same on the device image")
    try:
        probe = mount / "probe"
        probe.write_bytes(b"probe")
        if not enable(probe):
            pytest.skip("this kernel was built without CONFIG_FS_VERITY; hil/ runs the same on the device image")
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("size", [0, 1, 4097, 128 * 4096 + 1])
def test_the_kernel_computes_the_same_digest(verity_mount: Path, size: int) -> None:
    data = hashlib.shake_128(b"kernel").digest(size)
    path = verity_mount / f"file-{size}"
    path.write_bytes(data)
    expected = verity_digest(data)
    assert measure(path) is None
    assert enable(path)
    assert enable(path)  # a second time is no error
    assert measure(path) == expected
    assert verify_measured(path, expected)
    with pytest.raises(DigestMismatch):
        verify_measured(path, digest_of(b"another"))
    with pytest.raises(PermissionError):
        path.open("r+b")
