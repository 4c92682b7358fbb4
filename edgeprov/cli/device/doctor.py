# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Check everything; each finding comes with its fix. Changes nothing."""

from __future__ import annotations

import argparse

from edgeprov.cli.output import Output, one_line


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # no options


def run(_args: argparse.Namespace, out: Output) -> int:
    from edgeprov.device.doctor import examine

    marks = {"ok": "ok  ", "note": "note", "fail": "FAIL"}
    worst = 0
    fix = ""
    for finding in examine():
        text = f"{marks[finding.verdict]}  {finding.check:<14} {one_line(finding.found)}"
        if finding.fix:
            text += f"\n      {'':<14} {one_line(finding.fix)}"
        out.item(
            "finding",
            text,
            check=finding.check,
            verdict=finding.verdict,
            found=finding.found,
            fix=finding.fix,
            code=finding.code,
        )
        if finding.verdict == "fail" and not worst:
            # The first fault is the one to mend: later ones are often its consequences.
            worst, fix = finding.code, finding.fix
    out.next(fix or "nothing: all is well")
    return worst
