# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Add ground truth to records: one by one, from JSON lines, or from an array.

edgeprov label 17 1                               record 17 of the first slot is a 1
edgeprov label camera:17 '"benign"'               any JSON value
edgeprov label --from labels.jsonl                lines {"n": 17, "value": 1}
edgeprov label --from y.npz --array y --first 1   value i belongs to record FIRST + i
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprov.cli.device.files import read_input
from edgeprov.cli.output import Output
from edgeprov.cli.parsing import positive
from edgeprov.device.context import load_context
from edgeprov.errors import FormatError, UsageError
from edgeprov.limits import MIB

if TYPE_CHECKING:
    from edgeprov.device.labels import LabelValue


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("record", nargs="?", metavar="RECORD", help="N or SLOT:N")
    parser.add_argument("value", nargs="?", metavar="VALUE", help="JSON, or text")
    parser.add_argument("--from", dest="file", metavar="FILE", help="JSON lines, .npy or .npz")
    parser.add_argument("--array", metavar="NAME", help="which array of an .npz file")
    parser.add_argument("--first", type=positive, metavar="N", help="record of the array's first value")
    parser.add_argument("--slot", help="default: the first configured slot")
    parser.add_argument("--source", default="operator", help="who says so (default: operator)")


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.labels import add_labels
    from edgeprov.device.rotation import request_sync_of_all

    context = load_context()
    slot = args.slot or context.config.device.slots[0]
    if (args.file is None) == (args.record is None):
        raise UsageError("give either RECORD and VALUE, or --from FILE")
    labels: list[tuple[int, LabelValue]]
    if args.file is None:
        slot, labels = _one(args, slot)
    elif Path(args.file).suffix in (".npy", ".npz"):
        labels = _from_array(args)
    else:
        labels = _from_lines(args.file)
    state = context.state()
    write_out = partial(request_sync_of_all, context, state.spool(slot))
    count = add_labels(state, slot, labels, source=args.source, write_out=write_out)
    out.item("labels", f"{count} labels added in slot {slot}", count=count, slot=slot)
    out.next("edgeprov seal")


def _one(args: argparse.Namespace, slot: str) -> tuple[str, list[tuple[int, LabelValue]]]:
    from edgeprov.device.labels import parse_record
    from edgeprov.formats.jsonx import parse_json

    if args.value is None:
        raise UsageError("VALUE is missing")
    slot, number = parse_record(args.record, slot)
    try:
        value = parse_json(args.value.encode(), "value")
    except FormatError:
        value = args.value  # plain text needs no quotes
    return slot, [(number, value)]


def _from_array(args: argparse.Namespace) -> list[tuple[int, LabelValue]]:
    from edgeprov.device.runtime import load_arrays

    if args.first is None:
        raise UsageError("--first is needed with an array: the record of its first value")
    array = load_arrays(args.file, args.array)
    return [(args.first + index, value) for index, value in enumerate(array.tolist())]


def _from_lines(name: str) -> list[tuple[int, LabelValue]]:
    from edgeprov.formats.jsonx import parse_json_object

    result: list[tuple[int, Any]] = []
    for number, line in enumerate(read_input(name, 64 * MIB).splitlines(), 1):
        if not line.strip():
            continue
        what = f"{name}, line {number}"
        obj = parse_json_object(line, what)
        n = obj.get("n")
        if not isinstance(n, int) or isinstance(n, bool) or "value" not in obj:
            raise FormatError(f"{what}: needs n (a number) and value")
        result.append((n, obj["value"]))
    return result
