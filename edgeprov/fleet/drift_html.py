# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Drift as a section of the audit page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_SHOWN = 40


def drift_lines(report: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """The section: a table of versions, with the spread of outputs as bars that also have a text."""
    yield (
        "<h2 id=drift>Model versions compared</h2><p class=dim>Spread of the first output and agreement with labels, from the collected data set. "
        "PSI above 0.25 is commonly called a shift.</p><table class=t><thead><tr><th scope=col>Model<th scope=col class=n>Rows<th scope=col class=n>Labelled"
        "<th scope=col class=n>Accuracy<th scope=col class=n>PSI to the version before<th scope=col>Spread</thead><tbody>"
    )
    psi = {pair["to"]: pair for pair in report["pairs"]}
    for model in report["models"]:
        pair = psi.get(model["model"])
        accuracy = "" if model["accuracy"] is None else f"{model['accuracy']:.1%}"
        shift = "" if pair is None else f"{pair['psi']:.3f}{' (shifted)' if pair['shifted'] else ''}"
        yield (
            f"<tr><th scope=row>{escape(names.get(model['model']) or model['model'][7:19])}<td class=n>{model['rows']:,}<td class=n>{model['labelled']:,}"
            f"<td class=n>{accuracy}<td class=n>{shift}<td>{_bars(model)}"
        )
    yield "</tbody></table>"


def _bars(model: Mapping[str, Any]) -> str:
    spread = dict(list(model["spread"].items())[:_SHOWN])
    most = max(spread.values(), default=1)
    total = sum(spread.values()) or 1
    text = ", ".join(f"{model['kind']} {key}: {count / total:.0%}" for key, count in spread.items())
    bars = "".join(f'<span style="height:{max(1, 60 * count / most):.0f}px"></span>' for count in spread.values())
    return f'<div class=hist role=img aria-label="{escape(text)}" title="{escape(text)}">{bars}</div>'
