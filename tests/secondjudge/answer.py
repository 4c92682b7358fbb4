# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Sections 2, 3, 9 and 10 of CONCLUSION.md: from knowledge, trust and question to the word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.secondjudge.enrollment import Enrollment
from tests.secondjudge.merging import Merged, merge
from tests.secondjudge.numbers import Fact, canonical, least, reason
from tests.secondjudge.policy import Policy

EFFECTS = ("gap", "not-judged", "open", "except", "note")
EXIT_CODES = {
    "UNPROVED": 74, "WITH GAPS": 73, "NOT JUDGED": 72, "COMPLETE UP TO THE NEWEST KIT": 71, "COMPLETE EXCEPT": 70,
    "COMPLETE": 0, "NO DATA": 75,
}  # fmt: skip


def conclude(knowledge: Fact, trust: Fact, question: Fact) -> Fact:
    """The report, as far as the page fixes it.

    Args:
        knowledge, trust, question: The JSON form of section 1.

    Raises:
        ValueError: The period is empty.
    """
    if question["since"] >= question["until"]:
        raise ValueError("since is not before until")
    return Fleet(knowledge, trust, question).report()


class Fleet:
    """All enrollments of one question."""

    def __init__(self, knowledge: Fact, trust: Fact, question: Fact) -> None:
        self.question = question
        self.at = question["at"]
        self.policy = Policy(trust, knowledge, self.at)
        self.knowledge = knowledge
        self.reasons: list[Fact] = []
        self.cases: dict[str, Enrollment] = {}
        self.good_records: dict[str, Fact] = {}
        self.sort_records()
        self.sort_items()
        self.find_roster()
        for case in self.cases.values():
            case.records.sort(key=by_enrolled)
            case.signed.sort(key=by_enrolled)
        self.join_lines()
        self.models = {one.fact["digest"]: one for one in merge(knowledge["models"], self.policy)}
        for case in self.cases.values():
            case.collect()

    def case(self, enrollment: str) -> Enrollment:
        return self.cases.setdefault(enrollment, Enrollment(enrollment, self.policy, self.question))

    # section 3

    def sort_records(self) -> None:
        """R-con-8."""
        for merged in merge(self.knowledge["records"], self.policy):
            record = merged.fact
            if not record["checks"]["signed"] or not self.policy.signed_by(record, "enroller"):
                continue
            case = self.case(record["enrollment"])
            case.signed.append(record)
            state = record["checks"]["state"]
            if state == "verified" and self.record_admitted(record):
                case.records.append(record)
                self.good_records[record["digest"]] = record
                self.reasons += self.copies(merged)
            else:
                code, effect = {
                    "verified": ("record-not-admitted", "gap"),
                    "refused": ("record-refused", "gap"),
                    "not-judged": ("record-not-judged", "not-judged"),
                }[state]
                case.other.append(reason("8", code, effect, enrollment=case.identity, digests=[record["digest"]]))

    def record_admitted(self, record: Fact) -> bool:
        policy, certificate = self.policy, record["certificate"]
        proved = policy.proved_of(record)
        return (
            record["assurance"] in policy.trust["assurance"]
            and not policy.denied("device", (record["device"], record["enrollment"]), proved)
            and not policy.path_denied(certificate, proved)
            and any(certificate["anchor"] in role["anchors"] for role in policy.roles["device"])
            and (
                certificate["not_before"] is None
                or certificate["not_before"] <= record["enrolled"] <= certificate["not_after"]
            )
        )

    @staticmethod
    def copies(merged: Merged) -> Iterator[Fact]:
        """R-con-3."""
        members = {"digests": [merged.fact["digest"]]}
        if merged.contradicted:
            yield reason("3", "facts-contradict", "gap", **members)
        if merged.bad_copy:
            yield reason("3", "bad-copy", "note", **members)

    def sort_items(self) -> None:
        """R-con-9."""
        for kind in ("kit", "tombstone", "head"):
            for merged in merge(self.knowledge[f"{kind}s"], self.policy):
                item = {**merged.fact, "kind": kind}
                record = self.good_records.get(item["record"])
                if not item["checks"]["signed"] or record is None or record["enrollment"] != item["enrollment"]:
                    continue
                case = self.case(item["enrollment"])
                state = item["checks"]["state"]
                if state == "not-judged":
                    case.pending.append(item)
                elif state == "refused":
                    case.refused.append(item)
                elif not self.item_admitted(item, record):
                    case.not_admitted.append(item)
                else:
                    case.items.append(item)
                    self.reasons += self.copies(merged)

    def item_admitted(self, item: Fact, record: Fact) -> bool:
        policy = self.policy
        proved = policy.proved_of(item)
        if item["kind"] == "head":
            vouched = not policy.path_denied(record["certificate"], policy.proved_of(record))
        else:
            vouched = policy.signed_by(item, "device") and not (policy.trust["stamps_required"] and proved is None)
        return (
            vouched
            and (not policy.trust["firmware"] or item["firmware"] in policy.trust["firmware"])
            and policy.measures_admitted(item)
            and not policy.denied("device", (record["device"], item["device"], item["enrollment"]), proved)
            and not (item["kind"] != "head" and policy.denied("kit", [item["digest"]], proved))
            and not (item["kind"] == "kit" and policy.denied("model", [item["model"]], proved))
        )

    def find_roster(self) -> None:
        """R-con-10 to 13."""
        signed = [
            one
            for one in merge(self.knowledge["rosters"], self.policy)
            if one.fact["checks"]["signed"] and self.policy.signed_by(one.fact, "roster")
        ]
        good = []
        for merged in signed:
            roster = merged.fact
            if roster["checks"]["state"] == "verified":
                good.append(roster)
                self.reasons += self.copies(merged)
            else:
                self.reasons.append(reason("10", "roster-not-judged", "not-judged", digests=[roster["digest"]]))
        good.sort(key=lambda roster: (roster["version"], roster["digest"]))
        for one, other in pairwise(good):
            if contradict(one, other):
                digests = sorted([one["digest"], other["digest"]])
                self.reasons.append(reason("13", "roster-contradiction", "not-judged", digests=digests))
        issued = [roster for roster in good if roster["issued"] <= self.at]
        if not issued:
            self.reasons.append(reason("11", "no-roster", "open"))
            return
        roster = min(issued, key=lambda one: (-one["version"], one["digest"]))
        if roster["issued"] < self.question["until"]:
            self.reasons.append(reason("12", "roster-old", "open", digests=[roster["digest"]]))
        if roster["expires"] < self.at:
            self.reasons.append(reason("12", "roster-expired", "open", digests=[roster["digest"]]))
        for entry in roster["entries"]:
            case = self.case(entry["enrollment"])
            case.entry = entry
            if any(record["base"] != entry["base"] for record in case.signed):
                case.other.append(reason("13", "base-contradicted", "gap", enrollment=case.identity))

    def join_lines(self) -> None:
        """R-con-19."""
        followers: dict[str, list[Fact]] = defaultdict(list)
        lines: dict[str, list[Fact]] = defaultdict(list)
        for case in self.cases.values():
            if not case.records:
                continue
            first = case.records[0]
            lines[first["line"]].append(first)
            replaced = first["replaces"]
            if replaced is not None:
                followers[replaced].append(first)
                if replaced not in self.cases:
                    case.other.append(reason("19", "replaced-unknown", "open", enrollment=case.identity))
        for case in self.cases.values():
            ends = {record["base"] for record in followers[case.identity]}
            if case.entry is not None and case.entry["end"] is not None:
                ends.add(case.entry["end"])
            case.end = min(ends, default=None)
            if len(ends) > 1 or (case.end is not None and case.base is not None and case.end < case.base):
                case.other.append(reason("19", "end-contradicted", "gap", enrollment=case.identity))
        for records in lines.values():
            records.sort(key=lambda record: (record["base"], record["enrolled"], record["digest"]))
            for one, other in pairwise(records):
                replaced = other["replaces"]
                unknown = replaced is not None and not (replaced in self.cases and self.cases[replaced].records)
                if replaced != one["enrollment"] and not unknown:
                    for record in (one, other):
                        self.cases[record["enrollment"]].other.append(
                            reason("19", "line-contradicted", "gap", enrollment=record["enrollment"])
                        )

    def asked(self) -> list[Enrollment]:
        """R-con-14 and R-con-15."""
        known: set[str] = set()
        chosen = []
        wanted = set(self.question["devices"])
        for _, case in sorted(self.cases.items()):
            entry, records = case.entry, case.signed
            if entry is None and not records:
                continue
            names = {record["device"] for record in records}
            if entry is not None:
                names |= {entry["device"], *entry["names"]}
            known |= names
            since = least([*(record["enrolled"] for record in records), entry["since"] if entry else None])
            until = entry["until"] if entry else None
            left_out = (since is not None and since >= self.question["until"]) or (
                until is not None and until < self.question["since"]
            )
            if left_out and not any(case.may_lie(kit) for kit in case.kits):
                continue
            if not wanted or wanted & names:
                chosen.append(case)
        for device in sorted(wanted - known):
            self.reasons.append(reason("15", "device-unknown", "not-judged", device=device))
        return chosen

    # sections 9 and 10

    def reasons_of_models(self, case: Enrollment) -> Iterator[Fact]:
        """R-con-70, R-con-71, and R-con-3 for models."""
        for model in sorted({kit["model"] for kit in case.kits if case.of_question(kit)}):
            merged = self.models.get(model)
            state = "absent"
            if merged is not None and self.policy.signed_by(merged.fact, "publisher"):
                state = merged.fact["checks"]["state"]
                if self.policy.denied("model", [model], self.policy.proved_of(merged.fact)) and state == "verified":
                    state = "denied"
            if state == "verified":
                continue
            code, effect = ("model-not-judged", "not-judged") if state == "not-judged" else ("model-not-vouched", "gap")
            yield reason("71", code, effect, enrollment=case.identity, digests=[model])

    def report(self) -> Fact:
        for cut in self.knowledge["cuts"]:
            self.reasons.append(reason("84", "limit-reached", "not-judged", text=f"{cut['source']} {cut['limit']}"))
        for chain in self.knowledge["chains"]:
            if chain["collector"] in self.policy.collectors and not chain["whole"]:
                self.reasons.append(reason("85", "ledger-not-whole", "not-judged", text=chain["collector"]))
        if self.at < self.question["until"]:
            self.reasons.append(reason("64", "period-not-ended", "open"))
        for merged in self.models.values():
            if merged.fact["checks"]["state"] == "verified" and self.policy.signed_by(merged.fact, "publisher"):
                self.reasons += self.copies(merged)
        devices, totals, kits = [], [0, 0, 0, 0], 0
        cases = self.asked()
        for case in cases:
            own = once([*case.reasons(), *self.reasons_of_models(case)])
            sums = [0, 0, 0, 0]
            number = 0
            for _, *counts in case.counts():
                number += 1
                sums = [one + other for one, other in zip(sums, counts, strict=True)]
            kits += number
            totals = [one + other for one, other in zip(totals, sums, strict=True)]
            self.reasons += own
            devices.append({
                "enrollment": case.identity, "device": case.device, "word": word(own, number), "closing": case.closing,
                "closed_by": case.closer["digest"] if case.closer else None, "kits": number,
                "results": sums[:2], "labelled": sums[2:],
            })  # fmt: skip
        reasons = once(self.reasons)
        answer = word(reasons, kits)
        return {
            "word": answer, "exit_code": EXIT_CODES[answer], "so_far": self.at < self.question["until"],
            "reasons": reasons, "devices": devices, "results": totals[:2], "labelled": totals[2:],
        }  # fmt: skip


def by_enrolled(record: Fact) -> tuple[int, str]:
    return record["enrolled"], record["digest"]


def contradict(one: Fact, other: Fact) -> bool:
    """R-con-13 for two neighbours."""
    if one["version"] == other["version"] or other["issued"] < one["issued"]:
        return True
    if other["version"] == one["version"] + 1 and other["previous"] != one["digest"]:
        return True
    later = {entry["enrollment"]: entry for entry in other["entries"]}
    for entry in one["entries"]:
        follower = later.get(entry["enrollment"])
        if follower is None or any(entry[name] != follower[name] for name in ("base", "since")):
            return True
        if not {entry["device"], *entry["names"]} <= {follower["device"], *follower["names"]}:
            return True
        if entry["ended"] is not None and any(entry[name] != follower[name] for name in ("ended", "until", "end")):
            return True
    return False


def word(reasons: list[Fact], kits: int) -> str:
    """R-con-87."""
    effects = {one["effect"] for one in reasons}
    if "gap" in effects:
        return "WITH GAPS" if kits else "UNPROVED"
    if "not-judged" in effects:
        return "NOT JUDGED"
    if not kits and "except" not in effects:
        return "NO DATA"
    if "open" in effects:
        return "COMPLETE UP TO THE NEWEST KIT"
    return "COMPLETE EXCEPT" if "except" in effects else "COMPLETE"


def once(reasons: list[Fact]) -> list[Fact]:
    """Each reason once, worst first."""
    different = {canonical(one): one for one in reasons}
    return sorted(
        different.values(),
        key=lambda one: (EFFECTS.index(one["effect"]), one["rule"], one["code"], canonical(one)),
    )
