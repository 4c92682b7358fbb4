# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The conclusion over a month of a fleet with everything in memory: without a doubt, and with one in every tenth device."""

from __future__ import annotations

import argparse
import time

from edgeprov.fleet.conclusion.judge import judge
from edgeprov.fleet.conclusion.types import Knowledge, LabelRun
from tests.bench.harness import Figure, figure, main
from tests.vectors.conclusion.history import QUESTION, TRUST, Device, known

GROUP = "conclusion"
DEVICES, DAYS, ROUNDS = 500, 31, 5
START = -15


def fleet() -> tuple[Knowledge, Knowledge]:
    """A fleet of daily kits, and the same where one kit of every tenth device is withheld."""
    devices = []
    for number in range(DEVICES):
        device = Device(f"unit-{number:04d}", enrolled=START - 1)
        for day in range(DAYS):
            device.run(24, START + day)
            labels = (LabelRun(first=24 * day, last=24 * day + 7),) if day % 5 == 0 else ()
            device.seal(START + day + 0.9, labels=labels)
        device.head(18)
        devices.append(device)
    withheld = tuple(device.made[20] for device in devices[::10])
    return known(*devices), known(*devices, without=withheld)


def cost(knowledge: Knowledge) -> list[float]:
    """CPU time a kit, in microseconds, of some rounds."""
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        judge(knowledge, TRUST, QUESTION)
        found.append((time.process_time() - start) / len(knowledge.kits) * 1e6)
    return found


def measure(args: argparse.Namespace) -> list[Figure]:
    del args
    whole, doubted = fleet()
    return [
        figure(
            GROUP, "judge, a kit, reasons included", cost(whole), "us", "<=", 25,
            ours=f"{len(whole.kits)} kits of {DEVICES} devices",
            note="CPU time of the whole function: merging, trust, all rules, labels, report. Reading of facts is not in it.",
        ),
        figure(
            GROUP, "the same, a kit of every tenth device withheld", cost(doubted), "us", "<=", 25,
            ours=f"{len(doubted.kits)} kits",
            note="Missing numbers are searched only where some are missing. Each doubt gets its reasons, with numbers and digests.",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
