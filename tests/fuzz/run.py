# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Long fuzzing: ``python -m tests.fuzz.run TARGET [--seconds N]``; ``--list`` names the targets.

With atheris (pip install atheris) the run is guided by coverage; without it the mutator of the short
runs goes on until the time is over. What breaks is written to ``corpus/TARGET/``, so that the tests
run it from then on.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import CORPUS, TARGETS, Fuzz, target


def guided(fuzz: Fuzz, seconds: int) -> None:
    """libFuzzer through atheris; it ends the process itself."""
    import atheris

    folder = CORPUS / fuzz.name
    folder.mkdir(parents=True, exist_ok=True)
    seeds = CORPUS.parent / "seeds" / fuzz.name  # not tracked
    seeds.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(fuzz.inputs()):
        (seeds / str(number)).write_bytes(seed)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", str(seeds)], fuzz.once)
    atheris.Fuzz()


def plain(fuzz: Fuzz, seconds: int) -> int:
    """Mutations until the time is over; returns how many inputs were run."""
    rng = random.Random()
    inputs, count, end = fuzz.inputs(), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(rng.choice(inputs), rng.choice(inputs), rng)
        try:
            fuzz.once(data)
        except BaseException:
            folder = CORPUS / fuzz.name
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"found-{abs(hash(data)):016x}"
            path.write_bytes(data)
            print(f"{fuzz.name}: {path}")
            raise
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", help="default: all, one after the other")
    parser.add_argument("--seconds", type=int, default=60, help="per target")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(item.name for item in TARGETS))
        return
    if arguments.target and importlib.util.find_spec("atheris"):
        guided(target(arguments.target), arguments.seconds)
    for fuzz in [target(arguments.target)] if arguments.target else TARGETS:
        print(f"{fuzz.name}: {plain(fuzz, arguments.seconds)} inputs", flush=True)


if __name__ == "__main__":
    main()
