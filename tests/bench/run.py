# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`tests/run bench`: every budget of the design, measured against its limit or a peer in the same run.

    tests/run bench [CASE ...] [--full] [--json FILE] [--plot FILE]

Each case runs in a process of its own, in the environment of the device or of the fleet. `--full`
takes the large sizes (1 GB, 90,000 kits). Exit code 1 when a figure falls short.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.harness import DEVICE_PYTHON, FLEET_PYTHON, ROOT, Figure, environment
from tests.bench.report import as_json, as_svg, as_table

CASES = {
    "boot": DEVICE_PYTHON,
    "record": DEVICE_PYTHON,
    "logs": DEVICE_PYTHON,
    "wear": DEVICE_PYTHON,
    "signatures": DEVICE_PYTHON,
    "seal": DEVICE_PYTHON,
    "memory": DEVICE_PYTHON,
    "compact": FLEET_PYTHON,
    "transfer": DEVICE_PYTHON,
    "download": DEVICE_PYTHON,
    "install": DEVICE_PYTHON,
    "imports": DEVICE_PYTHON,
    "size": DEVICE_PYTHON,
    "fleet": FLEET_PYTHON,
}


def run_case(name: str, work: Path, *, full: bool) -> list[Figure]:
    argv = [
        str(CASES[name]),
        "-m",
        f"tests.bench.cases.{name}",
        "--work",
        str(work / name),
        *(["--full"] if full else []),
    ]
    done = subprocess.run(argv, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if done.returncode or not lines:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        return [Figure(name, "the case itself", None, "", note=f"ended with exit code {done.returncode}")]
    return [Figure(**item) for item in json.loads(lines[-1].removeprefix("FIGURES "))]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests/run bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--work", type=Path, help="scratch folder (default: a temporary one)")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    work = args.work or Path(tempfile.mkdtemp(prefix="edgeprov-bench-"))
    figures: list[Figure] = []
    broken = False
    try:
        for name in args.cases or CASES:
            start = time.monotonic()
            print(f"{name} ...", end="", flush=True, file=sys.stderr)
            found = run_case(name, work, full=args.full)
            broken |= any(item.name == "the case itself" for item in found)
            figures += found
            print(f" {time.monotonic() - start:.0f} s", file=sys.stderr)
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(as_table(figures))
    conditions = {
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "full": args.full,
    }
    if args.json:
        args.json.write_text(as_json(figures, conditions))
    if args.plot:
        args.plot.write_text(as_svg(figures))
    return 1 if broken or any(item.verdict == "SHORT" for item in figures) else 0


if __name__ == "__main__":
    raise SystemExit(main())
