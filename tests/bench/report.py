# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The figures as a table for people, as JSON, as one picture (each figure against its limit), and as Markdown."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from html import escape
from itertools import zip_longest
from typing import Any

from tests.bench.harness import Figure


def as_table(figures: Sequence[Figure], width: int | None = None) -> str:
    """For a terminal of ``width`` columns (default: this one's; 200 where there is none). Nothing is cut off: names and details wrap."""
    width = max(60, width or shutil.get_terminal_size((200, 24)).columns)
    spread, details = width >= 100, width >= 150
    rest = width - (64 if spread else 44)  # what value, unit, limit and verdict leave for name and details
    name_width = min(max((len(item.name) for item in figures), default=0), rest - 45 if details else rest)
    detail_width = rest - name_width - 2
    lines: list[str] = []
    group = ""
    for item in figures:
        if item.group != group:
            group = item.group
            lines += ["", group]
        limit = f"{item.sense} {number(item.limit)}" if item.limit is not None else ""
        span = f"{number(item.low)}..{number(item.high)}" if item.low is not None and item.low != item.high else ""
        mark = "" if item.value is None else item.verdict
        cells = (
            f"{number(item.value):>9} {item.unit:<9.9} " + (f"{span:>19} " if spread else "") + f"{limit:<9} {mark:<5}"
        )
        names = textwrap.wrap(item.name, name_width, subsequent_indent="  ")
        said = textwrap.wrap(item.ours, detail_width) if details else []
        for place, (name, words) in enumerate(zip_longest(names, said, fillvalue="")):
            between = cells if place == 0 else " " * len(cells)
            lines.append(f"  {name:<{name_width}} {between} {words}".rstrip())
    short = [item for item in figures if item.verdict == "SHORT"]
    absent = [item for item in figures if item.value is None]
    met = sum(item.verdict == "ok" for item in figures)
    said = [f"{met} of {met + len(short)} budgets met on this machine"]
    said += [
        f"  SHORT  {item.group}: {item.name}: {number(item.value)} {item.unit}, wanted {item.sense} {number(item.limit)}"
        for item in short
    ]
    said += [f"  not measured  {item.group}: {item.name}, because {item.note}" for item in absent]
    lines.append("")
    for line in said:
        lines += textwrap.wrap(line, width, subsequent_indent=" " * 9)
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
    height, left, width, most = 20, 130, 380, 1.6
    scale = width / most  # the line at 1.0 stands at five eighths
    names = left + max((len(item.name) for item in rows), default=0) * 6
    place, x = 30, names + 12
    parts = []
    group = ""
    for item in rows:
        if item.group != group:
            group = item.group
            parts.append(f'<text x="8" y="{place + 14}" font-weight="bold">{escape(group)}</text>')
        share = used(item)
        colour = "#2b7a4b" if item.verdict == "ok" else "#b3372f"
        bar = max(1.0, min(share, most) * scale)
        parts.append(f'<text x="{names}" y="{place + 14}" text-anchor="end">{escape(item.name)}</text>')
        parts.append(f'<rect x="{x}" y="{place + 3}" width="{bar:.1f}" height="{height - 6}" fill="{colour}"/>')
        if share > most:
            parts.append(
                f'<text x="{x + bar - 4:.0f}" y="{place + 14}" text-anchor="end" fill="#fff">{share:.1f} times</text>'
            )
        parts.append(
            f'<text x="{x + width + 10}" y="{place + 14}">{escape(measured(item))}, wanted {budget(item)}</text>'
        )
        place += height
    line = x + scale
    head = f"share of the budget that is used; at the dashed line all of it ({sum(item.verdict == 'ok' for item in rows)} of {len(rows)} met)"
    return (
        "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{x + width + 240}" height="{place + 12}" font-family="sans-serif" font-size="12">',
                "<title>Measured figures against their budgets</title>",
                f'<rect width="100%" height="100%" fill="#fff"/><text x="{x}" y="18">{head}</text>',
                *parts,
                f'<line x1="{line:.1f}" x2="{line:.1f}" y1="26" y2="{place + 4}" stroke="#333" stroke-dasharray="4 3"/></svg>',
            ]
        )
        + "\n"
    )


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
