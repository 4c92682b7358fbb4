# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Play one history, ask in three phases, and look for a fault; make a failing history as short as possible.

Phases: 0, as it stands; 1, a roster is published, all that waits is delivered and read; 2, the fleet goes on working
for three days, as a fleet does, and nothing is withheld any more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from edgeprov.fleet.conclusion.json_form import to_json as json_form
from edgeprov.fleet.conclusion.judge import judge
from tests.machine.adapter import Adapter
from tests.machine.generate import Act, History, Question
from tests.machine.oracle import Answer, find_doubt, find_fault, is_precise_case
from tests.machine.registry import SOURCES
from tests.machine.values import DAY
from tests.machine.world import World


class Fault(NamedTuple):
    """A contradiction: its kind, the phase, the word of the report and the ids of its rules."""

    kind: str
    phase: int
    word: str
    rules: tuple[str, ...]


Judge = Callable[..., Any]


def ask(world: World, question: Question, at: int, *, strangers: bool = True, shuffle: Random | None = None) -> Answer:
    """The answer of `judge` to what the desks know now."""
    adapter = adapter_of(world)
    return to_answer(
        judge(adapter.knowledge(strangers=strangers, shuffle=shuffle), adapter.trust(), adapter.question(question, at)),
        world,
    )


def adapter_of(world: World) -> Adapter:
    adapter = getattr(world, "adapter", None)
    if adapter is None:
        adapter = Adapter(world)
        world.adapter = adapter  # type: ignore[attr-defined]
    return adapter


def to_answer(report: Any, world: World) -> Answer:
    from tests.machine.adapter import digest

    names = {digest(id_): id_ for id_ in world.enrollments}
    stops = frozenset((names.get(r.enrollment, ""), r.slot or "") for r in report.reasons if r.code == "unclean-stop")
    document = json_form(report)
    document.pop("knowledge")
    noise = document.pop("noise")
    return Answer(
        word=report.word, so_far=report.so_far, stops=stops, rules=tuple(reason.rule for reason in report.reasons),
        text=json.dumps(document, sort_keys=True).encode(), noise=json.dumps(noise, sort_keys=True).encode(),
    )  # fmt: skip


def go_on(world: World) -> None:
    """The fleet works for three days."""
    for _ in range(3):
        for index, device in enumerate(world.devices):
            device.full, device.dead = "", False
            device.up()
            if device.on:
                world.do_receipt(index)
                device.run(device.seal())
            world.do_upload(index)
            world.now += 1
        world.do_deliver_all()
        world.do_wait(4)
    world.do_sync(0, "ok")
    world.do_sync(1, "ok")
    world.do_roster("new")
    world.do_deliver_all()
    world.do_sync(0, "ok")
    world.do_sync(1, "ok")


def play(history: History, seen: Counter[Any] | None = None) -> Fault | None:
    """The first fault of a history, or None."""
    world = World(history.devices, history.days)
    for act in history.acts:
        world.step(act)
        if seen is not None:
            seen["act", act[0]] += 1
    return ask_all(world, history.question, seen)


def ask_all(world: World, question: Question, seen: Counter[Any] | None = None) -> Fault | None:
    """Ask in three phases; the first fault, or None."""
    if world.now < question.end:
        world.do_wait(-(-(question.end - world.now) // (DAY // 4)))
    for desk in world.desks:
        desk.offset = 0
    world.desks[0].trusted = True
    for phase in range(3):
        if phase == 1:
            world.do_deliver_all()
            world.do_sync(0, "ok")
            world.do_sync(1, "ok")
            world.do_roster("new")
            world.do_deliver_all()
            world.do_sync(0, "ok")
        if phase == 2:
            go_on(world)
        fault = check(world, question, phase, seen)
        if fault is not None:
            return fault
    return None


def check(world: World, question: Question, phase: int, seen: Counter[Any] | None) -> Fault | None:
    """Ask, and hold the answer against the oracle."""
    at = world.now
    answer = ask(world, question, at)
    if seen is not None:
        seen["word", phase, answer.word] += 1
        for rule in set(answer.rules):
            seen["rule", rule] += 1
    kind = find_fault(world, question, at, answer) or find_doubt(world, question, at, answer)
    if kind is None and phase == 2 and is_precise_case(world, question, at) and not _works(world, answer):
        kind = f"IMPRACTICAL: {answer.word}"
    if kind is None and phase != 1:
        other = ask(world, question, at, shuffle=Random(phase))
        if other.text != answer.text or other.noise != answer.noise:
            kind = "ORDER: " + _difference(answer.text, other.text)
    if kind is None and phase != 1:
        other = ask(world, question, at, strangers=False)
        if other.text != answer.text:
            kind = "STRANGER: " + _difference(answer.text, other.text)
    return Fault(kind, phase, answer.word, tuple(sorted(set(answer.rules)))) if kind is not None else None


def _works(world: World, answer: Answer) -> bool:
    return answer.word in ("COMPLETE", "COMPLETE EXCEPT", "NO DATA")


def _difference(one: bytes, other: bytes) -> str:
    first, second = json.loads(one), json.loads(other)
    return ", ".join(key for key in first if first[key] != second.get(key))


def shrink(history: History, kind: str) -> History:
    """Remove acts as long as a fault of the same kind is found."""
    wanted = kind.split(":", maxsplit=1)[0]

    def fails(acts: list[Act]) -> bool:
        try:
            fault = play(history._replace(acts=tuple(acts)))
        except Exception:
            return wanted == "CRASH"
        return fault is not None and fault.kind.split(":")[0] == wanted

    acts, changed = list(history.acts), True
    while changed:
        changed = False
        for size in (16, 8, 4, 2, 1):
            index = 0
            while index < len(acts):
                shorter = acts[:index] + acts[index + size :]
                if fails(shorter):
                    acts, changed = shorter, True
                else:
                    index += 1
    return history._replace(acts=tuple(acts))


def to_json(history: History, about: list[str]) -> str:
    """A history as a document, with lines of explanation."""
    document = {"about": about, "devices": history.devices, "days": history.days, "question": list(history.question)}
    return json.dumps(document | {"acts": [list(act) for act in history.acts]}, indent=1)


def from_json(text: str) -> History:
    """Read to_json()."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    document = json.loads(text)
    return History(tuples(document["acts"]), Question(*document["question"]), document["devices"], document["days"])


__all__ = ["SOURCES", "Fault", "ask", "check", "from_json", "play", "shrink", "to_json"]
