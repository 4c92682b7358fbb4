# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Where a kit goes: the template of the configuration, with the facts of the device and of the kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov.errors import ConfigError
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.registry.repository_template import render_repository

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import OutboxEntry


def data_repo(context: Context, model: Digest | None, created: str) -> str:
    """Where a kit would go as configured now; empty where the template gives no repository.

    Sealing never fails for a template: it is rendered again, and told, when the kit is sent (repository_of).

    Args:
        context: The device, for its template.
        model: The source model; None where there is none.
        created: RFC 3339, the time of sealing.
    """
    try:
        return _render(context, context.serial, model.hex if model else None, created)
    except ConfigError:
        return ""


def verify_template(context: Context) -> str:
    """The repository that a kit of this moment would go to.

    Raises:
        ConfigError: The template gives none.
        IdentityError: The bin that it names cannot be read.
    """
    return _render(context, context.serial, "0" * 64, rfc3339(context.now()))


def repository_of(context: Context, entry: OutboxEntry) -> str:
    """The repository that an artifact is sent to, without the registry's prefix, as configured now.

    ``{device}`` is the name under which it was sealed, so that a renamed device's older kits stay together.

    Raises:
        ConfigError: The template gives no repository.
    """
    model, created = entry.info.get("model"), entry.info.get("created")
    return _render(
        context,
        entry.tag.partition(".")[0],
        parse_digest(str(model)).hex if model else None,
        str(created) if created else None,
    )


def _render(context: Context, serial: str, model: str | None, created: str | None) -> str:
    template = context.config.registry.data_template
    bin_name = context.bin if "{bin}" in template else None
    return render_repository(template, serial=serial, created=created, model=model, bin_name=bin_name)
