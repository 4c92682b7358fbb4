# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Check a device's enrollment request, issue the certificate of its signing key, publish its signed record.

A TPM with an endorsement key certificate must also answer a credential challenge: the first call
writes the challenge (exit 100), the second one takes the answer with --response.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output
from edgeprov.errors import EXIT_QUEUED, UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("request", metavar="request.json", type=Path, help="from `edgeprov identity csr`")
    parser.add_argument("--to", required=True, metavar="REGISTRY", help="where the record goes")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", type=Path, help="identity file for the device")
    parser.add_argument("--ca", metavar="DIR", type=Path, help="folder of `ca init`")
    own = parser.add_argument_group("instead of --ca, where the vendor runs a CA (edgeprov/fleet/ENROLLMENT.md)")
    own.add_argument("--issued", metavar="PEM", type=Path, help="chain that this CA issued for the request, leaf first")
    own.add_argument("--enroller-certificate", metavar="PEM", type=Path, help="chain of the enroller, leaf first")
    own.add_argument("--enroller-key", metavar="PEM", type=Path, help="its ECDSA P-256 private key")
    parser.add_argument(
        "--trust", metavar="DIR", type=Path, help="default: trust.d of the CA; ek*.pem and the deny list count"
    )
    parser.add_argument("--nonce", metavar="HEX", help="the challenge that was given to `identity csr --nonce`")
    parser.add_argument("--response", metavar="FILE", type=Path, help="answer of `edgeprov identity activate`")
    common.registry_options(parser)


def run(args: argparse.Namespace, out: Output) -> int | None:
    from edgeprov.fleet.enrollment import ca, enroll
    from edgeprov.fleet.trust.folder import load_trust
    from edgeprov.fleet.trust.signers import load_signer
    from edgeprov.formats.jsonx import encode_json
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes, remove, save_bytes

    moment = common.now()
    own = (args.issued, args.enroller_certificate, args.enroller_key)
    if (args.ca is None) != all(own) or (args.ca is not None and any(own)) or (args.ca is None and args.trust is None):
        raise UsageError(
            "nobody to vouch for the device",
            advice="Give --ca DIR; or --issued, --enroller-certificate, --enroller-key and --trust.",
        )
    policy = load_trust(args.trust or args.ca / "trust.d").policy
    request = enroll.parse_request(
        load_bytes(args.request, max_bytes=LIMITS.device_record_bytes, what=str(args.request))
    )
    try:
        nonce = bytes.fromhex(args.nonce) if args.nonce else None
    except ValueError as error:
        raise UsageError("--nonce is not hex") from error
    enroll.verify_request(request, policy, moment, nonce=nonce)
    source = common.source(args, args.to)
    enroll.verify_not_enrolled_elsewhere(request, enroll.known_keys(source))
    # The secret waits beside the answer, for the second call on this machine.
    pending = args.output.with_name(args.output.name + ".secret")
    activated = False
    vouched = enroll.is_vouched(request, policy)
    if not vouched and (request.assurance != "dev" or request.ek_certificate is not None):
        if args.response is None:
            challenge, secret = enroll.make_challenge(request, enroll.random_bytes())
            save_bytes(pending, secret)
            save_bytes(args.output, encode_json(challenge), mode=0o644)
            out.item(
                "challenge",
                f"wrote {args.output}: only this TPM can answer it",
                file=str(args.output),
                device=request.device,
            )
            out.next(
                f"on the device: edgeprov identity activate {args.output} -o response.json; then repeat with --response"
            )
            return EXIT_QUEUED
        secret = load_bytes(pending, max_bytes=64, what="secret of the challenge")
        response = load_bytes(args.response, max_bytes=LIMITS.config_file_bytes, what=str(args.response))
        enroll.verify_response(response, secret)
        activated = True
    result = enroll.enroll(
        request,
        issuer=None if args.ca is None else ca.load_role(args.ca, "issuing"),
        certificates=() if args.ca is not None else ca.load_chain(args.issued),
        enroller=load_signer(args.enroller_key, args.enroller_certificate)
        if args.ca is None
        else ca.load_role(args.ca, "enroller"),
        to=source,
        policy=policy,
        now=moment,
        activated=activated,
    )
    save_bytes(args.output, encode_json(enroll.identity_file(result.record)), mode=0o644)
    remove(pending)
    out.item(
        "enrolled",
        f"{request.device}: enrollment {request.enrollment.hex()}, assurance {request.assurance}, "
        f"counter base {request.counter_base}, record {result.manifest.digest}",
        device=request.device,
        enrollment=request.enrollment.hex(),
        assurance=request.assurance,
        counter_base=request.counter_base,
        record=str(result.manifest.digest),
        repo=result.repo,
        replaced=str(result.replaced) if result.replaced else None,
        file=str(args.output),
    )
    if result.replaced:
        out.text(f"It was enrolled before: {result.replaced} stays readable for its old kits.")
    out.next(f"on the device: edgeprov identity install {args.output}")
    return None
