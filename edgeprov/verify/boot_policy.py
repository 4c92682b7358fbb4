# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of policy.toml on measured boot: admitted model PCRs, and named sets of boot PCR values.

Spec: FORMAT.md "Trust policy".
"""

from __future__ import annotations

import re
from typing import Final

from edgeprov.errors import ConfigError

DEFAULT_PCRS: Final = (14,)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESETTABLE: Final = (16, 23)

BootSet = tuple[str, tuple[tuple[int, bytes], ...]]
"""Name, and numbers with values of 32 bytes, ascending."""


def parse_model_pcrs(value: object) -> tuple[int, ...]:
    """Read ``device.pcr``: the number of the model PCR, or a list of admitted ones.

    Raises:
        ConfigError: Not such numbers, or a PCR that anyone can reset.
    """
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(_is_pcr(number) and number not in _RESETTABLE for number in numbers):
        raise ConfigError("policy.toml: device.pcr is not a PCR for models (0 to 22, but not 16), or a list of them")
    return tuple(sorted(set(numbers)))


def parse_boot_sets(value: object, model_pcrs: tuple[int, ...]) -> tuple[BootSet, ...]:
    """Read ``device.boot_pcrs``: tables by name, each from PCR numbers to 64 hex digits.

    Raises:
        ConfigError: Malformed, an empty set, or a model PCR in one.
    """
    if not isinstance(value, dict):
        raise ConfigError("policy.toml: device.boot_pcrs is not a table of named tables")
    return tuple((name, _boot_set(name, table, model_pcrs)) for name, table in sorted(value.items()))


def _boot_set(name: str, table: object, model_pcrs: tuple[int, ...]) -> tuple[tuple[int, bytes], ...]:
    where = f"policy.toml: device.boot_pcrs.{name[:64]}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has letters, digits, '.', '_' and '-', at most 64")
    if not isinstance(table, dict) or not table:
        raise ConfigError(
            f"{where} is not a table with at least one PCR",
            advice=f'Name the set, for example: [device.boot_pcrs.release-1] "{name[:2]}" = "…"',
        )
    result = {}
    for key, text in table.items():
        try:
            number, digest = int(key), bytes.fromhex(text)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where} maps a PCR number to 64 hex digits") from error
        if not _is_pcr(number) or len(digest) != 32 or number in result:
            raise ConfigError(f"{where} maps a PCR number to 64 hex digits")
        if number in model_pcrs:
            raise ConfigError(f"{where}: PCR {number} is a model PCR, whose value the event log gives")
        result[number] = digest
    return tuple(sorted(result.items()))


def _is_pcr(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 23
