# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Why to retrain, at a glance: for each model version how its outputs are spread, and how often they were right.

Read from a data set of `collect`, row group by row group. The spread is of the decided class where the
output is a vector, of the value in 20 bins where it is one number; two versions are compared by the
population stability index (PSI: above 0.25 is commonly taken as a shift). Accuracy is counted only where
labels are integers, or text of integers.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from edgeprov.errors import NotStored
from edgeprov.fleet import tables_summary
from edgeprov.formats.digest import Digest

BINS: Final = 20
SHIFT: Final = 0.25
"""PSI above which two spreads are commonly called shifted."""

_CLASSES: Final = 1_000
_FLOOR: Final = 1e-4


def drift(folder: Path, since: str | None = None, to: str | None = None) -> dict[str, Any]:
    """Compare the model versions of a data set.

    Args:
        folder: What `collect` wrote.
        since: RFC 3339; rows before are left out.
        to: RFC 3339; rows from then on are left out.

    Raises:
        NotStored: Not a data set.
    """
    if not (folder / "_edgeprov").is_dir():
        raise NotStored(f"{folder} is no data set", advice="Run edgeprov-fleet collect -o DIR first.")
    models: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("model=*/device=*/part-0.parquet")):
        digest = str(Digest(path.parent.parent.name.removeprefix("model=")))
        one = models.setdefault(
            digest, {"model": digest, "rows": 0, "labelled": 0, "right": 0, "spread": Counter(), "confusion": Counter()}
        )
        for counts in tables_summary.summarise(path, since, to, bins=BINS, classes=_CLASSES):
            _add(one, counts)
    result = [_finish(one) for one in models.values() if one["rows"]]
    result.sort(key=lambda one: one["first"] or "")
    pairs = [
        {"from": before["model"], "to": after["model"], "psi": psi, "shifted": psi > SHIFT}
        for before, after in pairwise(result)
        if before["kind"] == after["kind"]
        for psi in [round(_psi(before["spread"], after["spread"]), 4)]
    ]
    return {"folder": str(folder), "models": result, "pairs": pairs}


def _add(one: dict[str, Any], counts: dict[str, Any]) -> None:
    one["kind"], one["edges"] = counts["kind"], counts["edges"]
    for name in ("rows", "labelled", "right"):
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
    accuracy = round(one["right"] / one["labelled"], 4) if one["labelled"] else None
    return {
        **one,
        "first": one.get("first"),
        "last": one.get("last"),
        "spread": spread,
        "confusion": confusion[:400],
        "accuracy": accuracy,
    }


def _psi(before: dict[str, int], after: dict[str, int]) -> float:
    total_before, total_after = sum(before.values()), sum(after.values())
    result = 0.0
    for key in before.keys() | after.keys():
        p = max(before.get(key, 0) / total_before, _FLOOR)
        q = max(after.get(key, 0) / total_after, _FLOOR)
        result += (q - p) * math.log(q / p)
    return result
