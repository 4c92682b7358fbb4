# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Take records of an application in C, C++ or any other language: msgpack on a Unix socket or on stdin.

The protocol is in FORMAT.md, "Recording protocol". Guarantees are those of the Python API: an answer
means that the record is in the spool.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeprov.cli.output import Output
from edgeprov.device.context import load_context


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", metavar="PATH", type=Path, help="listen there; default: stdin and stdout")
    parser.add_argument("--slot", help="default: the first configured slot")


def run(args: argparse.Namespace, _out: Output) -> None:
    from edgeprov.device.record_server import serve_socket, serve_stream

    context = load_context()
    slot = args.slot or context.config.device.slots[0]
    if args.socket is None:
        serve_stream(context, slot, sys.stdin.buffer, sys.stdout.buffer)
    else:
        serve_socket(context, slot, args.socket.absolute())
