# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What the device's paths cost before they do anything: CPU and memory of imports, and of each command's help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench.harness import Figure, Usage, alternate, figure, main, milli, run_process

GROUP = "imports"
PATHS = {
    "record path": "import edgeprov.device.recorder",
    "seal path": "import edgeprov.device.seal",
}
COMMANDS = (
    "identity",
    "model",
    "boot-check",
    "infer",
    "label",
    "seal",
    "upload",
    "export",
    "attest",
    "record",
    "receipt",
    "simulator",
    "status",
    "doctor",
)


def paths() -> list[Figure]:
    used: dict[str, list[Usage]] = {name: [] for name in ("bare", *PATHS)}

    def run(name: str, body: str) -> float:
        used[name].append(run_process([sys.executable, "-c", body]))
        return used[name][-1].cpu_s

    calls = {name: (lambda name=name, body=body: run(name, body)) for name, body in {"bare": "pass", **PATHS}.items()}
    samples = alternate(9, calls)
    figures = []
    for name in PATHS:
        extra = [(a - b) * 1e3 for a, b in zip(samples[name], samples["bare"], strict=True)]
        memory = [a.rss_mb - b.rss_mb for a, b in zip(used[name], used["bare"], strict=True)]
        figures += [
            figure(
                GROUP, f"{name}, over bare Python", extra, "ms CPU", "<=", 60, ours=f"bare {milli(samples['bare'])}",
                note="Bound by typing, re, pathlib, json and tomllib of the standard library; then zstandard and msgpack. Neither oras "
                "nor requests nor numpy is imported (tests/lean); the standard library is what is left.",
            ),
            figure(
                GROUP, f"{name}, memory over bare Python", memory, "MB", "<=", 20,
                note="Code of the modules, and the libraries of zstandard and msgpack. What is left is the standard library.",
            ),
        ]  # fmt: skip
    return figures


def commands() -> list[Figure]:
    edgeprov = Path(sys.executable).with_name("edgeprov")
    figures = []
    for name in COMMANDS:
        used = [run_process([edgeprov, name, "--help"]) for _ in range(4)][1:]
        figures.append(
            figure(
                GROUP,
                f"edgeprov {name} --help",
                [item.cpu_s * 1e3 for item in used],
                "ms CPU",
                ours=f"{used[-1].rss_mb:.0f} MB",
                note="Bound by the start of Python (the bare one above) and argparse; a verb imports what it needs when it runs. What is left is the standard library.",
            )
        )
    return figures


def measure(_args: argparse.Namespace) -> list[Figure]:
    return paths() + commands()


if __name__ == "__main__":
    main(measure)
