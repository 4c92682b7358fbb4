# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The audit as tables for a terminal, and as CSV rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
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
    "labels",
    "unlabelled_share",
    "voided_why",
    "lost_records",
)

_NAMED = 5


def verdict_text(report: Mapping[str, Any]) -> str:
    """What the verdict means."""
    texts = {
        "complete": "COMPLETE: every number up to each device's attested head is there, verified, and undoubted",
        "headless": "COMPLETE up to each device's newest kit",
        "gaps": "WITH GAPS: what is counted is proved; what is missing or in doubt is listed",
        "unproved": "UNPROVED: nothing in this period verifies",
    }
    return texts[report["verdict"]]


def head_note(report: Mapping[str, Any]) -> str:
    """Ends of series that no head closes, or only the word of the device's own clock; empty where there are none."""
    totals = report["totals"]
    by_clock = totals.get("closed_by_clock", 0)
    told = (
        f"The end of {by_clock:,} of {totals['devices']:,} devices rests on the device's clock: nobody asked them."
        if by_clock
        else ""
    )
    if report["verdict"] not in ("headless", "gaps") or not totals.get("headless"):
        return told
    return (
        f"No head from {totals['headless']:,} of {totals['devices']:,} devices: kits withheld at the end would not "
        f"show; ask each with `edgeprov attest`, and give the answers with --head. {told}".rstrip()
    )


def share(part: Mapping[str, Any]) -> str:
    """The share without a label of a model, a device or a stretch; ``≥`` where kits could not be opened."""
    value = part["unlabelled_share"]
    if value is None:
        return ""
    shown = "<1%" if 0 < value < 0.005 else f"{value:.0%}"
    return shown if part["labels_exact"] else f"≥ {shown}"


def last_day(to: str) -> str:
    """The last day inside: the period's end is not included."""
    try:
        moment = dt.datetime.fromisoformat(to) - dt.timedelta(seconds=1)
    except (ValueError, OverflowError):
        return to[:10]
    return f"{moment:%Y-%m-%d}"


def _assurance(device: Mapping[str, Any]) -> str:
    """Assurance, and the named boot sets of the policy that the device's kits matched."""
    names = sorted({name for interval in device["intervals"] for name in interval.get("boot_sets", ())})
    return f"{device['assurance'] or '?'}{', booted ' + ', '.join(names) if names else ''}"


def device_rows(report: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """One line for each device and stretch of one model."""
    for device in report["devices"]:
        doubts = ", ".join([*device_doubts(device), *device_notes(device)]) or "-"
        if not device["intervals"]:
            yield (device["serial"], device["assurance"] or "?", "-", "no verified results", 0, 0, "-", "-", doubts)
        for number, interval in enumerate(device["intervals"]):
            yield (
                device["serial"] if not number else "",
                _assurance(device) if not number else "",
                interval["slot"],
                interval["name"] or interval["model"][7:19],
                interval["kits"],
                interval["results"],
                interval["from"][:16].replace("T", " "),
                interval["to"][:16].replace("T", " "),
                doubts if not number else "",
            )


def device_doubts(device: Mapping[str, Any]) -> list[str]:
    """What is wrong with a device, shortest first."""
    series = device["series"] or {}
    result: list[str] = []
    if device["record_fault"]:
        result.append(f"record: {device['record_fault']}")
    if series.get("missing"):
        result.append("missing " + ranges(series["missing"]))
    if series.get("unknown"):
        result.append("unexplained " + ", ".join(map(str, series["unknown"][:5])))
    if device["refused_count"]:
        result.append(f"{device['refused_count']} refused")
    if device["unchecked"]:
        result.append(f"{device['unchecked']} unchecked")
    for name, text in (("broken_links", "wrong predecessor"), ("reordered", "reordered")):
        if series.get(name):
            result.append(f"{text} {', '.join(map(str, series[name][:5]))}")
    return [*result, *device["identity_doubts"], *device["clock"]["doubts"]]


def device_notes(device: Mapping[str, Any]) -> list[str]:
    """What is accounted for, and no doubt: numbers voided by a signed tombstone, a silent device."""
    series = device["series"] or {}
    result = [f"voided {voided(series)}"] if series.get("voided") else []
    if not (device["kits"] or device["refused"] or device["unchecked"] or device["doubtful"]):
        result.append("nothing in this period")
    return result


def voided(series: Mapping[str, Any], limit: int = 6) -> str:
    """Tombstones and the numbers that they name, with reasons: ``3 (crash), 7 (damaged: records 5-9 lost)``."""
    why: dict[int, str] = {}
    for item in series.get("tombstones", ()):
        why |= dict(item["numbers"])
        lost = f": records {ranges(item['lost'])} lost" if item["lost"] else ""
        why[item["seq"]] = (" and ".join(item["reasons"]) if lost else "tombstone") + lost
    shown = [f"{seq} ({why[seq]})" if seq in why else str(seq) for seq in series["voided"][:limit]]
    return ", ".join(shown) + (", ..." if len(series["voided"]) > limit else "")


def lost(totals: Mapping[str, int]) -> str:
    """What the tombstones of a report say, in brackets; empty when they are of crashes only, which lose nothing."""
    named = [f"{totals[f'voided_{why}']} {why}" for why in ("damaged", "discarded") if totals.get(f"voided_{why}")]
    return f" ({', '.join(named)}: {totals['lost_records']} records lost)" if named else ""


def ranges(pairs: Sequence[Sequence[int]], limit: int = 6) -> str:
    """``3, 7-9``."""
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs[:limit])
    return shown + (", ..." if len(pairs) > limit else "")


def answer(report: Mapping[str, Any]) -> str:
    """The question's answer in one sentence."""
    totals, models = report["totals"], report["models"]
    if not models:
        return "No verified result lies in this period."
    names = [
        f"{model['name'] or model['digest'][7:19]} ({model['results']:,}{_part(model['results'], totals['results'])})"
        for model in models[:_NAMED]
    ]
    if len(models) > _NAMED:
        names.append(f"{len(models) - _NAMED} more")
    devices = sum(1 for device in report["devices"] if device["results"])
    return (
        f"{totals['results']:,} results on {devices:,} device{'s' if devices != 1 else ''} were produced by "
        + ", ".join(names[:-1])
        + (" and " if len(names) > 1 else "")
        + names[-1]
        + "."
    )


def _part(count: int, total: int) -> str:
    return "" if count == total else f", {count / total:.1%}"


def csv_rows(report: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
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
        lost = sum(item["lost_records"] for item in series.get("tombstones", ()))
        last = (voided(series, 1000) if series.get("voided") else "", lost)
        for interval in device["intervals"] or [None]:
            if interval is None:
                yield (device["serial"], device["assurance"], *[""] * 7, 0, 0, "", "", "", *tail, 0, "", *last)
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
                interval["labels"],
                interval["unlabelled_share"],
                *last,
            )


def drift_sentences(drift: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What changed from version to version, each with ``bad``, ``good`` or nothing: why to retrain, or why not."""
    models = {model["model"]: model for model in drift["models"]}
    for model in drift["models"]:
        if not model["compared"]:
            yield "", f"{_named(model)}: no labels to compare its {model['rows']:,} results with."
    for pair in drift["pairs"]:
        before, after = models[pair["from"]], models[pair["to"]]
        shift = f"PSI {pair['psi']:.3f}"
        spread = f"its outputs are spread otherwise ({shift})" if pair["shifted"] else f"outputs spread alike ({shift})"
        if pair["accuracy"] is None:
            yield "bad" if pair["shifted"] else "", f"{_named(after)} after {_named(before)}: {spread}."
            continue
        change = 100 * (after["accuracy"] - before["accuracy"])
        text = {
            "worse": f"worse by {-change:.1f} points, more than chance explains: a reason to retrain",
            "better": f"better by {change:.1f} points, more than chance explains",
            "same": "no difference that chance does not explain",
        }[pair["accuracy"]]
        mark = "good" if pair["accuracy"] == "better" else ""
        counts = [f"{part['accuracy']:.1%} of {part['compared']:,}" for part in (after, before)]
        sentence = f"{_named(after)} is right in {counts[0]} labelled results, {_named(before)} in {counts[1]}"
        yield "bad" if pair["accuracy"] == "worse" or pair["shifted"] else mark, f"{sentence}: {text}; {spread}."


def drift_rows(drift: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """One line for each version, for a terminal."""
    pairs = {pair["to"]: pair for pair in drift["pairs"]}
    for model in drift["models"]:
        low, high = model["accuracy_interval"] or (0.0, 0.0)
        yield (
            _named(model),
            model["rows"],
            model["labelled"],
            "-" if model["accuracy"] is None else f"{model['accuracy']:.1%} ({low:.1%} - {high:.1%})",
            f"{pairs[model['model']]['psi']:.3f}" if model["model"] in pairs else "-",
        )


def _named(model: Mapping[str, Any]) -> str:
    return str(model.get("name") or model["model"][7:19])
