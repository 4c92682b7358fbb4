# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verify a proof file with nothing but the trust anchors: no network, no registry, no index."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, one_line

_EXIT_REFUSED = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="proof file")
    parser.add_argument("--trust", metavar="DIR", type=Path, required=True, help="trust folder, as export-trust writes")


def run(args: argparse.Namespace, out: Output) -> int:
    from edgeprov.fleet.trust.folder import load_trust
    from edgeprov.fleet.verification.prove import unpack_evidence
    from edgeprov.formats.proof import parse_proof
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes
    from edgeprov.verify.proof_check import check_proof, verify_proof

    proof = parse_proof(load_bytes(args.file, max_bytes=LIMITS.proof_bytes, what=str(args.file)))
    policy, at = load_trust(args.trust).policy, common.now()
    report = check_proof(proof, policy, at, unpack_evidence)
    for step in report.steps:
        detail = f": {one_line(step.detail)}" if step.detail else ""
        out.text(f"{step.number:>4}  {step.verdict:<8}{step.name}{detail}")
    if report.failed is not None:
        text = f"refused at step {report.failed.number}"
        out.item("proof", text, **report.as_json(), code=report.failed.exit_code)
        out.next("do not rely on this result; ask whoever gave you the file for the kit itself")
        return report.failed.exit_code or _EXIT_REFUSED
    result = verify_proof(proof, policy, at, unpack_evidence)
    signed_before = result.verdict.signed_before.isoformat() if result.verdict.signed_before else None
    lines = [
        "",
        f"proved     record {result.record.n} of {result.kit.device}, slot {result.kit.slot}",
        f"model      {result.kit.model}, published by {one_line(result.publisher.san)}",
        f"outputs    {', '.join(item.hex() for item in result.record.outputs)} (raw)",
        f"assurance  {result.verdict.assurance}; boot {result.verdict.reset_count}"
        + (f" of {', '.join(result.verdict.boot_sets)}" if result.verdict.boot_sets else "")
        + f", kit {result.kit.seq} of the device",
        f"signed     {'before ' + signed_before if signed_before else 'at a time that nothing proves'}",
    ]
    out.item(
        "proof",
        "\n".join(lines),
        **report.as_json(),
        n=result.record.n,
        slot=result.kit.slot,
        seq=result.kit.seq,
        model=str(result.kit.model),
        publisher=result.publisher.san,
        assurance=result.verdict.assurance,
        boot_sets=list(result.verdict.boot_sets),
        outputs=[item.hex() for item in result.record.outputs],
        recorded_at_ns=result.record.recorded_at_ns,
        signed_before=signed_before,
    )
    return 0
