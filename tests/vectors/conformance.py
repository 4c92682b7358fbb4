# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the vectors against any checker that follows a small command protocol.

    python -m tests.vectors.conformance [--only PREFIX] -- COMMAND...

COMMAND gets three more arguments for each case: the proof file, the trust folder, and the time of judgement
(RFC 3339, UTC). It exits with 0 when the proof is verified and with another code when not, and prints one JSON
object on its last line, with ``verified`` and, when a step refuses, ``step``. Example, our second checker:

    python -m tests.vectors.conformance -- python -m tests.vectors.second {file} --trust {trust} --at {at}

Where COMMAND has {file}, {trust} or {at}, these are replaced instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Vector:
    """One case: what to give, and what must come out."""

    id: str
    comment: str
    file: Path
    trust: Path
    at: str
    expected: dict[str, Any]


def load(folder: str = "cases", kind: str = "proof") -> list[Vector]:
    document = json.loads((HERE / f"{folder}.json").read_bytes())
    assert document["schema"] == f"edgeprov-{kind}-vectors-1"
    vectors = [
        Vector(
            item["id"],
            item["comment"],
            HERE / folder / f"{item['id']}.{kind}.json",
            HERE / "trust" / item["trust"],
            item["at"],
            item["expected"],
        )
        for item in document["tests"]
    ]
    assert len(vectors) == document["numberOfTests"]
    return vectors


def differences(command: Sequence[str], vectors: Sequence[Vector]) -> Iterator[str]:
    """One line per case in which the checker says something else."""
    for vector in vectors:
        values = {"file": str(vector.file), "trust": str(vector.trust), "at": vector.at}
        call = [part.format(**values) for part in command]
        if call == list(command):
            call += values.values()
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
        try:
            answer = json.loads(done.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            yield f"{vector.id}: no JSON on the last line; exit {done.returncode}: {done.stderr[-200:]}"
            continue
        if (done.returncode == 0) is not vector.expected["verified"]:
            yield f"{vector.id}: exit {done.returncode}"
        step = answer.get(
            "step", next((item["step"] for item in answer.get("steps", ()) if item["verdict"] == "failed"), None)
        )
        if answer.get("verified", False) is not vector.expected["verified"] or step != vector.expected.get("step"):
            yield f"{vector.id}: says {answer.get('verified', False)}, step {step}; expected {vector.expected}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="PREFIX", help="cases whose id begins so")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args(argv)
    vectors = [vector for vector in load() if vector.id.startswith(args.only)]
    found = list(differences(args.command, vectors))
    print("\n".join(found))
    print(f"{len(vectors) - len(found)} of {len(vectors)} agree")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
