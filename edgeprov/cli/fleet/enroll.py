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
    from edgeprov.fleet.enrollment.desk import Answer, Desk


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
    parser.add_argument("--bins", metavar="N", type=positive, help="give each new device one of N bins in turn")
    common.registry_options(parser)


def run(args: argparse.Namespace, out: Output) -> int | None:
    requests, several = _requests(args)
    if several and (args.issued is not None or args.nonce is not None):
        raise UsageError("--issued and --nonce belong to one request", advice="Enroll the requests one by one.")
    desk = _desk(args, several=several)
    if not several:
        return _report(args, out, desk, requests[0], args.output, args.response)
    from edgeprov.store.atomic import make_dirs

    make_dirs(args.output, 0o755)
    worst = 0
    for path in requests:
        response = None if args.response is None else args.response / f"{path.stem}.response.json"
        try:
            code = _report(args, out, desk, path, args.output / f"{path.stem}.identity.json", response)
        except EdgeprovError as error:
            out.item(
                "refused", f"{path}: {error.message}", file=str(path), error=type(error).__name__, why=error.message
            )
            worst = worst if worst not in (0, EXIT_QUEUED) else error.exit_code
            continue
        worst = worst or code or 0
    return worst


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


def _report(
    args: argparse.Namespace, out: Output, desk: Desk, path: Path, output: Path, response: Path | None
) -> int | None:
    from edgeprov.fleet.enrollment import ca
    from edgeprov.formats.jsonx import encode_json
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes, save_bytes

    def read(file: Path, size: int) -> bytes:
        return load_bytes(file, max_bytes=size, what=str(file))

    try:
        nonce = bytes.fromhex(args.nonce) if args.nonce else None
    except ValueError as error:
        raise UsageError("--nonce is not hex") from error
    answer: Answer = desk.answer(
        read(path, LIMITS.device_record_bytes),
        common.now(),
        nonce=nonce,
        response=None if response is None else read(response, LIMITS.config_file_bytes),
        certificates=() if args.issued is None else ca.load_chain(args.issued),
        replace=args.replace,
    )
    if answer.challenge is not None:
        output = output.with_name(output.name.replace(".identity.json", ".challenge.json"))
        save_bytes(output, encode_json(answer.challenge), mode=0o644)
        out.item(
            "challenge", f"wrote {output}: only this TPM can answer it, within an hour", file=str(output),
            device=answer.request.device,
        )  # fmt: skip
        out.next(f"on the device: edgeprov identity activate {output} -o response.json; then repeat with --response")
        return EXIT_QUEUED
    assert answer.enrolled is not None  # noqa: S101 - one of the two
    record, manifest = answer.enrolled.record, answer.enrolled.manifest
    save_bytes(output, encode_json(answer.identity), mode=0o644)
    before = answer.place.before
    replaced = before is not None and before.enrollment != record.enrollment
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
        renewed=answer.place.renewed is not None,
        bin=record.bin,
        record=str(manifest.digest),
        repo=desk.repo,
        replaced=before.enrollment.hex() if before is not None and replaced else None,
        file=str(output),
    )
    if answer.decision.why:
        out.text(f"Its level is dev: {answer.decision.why}.")
    if before is not None and replaced:
        out.text(
            f"The serial had the enrollment {before.enrollment.hex()}: its record stays readable for its kits. "
            f"End it: edgeprov-fleet retire {before.enrollment.hex()}"
        )
    out.next(f"on the device: edgeprov identity install {output}")
    return None
