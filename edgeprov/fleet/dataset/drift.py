# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Why to retrain, at a glance: for each model version how its outputs are spread, and how often they were right.

Read from a data set of `collect`, row group by row group. The spread is of the decided class where the
output is a vector, of the value in 20 bins where it is one number; two versions are compared by the
population stability index (PSI: above 0.25 is commonly taken as a shift). Accuracy is counted only where
labels are truth values, integers, or text of integers; its interval is Wilson's at 95 %, and a version is called
worse or better only where chance does not explain the difference (two proportions, 5 %).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise
from typing import Any, Final

from edgeprov.errors import NotStored
from edgeprov.fleet.dataset import tables_summary
from edgeprov.fleet.dataset.destination import STATEMENT, open_destination
from edgeprov.formats.digest import Digest

BINS: Final = 20
SHIFT: Final = 0.25
"""PSI above which two spreads are commonly called shifted."""

_PARTITION: Final = re.compile(r"model=([0-9a-f]{64})/device=[^/]+/part-0\.parquet")
_CLASSES: Final = 1_000
_Z: Final = 1.959964
"""Of the normal distribution, for 95 %."""
_FLOOR: Final = 1e-4
_COUNTS: Final = ("rows", "labelled", "compared", "right")


def drift(name: str, since: str | None = None, to: str | None = None) -> dict[str, Any]:
    """Compare the model versions of a data set.

    Args:
        name: Folder or URL that `collect` wrote to.
        since: RFC 3339; rows before are left out.
        to: RFC 3339; rows from then on are left out.

    Raises:
        NotStored: Not a data set.
    """
    output = open_destination(name)
    files = output.files()
    if STATEMENT not in files:
        raise NotStored(f"{name} is no data set", advice="Run edgeprov-fleet collect -o DIR first.")
    models: dict[str, dict[str, Any]] = {}
    for path in files:
        match = _PARTITION.fullmatch(path)
        if match is None:
            continue
        digest = str(Digest(match[1]))
        one = models.setdefault(
            digest,
            {"model": digest, **dict.fromkeys(_COUNTS, 0), "spread": Counter(), "confusion": Counter()},
        )
        with output.reading(path) as stream:
            if stream is None:
                continue  # a collect is writing there now
            for counts in tables_summary.summarise(stream, since, to, bins=BINS, classes=_CLASSES):
                _add(one, counts)
    result = [_finish(one) for one in models.values() if one["rows"]]
    result.sort(key=lambda one: one["first"] or "")
    pairs = [
        {"from": before["model"], "to": after["model"], "psi": psi, "shifted": psi > SHIFT}
        | {"accuracy": _compare(before, after)}
        for before, after in pairwise(result)
        if (before["kind"], before["edges"]) == (after["kind"], after["edges"])
        for psi in [round(_psi(before["spread"], after["spread"]), 4)]
    ]
    return {"folder": output.name, "models": result, "pairs": pairs}


def _add(one: dict[str, Any], counts: dict[str, Any]) -> None:
    one["kind"], one["edges"] = counts["kind"], counts["edges"]
    for name in _COUNTS:
        one[name] += counts[name]
    one["spread"].update(counts["spread"])
    one["confusion"].update(counts["confusion"])
    if counts["rows"]:
        one["first"] = min(filter(None, (one.get("first"), counts["first"])))
        one["last"] = max(filter(None, (one.get("last"), counts["last"])))


def _finish(one: dict[str, Any]) -> dict[str, Any]:
    spread = {str(key): count for key, count in sorted(one["spread"].items())}
    confusion = [
        {"label": label, "decided": decided, "rows": count}
        for (label, decided), count in sorted(one["confusion"].items())
    ]
    recall: dict[int, dict[str, int]] = {}
    for (label, decided), count in sorted(one["confusion"].items()):
        of = recall.setdefault(label, {"label": label, "rows": 0, "right": 0})
        of["rows"] += count
        of["right"] += count if label == decided else 0
    return {
        **one,
        "first": one.get("first"),
        "last": one.get("last"),
        "bins": BINS,
        "spread": spread,
        "confusion": confusion[:400],
        "recall": list(recall.values())[:100],
        "accuracy": round(one["right"] / one["compared"], 4) if one["compared"] else None,
        "accuracy_interval": _interval(one["right"], one["compared"]),
    }


def _interval(right: int, count: int) -> list[float] | None:
    """Wilson's score interval at 95 %."""
    if not count:
        return None
    share, z2 = right / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return [round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)]


def _compare(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """``worse``, ``better``, ``same`` (chance explains it), or None without labels on both sides."""
    n, m = before["compared"], after["compared"]
    if not n or not m:
        return None
    pooled = (before["right"] + after["right"]) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    change = after["right"] / m - before["right"] / n
    if not error or abs(change) < _Z * error:
        return "same"
    return "worse" if change < 0 else "better"


def _psi(before: dict[str, int], after: dict[str, int]) -> float:
    total_before, total_after = sum(before.values()), sum(after.values())
    result = 0.0
    for key in before.keys() | after.keys():
        p = max(before.get(key, 0) / total_before, _FLOOR)
        q = max(after.get(key, 0) / total_after, _FLOOR)
        result += (q - p) * math.log(q / p)
    return result
