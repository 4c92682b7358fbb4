# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The verified load: an application with its device and TPM, beside numpy and the interpreter with the same bytes.

This process imports nothing of the project: a child's peak memory counts what its parent had.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.bench.harness import Figure, Usage, alternate, figure, main, missing, tool
from tests.bench.real_device import RealDevice

GROUP = "verified load"
MEMORY = "peak memory of an application over the interpreter alone, model of {} MB"
MB = 1_000_000
ROUNDS = 5


def load(work: Path, size_mb: int) -> list[Figure]:
    with RealDevice(work / f"load-{size_mb}", model_bytes=size_mb * MB) as device:
        packages, image = device.search_path
        used: dict[str, list[Usage]] = {"verified": [], "bare": []}

        def run(kind: str, place: str | Path) -> float:
            used[kind].append(device.process("load_application.py", kind, packages, place, "1"))
            return used[kind][-1].cpu_s

        cpu = alternate(ROUNDS, {"verified": lambda: run("verified", image), "bare": lambda: run("bare", device.model)})
    memory = [a.rss_mb - b.rss_mb for a, b in zip(used["verified"], used["bare"], strict=True)]
    ours, alone = used["verified"][-1], used["bare"][-1]
    read = (int(ours.out.split()[-1]) - int(alone.out.split()[-1])) / MB
    figures = [
        figure(
            GROUP, MEMORY.format(size_mb), memory, "MB", "<=", 3, headline="verified load: memory of an application over numpy and the interpreter" if size_mb > 1 else "",
            ours=f"{ours.rss_mb:.0f} MB in all, alone {alone.rss_mb:.0f} MB; {read:.1f} MB more are read",
            note="Two thirds are the TPM library, for the quote over the record segment; then cryptography and the modules of edgeprov. The bytes that are hashed are those that the "
            "interpreter gets, so the model is read once and its size does not count.",
        )
    ]  # fmt: skip
    if size_mb == 1:
        extra = [(a - b) * 1e3 for a, b in zip(cpu["verified"], cpu["bare"], strict=True)]
        figures.append(
            figure(
                GROUP, "CPU of an application over the interpreter alone, model of 1 MB", extra, "ms CPU",
                note="Imports, the TPM's answers, a record segment opened and closed. It is paid once by each process.",
            )
        )  # fmt: skip
    return figures


def measure(args: argparse.Namespace) -> list[Figure]:
    if tool("swtpm") is None:
        return [missing(GROUP, MEMORY.format(100), "MB", "<=", 3, "swtpm is not installed")]
    return [*load(args.work, 1), *load(args.work, 100)]


if __name__ == "__main__":
    main(measure)
