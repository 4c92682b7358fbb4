# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Check devices' enrollment requests, issue the certificates of their signing keys, publish their signed records.

A TPM with an endorsement key certificate of a listed maker must also answer a credential challenge: the
first call writes the challenge (exit 100), the second one takes the answer with --response. Several
requests, or a folder of them, are enrolled in one run; then -o and --response are folders.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output
from edgeprov.cli.parsing import positive
from edgeprov.errors import EXIT_QUEUED, EdgeprovError, UsageError

if TYPE_CHECKING:
    from edgeprov.fleet.enrollment.desk import Answer, Desk, Prepared
    from edgeprov.fleet.enrollment.request import Request

_THREADS = 8  # a registry that syncs to disk answers slowly, and several at once


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "requests", metavar="request.json", nargs="+", type=Path, help="from `edgeprov identity csr`; or a folder"
    )
    parser.add_argument("--to", required=True, metavar="REGISTRY", help="where the records go")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", type=Path,
        help="identity file (or challenge) for the device; with several requests a folder",
    )  # fmt: skip
    parser.add_argument("--ca", metavar="DIR", type=Path, help="folder of `ca init`")
    own = parser.add_argument_group("instead of --ca, where the vendor runs a CA (edgeprov/fleet/ENROLLMENT.md)")
    own.add_argument("--issued", metavar="PEM", type=Path, help="chain that this CA issued for the request, leaf first")
    own.add_argument("--enroller-certificate", metavar="PEM", type=Path, help="chain of the enroller, leaf first")
    own.add_argument("--enroller-key", metavar="PEM", type=Path, help="its ECDSA P-256 private key")
    parser.add_argument(
        "--trust", metavar="DIR", type=Path, help="default: trust.d of the CA; ek-*.pem, idevid-*.pem, roles, deny list"
    )
    parser.add_argument("--nonce", metavar="HEX", help="the challenge that was given to `identity csr --nonce`")
    parser.add_argument(
        "--response", metavar="FILE", type=Path, help="answer of `edgeprov identity activate`; or a folder"
    )
    parser.add_argument(
        "--state", metavar="DIR", type=Path,
        help="the enroller's own folder, for challenges that wait (default: CA/enrollments, else below "
        "$XDG_STATE_HOME or ~/.local/state); never a folder that goes to a device",
    )  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="the board was exchanged: the serial may change its TPM")
    parser.add_argument("--rename", action="store_true", help="the same device gets another serial number")
    parser.add_argument("--bins", metavar="N", type=positive, help="give each new device one of N bins in turn")
    common.registry_options(parser)


def run(args: argparse.Namespace, out: Output) -> int | None:
    requests, several = _requests(args)
    if several and (args.issued is not None or args.nonce is not None):
        raise UsageError("--issued and --nonce belong to one request", advice="Enroll the requests one by one.")
    desk = _desk(args, several=several)
    if several:
        return _run_line(args, out, desk, requests)
    prepared = _prepare(args, desk, requests[0], args.response)
    if prepared.challenge is not None:
        return _tell_challenge(out, prepared, args.output)
    _tell_enrolled(out, desk, desk.issue(prepared), args.output)
    out.next(f"on the device: edgeprov identity install {args.output}")
    return None


def _run_line(args: argparse.Namespace, out: Output, desk: Desk, requests: list[Path]) -> int:
    """Many requests: judged one after the other, issued and pushed several at once."""
    from concurrent.futures import Future, ThreadPoolExecutor

    from edgeprov.fleet.enrollment.known_devices import request_tags
    from edgeprov.store.atomic import make_dirs

    make_dirs(args.output, 0o755)
    codes: list[int] = []
    under_way: dict[Future[Answer], tuple[Path, set[str]]] = {}

    def refused(path: Path, error: EdgeprovError) -> None:
        out.item("refused", f"{path}: {error.message}", file=str(path), error=type(error).__name__, why=error.message)
        codes.append(error.exit_code)

    def finish(future: Future[Answer]) -> None:
        path, _ = under_way.pop(future)
        try:
            _tell_enrolled(out, desk, future.result(), args.output / f"{path.stem}.identity.json")
        except EdgeprovError as error:
            refused(path, error)

    with ThreadPoolExecutor(_THREADS) as pool:
        for path in requests:
            response = None if args.response is None else args.response / f"{path.stem}.response.json"
            try:
                tags = request_tags(_read_request(path))
                while len(under_way) >= 2 * _THREADS or any(tags & taken for _, taken in under_way.values()):
                    finish(next(iter(under_way)))
                prepared = _prepare(args, desk, path, response)
            except EdgeprovError as error:
                refused(path, error)
                continue
            if prepared.challenge is not None:
                codes.append(_tell_challenge(out, prepared, args.output / f"{path.stem}.challenge.json"))
                continue
            under_way[pool.submit(desk.issue, prepared)] = path, tags
        while under_way:
            finish(next(iter(under_way)))
    return next((code for code in codes if code != EXIT_QUEUED), EXIT_QUEUED if codes else 0)


def _requests(args: argparse.Namespace) -> tuple[list[Path], bool]:
    several = len(args.requests) > 1 or args.requests[0].is_dir()
    found: list[Path] = []
    for path in args.requests:
        found += sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not found:
        raise UsageError(f"{args.requests[0]} holds no request (*.json)")
    if several and args.response is not None and not args.response.is_dir():
        raise UsageError("several requests, and --response is not a folder")
    return found, several


def _desk(args: argparse.Namespace, *, several: bool) -> Desk:
    from edgeprov.fleet.enrollment import ca
    from edgeprov.fleet.enrollment.desk import Desk
    from edgeprov.fleet.enrollment.enroller_state import EnrollerState
    from edgeprov.fleet.trust.folder import load_trust
    from edgeprov.fleet.trust.signers import load_signer

    own = (args.issued, args.enroller_certificate, args.enroller_key)
    if (args.ca is None) != all(own) or (args.ca is not None and any(own)) or (args.ca is None and args.trust is None):
        raise UsageError(
            "nobody to vouch for the device",
            advice="Give --ca DIR; or --issued, --enroller-certificate, --enroller-key and --trust.",
        )
    state = EnrollerState(args.state or _state_folder(args.ca))
    state.verify_apart(args.output)
    return Desk(
        source=common.source(args, args.to),
        policy=load_trust(args.trust or args.ca / "trust.d").policy,
        state=state,
        issuer=None if args.ca is None else ca.load_role(args.ca, "issuing"),
        signer=load_signer(args.enroller_key, args.enroller_certificate)
        if args.ca is None
        else ca.load_role(args.ca, "enroller"),
        bins=args.bins,
        listed=several,
    )


def _state_folder(ca: Path | None) -> Path:
    if ca is not None:
        return ca / "enrollments"
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local/state") / "edgeprov/enrollments"


def _read_request(path: Path) -> Request:
    from edgeprov.fleet.enrollment.request import parse_request
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes

    return parse_request(load_bytes(path, max_bytes=LIMITS.device_record_bytes, what=str(path)))


def _prepare(args: argparse.Namespace, desk: Desk, path: Path, response: Path | None) -> Prepared:
    from edgeprov.fleet.enrollment import ca
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes

    try:
        nonce = bytes.fromhex(args.nonce) if args.nonce else None
    except ValueError as error:
        raise UsageError("--nonce is not hex") from error
    answer = None if response is None else load_bytes(response, max_bytes=LIMITS.config_file_bytes, what=str(response))
    return desk.prepare(
        _read_request(path),
        common.now(),
        nonce=nonce,
        response=answer,
        certificates=() if args.issued is None else ca.load_chain(args.issued),
        replace=args.replace,
        rename=args.rename,
    )


def _tell_challenge(out: Output, prepared: Prepared, output: Path) -> int:
    from edgeprov.formats.jsonx import encode_json
    from edgeprov.store.atomic import save_bytes

    save_bytes(output, encode_json(prepared.challenge or {}), mode=0o644)
    out.item(
        "challenge", f"wrote {output}: only this TPM can answer it, within an hour", file=str(output),
        device=prepared.request.device,
    )  # fmt: skip
    out.next(f"on the device: edgeprov identity activate {output} -o response.json; then repeat with --response")
    return EXIT_QUEUED


def _tell_enrolled(out: Output, desk: Desk, answer: Answer, output: Path) -> None:
    from edgeprov.formats.jsonx import encode_json
    from edgeprov.store.atomic import save_bytes

    record, manifest = answer.enrolled.record, answer.enrolled.manifest
    save_bytes(output, encode_json(answer.identity), mode=0o644)
    place, why = answer.prepared.place, answer.prepared.decision.why
    before = place.before if place.before is not None and place.before.enrollment != record.enrollment else None
    out.item(
        "enrolled",
        f"{record.device}: enrollment {record.enrollment.hex()}, assurance {record.assurance} ({record.proof}), "
        f"counter base {record.counter_base}, record {manifest.digest}",
        device=record.device,
        enrollment=record.enrollment.hex(),
        assurance=record.assurance,
        proof=record.proof,
        counter_base=record.counter_base,
        replaces=None if record.replaces is None else record.replaces.hex(),
        renewed=place.renewed is not None,
        bin=record.bin,
        record=str(manifest.digest),
        repo=desk.repo,
        replaced=None if before is None else before.enrollment.hex(),
        file=str(output),
    )
    if why:
        out.text(f"Its level is dev: {why}.")
    if before is not None:
        out.text(
            f"The serial had the enrollment {before.enrollment.hex()}: its record stays readable for its kits. "
            "The roster has to end it: see edgeprov-fleet retire."
        )
