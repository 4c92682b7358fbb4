# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Section 2 of CONCLUSION.md: signatures that count, proved times, denials, sightings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tests.secondjudge.numbers import Fact, least

HOUR_NS = 3_600_000_000_000
GONE, MISSING, THERE = 2, 1, 0


class Policy:
    """The trust policy at the time of asking, with the sightings that count."""

    def __init__(self, trust: Fact, knowledge: Fact, at: int) -> None:
        self.at = at
        self.trust = trust
        self.roles: dict[str, list[Fact]] = defaultdict(list)
        for role in trust["roles"]:
            self.roles[role["name"]].append(role)
        self.sightings: dict[str, list[Fact]] = defaultdict(list)
        self.collectors = {
            chain["collector"]
            for chain in knowledge["chains"]
            for signature in chain["signatures"]
            if signature["identity"] == chain["collector"] and self.counts(signature, "collector")
        }
        for sighting in knowledge["sightings"]:
            if self.tells(sighting["collector"]):
                self.sightings[sighting["digest"]].append(sighting)

    def tells(self, collector: str | None) -> bool:
        """R-con-1: a collector is listened to."""
        return collector is None or collector in self.collectors

    def first_sighting(self, digest: str) -> int | None:
        return least(sighting["first"] for sighting in self.sightings[digest])

    def seen(self, digest: str) -> int:
        first = self.first_sighting(digest)
        return self.at if first is None else first

    def proved(self, signature: Fact) -> int | None:
        """R-con-5, for one signature."""
        anchors = {anchor for role in self.roles["timestamp"] for anchor in role["anchors"]}
        stamps = [*signature["stamps"]]
        for sighting in self.sightings[signature["digest"]]:
            stamps += sighting["stamps"]
        return least(stamp["at"] for stamp in stamps if stamp["anchor"] in anchors)

    def proved_of(self, artifact: Fact) -> int | None:
        """R-con-5, for an artifact: the least of its signatures."""
        return least(self.proved(signature) for signature in artifact["signatures"])

    def denied(self, kind: str, values: Iterable[str | None], proved: int | None) -> bool:
        """R-con-6: an entry of this type denies one of the values."""
        wanted = {value for value in values if value}
        return any(
            entry["type"] == kind
            and entry["value"] in wanted
            and (entry["since"] is None or proved is None or proved >= entry["since"])
            for entry in self.trust["deny"]
        )

    def path_denied(self, signature: Fact, proved: int | None) -> bool:
        """A key, certificate or serial on the path of a signature is denied."""
        path = [signature, *signature["issuers"]]
        return self.denied("key", (one["key"] for one in path), proved) or self.denied(
            "certificate", (one[name] for one in path for name in ("certificate", "serial")), proved
        )

    def counts(self, signature: Fact, role: str) -> bool:
        """R-con-4."""
        roles = [one for one in self.roles[role] if signature["anchor"] in one["anchors"]]
        if role != "device":
            roles = [one for one in roles if any(named(signature, pattern) for pattern in one["identities"])]
        proved = self.proved(signature)
        if not roles or self.path_denied(signature, proved):
            return False
        if signature["certificate"] is None:
            return True
        known = least([proved, self.first_sighting(signature["digest"])])
        return any(
            signature["not_before"] <= moment <= signature["not_after"]
            for moment in (self.at, known)
            if moment is not None
        )

    def signed_by(self, artifact: Fact, role: str) -> bool:
        return any(self.counts(signature, role) for signature in artifact["signatures"])

    def measures_admitted(self, item: Fact) -> bool:
        """R-con-7."""
        if item["model_pcr"] not in self.trust["model_pcrs"]:
            return False
        if not self.trust["boot_sets"]:
            return True
        wanted = [{tuple(pair) for pair in one["pcrs"]} for one in self.trust["boot_sets"]]
        return all(any(one <= {tuple(pair) for pair in quote} for one in wanted) for quote in item["pcrs"] or [[]])

    def presence_of_digest(self, digest: str) -> int:
        """R-con-72."""
        sources: dict[str, list[Fact]] = defaultdict(list)
        for sighting in self.sightings[digest]:
            sources[sighting["source"]].append(sighting)
        worst = []
        for rows in sources.values():
            last = max(row["last"] for row in rows)
            times = [time for row in rows for time in row["missing"] if time > last]
            if not times:
                return THERE
            worst.append(GONE if max(times) - min(times) >= HOUR_NS else MISSING)
        return min(worst, default=THERE)

    def presence(self, artifact: Fact) -> int:
        """R-con-73."""
        signatures = [self.presence_of_digest(signature["digest"]) for signature in artifact["signatures"]]
        return max(self.presence_of_digest(artifact["digest"]), min(signatures, default=THERE))


def named(signature: Fact, pattern: str) -> bool:
    """An identity of a role matches the signature's."""
    if pattern.startswith("x509.subject:"):
        wanted = [part.split("=", 1) for part in pattern.removeprefix("x509.subject:").split(",")]
        have = {(state(name), value) for name, value in signature["subject"]}
        return all(len(part) == 2 and (state(part[0].strip()), part[1].strip()) in have for part in wanted)
    identity: Any = signature["identity"]
    if pattern.endswith("*"):
        return bool(identity.startswith(pattern[:-1]))
    return bool(identity == pattern)


def state(name: str) -> str:
    return "ST" if name == "S" else name
