# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at an image that was built elsewhere before anything is started with it.

Usage: foreign.py ARCH IMAGE KERNEL [INITRD]. Ends with 1 and one line when a file is not what QEMU can boot.
"""

from __future__ import annotations

import sys
from pathlib import Path

EXT_MAGIC = (1024 + 56, b"\x53\xef")
MBR_MAGIC = (510, b"\x55\xaa")
KERNEL_MAGIC = {"amd64": ("bzImage", 0x202, b"HdrS"), "arm64": ("Image", 56, b"ARM\x64")}
KNOWN_AS = {
    b"\x7fELF": "an ELF file (vmlinux?)",
    b"\x1f\x8b": "gzip",
    b"QFI\xfb": "qcow2: convert it to raw",
    b"hsqs": "squashfs",
}


def has(path: Path, offset: int, magic: bytes) -> bool:
    """Whether bytes stand at a place of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(len(magic)) == magic


def what_is(path: Path) -> str:
    """A word about a file of the wrong kind."""
    if path.stat().st_size == 0:
        return "it is empty"
    return next((f"it is {name}" for magic, name in KNOWN_AS.items() if has(path, 0, magic)), "it is something else")


def check(arch: str, image: Path, kernel: Path, initrd: Path | None) -> str:
    """What is wrong; empty when nothing is."""
    for option, path in (("--image", image), ("--kernel", kernel), ("--initrd", initrd)):
        if path is not None and not path.is_file():
            return f"{option} {path}: there is no such file"
    if not has(image, *EXT_MAGIC) and not has(image, *MBR_MAGIC):
        return f"--image {image} is neither an ext4 file system nor a partitioned disk: {what_is(image)}"
    name, offset, magic = KERNEL_MAGIC[arch]
    if not has(kernel, offset, magic):
        return f"--kernel {kernel} is no {name} for {arch}: {what_is(kernel)}"
    return ""


def main() -> None:
    arch, image, kernel, *rest = sys.argv[1:]
    wrong = check(arch, Path(image), Path(kernel), Path(rest[0]) if rest and rest[0] else None)
    if wrong:
        raise SystemExit(f"hil: {wrong}")


if __name__ == "__main__":
    main()
