# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From a model to the data it produced, the training sets made of it, and the models trained on those; and back.

What no verdict of `edgeprov-fleet verify` vouches for is marked UNVERIFIED, with the reason.
"""

from __future__ import annotations

import argparse
from typing import Any

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, short


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="digest, start of one, name, name:tag or name:version")
    common.fleet_option(parser)
    common.trust_option(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.index.lineage import lineage

    with common.open_index(args) as index:
        policy = common.verdict_policy(args, index)
        found = [lineage(index, digest, policy) for digest in index.resolve_model(args.model)]
    for item in found:
        out.item("lineage", **item)
        for collection in reversed(item["before"]):
            sources = ", ".join(map(short, collection["models"])) or "not known here"
            out.text(f"training set {short(collection['statement'])} <- data of {sources}{vouched(collection)}")
        _show(out, item["model"], "")
        for collection in item["after"]:
            out.text(
                f"  training set {short(collection['statement'])}: {collection['rows']} "
                f"rows ({collection['labelled']} labelled) "
                f"from {collection['kits']} kits{vouched(collection)}"
            )
            for child in collection["next_models"]:
                _show(out, child, "    ")


def vouched(collection: dict[str, Any]) -> str:
    """What follows the line about a training set."""
    return f"; signed by {collection['signer']}" if collection["verified"] else f"; UNVERIFIED: {collection['why']}"


def _show(out: Output, model: dict[str, Any], indent: str) -> None:
    name = f"{model['name']}:{model['version']}" if model["name"] else "unknown model"
    out.text(
        f"{indent}model {name} {short(model['digest'])}: {model['records']} records in {model['kits']} kits of "
        f"{model['devices']} devices{'' if model['signed'] else '; UNVERIFIED publisher'}"
    )
