# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Answer an auditor's challenge: what the TPM says now about the newest kit of this device."""

from __future__ import annotations

import argparse

from edgeprov.cli.device.files import write_output
from edgeprov.cli.output import Output
from edgeprov.device.context import load_context


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nonce", metavar="NONCE", help="8 to 64 bytes from the auditor, in hex")
    parser.add_argument(
        "--final", action="store_true", help="end this enrollment: nothing is recorded or sealed under it any more"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="default: standard output")


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.attest import attest

    write_output(args.output, attest(load_context(), args.nonce, final=args.final))
    if args.output not in (None, "-"):
        out.item("head", f"answer written to {args.output}", file=args.output)
