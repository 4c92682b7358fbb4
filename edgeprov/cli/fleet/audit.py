# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Who produced what, when, with which model, in a period: counted from verified kits, with every gap shown.

Kits without a verdict are verified first. Text, JSON, CSV, or one self-contained HTML page; --sign writes a
signed statement of the report that anybody can check later.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output, short
from edgeprov.errors import UsageError

if TYPE_CHECKING:
    from edgeprov.fleet.audit.render.commands import Commands
    from edgeprov.fleet.index.database import Index
    from edgeprov.fleet.index.query import Query


def arguments(parser: argparse.ArgumentParser) -> None:
    common.filter_options(parser, verdicts=False, labels=False)
    parser.add_argument(
        "--head",
        action="append",
        metavar="FILE|DIR",
        type=Path,
        default=[],
        help="answer of `edgeprov attest`, or a folder of them; repeatable",
    )
    parser.add_argument("--nonce", metavar="HEX", help="what was asked with, for --head")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the report as one page")
    parser.add_argument("--csv", action="store_true")
    parser.add_argument(
        "--data", metavar="DIR", help="folder or URL that `collect` wrote to: adds drift and accuracy by model"
    )
    parser.add_argument(
        "--sign", metavar="FILE", type=Path, help="write a signed statement of the report and the page (needs a signer)"
    )
    parser.add_argument(
        "--check",
        metavar="FILE",
        type=Path,
        help="only check a signed statement against --report: no index, no network",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        help="the report: written as JSON with --sign; with --check that file, or the page",
    )
    parser.add_argument("--no-verify", action="store_true", help="do not judge what has no verdict yet")
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="open no kit: results over an end of the period and labels are bounds",
    )
    common.signer_options(parser, "collector")
    common.fleet_option(parser)
    common.trust_option(parser)
    common.engine_options(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    if args.check:
        _check(args, out)
        return
    if args.csv and out.as_json:
        raise UsageError("--csv and --json exclude each other")
    if not args.since or not args.to:
        raise UsageError(
            "an audit needs a period", advice="Give --from and --to, for example --from 2026-01 --to 2026-01."
        )
    _verify_arguments(args)
    heads = _load_heads(args.head)
    report = _report(args, out, heads)
    page: bytes | None = None
    if args.html:
        from edgeprov.fleet.audit.render.page_html import encode_html
        from edgeprov.store.atomic import save_bytes

        page = encode_html(report, _commands(args, heads))
        save_bytes(args.html, page, mode=0o644)
    if args.sign:
        _sign(args, report, page)
    if out.as_json:
        out.item(report.pop("type"), **report)
        return
    if args.csv:
        from edgeprov.fleet.audit.render.text import CSV_HEADER, csv_rows

        writer = csv.writer(sys.stdout)
        writer.writerow(CSV_HEADER)
        writer.writerows(csv_rows(report))
        return
    _show(args, out, report)


def _verify_arguments(args: argparse.Namespace) -> None:
    """What would fail after minutes of work fails now."""
    for path in (args.html, args.sign, args.report):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path.parent} is no folder", advice=f"Make it, or write {path.name} elsewhere.")
    if args.nonce and not args.head:
        raise UsageError("--nonce needs --head", advice="Give the files that `edgeprov attest` answered with.")
    if args.head and not args.nonce:
        raise UsageError("--head needs --nonce", advice="Give the nonce that `edgeprov attest` was asked with.")
    if args.sign and args.report is None:
        raise UsageError("--sign needs --report", advice="Name the JSON file that the statement is about.")


def _verify_devices(query: Query, index: Index) -> None:
    """A name that nobody has must not pass for a device without results."""
    for device in query.device or ():
        if not index.rows(
            "SELECT 1 FROM artifacts WHERE device = ?1 UNION SELECT 1 FROM devices WHERE device = ?1 LIMIT 1", (device,)
        ):
            raise UsageError(
                f"the index knows no device {device[:80]!r}", advice="Check the serial, or run `edgeprov-fleet sync`."
            )


def _report(args: argparse.Namespace, out: Output, heads: Mapping[Path, bytes]) -> dict[str, Any]:
    from edgeprov.fleet.audit.fleet_audit import audit
    from edgeprov.fleet.verification import verify_kits
    from edgeprov.fleet.verification.attested_heads import verify_heads
    from edgeprov.fleet.verification.verify_dependencies import check_others

    trust, moment = common.load_trust(args), common.now()
    with common.open_index(args, write=True) as index:
        query = common.make_query(args, index, trust)
        _verify_devices(query, index)
        if not args.no_verify:
            from dataclasses import replace

            # A device's whole series is judged, not only the period.
            series = replace(query, model=None, slot=None, since=None, to=None, labelled=None)
            with out.progress("verify", index.count(series)[0]) as bar:
                verify_kits.check(index, series, trust, common.make_engine(args), at=moment, progress=bar.update)
            for _ in check_others(index, trust, at=moment):
                pass
        verified = verify_heads(index, heads.values(), args.nonce, trust, moment) if heads else {}
        with out.progress("audit", 1) as bar:
            result = audit(
                index, query, trust, now=moment, heads=verified, exact=not args.approximate, progress=bar.update
            )
        if args.data:
            from edgeprov.fleet.dataset.drift import drift

            result.drift = drift(args.data, query.since, query.to)
            names = index.model_names()
            for model in result.drift["models"]:
                model["name"] = names.get(model["model"])
    return result.as_json()


def _load_heads(given: Sequence[Path]) -> dict[Path, bytes]:
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes

    paths: list[Path] = []
    for place in given:
        inside = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
        if not inside:
            raise UsageError(f"{place} holds no heads", advice="Put the answers of `edgeprov attest` there.")
        paths += inside
    return {path: load_bytes(path, max_bytes=LIMITS.statement_bytes, what="a head") for path in paths}


def _show(args: argparse.Namespace, out: Output, report: dict[str, Any]) -> None:
    from edgeprov.fleet.audit.render import text

    totals, models = report["totals"], report["models"]
    out.text(f"Audit of {str(report['from'])[:10]} to {str(report['to'])[:10]} (end not included)")
    out.text(text.answer(report))
    out.text()
    out.table(
        ("model", "digest", "results", "kits", "devices", "unlabelled", "first", "last"),
        [
            (
                m["name"] or "?",
                short(m["digest"]),
                m["results"],
                m["kits"],
                m["devices"],
                text.share(m),
                m["first"][:16].replace("T", " "),
                m["last"][:16].replace("T", " "),
            )
            for m in models
        ],
    )
    out.text()
    out.table(
        ("device", "assurance", "slot", "model", "kits", "results", "first", "last", "gaps and doubts"),
        text.device_rows(report),
    )
    out.text()
    out.text(
        f"{totals['kits']} kits counted ({totals['label_kits']} with labels only); {totals['refused']} refused, "
        f"{totals['missing']} numbers missing, {totals['unknown_numbers']} unexplained, {totals['voided']} voided by a "
        f"signed tombstone{text.lost(totals)}, {totals['forks']} forked, {totals['unchecked']} unchecked"
    )
    if report["drift"]:
        out.text()
        out.table(("model", "results", "labelled", "accuracy", "PSI"), text.drift_rows(report["drift"]))
        for _, sentence in text.drift_sentences(report["drift"]):
            out.text(f"  {sentence}")
        out.text()
    out.text(f"verdict: {text.verdict_text(report)}")
    if note := text.head_note(report):
        out.text(note)
    if args.html:
        out.text(f"report: {args.html}")
    if args.sign:
        out.text(
            f"signed; check it anywhere: edgeprov-fleet audit --check {args.sign} --report {args.report} --trust DIR"
        )
    page = "" if args.html else "--html FILE for a page to hand over; "
    out.next(f"{page}edgeprov-fleet prove SERIAL/SLOT/NUMBER -o FILE proves one result")


def _sign(args: argparse.Namespace, report: dict[str, Any], page: bytes | None) -> None:
    from edgeprov.fleet.audit.audit_statement import sign_report
    from edgeprov.store.atomic import save_bytes

    signer = common.load_signer(args, "collector")
    assert signer is not None  # noqa: S101 - required
    raw, bundle = sign_report(report, signer, page)
    save_bytes(args.report, raw, mode=0o644)
    save_bytes(args.sign, bundle, mode=0o644)


def _check(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.audit.audit_statement import MAX_REPORT_BYTES, verify_report
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes

    if args.report is None:
        raise UsageError("--check needs --report", advice="Name the JSON file that the statement is about.")
    raw = load_bytes(args.report, max_bytes=MAX_REPORT_BYTES, what=str(args.report))
    bundle = load_bytes(args.check, max_bytes=LIMITS.signature_blob_bytes, what=str(args.check))
    signer = verify_report(raw, bundle, common.load_trust(args).policy, common.now())
    out.item("checked", f"the report is unchanged and was signed by {signer}", signer=signer, report=str(args.report))


def _commands(args: argparse.Namespace, heads: Mapping[Path, bytes]) -> Commands:
    from edgeprov.fleet.audit.render.commands import Commands
    from edgeprov.formats.head import parse_head
    from edgeprov.formats.segment import device_serial

    def words(*names: str) -> tuple[str, ...]:
        found: list[str] = []
        for name in names:
            value = getattr(args, name.strip("-").replace("-", "_"))
            for item in value if isinstance(value, list) else [value]:
                if item is not None and item is not False:
                    found += [name] if item is True else [name, str(item)]
        return tuple(found)

    return Commands(
        period=("--from", args.since, "--to", args.to),
        place=words("--fleet", "--trust"),
        filters=words("--model", "--slot"),
        devices=tuple(args.device or ()),
        signed=args.sign.name if args.sign else "",
        heads=words("--head", "--nonce"),
        head_of={device_serial(parse_head(raw).device): str(path) for path, raw in heads.items()},
        extra=words("--data", "--no-verify", "--approximate"),
    )
