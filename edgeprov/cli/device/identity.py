# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device's identity: keys in the TPM, certificate request, certificate."""

from __future__ import annotations

import argparse

from edgeprov.cli.device.files import read_input, write_output
from edgeprov.cli.output import Output
from edgeprov.cli.parsing import subcommands
from edgeprov.device.context import load_context
from edgeprov.errors import IdentityError, UsageError
from edgeprov.formats.segment import device_serial
from edgeprov.limits import LIMITS


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = subcommands(
        parser,
        {
            "create": "make the keys and the kit counter in the TPM",
            "csr": "write the enrollment request for edgeprov-fleet enroll",
            "activate": "answer the enroller's credential challenge",
            "install": "install the certificate that the enroller issued",
            "show": "show device, keys and certificate",
        },
    )
    create = actions["create"]
    create.add_argument("--owner-auth", metavar="FILE", help="set the TPM owner's password to this file's, or use it")
    create.add_argument("--lockout-auth", metavar="FILE", help="the same for the TPM's lockout")
    create.add_argument("--forget-auth", action="store_true", help="set passwords without a file to random ones")
    create.add_argument("--disable-clear", action="store_true", help="forbid to clear the TPM, but for its firmware")
    actions["csr"].add_argument("--nonce", metavar="HEX", help="the enroller's nonce, 8 to 64 bytes")
    actions["csr"].add_argument("--rename", metavar="SERIAL", help="ask for another serial number, same enrollment")
    actions["csr"].add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    actions["activate"].add_argument("challenge", metavar="FILE")
    actions["activate"].add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    actions["install"].add_argument(
        "certificates", metavar="FILE", help="PEM chain, or the enroller's identity document"
    )


def run(args: argparse.Namespace, out: Output) -> None:
    {"create": _create, "csr": _csr, "activate": _activate, "install": _install, "show": _show}[args.action](args, out)


def _password(path: str | None) -> bytes | None:
    """The first line of a file, without its end."""
    return None if path is None else read_input(path, LIMITS.config_bytes).partition(b"\n")[0].removesuffix(b"\r")


def _create(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.identity import create_identity
    from edgeprov.tpm.protection import Protection

    protection = Protection(
        owner=_password(args.owner_auth),
        lockout=_password(args.lockout_auth),
        forget=args.forget_auth,
        disable_clear=args.disable_clear,
    )
    document = create_identity(load_context(), protection)
    out.item(
        "identity",
        f"identity of {document['device']}, assurance {document['assurance']}",
        device=document["device"],
        assurance=document["assurance"],
    )
    out.next("edgeprov identity csr -o request.json")


def _csr(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.enrollment_request import create_request

    try:
        nonce = None if args.nonce is None else bytes.fromhex(args.nonce)
    except ValueError as error:
        raise UsageError("--nonce is not hexadecimal", advice="Give 8 to 64 bytes as hex digits.") from error
    write_output(args.output, create_request(load_context(), nonce, rename=args.rename))
    if args.output not in (None, "-"):
        out.item("request", f"enrollment request written to {args.output}", file=args.output)
        out.next(f"edgeprov-fleet enroll {args.output}, where the device CA is")


def _activate(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.enrollment_request import activate_credential

    write_output(args.output, activate_credential(load_context(), read_input(args.challenge, LIMITS.config_bytes)))
    if args.output not in (None, "-"):
        out.item("response", f"response written to {args.output}", file=args.output)


def _install(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.rename import install_identity

    context = load_context()
    device = install_identity(context, read_input(args.certificates, LIMITS.config_bytes))
    out.item("identity", f"certificate of {device} installed", device=device)
    if device != context.urn:
        out.next(f"set device.serial to {device_serial(device)} in the configuration: nothing is recorded before that")
        return
    out.next("edgeprov model install REF@sha256:...")


def _show(_args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.identity import find_enrollment, load_assurance, load_bin, load_certificates, load_keys
    from edgeprov.formats.b64 import parse_b64
    from edgeprov.formats.tpmt import parse_public

    state = load_context().state(write=False)
    keys = load_keys(state)
    try:
        chain, assurance = load_certificates(state), load_assurance(state)
    except IdentityError:
        chain, assurance = (), keys["assurance"]
    enrollment, place = find_enrollment(state), load_bin(state)
    names = {key: parse_public(parse_b64(keys[key], key)).name.hex() for key in ("ak", "sk")}
    out.item(
        "identity",
        "\n".join(
            (
                f"device       {keys['device']}",
                f"assurance    {assurance}",
                f"AK name      {names['ak']}",
                f"SK name      {names['sk']}",
                f"enrollment   {enrollment.id.hex() if enrollment else 'no request made yet'}",
                f"counter base {enrollment.counter_base if enrollment else '-'}",
                f"certificate  {f'installed, chain of {len(chain)}' if chain else 'none yet'}",
            )
        ),
        device=keys["device"],
        assurance=assurance,
        ak_name=names["ak"],
        sk_name=names["sk"],
        enrollment=enrollment.id.hex() if enrollment else None,
        counter_base=enrollment.counter_base if enrollment else None,
        bin=place,
        certificates=len(chain),
    )
