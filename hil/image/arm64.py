# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The layers of the ARM image that differ, made on a PC without running one ARM instruction.

The base is the configured Debian of the PC with its machine code exchanged: packages of the same names, only
unpacked. That is a way to test, not one to ship: the product's way is the Yocto layer.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from layers import PYTHON, layer, run

ARCH = "arm64"
TOOLS = ["linux-image-cloud-arm64", "busybox-static", "libtss2-dev", "libpython3.11-dev", "libc6-dev"]
PYTHON_TAGS = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
GLIBCS = ["2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28", "_2_31", "_2_34"]
# What builds the one package that has no wheel; pip's own isolation would fetch the same for the wrong machine.
BUILDERS = ["setuptools", "setuptools_scm[toml]", "pkgconfig", "asn1crypto", "cffi", "pycparser", "packaging", "wheel"]


def fetch(names: list[str], target: Path) -> None:
    """Unpack ARM packages and all they need into a tar file; their scripts are not run."""
    run("mmdebstrap", "--mode=root", f"--architectures={ARCH}", "--variant=extract", "--format=tar",
        f"--include={','.join(names)}", '--aptopt=Acquire::Retries "3"', "bookworm", target)  # fmt: skip


def tools() -> Path:
    """Kernel, busybox and what a compiler links against, as tools.tar."""
    return layer("arm64.tools", TOOLS, lambda work: fetch(TOOLS, work / "tools.tar"), "ARM kernel and headers",
                 as_root=True)  # fmt: skip


def base(like: Path) -> Path:
    """base.tar of ``like``, the PC's base, with ARM code."""

    def make(work: Path) -> None:
        tree = work / "tree"
        tree.mkdir()
        run("tar", "-C", tree, "-xpf", like / "base.tar", "--exclude=./dev/*")
        (tree / "etc/dropbear").mkdir(exist_ok=True)
        # Made while its tools still run here.
        run("chroot", tree, "dropbearkey", "-t", "ed25519", "-f", "/etc/dropbear/hil_host_key")
        status = (tree / "var/lib/dpkg/status").read_text()
        names = [line.split()[1] for line in status.splitlines() if line.startswith("Package:")]
        drop_machine_code(tree)
        fetch(names, work / "foreign.tar")
        run("tar", "-C", tree, "--keep-directory-symlink", "--exclude=./etc", "--exclude=./var", "--exclude=./dev",
            "--exclude=./usr/share", "-xpf", work / "foreign.tar")  # fmt: skip
        (work / "foreign.tar").unlink()
        run("tar", "-C", tree, "-cpf", work / "base.tar", ".")
        shutil.rmtree(tree)

    script = Path(__file__).read_text()
    return layer("arm64.base", [str(like), script], make, "Debian bookworm for ARM (a minute, once)", as_root=True)


def drop_machine_code(tree: Path) -> None:
    """Remove what only a PC can run."""
    for folder, folders, names in os.walk(tree):
        for name in [name for name in folders if "x86_64-linux-gnu" in name]:
            path = Path(folder, name)
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
            folders.remove(name)
        for path in (Path(folder, name) for name in names):
            if path.is_symlink() or not path.is_file():
                continue
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    path.unlink()
    (tree / "etc/ld.so.cache").unlink(missing_ok=True)


def install_packages(lock: str, site: Path, work: Path) -> None:
    """The packages of the lock file for ARM; tpm2-pytss, which has no wheel, by a cross compiler."""
    # One entry is one line that does not begin with a space or a comment, and its hashes.
    entries = lock.replace("\\\n", " ").splitlines()
    ours = [line for line in entries if line[:1].isalnum() and not line.startswith("tpm2-pytss==")]
    compiled = next(line for line in entries if line.startswith("tpm2-pytss=="))
    (work / "wheels.txt").write_text("".join(f"{line}\n" for line in ours))
    (work / "compiled.txt").write_text(f"{compiled}\n")
    platforms = [word for glibc in GLIBCS for word in ("--platform", f"manylinux{glibc}_aarch64")]
    run(PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--require-hashes", "--only-binary=:all:",
        *platforms, *PYTHON_TAGS, "--target", site, "-r", work / "wheels.txt")  # fmt: skip
    sysroot = work / "sysroot"
    sysroot.mkdir()
    run("tar", "-C", sysroot, "-xf", tools() / "tools.tar", "--exclude=./dev", "--exclude=./lib/modules",
        "--exclude=./boot", "--exclude=./usr/share")  # fmt: skip
    compiler = work / "cc"
    compiler.write_text(f'#!/bin/sh\nexec aarch64-linux-gnu-gcc -s --sysroot={sysroot} "$@"\n')
    compiler.chmod(0o755)
    pip = work / "builder/bin/pip"
    run("/usr/bin/python3", "-m", "venv", work / "builder")
    run(pip, "install", "-q", "--disable-pip-version-check", *BUILDERS)
    environment = {
        **os.environ, "CC": str(compiler), "LDSHARED": f"{compiler} -shared",
        "CFLAGS": f"-I{sysroot}/usr/include/python3.11", "PKG_CONFIG_SYSROOT_DIR": str(sysroot),
        "PKG_CONFIG_LIBDIR": f"{sysroot}/usr/lib/aarch64-linux-gnu/pkgconfig:{sysroot}/usr/share/pkgconfig",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    }  # fmt: skip
    run(pip, "wheel", "-q", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--no-build-isolation",
        "--require-hashes", "-w", work / "built", "-r", work / "compiled.txt", env=environment)  # fmt: skip
    run("/usr/bin/python3", "-m", "zipfile", "-e", next((work / "built").glob("*.whl")), site)
    for name in ("sysroot", "builder", "built"):
        shutil.rmtree(work / name)
    for name in ("cc", "wheels.txt", "compiled.txt"):
        (work / name).unlink()


def unpack_kernel(folder: Path) -> None:
    """Kernel, modules and busybox."""
    folder.mkdir()
    run("tar", "-C", folder, "-xf", tools() / "tools.tar", "./boot", "./lib/modules", "./bin/busybox")
