# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What lies on the device: edgeprov as an image ships it, and its dependencies, stripped and plain."""

from __future__ import annotations

import argparse
import compileall
import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tests.bench.harness import ROOT, Figure, main, missing, tool

GROUP = "size"
TOP = ("numpy", "tflite-runtime", "tpm2-pytss", "cryptography", "msgpack", "zstandard", "oras")


def own(args: argparse.Namespace) -> list[Figure]:
    archive, target = args.work / "edgeprov.pyc", args.work / "edgeprov"
    subprocess.run(
        [sys.executable, ROOT / "meta-provenance/lib/oeprov/pack.py", ROOT / "edgeprov", archive], check=True
    )
    shutil.copytree(
        ROOT / "edgeprov", target, ignore=shutil.ignore_patterns("fleet", "fleet_main.py", "__pycache__", "*.md")
    )
    source = sum(path.stat().st_size for path in target.rglob("*.py"))
    compileall.compile_dir(target, quiet=1, optimize=2, legacy=True)
    code = sum(path.stat().st_size for path in target.rglob("*.pyc"))
    return [
        Figure(
            GROUP, "edgeprov on the device", archive.stat().st_size / 1e3, "kB", "<=", 600,
            ours=f"in files: {source / 1e3:.0f} kB of source, {code / 1e3:.0f} kB of byte code without docstrings",
            note="One file of byte code without docstrings and columns, made by the recipes (meta-provenance/lib/oeprov/pack.py), compressed module "
            "by module. The fleet's side is another OS package. What it costs at boot stands in the case boot.",
        )
    ]  # fmt: skip


def closure() -> set[str]:
    """Names of all distributions that the device needs, from their metadata."""
    import re

    waiting, found = list(TOP), set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += [re.split(r"[ ;<>=!~\[(]", item)[0] for item in requires if "extra ==" not in item]
    return found


def dependencies(args: argparse.Namespace) -> list[Figure]:
    strip = tool("strip")
    if strip is None:
        return [missing(GROUP, "dependencies, stripped", "MB", "<=", 105, "strip (binutils) is not installed")]
    plain = stripped = 0
    sizes: dict[str, float] = {}
    for name in sorted(closure()):
        total = 0
        for file in distribution(name).files or []:
            path = Path(str(file.locate()))
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            plain += path.stat().st_size
            # Tests and the unused second backend of zstandard stay off an image.
            if "tests" in path.parts or (path.name.startswith("_cffi.cpython") and "zstandard" in path.parts):
                continue
            size = path.stat().st_size
            if ".so" in path.suffixes or ".so." in path.name:
                copy = args.work / path.name
                subprocess.run([strip, "--strip-unneeded", "-o", copy, path], check=False, capture_output=True)
                size = copy.stat().st_size if copy.exists() else size
                copy.unlink(missing_ok=True)
            total += size
        stripped += total
        sizes[name] = round(total / 1e6, 1)
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:8])
    return [
        Figure(
            GROUP, "dependencies from wheels, stripped, without tests", stripped / 1e6, "MB", "<=", 105,
            ours=f"plain {plain / 1e6:.0f} MB; " + json.dumps(largest).strip("{}").replace('"', ""),
            note="numpy and its BLAS are three quarters of it; the recipes build numpy without BLAS.",
        )
    ]  # fmt: skip


def measure(args: argparse.Namespace) -> list[Figure]:
    sys.dont_write_bytecode = True
    return own(args) + dependencies(args)


if __name__ == "__main__":
    main(measure)
