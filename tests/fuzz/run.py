# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Long fuzzing: ``python -m tests.fuzz.run [TARGET ...] [--seconds N]``; ``--list`` names the targets.

With atheris (tests/peers/install atheris, or pip) the run is guided by coverage; without it the mutator of
the short runs goes on until the time is over. What breaks is written to ``corpus/TARGET/``, so that the
tests run it from then on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.mutate import mutate

if TYPE_CHECKING:
    from tests.fuzz.targets import Fuzz

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprov"
HERE = Path(__file__).parent


def find_atheris() -> Any:
    """The module, or None."""
    if str(CACHE / "peers" / "atheris") not in sys.path:
        sys.path.append(str(CACHE / "peers" / "atheris"))
    with contextlib.suppress(ImportError):
        import atheris

        return atheris
    return None


def guided(atheris: Any, fuzz: Fuzz, limit: str, seeds: Path) -> int:
    """libFuzzer through atheris, in a child, since it ends its process; returns the child's exit status.

    ``seeds`` is where it starts from, and where it keeps what leads to new code.
    """
    corpus = HERE / "corpus" / fuzz.name
    for folder in (corpus, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(fuzz.inputs()):
        (seeds / str(number)).write_bytes(seed)
    child = os.fork()
    if not child:
        options = (limit, f"-artifact_prefix={corpus}/", "-print_final_stats=1", "-rss_limit_mb=1024", "-verbosity=0")
        atheris.Setup([sys.argv[0], *options, str(seeds)], fuzz.once)
        atheris.Fuzz()
        raise SystemExit(1)  # not os._exit: libFuzzer writes what it found when the process exits
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        corpus.rmdir()  # nothing was found, and nothing had been
    return status


def plain(fuzz: Fuzz, seconds: int) -> int:
    """Mutations until the time is over; returns how many inputs were run."""
    rng = random.Random()
    inputs, count, end = fuzz.inputs(), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(rng.choice(inputs), rng.choice(inputs), rng)
        try:
            fuzz.once(data)
        except BaseException:
            folder = HERE / "corpus" / fuzz.name
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"found-{abs(hash(data)):016x}"
            path.write_bytes(data)
            print(f"{fuzz.name}: {path}")
            raise
        count += 1
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="default: all, one after the other")
    parser.add_argument("--seconds", type=int, default=60, help="per target")
    parser.add_argument("--runs", type=int, help="inputs per target in place of a time (atheris)")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    atheris = find_atheris()
    # Only what is imported here is watched for coverage.
    with atheris.instrument_imports(include=["edgeprov"]) if atheris else contextlib.nullcontext():
        from tests.fuzz.targets import TARGETS, target
    if arguments.list:
        print("\n".join(item.name for item in TARGETS))
        return 0
    if arguments.runs and not atheris:
        parser.error("--runs needs atheris: tests/peers/install atheris")
    limit = f"-runs={arguments.runs}" if arguments.runs else f"-max_total_time={arguments.seconds}"
    # A long run goes on where the last one ended; a counted one begins anew.
    folder = Path(tempfile.mkdtemp(prefix="edgeprov-fuzz-")) if arguments.runs else CACHE / "fuzz"
    broken = []
    for fuzz in [target(name) for name in arguments.targets] or TARGETS:
        if not atheris:
            print(f"{fuzz.name}: {plain(fuzz, arguments.seconds)} inputs", flush=True)
        elif status := guided(atheris, fuzz, limit, folder / fuzz.name):
            broken.append(f"{fuzz.name} (exit {status})")
        else:
            print(f"{fuzz.name}: nothing found", flush=True)
    if arguments.runs:
        shutil.rmtree(folder)
    if broken:
        print(f"broken: {', '.join(broken)}")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())
