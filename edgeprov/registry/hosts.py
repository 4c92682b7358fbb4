# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Names of hosts: ``host``, ``host:port``, ``[::1]:port``, parsed and never compared by their first letters."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult

_PORTS: Final = {"http": "80", "https": "443"}


def host_of(name: str) -> str:
    """The host in ``host[:port]``, in lower case and without the brackets of an IPv6 address."""
    if name.startswith("["):
        return name[1:].partition("]")[0].lower()
    return name.partition(":")[0].lower()


def is_loopback(name: str) -> bool:
    """True when ``host[:port]`` is this machine: exactly ``localhost``, or a loopback address."""
    host = host_of(name)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def named_host(parts: SplitResult) -> str:
    """``host[:port]`` of an address in lower case: without a user, and without the port that its scheme implies."""
    return without_default_port(parts.netloc.rpartition("@")[2], parts.scheme)


def host_set(host: str, others: Iterable[str], scheme: str) -> frozenset[str]:
    """A host and others beside it, in the form of named_host."""
    return frozenset(without_default_port(item, scheme) for item in (host, *others))


def without_default_port(name: str, scheme: str) -> str:
    """``host:443`` is ``host`` under https."""
    return name.lower().removesuffix(f":{_PORTS.get(scheme, '')}")
