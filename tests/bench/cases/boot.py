# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The boot check: hashing against openssl, a whole process against a bare interpreter, the TPM's part.

This process imports nothing of the project: a child's peak memory counts what its parent had.
"""

from __future__ import annotations

import argparse
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.harness import (
    PACK,
    PACKAGES,
    ROOT,
    Figure,
    Usage,
    alternate,
    figure,
    main,
    milli,
    missing,
    ratios,
    run_process,
    tool,
)

GROUP = "boot check"
HELPER = "tests.bench.cases.boot_process"


def hashing(args: argparse.Namespace) -> list[Figure]:
    folder = args.work / "hash"
    run_process([sys.executable, "-m", HELPER, "blob", folder, "100000000"])
    blob = next((folder / "blobs" / "sha256").iterdir())
    openssl = tool("openssl")
    if openssl is None:
        return [missing(GROUP, "hash 100 MB, to openssl", "x", "<=", 0.85, "openssl is not installed")]
    # The start of the interpreter is the next figure's business; openssl's own start is told apart.
    empty = args.work / "empty"
    empty.write_bytes(b"")
    calls = {
        "ours": lambda: float(run_process([sys.executable, "-m", HELPER, "verify", folder]).out),
        "floor": lambda: float(run_process([sys.executable, "-m", HELPER, "floor", folder]).out),
        "memory": lambda: float(run_process([sys.executable, "-m", HELPER, "memory", folder]).out),
        "start": lambda: run_process([openssl, "dgst", "-sha256", empty]).cpu_s,
        "openssl": lambda: run_process([openssl, "dgst", "-sha256", blob]).cpu_s,
        "sha256sum": lambda: run_process(["sha256sum", blob]).cpu_s,
    }
    samples = alternate(7, calls)
    return [
        figure(
            GROUP, "hash 100 MB, to openssl dgst", ratios(samples["ours"], samples["openssl"]), "x", "<=", 0.85,
            ours=f"ours {milli(samples['ours'])}, openssl {milli(samples['openssl'])}, of which its start {milli(samples['start'])}",
            headline="boot check: hash 100 MB, CPU to openssl dgst",
            note="The floor in the next two lines is above the budget: the digest alone takes two thirds of openssl's time, copying the file out of the "
            "page cache a fifth. Pieces of 16 KiB to 1 MiB, advice to the kernel and hashlib.file_digest differ by 2 % from it; mmap alone saves a part "
            "of the copy (0.86), at the price of SIGBUS when a file is cut. Openssl's start is in its figure, ours is not.",
        ),
        figure(
            GROUP, "floor of that: read and digest in pieces of 64 KiB, no check", ratios(samples["floor"], samples["openssl"]), "x",
            ours=f"floor {milli(samples['floor'])}",
            note="What any program does that reads a file and digests it. What ours has above it is to open the layout and to compare.",
        ),
        figure(
            GROUP, "of which the digest alone, from memory", ratios(samples["memory"], samples["openssl"]), "x",
            ours=f"digest {milli(samples['memory'])}",
            note="The processor's SHA instructions at work, and nothing else. The difference to the line above is the copy out of the page cache.",
        ),
        figure(
            GROUP, "hash 100 MB, to sha256sum", ratios(samples["ours"], samples["sha256sum"]), "x", ours=f"sha256sum {milli(samples['sha256sum'])}",
            note="Debian's sha256sum does not use the processor's SHA instructions, OpenSSL does, here and in Python. Nothing is left to do.",
        ),
    ]  # fmt: skip


def boot_check(folder: Path, edgeprov: Path | None = None) -> Usage:
    """A boot check of the site in ``folder``: by the file that images install, or by a folder's modules."""
    packed = folder / "image/edgeprov.pyc"
    if not packed.exists():
        packed.parent.mkdir()
        run_process([sys.executable, PACK, ROOT / "edgeprov", packed])
    shutil.rmtree(folder / "run", ignore_errors=True)  # a boot has just begun
    script = byte_code("boot_check.py", folder)
    return run_process(
        [sys.executable, "-I", "-S", script, PACKAGES, edgeprov or packed.parent, folder / "edgeprov.toml"]
    )


def byte_code(name: str, folder: Path) -> Path:
    """A script of this folder, compiled: an image installs byte code, and what stands in for the TPM is not the check."""
    compiled = folder / f"{name}c"
    if not compiled.exists():
        py_compile.compile(str(Path(__file__).with_name(name)), str(compiled), doraise=True)
    return compiled


def process(args: argparse.Namespace) -> list[Figure]:
    folder = args.work / "process"
    run_process([sys.executable, "-m", HELPER, "site", folder])
    used: list[Usage] = []

    def check() -> float:
        # Without site, as on an image: the .pth files of a development environment cost 13 ms.
        used.append(boot_check(folder))
        return used[-1].cpu_s

    model = max((folder / "state" / "layout" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    floor = [sys.executable, "-I", "-S", byte_code("boot_floor.py", folder), PACKAGES, model]
    samples = alternate(
        15,
        {
            "bare": lambda: run_process([sys.executable, "-I", "-S", "-c", "pass"]).cpu_s,
            "floor": lambda: run_process(floor).cpu_s,
            "ours": check,
            "folder": lambda: boot_check(folder, ROOT).cpu_s,
        },
    )
    name = "whole process, 4 MB model, one signature, to a bare interpreter"
    return [
        figure(
            GROUP, name, ratios(samples["ours"], samples["bare"]), "x CPU", "<=", 6,
            ours=f"ours {milli(samples['ours'])}, bare {milli(samples['bare'])}",
            headline="boot check: whole process, CPU to a bare Python",
            note="Bound by imports: the floor two lines below, with nothing of ours, is seven tenths of the budget; fifty modules of ours, pathlib and "
            "the check itself are the rest. It was 17 x with x509 and dataclasses, 8 x from a zip, 7 x before a boot's modules were one stream without "
            "types, and before the process ended without taking the interpreter apart. What is left is pathlib, 0.4 x, and hashlib's "
            "OpenSSL beside cryptography's, 0.3 x, which the TPM library imports anyway; that library is not in it.",
        ),
        figure(
            GROUP, "the same from a folder of sources and byte code", ratios(samples["folder"], samples["bare"]), "x CPU",
            ours=f"folder {milli(samples['folder'])}",
            note="Five times the size of the one file that images install. Each module has to be looked for in folders; what is left are the modules.",
        ),
        figure(
            GROUP, "floor of that: libraries, one digest, one signature", ratios(samples["floor"], samples["bare"]), "x CPU",
            ours=f"floor {milli(samples['floor'])}",
            note="cryptography's ECDSA with typing and re, hashlib, tomllib, json, SHA-256 of 4 MB; nothing of edgeprov.",
        ),
        figure(
            GROUP, "whole process, memory", [item.rss_mb for item in used], "MB", "<=", 28,
            note="Half of it is Python, most of the rest cryptography's library. It was 34 MB with x509 and dataclasses; nothing grows with the model.",
        ),
    ]  # fmt: skip


def with_tpm(args: argparse.Namespace) -> list[Figure]:
    name = "the TPM's part: library, PCR event, floor"
    if tool("swtpm") is None:
        return [missing(GROUP, name, "ms CPU", "info", None, "swtpm is not installed")]
    folder = args.work / "process"
    env = {"EDGEPROV_CONFIG": str(folder / "edgeprov.toml")}
    edgeprov = Path(sys.executable).with_name("edgeprov")
    stop = lambda: run_process([edgeprov, "simulator", "stop"], env=env, check=False)  # noqa: E731
    try:
        real = [run_process([edgeprov, "boot-check"], env=env, check=False) for _ in range(4)][1:]
    finally:
        stop()
    if any(item.code for item in real):
        return [missing(GROUP, name, "ms CPU", "info", None, real[-1].out.strip()[-100:])]
    without = [boot_check(folder).cpu_s for _ in range(3)]
    return [
        figure(
            GROUP, name, [(a.cpu_s - b) * 1e3 for a, b in zip(real, without, strict=True)], "ms CPU",
            ours=f"{milli([item.cpu_s for item in real])} CPU in all, {real[0].rss_mb:.0f} MB; swtpm's own time is not in it",
            note="Nearly all of it is loading the TPM library, whose binding pulls in all of tss2. What is left is a binding of our own.",
        )
    ]  # fmt: skip


def measure(args: argparse.Namespace) -> list[Figure]:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an image ships byte code; so does this measurement
    subprocess.run([sys.executable, "-c", "import edgeprov.device.boot"], check=False)
    return hashing(args) + process(args) + with_tpm(args)


if __name__ == "__main__":
    main(measure)
