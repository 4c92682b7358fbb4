# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring: CPU time of alternating rounds in one run, processes with their memory, figures as data.

Ours and its peer always alternate, so that a busy machine slows both. Standard library only: a child's
peak memory counts what its parent had before exec, so whoever starts measured processes stays small.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
DEVICE_PYTHON = ROOT / ".venv" / "device" / "bin" / "python"
FLEET_PYTHON = ROOT / ".venv" / "fleet" / "bin" / "python"
PACKAGES = sysconfig.get_path("purelib")
PACK = ROOT / "meta-provenance/lib/oeprov/pack.py"
READERS_PYTHON = ROOT / ".venv" / "readers" / "bin" / "python"  # DuckDB; there after `hil/setup readers`

Sense = Literal["<=", ">=", "info"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. ``value`` is the median; ``low`` and ``high`` the quartiles.

    ``limit`` None: for information. ``value`` None: could not be measured here, ``note`` says why.
    """

    group: str
    name: str
    value: float | None
    unit: str
    sense: Sense = "info"
    limit: float | None = None
    low: float | None = None
    high: float | None = None
    ours: str = ""  # absolute values behind a ratio
    note: str = ""  # what bounds it, what was done, what is left; why it is not measured
    headline: str = ""  # its words in the project's README, for the few that stand there

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.limit is None:
            return ""
        good = self.value <= self.limit if self.sense == "<=" else self.value >= self.limit
        return "ok" if good else "SHORT"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took: CPU and wall seconds, peak memory in MB (10^6 bytes), and what it printed."""

    cpu_s: float
    wall_s: float
    rss_mb: float
    code: int
    out: str


def run_process(
    argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None, check: bool = True
) -> Usage:
    """Run a program to its end."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [os.fspath(item) for item in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(env),
        cwd=ROOT,
    )
    assert child.stdout is not None
    out = child.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    if check and child.returncode not in (0, 100):
        raise RuntimeError(f"{' '.join(map(str, argv))}\nexit {child.returncode}\n{out[-3000:]}")
    return Usage(
        usage.ru_utime + usage.ru_stime,
        time.perf_counter() - start,
        usage.ru_maxrss * 1024 / 1e6,
        child.returncode,
        out,
    )


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "*", **(more or {})}


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of this process for one call."""
    gc.collect()
    start = time.process_time()
    call()
    return time.process_time() - start


def children_cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of the processes that a call starts and waits for."""
    before = os.times()
    call()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def alternate(rounds: int, calls: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run all calls in turn, ``rounds`` times; one round before is thrown away."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            value = call()
            if number:
                samples[name].append(value)
    return samples


def spread(samples: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(samples) < 2:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return middle, low, high


def ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Ours to the peer's, round by round."""
    return [a / b for a, b in zip(ours, peer, strict=True)]


def figure(
    group: str,
    name: str,
    samples: Sequence[float],
    unit: str,
    sense: Sense = "info",
    limit: float | None = None,
    **more: str,
) -> Figure:
    middle, low, high = spread(samples)
    return Figure(group, name, middle, unit, sense, limit, low, high, **more)


def missing(group: str, name: str, unit: str, sense: Sense, limit: float | None, why: str) -> Figure:
    return Figure(group, name, None, unit, sense, limit, note=why)


def milli(seconds: Sequence[float]) -> str:
    return f"{spread(seconds)[0] * 1e3:.1f} ms"


def micro(seconds: Sequence[float]) -> str:
    return f"{spread(seconds)[0] * 1e6:.1f} us"


def tool(name: str) -> str | None:
    """A peer: built by tests/peers/install, or in PATH."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprov" / "peers" / "bin" / name
    if cache.exists():
        return str(cache)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and os.access(Path(folder) / name, os.X_OK):
            return str(Path(folder) / name)
    return None


def main(measure: Callable[[argparse.Namespace], list[Figure]]) -> None:
    """Entry point of a case: measures, and writes its figures as one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--fleet", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    figures: list[dict[str, Any]] = [asdict(item) for item in measure(args)]
    sys.stdout.write("FIGURES " + json.dumps(figures, allow_nan=False) + "\n")
