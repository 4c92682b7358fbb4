# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What happens to which device on which day. Pure: a plan follows from its arguments and nothing else."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

DAY_S = 86_400
NEVER = 10**6

# Faults by kind: share of device-days. Rare kinds are also planted once each in a small fleet, so
# that every run of the tests meets all of them.
FAULTS: Mapping[str, float] = {
    "lost": 0.004,  # sealed, never arrived: a gap
    "crash": 0.003,  # tombstone for a number without a kit
    "discarded": 0.001,  # tombstone that names records which the full spool gave up
    "fork": 0.0004,  # a cloned TPM state seals a second kit under the same number
    "rogue-key": 0.0004,  # signed by a made-up key with a made-up certificate
    "foreign-key": 0.0004,  # signed by another enrolled device
    "replayed-quote": 0.0004,  # evidence of an older kit
    "unmeasured": 0.0004,  # names a model that the TPM never measured
    "altered": 0.0004,  # annotations changed after signing
    "unsigned": 0.0004,
    "rotten": 0.0004,  # a layer's bytes changed in the registry
    "lying-list": 0.0004,  # the list entry contradicts the manifest that it names
}
UNPUSHABLE = ("rotten", "lying-list")
"""No honest registry takes these: they are planted in folders only."""

REFUSED = ("rogue-key", "foreign-key", "replayed-quote", "unmeasured", "altered", "unsigned", "rotten")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a fleet follows from. ``records`` is the mean number of results per kit."""

    devices: int = 8
    days: int = 21
    seed: int = 1
    records: int = 40
    models: int = 3
    faults: bool = True
    start: str = "2026-01-01"
    start_ns: int = 1_767_225_600_000_000_000

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """One device's fate. Days count from the start of the fleet.

    Attributes:
        updates: Day on which each model version becomes active, ascending.
        offline: Days without a link, first and last; its kits arrive the day after.
        dead_clock: Days on which the clock starts at 1970 at each boot.
        fast_clock: Days on which the clock runs three years ahead.
        enrolled: False for a device that the vendor never recorded.
        faults: Fault by day.
    """

    number: int
    serial: str
    updates: tuple[int, ...]
    offline: tuple[tuple[int, int], ...]
    dead_clock: tuple[int, int]
    fast_clock: tuple[int, int]
    labels_after: int
    enrolled: bool
    faults: Mapping[int, str]

    def arrival(self, day: int) -> int:
        """The day on which what was sealed on ``day`` reaches a registry."""
        for first, last in self.offline:
            if first <= day <= last:
                return last + 1
        return day

    def model_on(self, day: int) -> int:
        """Index of the model that is active on a day."""
        return sum(day >= update for update in self.updates) - 1


def plan_fleet(settings: Settings, *, without: tuple[str, ...] = ()) -> list[DevicePlan]:
    """The fates of all devices, the unknown one last; ``without`` are kinds of faults to leave out."""
    rng = random.Random(f"fleet {settings.seed}")
    plans = [_plan_device(settings, number, rng) for number in range(settings.devices)]
    if settings.faults:
        _plant_each_kind(settings, plans, rng)
        plans = _plant_fates(settings, plans)
        plans.append(_plan_device(settings, settings.devices, rng, enrolled=False))
    for plan in plans:
        for day in [day for day, kind in plan.faults.items() if kind in without]:
            del plan.faults[day]  # type: ignore[attr-defined]
    return plans


def _plan_device(settings: Settings, number: int, rng: random.Random, *, enrolled: bool = True) -> DevicePlan:
    days = settings.days
    # A roll-out has three waves: 5 % canaries, 30 % early, the rest; stragglers follow a week later.
    place = rng.random()
    delay = 0 if place < 0.05 else 4 if place < 0.35 else 9 if place < 0.95 else 20
    scale = min(1.0, days / 60)
    updates = [0]
    for version in range(1, settings.models):
        updates.append(max(updates[-1] + 1, round(version * days / settings.models + delay * scale)))
    offline = []
    if rng.random() < 0.25:
        first = rng.randrange(days)
        offline.append((first, min(days - 1, first + rng.randint(3, max(4, days // 6)))))
    faults = {}
    if settings.faults and enrolled:
        for day in range(1, days):
            pick = rng.random()
            for kind, share in FAULTS.items():
                pick -= share
                if pick < 0:
                    faults[day] = kind
                    break
    return DevicePlan(
        number=number,
        serial=f"unit{number:04d}" if enrolled else "unknown1",
        updates=tuple(updates),
        offline=tuple(offline),
        dead_clock=_span(rng, days, 0.04),
        fast_clock=_span(rng, days, 0.01),
        labels_after=rng.randint(5, 30) if days > 40 else rng.randint(2, max(3, days // 4)),
        enrolled=enrolled,
        faults=faults,
    )


def _plant_each_kind(settings: Settings, plans: list[DevicePlan], rng: random.Random) -> None:
    present = {kind for plan in plans for kind in plan.faults.values()}
    for kind in FAULTS:
        if kind in present:
            continue
        free = [(i, day) for i, plan in enumerate(plans) for day in range(2, settings.days) if day not in plan.faults]
        if not free:
            return
        device, day = rng.choice(free)
        plans[device].faults[day] = kind  # type: ignore[index]


def _plant_fates(settings: Settings, plans: list[DevicePlan]) -> list[DevicePlan]:
    """Weeks without a link, a dead and a fast clock, and a newest kit that is lost: once each at least."""
    days, last = settings.days, settings.days - 1
    third = max(1, days // 3)
    if days > 3 and not any(to - first >= min(13, third) for plan in plans for first, to in plan.offline):
        plans[0] = replace(plans[0], offline=((third, min(last, third + max(13, third))),))
    calm = [
        (number, day)
        for number, plan in enumerate(plans)
        for day in range(1, last)
        if plan.dead_clock[0] == plan.fast_clock[0] == NEVER and not {day, day + 1} & plan.faults.keys()
    ]
    if all(plan.dead_clock[0] == NEVER for plan in plans) and calm:
        number, day = calm[-1]
        plans[number] = replace(plans[number], dead_clock=(day, day + 1))
    if all(plan.fast_clock[0] == NEVER for plan in plans) and calm:
        number, day = calm[0]
        plans[number] = replace(plans[number], fast_clock=(day, day + 1))
    if not any(plan.faults.get(last) == "lost" for plan in plans):
        free = next((plan for plan in plans if last not in plan.faults), None)
        if free is not None:
            free.faults[last] = "lost"  # type: ignore[index]
    return plans


def _span(rng: random.Random, days: int, share: float) -> tuple[int, int]:
    if rng.random() >= share:
        return (NEVER, NEVER)
    first = rng.randrange(days)
    return (first, first + rng.randint(2, 15))
