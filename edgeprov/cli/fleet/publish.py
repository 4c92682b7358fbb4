# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Pack a Kitfile folder as a native ModelKit (the layers of `kit pack`, byte for byte), sign it, push it.

Prints the reference by digest, which is what devices install.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, size


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kit", metavar="DIR|Kitfile", type=Path)
    parser.add_argument("--to", required=True, metavar="REGISTRY", help="host[:port]/prefix or oci:DIR")
    parser.add_argument("--name", help="repository below models/ (default: the package's name)")
    parser.add_argument("--tag", help="default: the package's version, or the start of the digest where it has none")
    parser.add_argument("--dataset", metavar="DIR|URL", help="what `collect` wrote and this model was trained on")
    common.signer_options(parser, "publisher")
    common.registry_options(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.publishing import publish

    signer = common.load_signer(args, "publisher")
    assert signer is not None  # noqa: S101 - required
    source = common.source(args, args.to)
    collection = publish.load_collection(args.dataset) if args.dataset else None
    kit = publish.pack(args.kit, annotations=collection.annotations if collection else None)
    result = publish.publish(kit, source, signer, name=args.name, tag=args.tag, now=common.now(), collection=collection)
    out.table(
        ("layer", "path", "size", "digest"),
        [
            (layer.spec.kind, layer.spec.path, size(layer.descriptor.size), layer.descriptor.digest)
            for layer in kit.layers
        ],
    )
    out.item(
        "published",
        result.reference,
        reference=result.reference,
        digest=str(result.digest),
        repo=result.repo,
        tag=result.tag,
        signature=str(result.signature),
        bytes_sent=result.bytes_sent,
        trained_on=collection.statement_digest if collection else None,
        layers=[
            {
                "kind": layer.spec.kind,
                "path": layer.spec.path,
                "digest": str(layer.descriptor.digest),
                "size": layer.descriptor.size,
            }
            for layer in kit.layers
        ],
    )
    out.next(f"on the device: edgeprov model install {result.reference}")
