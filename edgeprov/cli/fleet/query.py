# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Find kits in the index: by model, device, slot, time, labels or verdict; as a table, JSON lines or CSV.

What is shown comes from each kit's own manifest; only the verdict column says whether it is proved.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, short
from edgeprov.cli.parsing import positive
from edgeprov.errors import NotStored, UsageError

if TYPE_CHECKING:
    from edgeprov.fleet.index.database import Index
    from edgeprov.fleet.index.query import Artifact, Query

_SHOWN = 50
_CSV = (
    "digest",
    "kind",
    "verdict",
    "model",
    "device",
    "slot",
    "seq",
    "records",
    "labels",
    "first",
    "last",
    "recorded_first",
    "recorded_last",
    "created",
    "found_at",
    "assurance",
    "step",
    "error",
    "repo",
    "tag",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    common.filter_options(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help=f"at most N kits (table: {_SHOWN})")
    parser.add_argument("--csv", action="store_true")
    parser.add_argument("--count", action="store_true", help="only how many kits, records and labels")
    common.fleet_option(parser)
    common.trust_option(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    try:
        trust = common.load_trust(args, parse=False)
    except NotStored:
        if args.trust:
            raise
        trust = None  # a plain query needs no trust: it shows the verdicts of the newest run
    if args.csv and out.as_json:
        raise UsageError("--csv and --json exclude each other")
    with common.open_index(args) as index:
        query = common.make_query(args, index, trust)
        if trust is None:
            query = replace(query, policy=index.newest_policy())
        if args.count:
            count, records, labels = index.count(query)
            text = f"{count} kits and tombstones, {records} records, {labels} labels"
            out.item("counted", text, kits=count, records=records, labels=labels)
            return
        found = _Results(index, query, args.limit or (None if out.as_json or args.csv else _SHOWN))
        if args.csv:
            _csv(found)
        elif out.as_json:
            _json(found, out)
        else:
            _table(found, out)
            if trust is None and query.policy:
                out.text(
                    f"verdicts under the trust folder {short(query.policy)} of the newest run; --trust names another"
                )
            out.next("edgeprov-fleet collect with the same filters" if found.total[0] else "edgeprov-fleet sync")


class _Results:
    """What a query finds, and what belongs beside it."""

    def __init__(self, index: Index, query: Query, limit: int | None) -> None:
        from edgeprov.fleet.index.lineage import collection_verdict

        self.names = index.model_names()
        self.sets = [
            {"statement": item} | collection_verdict(index, item, query.policy) for item in query.collection or ()
        ]
        self.notes = [_training_set(item) for item in self.sets]
        self.kits = index.iterate(query, limit=limit)
        self._index, self._query = index, query

    @cached_property
    def total(self) -> tuple[int, int, int]:
        """Kits and tombstones, records, labels."""
        return self._index.count(self._query)


def _csv(found: _Results) -> None:
    import csv

    writer = csv.writer(sys.stdout)
    writer.writerow(_CSV)
    writer.writerows([_cell(getattr(item, name)) for name in _CSV] for item in found.kits)
    for note in found.notes:
        sys.stderr.write(f"{note}\n")


def _json(found: _Results, out: Output) -> None:
    for item in found.kits:
        values = {name: getattr(item, name) for name in _CSV}
        out.item("kit", **values, model_name=found.names.get(item.model), detail=item.detail)
    for collection in found.sets:
        out.item("training-set", **collection)


def _table(found: _Results, out: Output) -> None:
    rows, (count, records, labels) = list(found.kits), found.total
    out.table(
        ("kit", "model", "device", "slot", "seq", "records", "labels", "recorded", "verdict"),
        [
            (
                short(item.digest),
                found.names.get(item.model) or short(item.model),
                item.device.rpartition(":")[2],
                item.slot,
                item.seq,
                item.records if item.kind == "kit" else None,
                item.labels,
                (item.recorded_first or item.created)[:19],
                _verdict(item),
            )
            for item in rows
        ],
    )
    out.text(
        f"{count} kits and tombstones, {records} records, {labels} labels"
        + (f"; first {len(rows)} shown" if count > len(rows) else "")
    )
    for note in found.notes:
        out.text(note)


def _training_set(item: dict[str, Any]) -> str:
    text = f"signed by {item['signer']}" if item["verified"] else f"UNVERIFIED: {item['why']}"
    return f"the list of kits is that of the training set {short(item['statement'])}; {text}"


def _verdict(item: Artifact) -> str:
    text = item.verdict
    if text == "refused":
        text += f", step {item.step}" if item.step else ", content"
    return text if item.kind == "kit" else f"{text} (tombstone)"


def _cell(value: object) -> object:
    # A spreadsheet must not take a name for a formula.
    return "'" + value if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
