# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Histories from a seed: acts of an honest fleet, or of one with damaged disks and hostile carriers."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from tests.machine.acts import DEVICES, HONEST, HOSTILE, Act, arguments
from tests.machine.values import DAY


class Question(NamedTuple):
    """A period in minutes, and a model or a device where only that is asked for."""

    start: int
    end: int
    model: str | None = None
    device: str | None = None


class History(NamedTuple):
    """Acts, and the question that is asked after them; certificates of devices last ``days``."""

    acts: tuple[Act, ...]
    question: Question
    devices: int = DEVICES
    days: int = 400


def generate(seed: int) -> History:
    """The history of a seed: even ones are honest."""
    random = Random(seed)
    honest = seed % 2 == 0
    devices = random.choice((2, 3, 3, 4))
    weights = HONEST if honest else HOSTILE
    names, often = list(weights), list(weights.values())
    acts: list[Act] = []
    for index in range(devices):
        if index == 0 or random.random() < 0.8:
            acts += [("enroll", index), ("up", index, None)]
    for _ in range(random.randrange(36, 60)):
        name = random.choices(names, often)[0]
        act = (name, *(random.choice(choices) for choices in arguments(name, honest=honest)))
        acts += follow(act, random)
    start = random.randrange(12) * DAY // 4
    end = start + (4 + random.randrange(20)) * DAY // 4
    asked = random.random()
    model = random.choice("AB") if asked < 0.15 else None
    device = f"d{random.randrange(devices)}" if asked > 0.85 else None
    return History(tuple(acts), Question(start, end, model, device), devices, random.choice((400, 400, 400, 6)))


def follow(act: Act, random: Random) -> Iterator[Act]:
    """An act, and mostly what people do next: start the device again, enroll it."""
    yield act
    name, index = act[0], act[1] if len(act) > 1 else 0
    if name in ("wipe", "board", "golden") and random.random() < 0.7:
        if name == "golden":
            yield ("wipe", index)
        yield ("enroll", index)
        name = "enroll"
    if name in ("enroll", "delete_segment", "truncate", "put_back") or (name == "down" and random.random() < 0.8):
        yield ("up", index, None)


def period(values: tuple[int, int]) -> Any:
    """A period of whole quarters of a day: its start and its length."""
    return values[0] * DAY // 4, (values[0] + values[1]) * DAY // 4
