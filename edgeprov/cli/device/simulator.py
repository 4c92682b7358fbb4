# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The software TPM of a machine without a TPM: reboot the simulated device, or stop it."""

from __future__ import annotations

import argparse

from edgeprov.cli.output import Output
from edgeprov.cli.parsing import subcommands
from edgeprov.device.context import load_context


def arguments(parser: argparse.ArgumentParser) -> None:
    subcommands(parser, {"reboot": "reset the TPM and end this boot", "stop": "end the software TPM"})


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.simulate import reboot, stop

    context = load_context()
    if args.action == "reboot":
        boot_id = reboot(context)
        out.item("reboot", f"rebooted; boot id {boot_id}", boot_id=boot_id)
        out.next("edgeprov boot-check")
    else:
        stop(context)
        out.item("stopped", "the software TPM ended; its state stays")
