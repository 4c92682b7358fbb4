# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The repository of a data kit, from the template ``registry.data_template``.

Spec: FORMAT.md section "Registry layout"; OCI distribution-spec 1.1, "Pulling manifests" (grammar of names).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from edgeprov.errors import ConfigError
from edgeprov.registry.reference import is_repository

KEYS: Final = ("device", "year", "month", "day", "bin", "model")
_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_PLAIN: Final = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_ADVICE: Final = (
    "Correct registry.data_template, as in data/{device}/{year}; "
    f"known are {', '.join(f'{{{key}}}' for key in KEYS)}."
)
_NO_BIN: Final = "Enroll the device again with a bin, or take {bin} out of registry.data_template."


def device_part(serial: str) -> str:
    """A serial number as a part of a repository name, different for each serial.

    A serial that such a name can hold stays as it is. In another one each run of other characters becomes ``-``, and
    the start of its SHA-256 follows.
    """
    if _PLAIN.fullmatch(serial):
        return serial
    plain = re.sub(r"[^a-z0-9]+", "-", serial.lower()).strip("-")
    mark = hashlib.sha256(serial.encode()).hexdigest()[:8]
    return f"{plain}-{mark}" if plain else mark


def render_repository(
    template: str, *, serial: str, created: str | None, model: str | None, bin_name: str | None
) -> str:
    """The repository of one kit, without the registry's prefix.

    Args:
        template: As configured.
        serial: Of the device that sealed the kit.
        created: RFC 3339 time of sealing.
        model: 64 hex digits of the model's digest.
        bin_name: What the enroller gave the device; None without one.

    Raises:
        ConfigError: The template names something unknown or absent, or gives no name that registries take.
    """
    values: dict[str, str | None] = {"device": device_part(serial), "bin": bin_name, "model": model}
    if created is not None:
        year, month, day = created[:4], created[5:7], created[8:10]
        values |= {"year": year, "month": year + month, "day": year + month + day}
    name = _PLACE.sub(lambda match: _value(template, match[1], values), template)
    if not is_repository(name):
        raise ConfigError(f"registry.data_template {template!r} gives {name!r}, which is no repository", advice=_ADVICE)
    return name


def _value(template: str, key: str, values: Mapping[str, str | None]) -> str:
    if key not in KEYS:
        raise ConfigError(f"registry.data_template {template!r}: {{{key}}} is not known", advice=_ADVICE)
    value = values.get(key)
    if value is None and key == "bin":
        raise ConfigError(f"registry.data_template {template!r} has {{bin}}, this device has none", advice=_NO_BIN)
    if value is None:
        raise ConfigError(f"registry.data_template {template!r} has {{{key}}}, this artifact has none", advice=_ADVICE)
    return value
