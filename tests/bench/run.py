# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`tests/run bench`: every budget of the design, measured against its limit or a peer in the same run.

    tests/run bench [CASE ...] [--full] [--json FILE] [--plot FILE] [--markdown] [--from FILE ...]

Each case runs in a process of its own, in the environment of the device or of the fleet; verity and tricks only when
they are named. `--full` takes the large sizes (1 GB, 90,000 kits; the latter from `--fleet`, if they are there already). `--markdown` writes the tables of README.md and
tests/bench/README.md, from a run of all cases or `--from` the JSON of earlier ones (of a figure
that is in several files, the last counts). Exit code 1 when a figure falls short.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.harness import DEVICE_PYTHON, FLEET_PYTHON, ROOT, Figure, environment
from tests.bench.report import as_json, as_markdown, as_svg, as_table, parse_json, write_between

CASES = {
    "boot": DEVICE_PYTHON,
    "load": DEVICE_PYTHON,
    "record": DEVICE_PYTHON,
    "logs": DEVICE_PYTHON,
    "wear": DEVICE_PYTHON,
    "signatures": DEVICE_PYTHON,
    "seal": DEVICE_PYTHON,
    "memory": DEVICE_PYTHON,
    "service": DEVICE_PYTHON,
    "compact": FLEET_PYTHON,
    "transfer": DEVICE_PYTHON,
    "download": DEVICE_PYTHON,
    "install": DEVICE_PYTHON,
    "imports": DEVICE_PYTHON,
    "size": DEVICE_PYTHON,
    "fleet": FLEET_PYTHON,
    "registry": FLEET_PYTHON,
    "enroll": FLEET_PYTHON,
    "judge": FLEET_PYTHON,
    "verity": DEVICE_PYTHON,
    "tricks": DEVICE_PYTHON,
}
BY_NAME = ("verity", "tricks")  # not in a run of all cases: one may build an image, the other counts instructions

MODULES = "tests.bench.cases"
BROKEN = "the case itself"
DOCUMENTS = {ROOT / "README.md": "headlines", ROOT / "tests" / "bench" / "README.md": "all"}


def run_case(name: str, work: Path, *, full: bool, fleet: Path | None = None) -> list[Figure]:
    argv = [
        str(CASES[name]),
        "-m",
        f"{MODULES}.{name}",
        "--work",
        str(work / name),
        *(["--full"] if full else []),
        *(["--fleet", str(fleet.resolve())] if fleet else []),
    ]
    done = subprocess.run(argv, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if done.returncode or not lines:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        said = (done.stderr.strip().splitlines() or [""])[-1]
        return [Figure(name, BROKEN, None, "", note=f"it ended with exit code {done.returncode}: {said}")]
    return [Figure(**item) for item in json.loads(lines[-1].removeprefix("FIGURES "))]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tests/run bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--full", action="store_true")
    parser.add_argument(
        "--fleet", type=Path, metavar="DIR", help="what fleetgen made: the case fleet measures 1,000 kits and this"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--work", type=Path, help="scratch folder (default: a temporary one)")
    parser.add_argument("--markdown", action="store_true", help="write the tables of the documents")
    parser.add_argument(
        "--from", dest="earlier", type=Path, action="append", metavar="FILE", help="JSON of an earlier run"
    )
    args = parser.parse_args(argv)
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; choose from {', '.join(CASES)}")
    if args.earlier and (args.cases or args.full or args.fleet):
        parser.error("--from takes figures of earlier runs: name no case, no --full and no --fleet")
    if args.fleet and not (args.fleet / "truth.json").is_file():
        parser.error(
            f"{args.fleet}: no truth.json, so `python -m tests.bench.fleetgen {args.fleet} --full` did not end"
        )
    if args.markdown and args.cases:
        parser.error("--markdown needs a run of all cases, or --from their JSON")
    figures, conditions = earlier(args.earlier) if args.earlier else run_cases(args)
    print(as_table(figures))
    if args.json:
        args.json.write_text(as_json(figures, conditions))
    if args.plot:
        args.plot.write_text(as_svg(figures))
    if any(item.name == BROKEN for item in figures):
        if args.markdown:
            print("a case is broken: the documents stay as they are", file=sys.stderr)
        return 1
    if args.markdown:
        for path, kind in DOCUMENTS.items():
            path.write_text(write_between(path.read_text(), kind, as_markdown(figures, conditions, kind)))
    return 1 if any(item.verdict == "SHORT" for item in figures) else 0


def run_cases(args: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a device has byte code: compiling is nobody's figure
    work = args.work or Path(tempfile.mkdtemp(prefix="edgeprov-bench-"))
    figures: list[Figure] = []
    loads = []
    try:
        for name in args.cases or [name for name in CASES if name not in BY_NAME]:
            start = time.monotonic()
            print(f"{name} ...", end="", flush=True, file=sys.stderr)
            figures += run_case(name, work, full=args.full, fleet=args.fleet)
            loads.append(os.getloadavg()[0])
            print(f" {time.monotonic() - start:.0f} s", file=sys.stderr)
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    return figures, {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "load": sum(loads) / len(loads),
        "python": sys.version.split()[0],
        "full": args.full,
    }


def earlier(paths: Sequence[Path]) -> tuple[list[Figure], dict[str, Any]]:
    """Figures of earlier runs, group by group, each as it was measured last."""
    found: dict[tuple[str, str], Figure] = {}
    conditions: dict[str, Any] = {}
    for path in paths:
        figures, conditions = parse_json(path.read_text())
        for item in figures:
            if item.value is not None or (item.group, item.name) not in found:
                found[item.group, item.name] = item
    groups = list(dict.fromkeys(item.group for item in found.values()))
    return sorted(found.values(), key=lambda item: groups.index(item.group)), conditions


def machine() -> str:
    """The processor, in words."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{os.cpu_count()} cores of {line.split(':')[1].strip()}"
    return f"{os.cpu_count()} cores of {platform.machine()}"


if __name__ == "__main__":
    raise SystemExit(main())
