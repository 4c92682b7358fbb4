# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The audit as one self-contained HTML page: no request to anywhere, readable without scripts, printable.

Every name that comes from a registry is escaped; the page's policy forbids any request, so that not
even a mistake here could send data out. Colours never say anything alone: each model has a letter,
each doubt a sign and a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from edgeprov.fleet.audit.render.commands import Commands
from edgeprov.fleet.audit.render.day_grid_html import ModelKeys, picture_lines
from edgeprov.fleet.audit.render.devices_html import devices_lines, minute, scroll
from edgeprov.fleet.audit.render.text import answer, head_note, last_day, share, verdict_text
from edgeprov.fleet.web import asset

_CSP: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)

_TILES: Final = (
    ("results", "results", ""), ("kits", "kits counted", ""), ("devices", "devices", ""), ("refused", "kits refused", "b"),
    ("missing", "numbers missing", "b"), ("unknown_numbers", "numbers unexplained", "b"), ("forks", "numbers forked", "b"), ("unknown_devices", "unknown devices", "b"),
    ("clock_doubts", "clocks in doubt", "w"), ("silent_devices", "silent devices", "w"), ("unchecked", "kits unchecked", "w"),
    ("voided", "voided (signed)", ""), ("lost_records", "records lost (signed)", "w"),
)  # fmt: skip


def encode_html(report: Mapping[str, Any], commands: Commands) -> bytes:
    """The page.

    Args:
        report: Audit.as_json().
        commands: The commands that make it and its numbers, for the reader to repeat.
    """
    page = _Page(dict(report), commands)
    return "".join(page.lines()).encode()


class _Page:
    def __init__(self, report: dict[str, Any], commands: Commands) -> None:
        self.report = report
        self.commands = commands
        self.keys = ModelKeys(report["models"])

    def lines(self) -> Iterator[str]:
        since, to = self.report["from"][:10], last_day(self.report["to"])
        yield (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{_CSP}"><title>Audit {since} to {to}</title>'
            f"<style>{asset('report.css')}</style></head><body><a class=skip href=#devices>Skip to devices</a><main>"
        )
        yield from self._head()
        yield from picture_lines(self.report, self.keys)
        yield from devices_lines(self.report, self.keys, self.commands)
        yield from self._drift()
        yield from self._method()
        yield from self._numbers()
        yield f"</main><script>{asset('report.js')}</script></body></html>"

    def _head(self) -> Iterator[str]:
        report, totals = self.report, self.report["totals"]
        yield (
            f"<h1>Which model version produced the results of {report['from'][:10]} to {last_day(report['to'])}?</h1>"
            f"<p class=answer>{escape(answer(report))}</p>"
            f'<p class="verdict {report["verdict"]}">{escape(verdict_text(report))}</p>'
        )
        yield "<ul class=tiles>"
        for name, text, mark in _TILES:
            count = totals.get(name, 0)
            yield f'<li class="{mark if count else "n0"}"><b>{count:,}</b>{text}</li>'
        yield "</ul>"
        yield from self._models()
        levels = Counter(device["assurance"] or "unknown" for device in report["devices"])
        notes = [
            f"Assurance of the devices: {', '.join(f'{name} {count:,}' for name, count in levels.most_common())}.",
            f"{totals['label_kits']:,} of the counted kits bring labels only." if totals.get("label_kits") else "",
            head_note(report),
        ]
        yield f"<p class=dim>{_code(escape(' '.join(filter(None, notes))))}</p>"

    def _models(self) -> Iterator[str]:
        models = self.report["models"]
        most = max((model["results"] for model in models), default=1) or 1
        yield scroll("Results by model version")
        yield (
            "<table class='t models'><caption class=vh>Results by model version</caption><thead><tr><th scope=col>Model"
            "<th scope=col class=n>Results<th scope=col class=n>Kits<th scope=col class=n>Devices<th scope=col class=n>Unlabelled"
            "<th scope=col>First result<th scope=col>Last result<th scope=col>Publisher's<br>signature<th scope=col>Digest</thead><tbody>"
        )
        for model in models:
            signed = {None: ("w", "unchecked"), True: ("ok", "ok"), False: ("bad", "refused")}[model["signed"]]
            yield (
                f"<tr><th scope=row>{self.keys.key(model['digest'])} {escape(self.keys.name(model['digest']))}"
                f'<td class=n><span class="bar {self.keys.colour(model["digest"])}" style="width:{80 * model["results"] / most:.0f}px"></span>{model["results"]:,}'
                f"<td class=n>{model['kits']:,}<td class=n>{model['devices']:,}<td class=n>{share(model)}"
                f"<td>{minute(model['first'])}<td>{minute(model['last'])}<td class=v-{signed[0]}>{signed[1]}<td class=digest><code>{escape(model['digest'])}</code>"
            )
        yield "</tbody></table></div>"

    def _drift(self) -> Iterator[str]:
        if not self.report.get("drift"):
            return
        from edgeprov.fleet.audit.render.drift_html import drift_lines

        yield from drift_lines(self.report["drift"], self.keys)

    def _method(self) -> Iterator[str]:
        report = self.report
        yield "<section aria-labelledby=method><h2 id=method>How this was found</h2>"
        yield scroll("Sources")
        yield "<table class=t><tbody>"
        for source in report["sources"]:
            yield f"<tr><th scope=row>Registry<td><code>{escape(source['name'])}</code>, read {escape(source['synced_at'] or 'never')}, {source['unusable']} unusable names"
        yield (
            f"<tr><th scope=row>Trust folder<td><code>{escape(report['policy'])}</code>"
            f"<tr><th scope=row>Made<td>{escape(report['generated_at'])} by edgeprov {escape(report['edgeprov'])}"
            "</tbody></table></div><p>Only kits whose ten verification steps hold, and whose bytes are all there, are counted. A device's own clock is not proved: the "
            f"provable interval comes from the TPM's clock (taken as exact to {report['tpm_clock_error']:.0%}), the enrollment, and the moment at which a kit was first seen. "
            "A result is unlabelled when no verified kit brings a label for its number.</p></section>"
        )

    def _numbers(self) -> Iterator[str]:
        yield (
            "<section aria-labelledby=numbers><h2 id=numbers>Commands behind each number</h2><p>This report:</p>"
            f"<pre class=commands>{escape(self.commands.audit('--html', 'audit.html'))}</pre>"
            + (
                f"<p>It was signed when it was made. PAGE being this file, no byte of it changed if this agrees, with neither index nor network:</p>"
                f"<pre>{escape(self.commands.check('PAGE'))}</pre>"
                if self.commands.signed
                else ""
            )
            + "<p>Each number stands in the last line of the command's answer, under the name of the third column.</p>"
        )
        yield scroll("Table of commands")
        yield "<table class=t id=commands><thead><tr><th scope=col>Number<th scope=col class=n>Value<th scope=col>In the answer<th scope=col>Command</thead><tbody>"
        for what, value, command, where in self.commands.numbers(self.report):
            yield f"<tr><th scope=row>{escape(what)}<td class=n>{escape(value)}<td><code>{where}</code><td><code class=command>{escape(command)}</code>"
        yield (
            "</tbody></table></div><p>One result with its whole proof: <code>edgeprov-fleet prove SERIAL/SLOT/NUMBER -o FILE</code>, checked by "
            "<code>edgeprov-fleet check-proof FILE --trust DIR</code>, without any network.</p></section>"
        )


def _code(text: str) -> str:
    """Commands in running text, which a terminal shows between backquotes."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text)
