# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The boot check: the whole command with its TPM against a bare interpreter, what bounds it, and hashing.

This process imports nothing of the project: a child's peak memory counts what its parent had.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from tests.bench.harness import (
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
from tests.bench.real_device import BARE, RealDevice

GROUP = "boot check"
HELPER = "tests.bench.cases.boot_process"
WHOLE = "the whole command with its TPM, to a bare interpreter"


def hashing(args: argparse.Namespace) -> list[Figure]:
    folder = args.work / "hash"
    run_process([sys.executable, "-m", HELPER, "blob", folder, "100000000"])
    blob = next((folder / "blobs" / "sha256").iterdir())
    openssl = tool("openssl")
    if openssl is None:
        return [missing(GROUP, "hash 100 MB, to openssl dgst", "x", "info", None, "openssl is not installed")]
    samples = alternate(
        5,
        {
            "ours": lambda: float(run_process([sys.executable, "-m", HELPER, "verify", folder]).out),
            "memory": lambda: float(run_process([sys.executable, "-m", HELPER, "memory", folder]).out),
            "openssl": lambda: run_process([openssl, "dgst", "-sha256", blob]).cpu_s,
        },
    )
    return [
        figure(
            GROUP, "hash 100 MB, to openssl dgst", ratios(samples["ours"], samples["openssl"]), "x",
            ours=f"ours {milli(samples['ours'])}, openssl {milli(samples['openssl'])}",
            note="The digest itself, and a copy of the file out of the page cache. Larger pieces change it by 2 %; mmap saves a part of the copy, at the "
            "price of SIGBUS when a file is cut. The start of openssl is in its figure, that of Python is not in ours.",
        ),
        figure(
            GROUP, "floor of that: the digest alone, from memory", ratios(samples["memory"], samples["openssl"]), "x",
            ours=f"digest {milli(samples['memory'])}",
            note="The processor's SHA instructions at work, and nothing else. Nothing is left to do.",
        ),
    ]  # fmt: skip


def process(args: argparse.Namespace) -> list[Figure]:
    """The command as a device runs it; and, for what the TPM library costs, the same without it."""
    if tool("swtpm") is None:
        return [missing(GROUP, WHOLE, "x CPU", "<=", 7.5, "swtpm is not installed")]
    real: list[Usage] = []
    with RealDevice(args.work / "process") as device:
        packages, image = device.search_path

        def whole() -> float:
            real.append(device.boot_check())
            return real[-1].cpu_s

        def folder() -> float:
            device.reboot()
            return device.command("boot-check", search_path=(packages, str(ROOT))).cpu_s

        def without() -> float:
            shutil.rmtree(device.folder / "run")  # a boot has just begun
            return device.process("boot_check.py", packages, image).cpu_s

        samples = alternate(
            11,
            {
                "bare": lambda: run_process(BARE).cpu_s,
                "whole": whole,
                "folder": folder,
                "without": without,
                "library": lambda: device.process("tpm_library.py", packages).cpu_s,
                "floor": lambda: device.process("boot_floor.py", packages, device.model).cpu_s,
            },
        )
    bare = samples["bare"]
    library = [a - b for a, b in zip(samples["library"], bare, strict=True)]
    return [
        figure(
            GROUP, WHOLE, ratios(samples["whole"], bare), "x CPU", "<=", 7.5,
            ours=f"ours {milli(samples['whole'])}, bare {milli(bare)}; swtpm's own time is not in it",
            headline="boot check with its TPM, CPU to a bare Python",
            note="`edgeprov boot-check` of an image, with a TPM, a model of 4 MB and a publisher's certificate; the TPM library is not loaded. A third "
            "is Python's standard library, a fifth cryptography's primitives, a third modules of edgeprov, with eight for certificates and keys. "
            "With cryptography.x509, which reads them elsewhere, it was 13 x and 33 MB.",
        ),
        figure(
            GROUP, "the same, memory", [item.rss_mb for item in real[1:]], "MB", "<=", 30, headline="boot check with its TPM, memory",
            note="A quarter is Python, a fifth its standard library with OpenSSL, a third cryptography with an OpenSSL of its own. Nothing grows with the model.",
        ),
        figure(
            GROUP, "the same from a folder of sources and byte code", ratios(samples["folder"], bare), "x CPU", ours=f"folder {milli(samples['folder'])}",
            note="As pip installs it: each module has to be looked for in folders. The one file is there for its size, a third.",
        ),
        figure(
            GROUP, "loading the TPM library alone", [item * 1e3 for item in library], "ms CPU",
            note="`import tpm2_pytss` over a bare interpreter: what a boot check no longer loads.",
        ),
        figure(
            GROUP, "floor: without the TPM library, its answers from memory", ratios(samples["without"], bare), "x CPU", ours=f"floor {milli(samples['without'])}",
            note="No device runs this. What is between it and the command is our client for the five TPM commands.",
        ),
        figure(
            GROUP, "floor: libraries, one digest, one signature", ratios(samples["floor"], bare), "x CPU", ours=f"floor {milli(samples['floor'])}",
            note="cryptography's ECDSA with typing and re, hashlib, tomllib, json, SHA-256 of 4 MB. Nothing of edgeprov and no TPM.",
        ),
    ]  # fmt: skip


def measure(args: argparse.Namespace) -> list[Figure]:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an image ships byte code; so does this measurement
    return process(args) + hashing(args)


if __name__ == "__main__":
    main(measure)
