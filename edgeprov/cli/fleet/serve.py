# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A read-only web service and page over the index: search, a kit's chain and verdict, lineage, proofs.

Without tokens it listens on this machine only. TLS is the business of the proxy in front of it.
"""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path

from edgeprov.cli.fleet import common
from edgeprov.cli.output import Output
from edgeprov.errors import ConfigError, UsageError

_TOKEN_MIN = 16


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="accepted bearer tokens, one a line")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second for each client")
    parser.add_argument("--behind-proxy", metavar="IP", help="believe X-Forwarded-For from this address")
    common.fleet_option(parser)
    common.trust_option(parser)


def run(args: argparse.Namespace, out: Output) -> None:
    try:
        import uvicorn

        from edgeprov.fleet.service.app import Limiter, make_app
    except ImportError as error:
        raise UsageError(
            "starlette and uvicorn are not installed", advice="pip install edgeprov[fleet,serve]"
        ) from error
    from edgeprov.fleet.service.answers import Hub

    host, port = _address(args.listen)
    tokens = _tokens(args.token_file) if args.token_file else ()
    if not tokens and not ipaddress.ip_address(host).is_loopback:
        raise UsageError(f"{host} is open to others", advice="Give --token-file FILE, or listen on 127.0.0.1.")
    if args.rate <= 0:
        raise UsageError("--rate is not above 0")
    common.open_index(args).close()  # its absence is told now, not at the first request
    hub = Hub(folder=common.fleet_folder(args), trust=common.load_trust(args))
    app = make_app(hub, tokens=tokens, limiter=Limiter(args.rate, 3 * args.rate))
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, server_header=False,
        proxy_headers=bool(args.behind_proxy), forwarded_allow_ips=args.behind_proxy or "",
    )  # fmt: skip
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    listener.listen()  # from here on a client may come, as the next line says
    real = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    out.item("serving", f"http://{shown}:{real}/ (Ctrl-C ends it)", url=f"http://{shown}:{real}/", tokens=len(tokens))
    import sys

    sys.stdout.flush()
    server.run(sockets=[listener])


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError as error:
        raise UsageError(f"{text!r} is not an address and port", advice="Write 127.0.0.1:8080.") from error
    if not 0 <= number < 65536:
        raise UsageError(f"{port} is not a port")
    return host, number


def _tokens(path: Path) -> tuple[str, ...]:
    from edgeprov.limits import LIMITS
    from edgeprov.store.atomic import load_bytes

    lines = load_bytes(path, max_bytes=LIMITS.config_file_bytes, what=str(path)).decode("utf-8", "replace").splitlines()
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not tokens or any(len(token) < _TOKEN_MIN for token in tokens):
        raise ConfigError(f"{path} holds no tokens, or one shorter than {_TOKEN_MIN} characters")
    return tokens
