# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Play many histories from seeds, and say how often each act, rule and word occurred.

    python -m tests.machine.run --histories 100000 --seed 1 --jobs 2
    python -m tests.machine.run --play FILE

A failing history is made as short as possible and printed; with ``--save FOLDER`` it is written there as well. With
``--off RULE`` a rule of `judge` gives no reasons: the machine has to notice.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.machine.generate import History, generate
from tests.machine.play import Fault, from_json, play, shrink, to_json
from tests.machine.switches import switched_off

CHUNK = 250


def one(history: History, seen: Counter[Any] | None = None) -> Fault | None:
    """The fault of a history; a crash of `judge` is one."""
    try:
        return play(history, seen)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Fault(f"CRASH: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})", -1, "", ())


def chunk(seeds: range, off: tuple[str, ...], first_only: bool) -> tuple[Counter[Any], list[tuple[int, Fault]]]:
    """Play some seeds."""
    seen: Counter[Any] = Counter()
    faults: list[tuple[int, Fault]] = []
    with ExitStack() as stack:
        for rule in off:
            stack.enter_context(switched_off(rule))
        for seed in seeds:
            history = generate(seed)
            seen["histories"] += 1
            seen["acts"] += len(history.acts)
            seen["devices"] += history.devices
            fault = one(history, seen)
            if fault is not None:
                faults.append((seed, fault))
                if first_only:
                    break
    return seen, faults


def run(
    histories: int, seed: int, jobs: int, off: tuple[str, ...] = (), *, first_only: bool = False
) -> tuple[Counter[Any], list[tuple[int, Fault]]]:
    """Play ``histories`` histories from ``seed`` on."""
    ranges = [range(low, min(low + CHUNK, seed + histories)) for low in range(seed, seed + histories, CHUNK)]
    seen: Counter[Any] = Counter()
    faults: list[tuple[int, Fault]] = []
    if jobs == 1:
        for seeds in ranges:
            counted, found = chunk(seeds, off, first_only)
            seen += counted
            faults += found
            if first_only and faults:
                break
        return seen, faults
    with ProcessPoolExecutor(jobs) as pool:
        for counted, found in pool.map(chunk, ranges, [off] * len(ranges), [first_only] * len(ranges)):
            seen += counted
            faults += found
    return seen, faults


def show(seen: Counter[Any]) -> None:
    """Print the counts."""
    histories = max(seen["histories"], 1)
    print(
        f"{histories} histories, {seen['acts'] / histories:.1f} acts and {seen['devices'] / histories:.1f} devices a history"
    )
    words: Counter[str] = Counter()
    for key, count in seen.items():
        if key[0] == "word":
            words[key[2]] += count
    acts = {key[1]: count for key, count in seen.items() if key[0] == "act"}
    rules = {key[1]: count for key, count in seen.items() if key[0] == "rule"}
    for title, counts in (("acts", acts), ("words", words), ("rules", rules)):
        print(
            f"{title}: "
            + ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
        )


def describe(seed: int | str, history: History, fault: Fault) -> str:
    """A failing history for people."""
    lines = [
        f"{seed}: {fault.kind}",
        f"phase {fault.phase}: {fault.word} {' '.join(fault.rules)}",
        f"{history.question}",
    ]
    return "\n".join(
        [
            *lines,
            f"{history.devices} devices, certificates of {history.days} days",
            *(f"  {act}" for act in history.acts),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--off", action="append", default=[], metavar="RULE")
    parser.add_argument("--save", type=Path, metavar="FOLDER")
    parser.add_argument("--play", type=Path, metavar="FILE")
    parser.add_argument("--kinds", type=int, default=5, help="at most so many kinds of faults are made short")
    options = parser.parse_args()
    if options.play:
        history = from_json(options.play.read_text())
        fault = one(history)
        print(describe(options.play.name, history, fault) if fault else "no fault")
        return int(fault is not None)
    start = time.monotonic()
    seen, faults = run(options.histories, options.seed, options.jobs, tuple(options.off))
    show(seen)
    print(f"{time.monotonic() - start:.0f} s, {len(faults)} faults")
    kinds = Counter(_kind(fault) for _, fault in faults)
    for kind, count in kinds.most_common():
        print(f"  {count} x {kind}")
    with ExitStack() as stack:
        for rule in options.off:
            stack.enter_context(switched_off(rule))
        for kind in list(kinds)[: options.kinds]:
            seed, fault = next(item for item in faults if _kind(item[1]) == kind)
            history = shrink(generate(seed), fault.kind)
            short = one(history) or fault
            print(describe(seed, history, short))
            if options.save:
                options.save.mkdir(parents=True, exist_ok=True)
                about = [short.kind, f"phase {short.phase}: {short.word}", f"seed {seed}"]
                (options.save / f"{seed}.json").write_text(to_json(history, about))
    return int(bool(faults))


def _kind(fault: Fault) -> str:
    words = fault.kind.split()
    return " ".join(word for word in words if not (word[0] == "e" and word[1:].isdigit()) and not word.isdigit())


if __name__ == "__main__":
    sys.exit(main())
