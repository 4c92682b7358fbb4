# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Run the device service: applications get sessions, and append to memory that the service copies to the disk.

It owns the TPM, the counter and the spool; an application has none of them. One service a device.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.output import Output
from edgeprov.device.context import load_context


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", type=Path, help="listen there; default: device.sock in the run folder"
    )


def run(args: argparse.Namespace, _out: Output) -> None:
    from edgeprov.device.record_server import serve_socket
    from edgeprov.device.rotation import service_socket

    context = load_context()
    path = args.socket or service_socket(context)
    serve_socket(context, context.config.device.slots[0], path.absolute(), tpm_in_child=True)
