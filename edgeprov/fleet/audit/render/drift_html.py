# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Drift as a section of the audit page: what changed from version to version, in sentences, numbers and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from edgeprov.fleet.audit.render.day_grid_html import ModelKeys
from edgeprov.fleet.audit.render.devices_html import minute, scroll
from edgeprov.fleet.audit.render.text import drift_sentences

_SHOWN: Final = 40
_WIDTH: Final = 240
_HEIGHT: Final = 64


def drift_lines(report: Mapping[str, Any], keys: ModelKeys) -> Iterator[str]:
    """The section.

    Args:
        report: Of drift.drift, with a ``name`` for each model.
        keys: Letters and colours of the page.
    """
    yield "<section aria-labelledby=drift><h2 id=drift>Model versions compared</h2><ul>"
    for mark, sentence in drift_sentences(report):
        yield f'<li class="{mark}">{escape(sentence)}'
    yield (
        "</ul><p class=dim>From the collected data set: the first output of each result, and whether it agrees with the label where there is one. "
        "In the pictures, bars are the share of results of this version, the line is the version before. "
        "PSI compares two spreads; above 0.25 is commonly called a shift.</p>"
    )
    yield scroll("Table of versions")
    yield (
        "<table class=t><thead><tr><th scope=col>Model<th scope=col>First to last result<th scope=col class=n>Results<th scope=col class=n>Labelled"
        "<th scope=col>Accuracy, 95 % interval<th scope=col>Right by label<th scope=col class=n>PSI to the version before<th scope=col>Spread of outputs</thead><tbody>"
    )
    pairs = {pair["to"]: pair for pair in report["pairs"]}
    lows = [model["accuracy_interval"][0] for model in report["models"] if model["accuracy_interval"]]
    start = math.floor(10 * min(lows, default=0.0)) / 10  # one scale for all, no wider than they need
    before: Mapping[str, Any] | None = None
    for model in report["models"]:
        pair = pairs.get(model["model"])
        psi = "" if pair is None else f"{pair['psi']:.3f}"
        recall = ", ".join(f"{item['label']}: {item['right'] / item['rows']:.1%}" for item in model["recall"][:6])
        yield (
            f"<tr><th scope=row>{keys.key(model['model'])} {escape(model.get('name') or keys.name(model['model']))}"
            f"<td class=nowrap>{minute(model['first'])[:10]} – {minute(model['last'])[:10]}<td class=n>{model['rows']:,}<td class=n>{model['labelled']:,}"
            f"<td>{_accuracy(model, start)}<td>{recall}<td class=n>{psi}<td>{_spread(model, before if pair else None, keys)}"
        )
        before = model
    yield "</tbody></table></div></section>"


def _accuracy(model: Mapping[str, Any], start: float) -> str:
    if model["accuracy"] is None:
        return "no labels to compare"
    low, high = model["accuracy_interval"]
    x = [round(100 * (value - start) / (1 - start), 1) for value in (low, high, model["accuracy"])]
    return (
        f"<b>{model['accuracy']:.1%}</b> ({low:.1%} – {high:.1%})<br>"
        f'<svg class=range width=160 height=12 viewBox="0 0 100 12" preserveAspectRatio=none aria-hidden=true>'
        f"<rect x=0 y=5 width=100 height=2 class=axis /><rect x={x[0]} y=3 width={max(0.6, x[1] - x[0]):.1f} height=6 class=interval />"
        f"<rect x={x[2] - 0.4:.1f} y=0 width=0.8 height=12 class=point /></svg><br><span class=scale>{start:.0%}</span><span class=scale>100%</span>"
    )


def _spread(model: Mapping[str, Any], before: Mapping[str, Any] | None, keys: ModelKeys) -> str:
    names = _bins(model, before)
    bars, line = _shares(model, names), _shares(before, names) if before else []
    most = max([*bars, *line, 1e-9])
    step = _WIDTH / len(names)
    text = ", ".join(f"{_bin_text(model, name)}: {value:.1%}" for name, value in zip(names, bars, strict=True) if value)
    parts = [
        f'<rect x={number * step:.1f} y={_HEIGHT - height:.1f} width={max(1.0, step - 1):.1f} height={height:.1f} class="{keys.colour(model["model"])}"/>'
        for number, value in enumerate(bars)
        for height in [(_HEIGHT - 4) * value / most]
    ]
    if line:
        points = " ".join(
            f"{x:.1f},{_HEIGHT - (_HEIGHT - 4) * value / most:.1f}"
            for number, value in enumerate(line)
            for x in (number * step, (number + 1) * step - 1)
        )
        parts.append(f'<polyline points="{points}"/>')
    ends = [_bin_text(model, names[0]), _bin_text(model, names[-1])] if model["kind"] == "class" else model["edges"]
    left, right = (end if isinstance(end, str) else f"{end:.4g}" for end in ends)
    return (
        f'<svg class=spread role=img aria-label="Spread of outputs: {escape(text)}" width={_WIDTH} height={_HEIGHT + 14} viewBox="0 0 {_WIDTH} {_HEIGHT + 14}">'
        f"{''.join(parts)}<line x1=0 x2={_WIDTH} y1={_HEIGHT} y2={_HEIGHT} />"
        f"<text x=0 y={_HEIGHT + 11}>{escape(left)}</text><text x={_WIDTH} y={_HEIGHT + 11} text-anchor=end>{escape(right)}</text></svg>"
    )


def _bins(model: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[int]:
    if model["kind"] == "value":
        return list(range(model["bins"]))
    found = {int(name) for part in (model, before) if part for name in part["spread"]}
    return sorted(found)[:_SHOWN]


def _shares(model: Mapping[str, Any], names: list[int]) -> list[float]:
    total = sum(model["spread"].values()) or 1
    return [model["spread"].get(str(name), 0) / total for name in names]


def _bin_text(model: Mapping[str, Any], name: int) -> str:
    if model["kind"] == "class":
        return f"class {name}"
    low, high = model["edges"]
    width = (high - low) / model["bins"]
    return f"{low + name * width:.3g} to {low + (name + 1) * width:.3g}"
