# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A benchmark whose figures are known, run by the real harness as a process of its own."""

from __future__ import annotations

import argparse
import os

from tests.bench.harness import Figure, alternate, figure, main, missing, ratios


def measure(_args: argparse.Namespace) -> list[Figure]:
    if os.environ.get("PLANTED") == "crash":
        raise RuntimeError("planted")
    limit = 1.0 if os.environ.get("PLANTED") == "shortfall" else 3.0
    turns = iter(range(100))
    samples = alternate(4, {"ours": lambda: 2.0 * (1 + next(turns)), "peer": lambda: 1.0 * next(turns)})
    return [
        figure("planted", "ours & peer", ratios(samples["ours"], samples["peer"]), "x", "<=", limit, ours="2 | 1", headline="a ratio"),
        Figure("planted", "at least", 4.0, "x", ">=", 2.0, note="Bound by nothing."),
        Figure("planted", "for information", 0.5, "s"),
        missing("planted", "beside nobody", "x", "<=", 1.0, "nobody is not installed"),
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
