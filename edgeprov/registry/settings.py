# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""How to reach a registry, and the names that these settings have in the program that runs."""

from __future__ import annotations

from pathlib import Path

from edgeprov._dataclass import dataclass
from edgeprov.limits import LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionNames:
    """Names of the settings as a user of this program writes them: an advice names no other. Default: the device's."""

    name: str = "registry.name"
    plain_http: str = "registry.plain_http"
    credentials: str = "registry.credentials_file"
    ca_file: str = "registry.ca_file"
    proxy: str = "registry.proxy"
    allow_hosts: str = "registry.allow_hosts"
    token_hosts: str = "registry.token_hosts"  # noqa: S105 - the name of a setting
    part_bytes: str = "seal.part_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """How to reach a registry.

    Attributes:
        credentials_file: In docker's or podman's form; without it the usual places are searched.
        helpers: Credential helpers (``docker-credential-NAME``) may be run: at the desk, not on a device.
        ca_file: PEM of a private CA.
        client_cert, client_key: PEM, for mutual TLS.
        allow_hosts: ``host[:port]`` of object stores that blobs may be redirected to; they get no credentials.
        token_hosts: ``host[:port]`` of token servers that may get the credentials.
        connect_s: Seconds for a connection, and for each 16 KiB that are sent.
        read_s: Seconds of silence, and the window in which ``min_bytes_per_s`` must arrive on average.
        names: The names of these settings in advice.
    """

    plain_http: bool = False
    credentials_file: Path | None = None
    helpers: bool = False
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    proxy: str = ""
    allow_hosts: tuple[str, ...] = ()
    token_hosts: tuple[str, ...] = ()
    connect_s: float = LIMITS.connect_s
    read_s: float = LIMITS.read_s
    min_bytes_per_s: float = LIMITS.min_bytes_per_s
    names: OptionNames = OptionNames()

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return "http" if self.plain_http else "https"

    @property
    def schemes(self) -> frozenset[str]:
        """Schemes that an address in an answer may have."""
        return frozenset((self.scheme, "https"))
