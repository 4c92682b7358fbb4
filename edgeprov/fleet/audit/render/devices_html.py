# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The audit page's part about each device: its stretches of one model, its series, what was not counted and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from edgeprov.fleet.audit.render.commands import Commands
from edgeprov.fleet.audit.render.day_grid_html import ModelKeys, device_data
from edgeprov.fleet.audit.render.text import device_doubts, device_notes, ranges, share, voided

_REFUSED_MAX: Final = 30


def devices_lines(report: Mapping[str, Any], keys: ModelKeys, commands: Commands) -> Iterator[str]:
    """The section."""
    yield "<section aria-labelledby=devices><h2 id=devices>Devices</h2>"
    for device in report["devices"]:
        doubts, notes = escape("; ".join(device_doubts(device))), escape("; ".join(device_notes(device)))
        yield (
            f"<details {device_data(device, keys)}><summary><b>{escape(device['serial'])}</b> {device['results']:,} results"
            f"<span class=tag>assurance {escape(device['assurance'] or 'unknown')}</span>"
            f"{f'<span class=tag>{share(device)} unlabelled</span>' if device['results'] else ''}"
            f"{f' <span class=doubt>{doubts}</span>' if doubts else ''}{f' <span class=dim>{notes}</span>' if notes else ''}</summary>"
        )
        yield from _intervals(device, keys)
        yield from _series(device)
        yield from _refused(device, commands)
        yield f"<p class=dim>Reproduce, and prove one result:</p><pre class=commands>{escape(chr(10).join(_commands(device, commands)))}</pre></details>"
    yield "</section>"


def scroll(label: str) -> str:
    """Start of a box that scrolls by itself where the page is narrow, with the keyboard too."""
    return f'<div class=scroll role=region tabindex=0 aria-label="{escape(label)}">'


def minute(text: str | None) -> str:
    """A time for a person, escaped."""
    return escape((text or "")[:16].replace("T", " "))


def _intervals(device: Mapping[str, Any], keys: ModelKeys) -> Iterator[str]:
    if not device["intervals"]:
        yield "<p>No verified result in this period.</p>"
        return
    yield scroll(f"Models of {device['serial']}")
    yield (
        "<table class=t><thead><tr><th scope=col>Model<th scope=col>Slot<th scope=col>First result<th scope=col>Last result<th scope=col>Provable interval"
        "<th scope=col class=n>Numbers<th scope=col class=n>Kits<th scope=col class=n>Results<th scope=col class=n>Unlabelled</thead><tbody>"
    )
    for item in device["intervals"]:
        provable = item["provable"]
        yield (
            f"<tr><th scope=row>{keys.key(item['model'])} {escape(item['name'] or item['model'][7:19])}<td>{escape(item['slot'])}<td>{minute(item['from'])}"
            f"<td>{minute(item['to'])}<td>{minute(provable['after']) or 'unknown'} – {minute(provable['before']) or 'unknown'}"
            f"<td class=n>{item['seq'][0]}–{item['seq'][1]}<td class=n>{item['kits']:,}"
            f"<td class=n>{'≤ ' if item['approximate'] else ''}{item['results']:,}<td class=n>{share(item)}"
        )
    yield "</tbody></table></div>"


def _commands(device: Mapping[str, Any], commands: Commands) -> Iterator[str]:
    serial = device["serial"]
    yield commands.audit("--json", device=serial)
    yield commands.query("--json", device=serial)
    yield commands.verify("--records", "--again", "--json", device=serial)
    if device["intervals"]:
        interval = device["intervals"][0]
        number = interval["records"][0]
        yield commands.prove(
            f"{serial}/{interval['slot']}/{number}", f"{serial}-{interval['slot']}-{number}.proof.json"
        )


def _asked(series: Mapping[str, Any]) -> str:
    return f", left on {series['head_at'][:10]} by the device's clock" if series["head_at"] else ""


def _series(device: Mapping[str, Any]) -> Iterator[str]:
    series = device["series"]
    if device["record_fault"]:
        yield f"<p><b>Device record:</b> {escape(device['record_fault'])}</p>"
    if not series:
        yield "<p>Enrolled, but nothing has ever arrived from it.</p>"
        return
    facts = [
        f"numbers {series['base'] + 1} to {series['last']}" if series["last"] else "no number verifies",
        f"closed until {series['closed_until']}",
        "no attested head: kits withheld at the end would not show"
        if series["head"] is None
        else f"attested head {series['head']}{_asked(series)}",
    ]
    for name, text in (
        ("missing", "missing"),
        ("unknown", "unexplained by the device"),
        ("refused_numbers", "refused in place"),
        ("voided", "voided by tombstone"),
        ("forks", "forked"),
        ("broken_links", "wrong predecessor"),
        ("reordered", "out of order"),
    ):
        if series.get(name):
            numbers = ", ".join(map(str, series[name][:50]))
            if name == "missing":
                numbers = ranges(series[name], 50)
            elif name == "voided":
                numbers = voided(series, 50)
            facts.append(f"{text}: {numbers}")
    yield f"<p><b>Series:</b> {escape('; '.join(facts))}.</p>"
    for doubt in device["identity_doubts"]:
        yield f"<p><b>Identity:</b> {escape(doubt)}</p>"
    if device["clock"]["doubts"]:
        yield f"<p><b>Clock:</b> {escape('; '.join(device['clock']['doubts']))}</p>"


def _refused(device: Mapping[str, Any], commands: Commands) -> Iterator[str]:
    rows = [(item, f"step {item['step']}" if item["step"] else "content") for item in device["refused"][:_REFUSED_MAX]]
    rows += [(item, "time") for item in device["doubtful"][: _REFUSED_MAX - len(rows)]]
    if not rows:
        return
    yield scroll(f"Kits of {device['serial']} that are not counted")
    yield "<table class=t><thead><tr><th scope=col>Not counted<th scope=col class=n>Number<th scope=col>Refused by<th scope=col>Why</thead><tbody>"
    for item, where in rows:
        yield f"<tr><td><code>{escape(item['kit'][7:23])}</code><td class=n>{item['seq']}<td>{where}<td class=why>{escape(str(item['why'] or ''))}"
    yield "</tbody></table></div>"
    hidden = device["refused_count"] + len(device["doubtful"]) - len(rows)
    if hidden > 0:
        yield f"<p class=dim>… and {hidden} more: <code>{escape(commands.query('--verdict', 'refused', '--json', device=device['serial']))}</code></p>"
