# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Command line of the generator; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.bench.fleetgen.fleet import HEADS, make_fleet
from tests.bench.fleetgen.plan import Settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleetgen", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--days", type=int, default=21)
    parser.add_argument("--records", type=int, default=40, help="mean number of results per kit")
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--full", action="store_true", help="500 devices, 180 days: about 90,000 kits")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--to", default="", metavar="REGISTRY", help="push there instead of writing folders")
    args = parser.parse_args()
    settings = Settings(
        devices=500 if args.full else args.devices,
        days=180 if args.full else args.days,
        records=args.records,
        models=args.models,
        seed=args.seed,
        faults=not args.no_faults,
    )
    start = time.monotonic()

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty() or done == total:
            print(f"\r{done}/{total} devices, {time.monotonic() - start:.0f} s", end="", file=sys.stderr)

    fleet = make_fleet(args.folder, settings, workers=args.workers, to=args.to, progress=progress)
    print(file=sys.stderr)
    for registry in fleet.registries:
        print(registry)
    print(f"trust folder: {fleet.trust}; heads of the devices: {fleet.folder / HEADS}, nonce {fleet.truth['nonce']}")
    good = sum(device["good"] for device in fleet.truth["devices"])
    refused = sum(len(device["refused"]) for device in fleet.truth["devices"])
    print(f"{good} kits that verify, {refused} that must be refused; truth: {fleet.folder / 'truth.json'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
