# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verify and measure the active model of each slot; an application can load what passed, until the next boot."""

from __future__ import annotations

from edgeprov.cli.output import Output, one_line
from edgeprov.device.boot import boot_check
from edgeprov.device.context import load_context
from edgeprov.errors import EXIT_DONE, ModelNotReady


def run(_args: object, out: Output) -> int:
    verdicts = boot_check(load_context())
    if not verdicts:
        raise ModelNotReady("no slot has a model", advice="Run `edgeprov model install REF@sha256:...`.")
    worst = EXIT_DONE
    for verdict in verdicts:
        model = f"slot {verdict.slot}: {verdict.model}"
        if verdict.error is not None:
            worst = verdict.error.exit_code
            text = f"{model} REFUSED: {one_line(verdict.error.message)}\n  {one_line(verdict.error.advice)}"
        elif verdict.returned_from is not None:
            text = f"{model} verified, after {verdict.returned_from} was refused"
        else:
            text = f"{model} verified and measured"
            if verdict.kit is not None and verdict.kit.vouched:
                text += f" ({verdict.kit.vouched} of {len(verdict.kit.manifest.blobs)} files checked by the kernel)"
        out.item(
            "verdict",
            text,
            slot=verdict.slot,
            model=str(verdict.model),
            verdict="refused" if verdict.error else "verified",
            verity=verdict.kit.vouched if verdict.kit else 0,
            returned_from=str(verdict.returned_from) if verdict.returned_from else None,
            code=verdict.error.exit_code if verdict.error else 0,
            error=verdict.error.message if verdict.error else None,
        )
    return worst
