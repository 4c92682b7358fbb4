# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold of a device's disk, whatever it was doing when the power went.

A run passes through stages, and each command's return is acknowledged in the log of the disk's writes. The
state at any moment is one of before and after the command that was running; what had returned is there.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import blocklog
from harness.bench import ROOT


class Stage(enum.IntEnum):
    """What had returned; its value stands in the log."""

    RECORDED = 0
    SEALED = 1
    UPLOADED = 2
    INSTALLED = 3
    SWITCHED = 4


@dataclass
class Story:
    """What was done to a device.

    Attributes:
        last: The last record that was ever made.
        before, after: Model that was active at first (in the image), and the one that was switched to.
        confirmed: Kits, and how long the log was when the registry had confirmed each with its signatures.
        ranges: First and last record of each of these kits.
    """

    last: int
    before: str
    after: str
    confirmed: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Verdict:
    """What one moment showed."""

    problems: list[str] = field(default_factory=list)
    lost: int = 0
    false_claims: int = 0


def judge_moment(answer: dict[str, Any], story: Story, *, acknowledged: set[int], done: set[Stage], at: int) -> Verdict:
    """Hold one state (an answer of judge.py) against what had been acknowledged.

    Args:
        answer: Of judge.py.
        story: What was done.
        acknowledged: Records that the application had been told of.
        done: What had returned.
        at: Length of the log; with it a kit that is gone is held against the registry's confirmation.
    """
    verdict = Verdict()
    expect = _Expect(verdict.problems)
    if "error" in answer:
        verdict.problems.append(f"{answer['error']}: {answer['message']}")
        return verdict
    numbers, kits = answer["numbers"], answer["kits"]
    expect(numbers == sorted(set(numbers)), "numbers out of order or used twice")
    expect(not answer["quarantined"], f"in quarantine: {answer['quarantined']}")

    waiting = {kit["digest"] for kit in kits}
    sent = {digest for digest, when in story.confirmed.items() if when <= at}
    there = set(numbers)
    for first, last in [(kit["first"], kit["last"]) for kit in kits] + [story.ranges[digest] for digest in sent]:
        there.update(range(first, last + 1) if last else ())
    lost = acknowledged - there
    verdict.lost = len(lost)
    expect(not lost, f"{len(lost)} acknowledged records are gone, the first is {min(lost, default=0)}")
    invented = {n for n in there if n > story.last}
    verdict.false_claims = len(invented)
    expect(not invented, "records that never were")
    for kit in kits:
        expect(kit["signatures"] >= 1, f"{kit['digest']} waits without a signature")
        expect(kit["records"] == (kit["last"] - kit["first"] + 1 if kit["last"] else 0), f"{kit['digest']} has a hole")

    if Stage.SEALED in done:
        expect(not numbers, "sealed, and still in the spool")
        for digest in set(story.confirmed) - waiting - sent:
            verdict.problems.append(f"{digest} is gone, and the registry had not confirmed it")
    if Stage.UPLOADED in done:
        expect(not waiting & set(story.confirmed), "uploaded, and still in the outbox")
    listed = story.after in answer["listed"]
    active = answer["active"] or story.before
    expect(active in (story.before, story.after), f"neither model is active, but {active}")
    expect(active != story.after or listed, "the active model is not in the layout")
    if Stage.INSTALLED in done:
        expect(listed, "installed, and not in the layout")
    else:
        expect(active == story.before, "switched before it was installed")
    if Stage.SWITCHED in done:
        expect(active == story.after, "switched, and the old model is active")
    return verdict


class _Expect:
    def __init__(self, problems: list[str]) -> None:
        self._problems = problems

    def __call__(self, holds: bool, problem: str) -> None:
        if not holds:
            self._problems.append(problem)


class Judge:
    """A running judge.py."""

    def __init__(self, process: subprocess.Popen[str], work: Path) -> None:
        self._process = process
        self._work = work

    def ask(self, image: Path) -> dict[str, Any]:
        """What edgeprov makes of the data disk in a raw image, which is repaired in place."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder = self._work / "state"
        shutil.rmtree(folder, ignore_errors=True)
        blocklog.unpack(image, folder)
        for path in (folder, *folder.rglob("*")):  # its files belong to the device's user, who is another one here
            os.chown(path, os.getuid(), os.getgid(), follow_symlinks=False)
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextlib.contextmanager
def judging(work: Path) -> Iterator[Judge]:
    """A judge.py in the environment of the device's side."""
    command = [str(ROOT / ".venv/device/bin/python"), str(ROOT / "hil/harness/judge.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Judge(process, work)
        assert process.stdin is not None
        process.stdin.close()


def confirmations(notes: Path, signatures: dict[str, list[str]], tags: dict[str, str]) -> dict[str, int]:
    """Per kit, how long the log was when the registry had taken its manifest and all its signatures.

    Args:
        notes: Written by relay.py.
        signatures: Digests of the signatures of each kit, as the registry tells them; each was sent under a tag.
        tags: The tag of each kit.
    """
    when: dict[str, int] = {}
    for line in notes.read_text().splitlines():
        note = json.loads(line)
        when.setdefault(note["reference"], note["at"])
    names = {kit: [tags[kit], *(f"{tags[kit]}.s{n + 1}" for n in range(len(of)))] for kit, of in signatures.items()}
    return {kit: max(when[name] for name in wanted) for kit, wanted in names.items()}
