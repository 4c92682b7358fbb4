# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The audit as tables for a terminal, and as CSV rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

CSV_HEADER = (
    "device",
    "assurance",
    "slot",
    "model",
    "model_name",
    "from",
    "to",
    "first_seq",
    "last_seq",
    "kits",
    "results",
    "approximate",
    "provable_after",
    "provable_before",
    "refused",
    "missing",
    "voided",
    "forks",
    "clock_doubts",
    "closed_until",
)


def verdict_text(report: dict[str, Any]) -> str:
    """What the verdict means, with what it leaves open."""
    totals = report["totals"]
    texts = {
        "complete": "COMPLETE: every number up to each device's attested head is there, verified, and undoubted",
        "headless": "COMPLETE up to each device's newest kit",
        "gaps": "WITH GAPS: what is counted is proved; what is missing or in doubt is listed",
        "unproved": "UNPROVED: nothing in this period verifies",
    }
    text = texts[report["verdict"]]
    if report["verdict"] in ("headless", "gaps") and totals.get("headless"):
        text += (
            f" (no head from {totals['headless']} of {totals['devices']} devices: "
            f"kits withheld at the end would not show; "
            "ask with `edgeprov attest`)"
        )
    return text


def device_rows(report: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """One line for each device and stretch of one model."""
    for device in report["devices"]:
        doubts = ", ".join(device_doubts(device)) or "-"
        if not device["intervals"]:
            yield (device["serial"], device["assurance"] or "?", "-", "no verified results", 0, 0, "-", "-", doubts)
        for number, interval in enumerate(device["intervals"]):
            yield (
                device["serial"] if not number else "",
                device["assurance"] or "?" if not number else "",
                interval["slot"],
                interval["name"] or interval["model"][7:19],
                interval["kits"],
                interval["results"],
                interval["from"][:16].replace("T", " "),
                interval["to"][:16].replace("T", " "),
                doubts if not number else "",
            )


def device_doubts(device: dict[str, Any]) -> list[str]:
    """What is wrong with a device, shortest first."""
    series = device["series"] or {}
    result: list[str] = []
    if device["record_fault"]:
        result.append(f"record: {device['record_fault']}")
    if series.get("missing"):
        result.append("missing " + ranges(series["missing"]))
    if device["refused_count"]:
        result.append(f"{device['refused_count']} refused")
    if device["unchecked"]:
        result.append(f"{device['unchecked']} unchecked")
    for name, text in (
        ("forks", "forked"),
        ("broken_links", "wrong predecessor"),
        ("reordered", "reordered"),
        ("voided", "voided"),
    ):
        if series.get(name):
            result.append(f"{text} {', '.join(map(str, series[name][:5]))}")
    return [*result, *device["identity_doubts"], *device["clock"]["doubts"]]


def ranges(pairs: Sequence[Sequence[int]], limit: int = 6) -> str:
    """``3, 7-9``."""
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs[:limit])
    return shown + (", ..." if len(pairs) > limit else "")


def answer(report: dict[str, Any]) -> str:
    """The question's answer in one sentence."""
    totals, models = report["totals"], report["models"]
    if not models:
        return "No verified result lies in this period."
    names = [f"{model['name'] or model['digest'][7:19]} ({model['results']})" for model in models]
    return (
        f"{totals['results']} results on {sum(1 for d in report['devices'] if d['results'])} devices were produced by "
        + ", ".join(names[:-1])
        + (" and " if len(names) > 1 else "")
        + names[-1]
        + "."
    )


def csv_rows(report: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """One row for each device and stretch."""
    for device in report["devices"]:
        series = device["series"] or {}
        tail = (
            device["refused_count"],
            ranges(series.get("missing", ()), 1000),
            " ".join(map(str, series.get("voided", ()))),
            " ".join(map(str, series.get("forks", ()))),
            "; ".join(device["clock"]["doubts"]),
            series.get("closed_until"),
        )
        for interval in device["intervals"] or [None]:
            if interval is None:
                yield (device["serial"], device["assurance"], *[""] * 7, 0, 0, "", "", "", *tail)
                continue
            yield (
                device["serial"],
                device["assurance"],
                interval["slot"],
                interval["model"],
                interval["name"],
                interval["from"],
                interval["to"],
                *interval["seq"],
                interval["kits"],
                interval["results"],
                interval["approximate"],
                interval["provable"]["after"],
                interval["provable"]["before"],
                *tail,
            )
