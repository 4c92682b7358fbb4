# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Judge kits by the ten steps and read every byte of them; verdicts are kept by digest and trust policy.

Exit code 10 when a kit was refused, 40 when some could not be read now.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, short
from edgeprov.errors import LoginRefused, RegistryError, VerificationError

if TYPE_CHECKING:
    from edgeprov.fleet.index.database import Index
    from edgeprov.fleet.index.verdicts import Judged
    from edgeprov.fleet.trust.folder import Trust

_SHOWN = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--evidence-only", action="store_true", help="the ten steps, not the bytes of the records")
    depth.add_argument("--records", action="store_true", help="decode every record and recompute the Merkle roots too")
    parser.add_argument("--again", action="store_true", help="judge anew what has a verdict")
    common.filter_options(parser, verdicts=False)
    common.fleet_option(parser)
    common.trust_option(parser)
    common.engine_options(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    from edgeprov.fleet.index.verdicts import verdict_json
    from edgeprov.fleet.verification import verify_kits

    trust = common.load_trust(args)
    depth = verify_kits.EVIDENCE if args.evidence_only else verify_kits.RECORDS if args.records else verify_kits.BLOBS
    shown = 0
    refused_logins: set[str | None] = set()

    def tell(artifact: verify_kits.Item, judged: Judged) -> None:
        nonlocal shown
        if out.as_json:
            out.item("verdict", device=artifact.device, seq=artifact.seq, kind=artifact.kind, **verdict_json(judged))
        elif judged.missing:
            parts = ", ".join(judged.missing[:_SHOWN])
            out.text(f"CONTENT NOT AVAILABLE {short(judged.digest)} {artifact.device} number {artifact.seq}: {parts}")
        elif judged.error == LoginRefused.__name__:  # about the account and no kit: one line for all
            if judged.detail not in refused_logins:
                refused_logins.add(judged.detail)
                out.text(f"NOT READABLE NOW: {judged.detail}")
        elif not judged.verified:
            shown += 1
            if shown <= _SHOWN:
                where = f"step {judged.step}" if judged.step else "content"
                out.text(
                    f"{_word(judged)} {short(judged.digest)} {artifact.device} number {artifact.seq}: {where}: "
                    f"{judged.detail}"
                )

    with common.open_index(args, write=True) as index:
        query = common.make_query(args, index, trust)
        total = index.count(query)[0]
        with out.progress("verify", total) as bar:
            report = verify_kits.check(
                index,
                query,
                trust,
                common.make_engine(args),
                at=common.now(),
                depth=depth,
                again=args.again,
                progress=bar.update,
                on_verdict=tell,
            )
        others = _check_others(args, out, index, trust) if not (args.device or args.model or args.slot) else [0, 0, 0]
    if shown > _SHOWN:
        out.text(f"... and {shown - _SHOWN} more: edgeprov-fleet query --verdict refused")
    out.item(
        "verified",
        (
            f"{report.ok} verified"
            + (f" ({report.incomplete} without all of their content)" if report.incomplete else "")
            + f", {report.refused} refused, {report.unreachable} not readable now ({report.cached} judged before)"
        ),
        ok=report.ok,
        incomplete=report.incomplete,
        refused=report.refused,
        unreachable=report.unreachable,
        cached=report.cached,
        reasons=report.reasons,
        policy=trust.digest,
    )
    for reason, count in sorted(report.reasons.items(), key=lambda pair: -pair[1]):
        out.text(f"  {count} x {reason}")
    if others[1]:
        out.next("what a registry lost or changed comes back from the outbox, a stick, or `publish` and `enroll`")
        return VerificationError.exit_code
    if report.refused:
        out.next(
            "edgeprov-fleet query --verdict refused --json tells each reason; collect leaves them out, audit lists them"
        )
        return VerificationError.exit_code
    if report.incomplete:
        out.next("bring the lost parts back from the device's outbox, a stick or a mirror; the evidence stays verified")
        return RegistryError.exit_code
    if report.unreachable or others[2]:
        out.next("repeat the command: only what is missing is read again")
        return RegistryError.exit_code
    out.next("edgeprov-fleet collect -o DIR, or edgeprov-fleet audit --from T --to T")
    return 0


def _word(judged: Judged) -> str:
    return "NOT READABLE NOW" if judged.verified is None else "REFUSED"  # a cut line is no verdict


def _check_others(args: argparse.Namespace, out: Output, index: Index, trust: Trust) -> list[int]:
    """Device records and models: how many verified, refused, unreadable now."""
    from edgeprov.fleet.verification.verify_dependencies import check_others

    counts = [0, 0, 0]
    for other in check_others(index, trust, at=common.now(), again=args.again):
        judged = other.judged
        counts[2 if judged.verified is None else 0 if judged.verified else 1] += 1
        text = (
            None
            if judged.verified
            else f"{_word(judged)} {other.kind} {other.name} {short(other.digest)}: {judged.detail}"
        )
        values = {
            "digest": other.digest,
            "name": other.name,
            "verified": judged.verified,
            "error": judged.error,
            "detail": judged.detail,
        }
        out.item("verdict", text, kind=other.kind, cached=other.cached, **values)
    out.text(f"{counts[0]} device records and models verified, {counts[1]} refused, {counts[2]} not readable now")
    return counts
