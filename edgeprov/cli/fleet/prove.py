# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Write one result with its whole chain of proof as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, size


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("record", metavar="RECORD", help="SERIAL/SLOT/NUMBER, or SERIAL/NUMBER for the slot default")
    parser.add_argument("-o", "--out", metavar="FILE", required=True, type=Path, help="proof file to write")
    common.fleet_option(parser)
    common.trust_option(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.verification.prove import make_proof, parse_record_name
    from edgeprov.formats.proof import encode_proof
    from edgeprov.store.atomic import save_bytes

    name = parse_record_name(args.record)
    trust = common.load_trust(args)
    with common.open_index(args) as index:
        proof = make_proof(index, name, trust.policy, common.now())
    raw = encode_proof(proof)
    save_bytes(args.out, raw, mode=0o644)
    text = f"proof of record {name.n} of {name.device} in {args.out} ({size(len(raw))}); it shows no other record"
    out.item("proof", text, path=str(args.out), device=name.device, slot=name.slot, n=name.n, bytes=len(raw))
    out.next(f"edgeprov-fleet check-proof {args.out} --trust DIR   (anywhere, without network)")
