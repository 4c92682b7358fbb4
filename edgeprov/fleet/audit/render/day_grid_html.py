# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device by day picture of the audit page: a table that is also read without colours, without a mouse, on paper."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from edgeprov.fleet.audit.render.text import device_doubts, last_day

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COLOURS: Final = 8
_DAYS_MAX: Final = 92
_COLUMNS_MAX: Final = 400
_MARKS: Final = (
    ("refused", "✕", "kits refused"),
    ("forks", "‡", "kits that claim a number twice"),
    ("doubtful", "?", "kits with a time in doubt"),
    ("missing", "–", "numbers missing around this day"),
)


class ModelKeys:
    """A letter, a colour and a name for each model of a report."""

    def __init__(self, models: list[dict[str, Any]]) -> None:
        self._numbers = {model["digest"]: number for number, model in enumerate(models)}
        self.names = {model["digest"]: model["name"] or model["digest"][7:19] for model in models}

    def letter(self, digest: str) -> str:
        """A to Z, then AA and so on; a dash for a model that is not in the report."""
        number = self._numbers.get(digest)
        if number is None:
            return "–"
        return LETTERS[number] if number < len(LETTERS) else f"{LETTERS[number // 26 - 1]}{LETTERS[number % 26]}"

    def colour(self, digest: str) -> str:
        """Class of the model's colour."""
        number = self._numbers.get(digest)
        return "e" if number is None else f"m{number % _COLOURS}"

    def key(self, digest: str) -> str:
        """The letter on its colour."""
        return f'<span class="key {self.colour(digest)}">{self.letter(digest)}</span>'

    def name(self, digest: str) -> str:
        """Name and version, else the start of the digest; not escaped."""
        return str(self.names.get(digest, digest[7:19]))


def device_data(device: Mapping[str, Any], keys: ModelKeys) -> str:
    """What the filters look at."""
    models = " ".join(sorted({keys.letter(item["model"]) for item in device["intervals"]}))
    return f'data-device="{escape(device["serial"])}" data-models="{models}" data-doubt={1 if device_doubts(device) else 0}'


def picture_lines(report: dict[str, Any], keys: ModelKeys) -> Iterator[str]:
    """The section: legend, filters and the table."""
    devices, columns = report["devices"], _columns(report)
    if not devices:
        return
    doubtful = sum(bool(device_doubts(device)) for device in devices)
    yield (
        "<section aria-labelledby=picture><h2 id=picture>Devices by day</h2>"
        f"<p id=picture-text>{len(devices):,} devices, {len(columns)} columns; something is missing or in doubt on {doubtful:,} of them. "
        "A letter is the model that ran: "
        + ", ".join(f"{keys.key(digest)} {escape(name)}" for digest, name in keys.names.items())
        + ".</p><ul class=legend>"
        + "".join(f"<li><b class=sign>{sign}</b> {text}" for _, sign, text in _MARKS)
        + "<li><b class=sign>!</b> this device has gaps or doubts</ul>"
    )
    yield (
        "<div class=filters><div><label for=find>Device</label><input id=find type=search autocomplete=off></div>"
        "<div><label for=model>Model</label><select id=model><option value=''>all</option>"
    )
    for digest, name in keys.names.items():
        yield f'<option value="{keys.letter(digest)}">{keys.letter(digest)} {escape(name)}</option>'
    yield (
        "</select></div><div><label class=check><input id=only type=checkbox> only gaps and doubts</label></div>"
        "<div class=dim id=shown role=status aria-live=polite></div></div>"
        "<p class=say id=say>Click a cell, or move with the arrow keys: what happened on that day stands here. Enter opens the device.</p>"
        "<div class=wrap tabindex=-1><table class=grid id=grid role=grid aria-label='Results by device and day' aria-describedby=picture-text>"
        "<thead><tr><th scope=col>Device"
    )
    for start, label, text in columns:
        yield f'<th scope=col data-day="{text}">{label}<span class=vh> {start}</span>'
    yield "</thead><tbody>"
    for device in devices:
        mark = "<b class=miss aria-hidden=true>!</b> " if device_doubts(device) else ""
        yield f"<tr {device_data(device, keys)}><th scope=row>{mark}{escape(device['serial'])}"
        cells = _cells(device, columns)
        for start, _, _ in columns:
            yield _cell(cells.get(start), keys)
    yield "</tbody></table></div></section>"


def _cells(device: dict[str, Any], columns: list[tuple[str, str, str]]) -> dict[str, dict[str, Any]]:
    """Days of a device, put into the picture's columns."""
    starts = [start for start, _, _ in columns]
    cells: dict[str, dict[str, Any]] = {}
    for day, content in device["days"].items():
        start = max((item for item in starts if item <= day), default=None)
        if start is None:
            continue
        cell = cells.setdefault(start, {"models": {}})
        for model, count in content["models"].items():
            cell["models"][model] = cell["models"].get(model, 0) + count
        for mark, _, _ in _MARKS:
            if content.get(mark):
                cell[mark] = cell.get(mark, 0) + content[mark]
    return cells


def _cell(cell: dict[str, Any] | None, keys: ModelKeys) -> str:
    if cell is None:
        return "<td class=e>"
    models = sorted(cell["models"], key=lambda digest: -cell["models"][digest])
    marks = "".join(sign for name, sign, _ in _MARKS if cell.get(name))
    texts = [f"{cell['models'][digest]} results of {keys.name(digest)}" for digest in models]
    texts += [f"{cell[name]} {text}" for name, _, text in _MARKS if cell.get(name)]
    classes = [keys.colour(models[0]) if models else "e"]
    if cell.get("refused") or cell.get("forks"):
        classes.append("x")
    elif cell.get("missing"):
        classes.append("g")
    elif cell.get("doubtful"):
        classes.append("q")
    letters = "/".join(keys.letter(digest) for digest in models[:3])
    return f'<td class="{" ".join(classes)}" data-say="{escape(", ".join(texts))}">{letters}{f"<sup>{marks}</sup>" if marks else ""}'


def _columns(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Start, short label and full text of each column: days, or weeks where there are many."""
    days = [day for device in report["devices"] for day in device["days"]]
    if not days:
        return []
    first, last = (dt.date.fromisoformat(f(days)) for f in (min, max))
    since, to = report["from"][:10], last_day(report["to"])
    if (dt.date.fromisoformat(to) - dt.date.fromisoformat(since)).days < 370:
        first, last = (
            dt.date.fromisoformat(since),
            min(dt.date.fromisoformat(to), max(last, dt.date.fromisoformat(since))),
        )
        last = dt.date.fromisoformat(to) if to <= report["generated_at"][:10] else last
    step = 1 if (last - first).days < _DAYS_MAX else 7
    result: list[tuple[str, str, str]] = []
    day = first
    while day <= last and len(result) < _COLUMNS_MAX:
        text = f"{day:%Y-%m-%d}" if step == 1 else f"week of {day:%Y-%m-%d}"
        label = f"{day:%d}" if day != first and day.day > step else f"{day:%d}<br>{day:%b}"
        result.append((f"{day:%Y-%m-%d}", label, text))
        day += dt.timedelta(days=step)
    return result
