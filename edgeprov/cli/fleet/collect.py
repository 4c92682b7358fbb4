# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Write verified results as one labelled Parquet data set, with a signed statement of what went in.

Kits without a verdict are verified first. Refused kits are left out and listed. A second run goes on
where the first one stopped and rewrites only what changed. Keys and endpoints of a URL come from the
environment and configuration of its protocol's package.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, short, size

if TYPE_CHECKING:
    from edgeprov.fleet.dataset.destination import Destination


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR|URL",
        help="a folder, or a URL that fsspec knows (s3://BUCKET/PATH)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check that what lies there is what was signed, byte for byte: no index, no registry",
    )
    parser.add_argument("--dequantise", action="store_true", help="add float32 columns beside quantised tensors")
    parser.add_argument(
        "--inputs", action=argparse.BooleanOptionalAction, default=True, help="captured inputs, where kits hold them"
    )
    common.filter_options(parser, verdicts=False)
    common.signer_options(parser, "collector")
    common.fleet_option(parser)
    common.trust_option(parser)
    common.engine_options(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.dataset import collect
    from edgeprov.fleet.dataset.destination import open_destination
    from edgeprov.fleet.verification import verify_kits

    output = open_destination(args.output)
    if args.check:
        _check(args, output, out)
        return
    trust = common.load_trust(args)
    signer = common.load_signer(args, "collector", required=False)
    engine, moment = common.make_engine(args), common.now()
    with common.open_index(args, write=True) as index:
        index.keep_little()
        query = common.make_query(args, index, trust)
        total = index.count(query)[0]
        with out.progress("verify", total) as bar:
            verify_kits.check(index, query, trust, engine, at=moment, progress=bar.update)
        with out.progress("collect", total) as bar:
            report = collect.collect(
                index,
                query,
                trust,
                engine,
                output,
                now=moment,
                signer=signer,
                dequantise=args.dequantise,
                inputs=args.inputs,
                progress=bar.update,
            )
        names = index.model_names()
    out.item("collected", **collect.result_json(report))
    out.table(
        ("model", "rows"),
        [(f"{names.get(model, '')} {short(model)}".strip(), rows) for model, rows in sorted(report.models.items())],
    )
    out.text(
        f"{report.rows} rows ({report.labelled} labelled) from {report.kits} kits in {report.files} "
        f"files, {size(report.bytes)}; {report.reused} files unchanged"
    )
    out.text(f"left out: {report.refused} kits, listed in {args.output}/_edgeprov/refused.jsonl")
    out.text(f"statement {report.statement}" + ("" if report.signed else " (not signed: give --ca or --key)"))
    out.next(f"train on {args.output}, then: edgeprov-fleet publish DIR --dataset {args.output} --to REGISTRY")


def _check(args: argparse.Namespace, place: Destination, out: Output) -> None:
    from dataclasses import asdict

    from edgeprov.fleet.dataset.check_dataset import check_dataset

    checked = check_dataset(place, common.load_trust(args).policy, common.now())
    out.item(
        "checked",
        f"{checked.files} files with {checked.rows} rows are unchanged and were signed by {checked.signer}",
        **asdict(checked),
    )
