# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The commands behind each number of an audit: what a reader of the report types to see it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """The options of the audit that was run, each as words of a command line."""

    period: tuple[str, ...]
    place: tuple[str, ...] = ()
    """``--fleet`` and ``--trust``, as they were given."""
    filters: tuple[str, ...] = ()
    """Model and slot."""
    devices: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    """What only `audit` knows: the data set, and how much of the work is done."""

    heads: tuple[str, ...] = ()
    """``--head`` and ``--nonce``, as they were given."""
    head_of: Mapping[str, str] = field(default_factory=dict)
    """File of the head of each device, by serial: 500 files in each of 500 commands make a page of many megabytes."""

    signed: str = ""
    """File of the signed statement, where there is one."""

    def check(self, page: str) -> str:
        """The check of the signed statement."""
        trust = self.place[self.place.index("--trust") + 1] if "--trust" in self.place else "DIR"
        return shlex.join(("edgeprov-fleet", "audit", "--check", self.signed, "--report", page, "--trust", trust))

    def audit(self, *more: str, device: str = "") -> str:
        """The audit, or that of one device."""
        heads = self.heads
        if device and heads:
            own = self.head_of.get(device)
            heads = ("--head", own, *heads[heads.index("--nonce") :]) if own else ()
        return self._join("audit", *self.period, *self.filters, *self._devices(device), *heads, *self.extra, *more)

    def query(self, *more: str, device: str = "") -> str:
        """The kits of the period."""
        return self._join("query", *self.period, *self.filters, *self._devices(device), *more)

    def verify(self, *more: str, device: str = "") -> str:
        """Verification of everything that the devices ever sent: a whole series is judged."""
        return self._join("verify", *self._devices(device), *more)

    def prove(self, record: str, file: str) -> str:
        """The proof of one result."""
        return self._join("prove", record, "-o", file)

    def numbers(self, report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
        """What, its value, the command, and where the value stands in the last line of its answer."""
        totals, audit = report["totals"], self.audit("--json")
        for name, text in (
            ("results", "results"),
            ("kits", "kits counted"),
            ("label_kits", "of them with labels only"),
            ("devices", "devices"),
            ("missing", "missing numbers"),
            ("unknown_numbers", "numbers that devices cannot explain"),
            ("forks", "forked numbers"),
            ("voided", "numbers voided by a signed tombstone"),
            ("voided_damaged", "of them for damaged storage"),
            ("voided_discarded", "of them for a full spool"),
            ("lost_records", "records that tombstones name as lost"),
            ("unknown_devices", "unknown devices"),
            ("silent_devices", "devices without anything in the period"),
            ("clock_doubts", "devices with a clock in doubt"),
        ):
            yield text, f"{totals.get(name, 0)}", audit, f"totals.{name}"
        for number, model in enumerate(report["models"]):
            name = model["name"] or model["digest"][7:19]
            yield f"results of {name}", f"{model['results']}", audit, f"models.{number}.results"
            yield f"results of {name} with a label", f"{model['labels']}", audit, f"models.{number}.labels"
        for verdict in ("refused", "unchecked"):
            yield (
                f"kits {verdict}",
                f"{totals.get(verdict, 0)}",
                self.query("--verdict", verdict, "--count", "--json"),
                "kits",
            )

    def _devices(self, device: str) -> tuple[str, ...]:
        return tuple(word for name in ((device,) if device else self.devices) for word in ("--device", name))

    def _join(self, verb: str, *words: str) -> str:
        return shlex.join(("edgeprov-fleet", verb, *words, *self.place))
