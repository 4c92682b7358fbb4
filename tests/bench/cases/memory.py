# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of sealing. A process of its own: a child's peak counts what its parent had before exec."""

from __future__ import annotations

import argparse
import shutil
import sys

from tests.bench.harness import Figure, main, run_process

MB = 1_000_000


def measure(args: argparse.Namespace) -> list[Figure]:
    figures = []
    for size in (10, 1000 if args.full else 200):
        folder = args.work / f"memory-{size}"
        argv = [sys.executable, "-m", "tests.bench.cases.seal_memory"]
        run_process([*argv, "prepare", folder, str(size * MB)])
        used = run_process([*argv, "seal", folder])
        shutil.rmtree(folder)
        figures.append(
            Figure(
                "seal", f"peak memory at {size} MB", used.rss_mb, "MB", "<=", 32, ours=f"{used.cpu_s:.1f} s CPU, {used.wall_s:.1f} s",
                headline=f"seal: peak memory at {size} MB" if size > 10 else "",
                note="The interpreter, one block of rows and one compressed part; the TPM library is not in it. What grows is the list of parts and its JSON: 5 MB from 10 MB to 1 GB.",
            )
        )  # fmt: skip
    return figures


if __name__ == "__main__":
    main(measure)
