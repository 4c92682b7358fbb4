# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The verified load: memory and reads of a model's way from the disk into the interpreter, beside the interpreter alone.

Processes of their own, which start nothing of the bench: their peak memory is that of the load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from tests.bench.harness import Figure, main, run_process

MB = 1_000_000
NOTE = (
    "The bytes that are hashed are those that the interpreter gets, so one buffer of the model's size is the floor, which the interpreter "
    "alone has too when it is given bytes; one that opens the file itself maps it, and then nobody knows what it ran. The rest is numpy, "
    "the interpreter and its tensors, whatever the size; the TPM library would add 15 MB."
)


def prepare(folder: Path, size: int) -> None:
    """An installed model of ``size`` bytes, and its bare file."""
    from edgeprov.device.context import Context
    from tests.support.site import DIGITS, Site

    folder.mkdir(parents=True)
    site = Site(folder)
    Context.tpm = lambda context: site.open_tpm(context)  # type: ignore[method-assign, assignment]  # noqa: PLW0108
    # Bytes behind the flatbuffer belong to no tensor: the interpreter takes the file, whatever its size.
    weights = DIGITS.read_bytes()
    weights += os.urandom(size - len(weights))
    (folder / "bare").write_bytes(weights)
    published = site.publish(weights, name="model")
    site.install(published)
    (folder / "digest").write_text(str(published.manifest.digest))


def verified(folder: Path) -> None:
    """As Device.load_model, but for the recorder: find, read and hash, look at the structure, give to the interpreter."""
    from edgeprov.device.context import load_context
    from edgeprov.device.flatbuffer import verify_flatbuffer
    from edgeprov.device.model_store import find_model, load_weights
    from edgeprov.device.runtime import InterpreterEngine
    from edgeprov.formats.digest import parse_digest

    os.environ["EDGEPROV_CONFIG"] = str(folder / "edgeprov.toml")
    context = load_context()
    stored = find_model(context, context.state(write=False), parse_digest((folder / "digest").read_text()))
    before = _read_bytes()
    weights = load_weights(stored)
    read = _read_bytes() - before
    verify_flatbuffer(weights)
    InterpreterEngine(weights)
    print(json.dumps({"read": read, "size": len(weights)}))


def bare(folder: Path) -> None:
    """The interpreter alone, given the bytes of a file."""
    from edgeprov.device.runtime import InterpreterEngine

    InterpreterEngine((folder / "bare").read_bytes())


def _read_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def measure(args: argparse.Namespace) -> list[Figure]:
    figures = []
    for size in (1, 10, 100):
        folder = args.work / f"load-{size}"
        argv = [sys.executable, "-m", "tests.bench.cases.load"]
        run_process([*argv, "prepare", folder, str(size * MB)])
        alone, ours = run_process([*argv, "bare", folder]), run_process([*argv, "verified", folder])
        shutil.rmtree(folder)
        counted = json.loads(ours.out)
        figures.append(
            Figure(
                "verified load", f"peak memory over the interpreter alone, model of {size} MB", ours.rss_mb - alone.rss_mb, "MB", "<=", 4,
                ours=f"{ours.rss_mb:.0f} MB in all, alone {alone.rss_mb:.0f} MB; read {counted['read'] / counted['size']:.2f} x the model",
                headline=f"verified load: peak memory over the interpreter alone, {size} MB",
                note=NOTE,
            )
        )  # fmt: skip
    return figures


if __name__ == "__main__":
    words = {"prepare": prepare, "verified": verified, "bare": bare}
    if len(sys.argv) > 1 and sys.argv[1] in words:
        words[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        main(measure)
