# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Whether this is a good moment for an upload: is the link metered, is there enough power?

What cannot be found out does not hold an upload up: a device without a battery or without a network
manager would otherwise never send anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeprov.device.context import Context

POWER_SUPPLY: Final = Path("/sys/class/power_supply")
METERED_FILE: Final = "metered"
"""In the run folder; the network hooks of edgeprov/data write ``yes`` or ``no`` into it at each change."""
_MAINS: Final = frozenset(("Mains", "USB", "Wireless"))
_READ_BYTES: Final = 64


def why_not_now(context: Context, *, power_supply: Path = POWER_SUPPLY) -> str | None:
    """The reason to wait by the policy of ``[upload]``, None when there is none."""
    settings = context.config.upload
    if settings.metered == "no" and is_metered(context.run_dir):
        return 'the link is metered (upload.metered = "no")'
    if settings.min_battery_percent:
        charge = battery_percent(power_supply)
        if charge is not None and charge < settings.min_battery_percent:
            return f"the battery has {charge} % (upload.min_battery_percent = {settings.min_battery_percent})"
    return None


def is_metered(run_dir: Path) -> bool:
    """What the network hook said last; False when there is none."""
    return _read(run_dir / METERED_FILE) == "yes"


def battery_percent(power_supply: Path = POWER_SUPPLY) -> int | None:
    """Charge of the emptiest battery; None on mains power, or without a battery that tells.

    Spec: Linux, Documentation/ABI/testing/sysfs-class-power.
    """
    charges = []
    try:
        supplies = sorted(power_supply.iterdir())
    except OSError:
        return None
    for supply in supplies:
        kind = _read(supply / "type")
        if kind in _MAINS and _read(supply / "online") not in ("", "0"):
            return None
        if kind == "Battery" and _read(supply / "scope") != "Device":  # "Device": a mouse's own battery
            capacity = _read(supply / "capacity")
            if capacity.isascii() and capacity.isdigit():
                charges.append(int(capacity))
    return min(charges, default=None)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_READ_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""
