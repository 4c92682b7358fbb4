# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From a registry's name to a back end: an OCI layout folder or a real registry.

store and registry do not know each other; the device joins them here. oras is imported only when a
name really means a network host.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprov.config import RegistryConfig
from edgeprov.errors import ConfigError
from edgeprov.registry.reference import LAYOUT_PREFIX

if TYPE_CHECKING:
    from edgeprov.registry.base import Registry


def open_registry(name: str, config: RegistryConfig, *, create: bool = False) -> Registry:
    """Open the back end of ``host[:port]`` or ``oci:DIR``; nothing is contacted yet.

    Args:
        name: Without repository.
        config: Credentials, certificates and proxy, for a network host.
        create: Make the folder of ``oci:DIR`` a layout when it is none.

    Raises:
        RegistryError: The folder is not an OCI layout and cannot become one.
        ConfigError: A certificate or credentials file is wrong.
    """
    if name.startswith(LAYOUT_PREFIX):
        from edgeprov.store.layout_registry import LayoutRegistry

        return LayoutRegistry(Path(name.removeprefix(LAYOUT_PREFIX)), create=create)
    from edgeprov.registry.oras_backend import OrasRegistry
    from edgeprov.registry.settings import RegistrySettings

    settings = RegistrySettings(
        plain_http=config.plain_http,
        credentials_file=config.credentials_file,
        ca_file=config.ca_file,
        client_cert=config.client_certificate,
        client_key=config.client_key,
        proxy=config.proxy,
        allow_hosts=config.allow_hosts,
        token_hosts=config.token_hosts,
    )
    return OrasRegistry(name, settings=settings)


def split_name(name: str) -> tuple[str, str]:
    """Part ``registry.name`` into back end and repository prefix.

    Returns:
        ``("oci:DIR", "")`` or ``("host[:port]", "prefix/")``.

    Raises:
        ConfigError: No registry is configured.
    """
    if not name:
        raise ConfigError("registry.name is not set", advice="Set it to host[:port]/prefix or oci:DIR.")
    if name.startswith(LAYOUT_PREFIX):
        return name, ""
    host, _, prefix = name.partition("/")
    return host, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
