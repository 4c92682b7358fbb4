# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The figures as a table for people, as JSON, as one picture (each figure against its limit), and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from html import escape
from typing import Any

from tests.bench.harness import Figure


def as_table(figures: Sequence[Figure]) -> str:
    lines = []
    group = ""
    for item in figures:
        if item.group != group:
            group = item.group
            lines += ["", group]
        limit = f"{item.sense} {number(item.limit)}" if item.limit is not None else ""
        span = f"{number(item.low)}..{number(item.high)}" if item.low is not None and item.low != item.high else ""
        value = "-" if item.value is None else number(item.value)
        lines.append(
            f"  {item.name:<58.58} {value:>9} {item.unit:<9.9} {span:>16}  {limit:<9} {item.verdict:<12} {item.ours}".rstrip()
        )
    short = [item for item in figures if item.verdict == "SHORT"]
    absent = [item for item in figures if item.value is None]
    met = sum(item.verdict == "ok" for item in figures)
    lines += ["", f"{met} of {met + len(short)} budgets met on this machine"]
    lines += [
        f"  SHORT  {item.group}: {item.name}: {number(item.value)} {item.unit}, wanted {item.sense} {number(item.limit)}"
        for item in short
    ]
    lines += [f"  not measured  {item.group}: {item.name}, because {item.note}" for item in absent]
    return "\n".join(lines)


def as_json(figures: Iterable[Figure], conditions: Mapping[str, Any]) -> str:
    rows = [{**asdict(item), "verdict": item.verdict} for item in figures]
    return json.dumps({"conditions": dict(conditions), "figures": rows}, indent=1, allow_nan=False) + "\n"


def parse_json(text: str) -> tuple[list[Figure], dict[str, Any]]:
    """Figures and conditions of an earlier run."""
    document = json.loads(text)
    names = {item.name for item in fields(Figure)}
    return [Figure(**{k: v for k, v in row.items() if k in names}) for row in document["figures"]], document[
        "conditions"
    ]


def as_svg(figures: Iterable[Figure]) -> str:
    """Bars of value/limit (limit/value where more is better): all left of the line is within budget."""
    rows = [item for item in figures if item.value is not None and item.limit]
    height, left, width = 22, 560, 420
    scale = width / 1.6  # the line at 1.0 stands at five eighths
    total = len(rows) * height + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 130}" height="{total}" font-family="sans-serif" font-size="12">',
        "<title>Measured figures against their budgets</title>",
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{left}" y="20">share of the budget used (1.0 is the limit)</text>',
    ]
    for place, item in enumerate(rows):
        y = 36 + place * height
        share = used(item)
        colour = "#2b7a4b" if item.verdict == "ok" else "#b3372f"
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(f"{item.group}: {item.name}"[:92])}</text>'
        )
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{max(1.0, min(share, 1.6) * scale):.1f}" height="{height - 7}" fill="{colour}"/>'
        )
        parts.append(
            f'<text x="{left + min(share, 1.6) * scale + 5:.0f}" y="{y + 13}">{number(item.value)} {escape(item.unit)}</text>'
        )
    x = left + scale
    parts.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="28" y2="{total - 16}" stroke="#333" stroke-dasharray="4 3"/></svg>'
    )
    return "\n".join(parts) + "\n"


def used(item: Figure) -> float:
    """Share of the budget that is used up; 1.0 is the limit."""
    assert item.value is not None
    assert item.limit
    if item.sense == "<=":
        return max(0.0, item.value / item.limit)
    return item.limit / item.value if item.value > 0 else 9.0


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.4g}" if 1 <= abs(value) < 10 else f"{value:.3g}"


MARKS = "<!-- figures: {} -->", "<!-- end of figures -->"


def as_markdown(figures: Sequence[Figure], conditions: Mapping[str, Any], kind: str) -> str:
    """The table of a document: ``headlines`` without notes, or ``all`` that have a limit or were not measured, with them."""
    if kind == "headlines":
        lines = ["| what | measured | budget | |", "|---|---|---|---|"]
        for item in figures:
            if item.headline:
                lines.append(f"| {item.headline} | {measured(item)} | {budget(item)} | {mark(item)} |")
    else:
        lines = [
            "| figure | measured | budget | | what bounds it, what was done, what is left |",
            "|---|---|---|---|---|",
        ]
        for item in figures:
            name = cell(f"{item.group}: {item.name}")
            behind = f"{measured(item)}<br>{cell(item.ours)}" if item.ours else measured(item)
            lines.append(f"| {name} | {behind} | {budget(item)} | {mark(item)} | {cell(item.note)} |")
    met, short = (sum(item.verdict == word for item in figures) for word in ("ok", "SHORT"))
    words = f"{met} of {met + short} budgets met; as of {conditions['date']} on {conditions['machine']}, Python {conditions['python']}, "
    return "\n".join([*lines, "", words + f"beside other work (load {conditions['load']:.0f})."]) + "\n"


def write_between(document: str, kind: str, table: str) -> str:
    """``document`` with ``table`` between its two marks.

    Raises:
        ValueError: A mark is missing.
    """
    first, last = MARKS[0].format(kind), MARKS[1]
    if document.count(first) != 1 or document.count(last) != 1:
        raise ValueError(f"the document needs one {first} and one {last}")
    before, rest = document.split(first)
    return f"{before}{first}\n\n{table}\n{last}{rest.split(last)[1]}"


def measured(item: Figure) -> str:
    return "not measured" if item.value is None else f"{number(item.value)} {item.unit}".strip()


def budget(item: Figure) -> str:
    return "" if item.limit is None else f"{'≤' if item.sense == '<=' else '≥'} {number(item.limit)}"


def mark(item: Figure) -> str:
    return {"SHORT": "**short**", "not measured": ""}.get(item.verdict, item.verdict)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
