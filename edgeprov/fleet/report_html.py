# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The audit as one self-contained HTML page: no request to anywhere, readable without scripts, printable.

Every name that comes from a registry is escaped; the page's policy forbids any request, so that not
even a mistake here could send data out. Colours never say anything alone: each model has a letter,
each doubt a sign and a text.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from typing import Any, Final

from edgeprov.fleet.audit_text import answer, device_doubts, ranges, verdict_text

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COLOURS: Final = 8
_DAYS_MAX: Final = 92
_REFUSED_MAX: Final = 30
_CSP: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)

_TILES: Final = (
    ("results", "results", ""), ("kits", "kits counted", ""), ("devices", "devices", ""), ("refused", "refused kits", "b"),
    ("missing", "missing numbers", "b"), ("forks", "forked numbers", "b"), ("unknown_devices", "unknown devices", "b"),
    ("clock_doubts", "clocks in doubt", "w"), ("voided", "voided (signed)", "w"), ("unchecked", "unchecked", "w"),
)  # fmt: skip


def encode_html(report: Mapping[str, Any], command: str) -> bytes:
    """The page.

    Args:
        report: Audit.as_json().
        command: The command that made it, for the reader to repeat.
    """
    page = _Page(dict(report), command)
    return "".join(page.lines()).encode()


def asset(name: str) -> str:
    """A style sheet or script of fleet/web."""
    return resources.files("edgeprov.fleet").joinpath("web", name).read_text(encoding="utf-8")


class _Page:
    def __init__(self, report: dict[str, Any], command: str) -> None:
        self.report = report
        self.command = command
        self.letters = {model["digest"]: number for number, model in enumerate(report["models"])}
        self.names = {model["digest"]: model["name"] or model["digest"][7:19] for model in report["models"]}
        self.columns = _columns(report)

    def lines(self) -> Iterator[str]:
        since, to = self.report["from"][:10], self.report["to"][:10]
        yield (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{_CSP}"><title>Audit {since} to {to}</title>'
            f"<style>{asset('report.css')}</style></head><body><a class=skip href=#devices>Skip to devices</a><main>"
        )
        yield from self._head()
        yield from self._grid()
        yield from self._devices()
        yield from self._drift()
        yield from self._method()
        yield f"</main><script>{asset('report.js')}</script></body></html>"

    def _head(self) -> Iterator[str]:
        report, totals = self.report, self.report["totals"]
        last = _last_day(report["to"])
        yield (
            f"<h1>Which model version produced the results of {report['from'][:10]} to {last}?</h1>"
            f"<p class=answer>{escape(answer(report))}</p>"
            f'<p><span class="verdict {report["verdict"]}">{escape(verdict_text(report))}</span></p>'
        )
        yield "<ul class=tiles>"
        for name, text, mark in _TILES:
            count = totals.get(name, 0)
            yield f'<li class="{mark if count else "n0"}"><b>{count:,}</b>{text}</li>'
        yield "</ul>"
        most = max((model["results"] for model in report["models"]), default=1) or 1
        yield (
            "<table class=t><caption class=vh>Results by model version</caption><thead><tr><th scope=col>Model<th scope=col>Digest"
            "<th scope=col class=n>Results<th scope=col class=n>Kits<th scope=col class=n>Devices<th scope=col class=n>Unlabelled</thead><tbody>"
        )
        for model in report["models"]:
            share = model["unlabelled_share"]
            yield (
                f"<tr><th scope=row>{self._key(model['digest'])} {escape(self.names[model['digest']])}"
                f"<td><code>{escape(model['digest'])}</code>"
                f'<td class=n><span class="bar {self._colour(model["digest"])}" style="width:{120 * model["results"] / most:.0f}px"></span>{model["results"]:,}'
                f"<td class=n>{model['kits']:,}<td class=n>{model['devices']:,}<td class=n>{'' if share is None else f'{share:.0%}'}"
            )
        yield "</tbody></table>"

    def _grid(self) -> Iterator[str]:
        devices = self.report["devices"]
        if not devices:
            return
        yield (
            "<h2 id=picture>Devices by day</h2><p class=dim>A letter is the model that ran; a cell's details are read out below when it is reached with the "
            "arrow keys or clicked, Enter opens the device. <b>✕</b> refused, <b>‡</b> two claims to one number, <b>?</b> time in doubt, <b>–</b> numbers missing around this day, "
            "<b>!</b> before the name: something of this device is missing or in doubt.</p>"
            "<div class=filters><div><label for=find>Device</label><input id=find type=search autocomplete=off></div>"
            "<div><label for=model>Model</label><select id=model><option value=''>all</option>"
        )
        for digest, name in self.names.items():
            yield f'<option value="{self._letter(digest)}">{self._letter(digest)} {escape(name)}</option>'
        yield (
            "</select></div><div><label><input id=only type=checkbox> only gaps and doubts</label></div>"
            "<div class=dim id=shown role=status aria-live=polite></div></div><p class=say id=say role=status aria-live=polite>Choose a cell: its results are told here.</p>"
            '<div class=wrap tabindex=-1><table class=grid id=grid role=grid aria-label="Results by device and day"><thead><tr><th scope=col>Device'
        )
        for start, label, text in self.columns:
            yield f'<th scope=col data-day="{text}">{label}<span class=vh> {start}</span>'
        yield "</thead><tbody>"
        for device in devices:
            doubt = bool(device_doubts(device))
            serial = escape(device["serial"])
            yield f"<tr {self._data(device)}><th scope=row>{'<b class=miss title=doubts>!</b> ' if doubt else ''}{serial}"
            cells = self._cells(device)
            for start, _, _ in self.columns:
                yield self._cell(cells.get(start))
        yield "</tbody></table></div>"

    def _cells(self, device: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Days of a device, put into the picture's columns."""
        starts = [start for start, _, _ in self.columns]
        cells: dict[str, dict[str, Any]] = {}
        for day, content in device["days"].items():
            start = max((item for item in starts if item <= day), default=None)
            if start is None:
                continue
            cell = cells.setdefault(start, {"models": {}})
            for model, count in content["models"].items():
                cell["models"][model] = cell["models"].get(model, 0) + count
            for mark in ("refused", "forks", "doubtful", "missing"):
                if content.get(mark):
                    cell[mark] = cell.get(mark, 0) + content[mark]
        return cells

    def _cell(self, cell: dict[str, Any] | None) -> str:
        if cell is None:
            return "<td class=e>"
        models = sorted(cell["models"], key=lambda digest: -cell["models"][digest])
        marks = "".join(
            sign
            for name, sign in (("refused", "✕"), ("forks", "‡"), ("doubtful", "?"), ("missing", "–"))
            if cell.get(name)
        )
        texts = [f"{cell['models'][digest]} results of {self.names.get(digest, digest[7:19])}" for digest in models]
        texts += [
            f"{cell[name]} {text}"
            for name, text in (
                ("refused", "kits refused"),
                ("forks", "kits forked"),
                ("doubtful", "kits with a time in doubt"),
                ("missing", "numbers missing around this day"),
            )
            if cell.get(name)
        ]
        classes = [self._colour(models[0]) if models else "e"]
        if cell.get("refused") or cell.get("forks"):
            classes.append("x")
        elif cell.get("doubtful"):
            classes.append("q")
        letters = "/".join(self._letter(digest) for digest in models[:3])
        return f'<td class="{" ".join(classes)}" data-say="{escape(", ".join(texts))}">{letters}{f"<sup>{marks}</sup>" if marks else ""}'

    def _devices(self) -> Iterator[str]:
        yield "<h2 id=devices>Devices</h2>"
        for device in self.report["devices"]:
            doubts = escape("; ".join(device_doubts(device)))
            tail = f" <span class=doubt>{doubts}</span>" if doubts else ""
            yield (
                f"<details {self._data(device)}><summary><b>{escape(device['serial'])}</b> {device['results']:,} results"
                f"<span class=tag>assurance {escape(device['assurance'] or 'unknown')}</span>{tail}</summary>"
            )
            yield from self._intervals(device)
            yield from self._series(device)
            yield from self._refused(device)
            serial = escape(device["serial"])
            yield (
                f"<p class=dim>Reproduce:</p><pre>{escape(self.command)} --device {serial} --json\n"
                f"edgeprov-fleet query --device {serial} --from {self.report['from'][:10]} --to {_last_day(self.report['to'])} --json\n"
                f"edgeprov-fleet verify --device {serial} --records --again --json</pre></details>"
            )

    def _intervals(self, device: dict[str, Any]) -> Iterator[str]:
        if not device["intervals"]:
            yield "<p>No verified result in this period.</p>"
            return
        yield (
            "<table class=t><thead><tr><th scope=col>Model<th scope=col>Slot<th scope=col>First result<th scope=col>Last result<th scope=col>Provable interval"
            "<th scope=col class=n>Numbers<th scope=col class=n>Kits<th scope=col class=n>Results</thead><tbody>"
        )
        for item in device["intervals"]:
            provable = item["provable"]
            yield (
                f"<tr><th scope=row>{self._key(item['model'])} {escape(item['name'] or item['model'][7:19])}<td>{escape(item['slot'])}<td>{_minute(item['from'])}"
                f"<td>{_minute(item['to'])}<td>{_minute(provable['after']) or 'unknown'} – {_minute(provable['before']) or 'unknown'}"
                f"<td class=n>{item['seq'][0]}–{item['seq'][1]}<td class=n>{item['kits']:,}<td class=n>{'≤ ' if item['approximate'] else ''}{item['results']:,}"
            )
        yield "</tbody></table>"

    def _series(self, device: dict[str, Any]) -> Iterator[str]:
        series = device["series"]
        if device["record_fault"]:
            yield f"<p><b>Device record:</b> {escape(device['record_fault'])}</p>"
        if not series:
            yield "<p>Enrolled, but nothing has ever arrived from it.</p>"
            return
        facts = [
            f"numbers {series['base'] + 1} to {series['last'] or series['base']}",
            f"closed until {series['closed_until']}",
        ]
        facts += (
            [f"attested head {series['head']}"]
            if series["head"] is not None
            else ["no attested head: kits withheld at the end would not show"]
        )
        for name, text in (
            ("missing", "missing"),
            ("refused_numbers", "refused in place"),
            ("voided", "voided by tombstone"),
            ("forks", "forked"),
            ("broken_links", "wrong predecessor"),
            ("reordered", "out of order"),
        ):
            if series.get(name):
                facts.append(
                    f"{text}: "
                    + (ranges(series[name], 50) if name == "missing" else ", ".join(map(str, series[name][:50])))
                )
        yield f"<p><b>Series:</b> {escape('; '.join(facts))}.</p>"
        for doubt in device["identity_doubts"]:
            yield f"<p><b>Identity:</b> {escape(doubt)}</p>"
        if device["clock"]["doubts"]:
            yield f"<p><b>Clock:</b> {escape('; '.join(device['clock']['doubts']))}</p>"

    def _refused(self, device: dict[str, Any]) -> Iterator[str]:
        rows = [
            (item, f"step {item['step']}" if item["step"] else "content") for item in device["refused"][:_REFUSED_MAX]
        ]
        rows += [(item, "time") for item in device["doubtful"][: _REFUSED_MAX - len(rows)]]
        if not rows:
            return
        yield "<table class=t><caption class=vh>Not counted</caption><thead><tr><th scope=col>Not counted<th scope=col class=n>Number<th scope=col>Refused by<th scope=col>Why</thead><tbody>"
        for item, where in rows:
            yield f"<tr><td><code>{escape(item['kit'][7:23])}</code><td class=n>{item['seq']}<td>{where}<td>{escape(str(item['why'] or ''))}"
        yield "</tbody></table>"
        hidden = device["refused_count"] + len(device["doubtful"]) - len(rows)
        if hidden > 0:
            yield f"<p class=dim>… and {hidden} more: edgeprov-fleet query --device {escape(device['serial'])} --verdict refused</p>"

    def _drift(self) -> Iterator[str]:
        if not self.report.get("drift"):
            return
        from edgeprov.fleet.drift_html import drift_lines

        yield from drift_lines(self.report["drift"], self.names)

    def _method(self) -> Iterator[str]:
        report = self.report
        yield "<h2>How this was found</h2><table class=t><tbody>"
        for source in report["sources"]:
            yield f"<tr><th scope=row>Registry<td><code>{escape(source['name'])}</code>, read {escape(source['synced_at'] or 'never')}, {source['unusable']} unusable names"
        yield (
            f"<tr><th scope=row>Trust folder<td><code>{escape(report['policy'])}</code>"
            f"<tr><th scope=row>Made<td>{escape(report['generated_at'])} by edgeprov {escape(report['edgeprov'])}"
            "</tbody></table><p>Only kits whose ten verification steps hold, and whose bytes are all there, are counted. A device's own clock is not proved: the "
            f"provable interval comes from the TPM's clock (taken as exact to {report['tpm_clock_error']:.0%}), the enrolment, and the moment at which a kit was first seen.</p>"
            f"<p class=dim>Reproduce this report:</p><pre>{escape(self.command)} --html audit.html</pre>"
        )

    def _data(self, device: dict[str, Any]) -> str:
        models = " ".join(sorted({self._letter(item["model"]) for item in device["intervals"]}))
        return f'data-device="{escape(device["serial"])}" data-models="{models}" data-doubt={1 if device_doubts(device) else 0}'

    def _letter(self, digest: str) -> str:
        number = self.letters.get(digest)
        if number is None:
            return "–"
        return LETTERS[number] if number < len(LETTERS) else f"{LETTERS[number // 26 - 1]}{LETTERS[number % 26]}"

    def _colour(self, digest: str) -> str:
        number = self.letters.get(digest)
        return "e" if number is None else f"m{number % _COLOURS}"

    def _key(self, digest: str) -> str:
        return f'<span class="key {self._colour(digest)}">{self._letter(digest)}</span>'


def _columns(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Start, short label and full text of each column: days, or weeks where there are many."""
    days = [day for device in report["devices"] for day in device["days"]]
    if not days:
        return []
    first, last = (dt.date.fromisoformat(f(days)) for f in (min, max))
    since, to = report["from"][:10], _last_day(report["to"])
    if (dt.date.fromisoformat(to) - dt.date.fromisoformat(since)).days < 370:
        first, last = (
            dt.date.fromisoformat(since),
            min(dt.date.fromisoformat(to), max(last, dt.date.fromisoformat(since))),
        )
        last = dt.date.fromisoformat(to) if to <= report["generated_at"][:10] else last
    step = 1 if (last - first).days < _DAYS_MAX else 7
    result: list[tuple[str, str, str]] = []
    day = first
    while day <= last and len(result) < 400:
        text = f"{day:%Y-%m-%d}" if step == 1 else f"week of {day:%Y-%m-%d}"
        result.append(
            (f"{day:%Y-%m-%d}", f"{day:%d}" if day != first and day.day > step else f"{day:%d}<br>{day:%b}", text)
        )
        day += dt.timedelta(days=step)
    return result


def _last_day(to: str) -> str:
    """The last day inside: the period's end is not included."""
    try:
        moment = dt.datetime.fromisoformat(to) - dt.timedelta(seconds=1)
    except (ValueError, OverflowError):
        return to[:10]
    return f"{moment:%Y-%m-%d}"


def _minute(text: str | None) -> str:
    return escape((text or "")[:16].replace("T", " "))
