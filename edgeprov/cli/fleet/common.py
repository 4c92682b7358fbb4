# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share: registries, the fleet folder, trust, filters, signers, engines."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprov.cli.parsing import positive
from edgeprov.errors import UsageError
from edgeprov.formats.names import is_number

if TYPE_CHECKING:
    from edgeprov.fleet.engines import Engine
    from edgeprov.fleet.index.database import Index
    from edgeprov.fleet.index.query import Query
    from edgeprov.fleet.registries.sources import Source
    from edgeprov.fleet.trust.folder import Trust
    from edgeprov.formats.envelope import Signer

_WORKERS_MAX = 1_024


def now() -> datetime:
    """The clock of this machine; SOURCE_DATE_EPOCH sets it for reproducible output."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(epoch), UTC) if is_number(epoch) and len(epoch) < 12 else datetime.now(UTC)


def registry_options(parser: argparse.ArgumentParser) -> None:
    """How to reach a registry."""
    group = parser.add_argument_group("registry")
    group.add_argument(
        "--plain-http", action="store_true", help="no TLS (default for localhost and loopback addresses)"
    )
    group.add_argument("--tls", action="store_true", help="TLS for a loopback address too, as --ca-file implies")
    group.add_argument(
        "--credentials",
        metavar="FILE",
        default="",
        help="docker or podman credentials with the account (default: where docker and podman keep them)",
    )
    group.add_argument("--ca-file", metavar="PEM", default="", help="CA of the registry's TLS certificate")
    group.add_argument("--client-certificate", metavar="PEM", default="", help="for a registry that asks for one")
    group.add_argument("--client-key", metavar="PEM", default="", help="its key (default: in the certificate's file)")
    group.add_argument("--proxy", metavar="URL", default="", help="HTTP proxy; none is taken from the environment")
    group.add_argument(
        "--allow-host",
        metavar="HOST",
        action="append",
        default=[],
        help="host[:port] that the registry may redirect blobs to, an object store for instance; repeatable",
    )
    group.add_argument(
        "--token-host",
        metavar="HOST",
        action="append",
        default=[],
        help="host[:port] of a token server beside the registry that may get the account; repeatable",
    )


def source(args: argparse.Namespace, name: str) -> Source:
    """The registry that a name and the options mean."""
    from edgeprov.fleet.registries.sources import parse_source

    return parse_source(
        name,
        plain_http=args.plain_http,
        tls=args.tls,
        credentials_file=args.credentials,
        ca_file=args.ca_file,
        client_certificate=args.client_certificate,
        client_key=args.client_key,
        proxy=args.proxy,
        allow_hosts=args.allow_host,
        token_hosts=args.token_host,
    )


def fleet_option(parser: argparse.ArgumentParser) -> None:
    """Where the index lies."""
    parser.add_argument(
        "--fleet", metavar="DIR", type=Path, help="folder of the index (default: $EDGEPROV_FLEET, ./fleet)"
    )


def fleet_folder(args: argparse.Namespace) -> Path:
    """The folder of the index."""
    given: Path | None = args.fleet
    return given or Path(os.environ.get("EDGEPROV_FLEET") or "fleet")


def open_index(args: argparse.Namespace, *, write: bool = False, make: bool = False) -> Index:
    """Open the index of the fleet folder; only `sync` makes one, for an empty one would answer "nothing refused"."""
    from edgeprov.fleet.index.database import Index

    return Index.open(fleet_folder(args), write=write, make=make)


def trust_option(parser: argparse.ArgumentParser) -> None:
    """Whom to trust."""
    parser.add_argument(
        "--trust", metavar="DIR", type=Path, help="trust folder (default: $EDGEPROV_TRUST, FLEET/trust.d)"
    )


def load_trust(args: argparse.Namespace, *, parse: bool = True) -> Trust:
    """The trust folder of the options; see fleet.trust.load_trust."""
    from edgeprov.fleet.trust.folder import load_trust as load

    given: Path | None = args.trust
    return load(given or Path(os.environ.get("EDGEPROV_TRUST") or fleet_folder(args) / "trust.d"), parse=parse)


def verdict_policy(args: argparse.Namespace, index: Index) -> str:
    """The trust folder whose verdicts are shown; where none is named and none lies ready, that of the newest run."""
    from edgeprov.errors import NotStored

    try:
        return load_trust(args, parse=False).digest
    except NotStored:
        if args.trust:
            raise
        return index.newest_policy()


def filter_options(parser: argparse.ArgumentParser, *, verdicts: bool = True, labels: bool = True) -> None:
    """Which kits."""
    group = parser.add_argument_group("which kits")
    group.add_argument(
        "--model", action="append", metavar="M", help="digest, start of one, name, name:tag or name:version; repeatable"
    )
    group.add_argument("--device", action="append", metavar="SERIAL", help="repeatable")
    group.add_argument("--slot")
    group.add_argument("--from", dest="since", metavar="T", help="2026-01, 2026-01-31 or a full time, UTC")
    group.add_argument("--to", metavar="T", help="a day or month is included whole")
    if labels:
        group.add_argument(
            "--labels", action=argparse.BooleanOptionalAction, default=None, help="only kits with (without) labels"
        )
    if verdicts:
        group.add_argument("--kit", metavar="DIGEST", help="one kit, or all whose digest begins so")
        group.add_argument("--trained", metavar="M", help="kits that the model M was trained on")
        group.add_argument("--kind", choices=("kit", "tombstone"))
        group.add_argument("--verdict", choices=("ok", "refused", "unchecked"))


def make_query(args: argparse.Namespace, index: Index, trust: Trust | None = None) -> Query:
    """The query of the options."""
    from edgeprov.fleet.index.query import Query
    from edgeprov.fleet.index.query_terms import device_name, parse_moment

    models = tuple(dict.fromkeys(digest for name in args.model or () for digest in index.resolve_model(name)))
    since = parse_moment(args.since) if args.since else None
    to = parse_moment(args.to, end=True) if args.to else None
    if since is not None and to is not None and since >= to:
        raise UsageError(
            f"--to {args.to} lies before --from {args.since}", advice="Write the earlier time after --from."
        )
    return Query(
        model=models or None,
        device=tuple(map(device_name, args.device)) if args.device else None,
        slot=args.slot,
        since=since,
        to=to,
        labelled=getattr(args, "labels", None),
        verdict=getattr(args, "verdict", None),
        kind=getattr(args, "kind", None),
        collection=index.resolve_training(args.trained) if getattr(args, "trained", None) else None,
        digest=index.resolve_kit(args.kit) if getattr(args, "kit", None) else None,
        policy=trust.digest if trust else "",
    )


def signer_options(parser: argparse.ArgumentParser, role: str) -> None:
    """Who signs."""
    group = parser.add_argument_group("signer")
    group.add_argument("--ca", metavar="DIR", type=Path, help=f"folder of `ca init`: its {role} signs")
    group.add_argument("--key", metavar="PEM", type=Path, help="ECDSA P-256 private key")
    group.add_argument(
        "--certificate", metavar="PEM", type=Path, help="its certificate chain, leaf first; without it: key mode"
    )
    group.add_argument(
        "--sign-command",
        metavar="CMD",
        help="a key in a PKCS#11 token, TPM or HSM: CMD reads 32 bytes and writes the signature; needs --certificate",
    )


def load_signer(args: argparse.Namespace, role: str, *, required: bool = True) -> Signer | None:
    """The signer of the options; None when there is none and none is required."""
    if args.ca is not None:
        from edgeprov.fleet.enrollment.ca import load_role

        return load_role(args.ca, role)
    if args.sign_command is not None:
        from edgeprov.fleet.trust.signers import load_command_signer

        if args.certificate is None or args.key is not None:
            raise UsageError("--sign-command needs --certificate PEM and excludes --key")
        return load_command_signer(args.sign_command, args.certificate)
    if args.key is not None:
        from edgeprov.fleet.trust.signers import load_signer as load

        return load(args.key, args.certificate)
    if required:
        raise UsageError("nobody to sign", advice="Give --ca DIR, or --key PEM with --certificate PEM.")
    return None


def engine_options(parser: argparse.ArgumentParser) -> None:
    """Where the work runs."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        default="local",
        metavar="NAME",
        help="local: processes of this machine (default); ray: a Ray cluster",
    )
    group.add_argument("--address", default="", help="of the Ray cluster: host:port or ray://host:port")
    group.add_argument("--workers", type=positive, metavar="N", help="processes (default: one for each processor)")


def make_engine(args: argparse.Namespace) -> Engine:
    """The engine of the options."""
    from edgeprov.fleet.engines import open_engine

    if args.workers is not None and args.workers > _WORKERS_MAX:
        raise UsageError(f"--workers is more than {_WORKERS_MAX}", advice="One for each processor is the default.")
    return open_engine(args.engine, address=args.address, workers=args.workers)
