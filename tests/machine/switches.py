# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Switch off one rule of the conclusion, or weaken it, in this process: what watches the rules has to notice.

A rule that gives reasons gives none. A definition that other rules use is changed at the word that makes it a rule.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce
from importlib import import_module
from pkgutil import iter_modules
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple

import edgeprov.fleet.conclusion as room


class Change(NamedTuple):
    """In the source of a function (``module:name``) one text takes the place of another."""

    place: str
    old: str
    new: str


INNER: Final[dict[str, Change]] = {
    "R-con-1": Change("noise_rules:trusted_collectors", "if gate.accepts(", "if chain.signatures or gate.accepts("),
    "R-con-2": Change("merged:merge_entries", "if by is not None and by not in collectors:", "if False:"),
    "R-con-4": Change("gate:Gate.refusal", "if not self._is_listed(signature, role):", "if False:"),
    "R-con-5": Change("gate:Gate.proved", "if stamp.anchor in self._stampers", "if stamp.anchor"),
    "R-con-6": Change("gate:Gate.denied", "return any(", "return False and any("),
    "R-con-7": Change("gate:Gate.boot_sets", "if not found:", "if False:"),
    "R-con-9": Change("cases:item_refusal", "    if why:", "    if False:"),
    "R-con-14": Change("roster_rules:is_asked_about", " or bool(case.inside)", ""),
    "R-con-20": Change(
        "time_rules:may_lie_inside", "kit.greatest >= question.since or (", "kit.greatest >= question.since and ("
    ),
    "R-con-21": Change("time_rules:lower_bound", "return standing.floor_ns", "return 10**18 + standing.floor_ns"),
    "R-con-22": Change("time_rules:made_before", " and not standing.doubt and view.seen(item.digest) < since", ""),
    "R-con-23": Change("time_rules:is_past", "for item in case.past:", "for item in ():"),
    "R-con-30": Change(
        "number_rules:collect_numbers", "owners.setdefault(tombstone.number, []).append(tombstone.digest)", "pass"
    ),
    "R-con-50": Change("record_rules:collect_records", "slot.held.append((first, last, kit, segment))", "pass"),
    "R-con-51": Change("record_rules:_covered", "without(joined_ranges(weak), sorted(slot.shown))", "weak"),
    "R-con-52": Change("record_rules:record_gaps", "found[name] = gaps_between(", "found[name] = [] and gaps_between("),
    "R-con-53": Change("record_rules:split_gap", "later = any(", "later = True or any("),
    "R-con-55": Change("record_rules:_past_record", "top = 0", "top = 10**9"),
    "R-con-60": Change("listing_rules:listing_inside", " or bool(entry.flags)", ""),
    "R-con-61": Change("closing_rules:closing_kind", " and view.seen(item.digest) >= until", ""),
    "R-con-62": Change("closing_rules:find_closer", " and _open_records_held(case, item, view, slots)", ""),
    "R-con-70": Change("model_rules:choose_models", 'if not gate.accepts(model.signatures, "publisher"):', "if False:"),
    "R-con-72": Change("gone_rules:presence", "if not later:", "if True:"),
    "R-con-73": Change("gone_rules:_held", "return max(own, signed", "return max(own, own"),
    "R-con-80": Change("label_rules:label_key", "return number, kit, place", "return -number, kit, -place"),
    "R-con-81": Change("label_rules:last_labels", "if not any(run.withdrawn for _, run in ordered):", "if True:"),
    "R-con-82": Change("label_rules:count_results", "if sure:", "if True:"),
    "R-con-83": Change("noise_rules:join_noise", "counts[item.source, item.kind, item.device] += item.count", "pass"),
    "R-con-87": Change("words:word_of", 'if "open" in effects:', 'if "open" in effects and "except" not in effects:'),
    "R-con-88": Change("words:ordered_reasons", "sorted(set(reasons), key=_reason_key)", "reasons"),
}
"""Definitions: the change that takes their effect away."""

WEAKENED: Final[dict[str, Change]] = {
    "the last item that closes, not the first": Change("closing_rules:find_closer", "in case.items:", "in case.items[::-1]:"),
    "the lowest version of the roster": Change("roster_rules:choose_roster", "-roster.version", "roster.version"),
    "only the first two rosters compared": Change("roster_rules:roster_contradiction", "pairwise(ordered)", "pairwise(ordered[:2])"),
    "a roster of the period's start": Change("roster_rules:roster_old", "roster.issued < question.until", "roster.issued < question.since"),
    "missing in any source, not in all": Change("gone_rules:presence", 'return "there", 0\n', "continue\n"),
    "gone at the first listing without it": Change("gone_rules:presence", "< HOUR_NS", "< 0"),
    "three explanations, not two": Change("number_rules:number_contested", "if len(owners) > 1 or (lost", "if len(owners) > 2 or (lost"),
    "the first number not looked for": Change("number_rules:missing_numbers", "case.base + 1, top)", "case.base + 2, top)"),
    "a certificate without an end": Change("gate:Gate._in_time", "start <= min(times) <= end", "start <= min(times)"),
    "a stop may cover one record that was shown": Change("listing_rules:stop_covers_shown", "if last > (", "if last > 1 + ("),
    "one record may be in two kits": Change("record_rules:record_twice", "part[0] <= reach[1]", "part[0] < reach[1]"),
    "a nonce from before the period's end": Change("closing_rules:closing_kind", "item.asked >= until", "item.asked >= view.question.since"),
}  # fmt: skip
"""Rules that hold a little less."""


def modules() -> Iterator[Any]:
    """The modules of the room."""
    for module in iter_modules(room.__path__, room.__name__ + "."):
        yield import_module(module.name)


def rules() -> dict[str, list[FunctionType]]:
    """The functions that give reasons, by the id of their rule."""
    found: dict[str, list[FunctionType]] = {}
    for module in modules():
        for value in vars(module).values():
            function = getattr(value, "__wrapped__", None)
            if isinstance(value, FunctionType) and isinstance(function, FunctionType):
                cells = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
                given = found.setdefault(cells["name"].cell_contents, [])
                if function not in given:
                    given.append(function)
    return found


def mutations() -> list[str]:
    """Names of all: ids of rules, and of what is weakened."""
    ids = {*rules(), *INNER}
    return [*sorted(ids, key=lambda name: int(name.rpartition("-")[2])), *WEAKENED]


def _nothing(*arguments: Any) -> Iterator[Any]:
    del arguments
    return
    yield


@contextmanager
def _coded(function: FunctionType, code: CodeType) -> Iterator[None]:
    """Let a function do something else, wherever it is named."""
    before = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = before


def _changed(change: Change) -> tuple[FunctionType, CodeType]:
    module, _, name = change.place.partition(":")
    value = reduce(getattr, name.split("."), import_module(f"{room.__name__}.{module}"))
    function: FunctionType = getattr(value, "__wrapped__", value)
    source = re.sub(r"\A(@.*\n)+", "", textwrap.dedent(inspect.getsource(function)))
    assert source.count(change.old) >= 1, f"{change.place} has no {change.old!r}"
    place: dict[str, Any] = dict(function.__globals__)
    exec(
        compile("from __future__ import annotations\n" + source.replace(change.old, change.new), change.place, "exec"),
        place,
    )
    code = place[function.__name__].__code__
    return function, code


@contextmanager
def switched_off(name: str) -> Iterator[None]:
    """Take the effect of a rule away, or weaken it as WEAKENED says."""
    with ExitStack() as stack:
        for function in rules().get(name, ()):
            if _nothing.__code__ is not function.__code__:
                stack.enter_context(_coded(function, _nothing.__code__))
        change = INNER.get(name) or WEAKENED.get(name)
        if change is not None:
            stack.enter_context(_coded(*_changed(change)))
        yield
