# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""R-con-2 and R-con-3: one artifact out of all that is told about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tests.secondjudge.numbers import Fact, canonical, greatest, least
from tests.secondjudge.policy import Policy

STATES = ("verified", "refused", "not-judged")


class Merged:
    """The artifact of one digest.

    Attributes:
        fact: The entry that is used.
        contradicted: Verified entries say different things.
        bad_copy: One entry is verified and another is refused.
    """

    def __init__(self, entries: list[Fact]) -> None:
        states = {entry["checks"]["state"] for entry in entries}
        self.bad_copy = {"verified", "refused"} <= states
        self.contradicted = False
        best = min(entries, key=rank)
        if best["checks"]["state"] == "verified":
            verified = [entry for entry in entries if entry["checks"]["state"] == "verified"]
            whole = {canonical(without_checks(exchanged(entry, verified))) for entry in verified}
            self.contradicted = len(whole) > 1
            best = exchanged(best, verified)
        self.fact = best


def merge(entries: Iterable[Fact], policy: Policy) -> list[Merged]:
    """Every artifact of one kind that somebody tells who is listened to, by digest."""
    groups: dict[str, list[Fact]] = defaultdict(list)
    for entry in entries:
        if policy.tells(entry["checks"]["by"]):
            groups[entry["digest"]].append(entry)
    return [Merged(group) for _, group in sorted(groups.items())]


def rank(entry: Fact) -> tuple[int, bool, bool, str]:
    checks = entry["checks"]
    return STATES.index(checks["state"]), checks["by"] is not None, not checks["signed"], canonical(entry)


def without_checks(entry: Fact) -> Fact:
    return {name: value for name, value in entry.items() if name != "checks"}


def exchanged(entry: Fact, verified: list[Fact]) -> Fact:
    """An entry with what the other verified ones give it."""
    result = dict(entry)
    signatures: dict[str, Fact] = {}
    for signature in (signature for one in verified for signature in one["signatures"]):
        bare = {**signature, "stamps": []}
        known = signatures.setdefault(canonical(bare), bare)
        known["stamps"] = [*known["stamps"], *(stamp for stamp in signature["stamps"] if stamp not in known["stamps"])]
        known["stamps"].sort(key=canonical)
    result["signatures"] = [signatures[key] for key in sorted(signatures)]
    if "asked" in entry:
        result["asked"] = least(one["asked"] for one in verified)
    if "leaves" in entry:
        result["leaves"] = [list(leaf) for leaf in sorted({tuple(leaf) for one in verified for leaf in one["leaves"]})]
        result["doubtful"] = greatest(one["doubtful"] for one in verified)
        result["unavailable"] = sorted(set.intersection(*(set(one["unavailable"]) for one in verified)))
        read = [one for one in verified if one["times_read"]]
        if not entry["times_read"] and read:
            result.update({name: min(read, key=canonical)[name] for name in ("least", "greatest", "segments")})
            result["times_read"] = True
    return result
