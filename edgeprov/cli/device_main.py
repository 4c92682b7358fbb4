# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`edgeprov`: what runs on the device."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from edgeprov.cli.output import run_program

VERBS = {
    "identity": "the device's TPM keys and certificate: create, csr, activate, install, show",
    "model": "install a model by digest, list, show, activate, remove",
    "boot-check": "verify and measure the active models; runs at boot before the application",
    "infer": "run inputs through a model and record each result",
    "serve": "the device service: sessions for applications, which append to memory that it copies",
    "record": "take records of an application in another language from stdin or a socket",
    "label": "add ground truth to records",
    "seal": "turn what was recorded into signed data kits",
    "upload": "send sealed kits to the registry",
    "export": "write sealed kits to a stick, as an OCI layout",
    "receipt": "install the receipt of an export, which frees what arrived",
    "attest": "answer an auditor's challenge with the TPM's signature",
    "status": "one screen: identity, models, records waiting, uploads, disk, clock",
    "doctor": "check everything, each finding with its fix",
    "simulator": "the private software TPM of a machine without a TPM: reboot, stop",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Without ``argv`` the process ends here."""
    code = run_program(
        "edgeprov",
        "Prove on the device which model version produced which data.",
        "edgeprov.cli.device",
        VERBS,
        argv,
    )
    if argv is None:
        _end(code)
    return code


def _end(code: int) -> None:
    """End the process without taking the interpreter apart, unless a thread is still at work.

    The TPM library leaves much to take apart: a boot check takes 34 % more without this (`./tests/run bench tricks`).
    What was printed is out, or its failure told (run_program), and files are closed by those who opened them.
    """
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no other way to have them run, once
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    raise SystemExit(main())
