# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A new serial number for the same enrollment: recorded rows are sealed under the old name, later kits have the new.

Spec: FORMAT.md section "Device record".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov.device.events import note_event
from edgeprov.device.identity import install_certificates
from edgeprov.device.open_segments import verify_nothing_open
from edgeprov.device.seal import seal

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State


def end_old_name(context: Context, state: State, new: str) -> None:
    """Seal all that was recorded under the present name: no kit may hold segments of another name than its own.

    Args:
        context: The device, still with its old name.
        state: Its state folder.
        new: URN of the new name, for the event.

    Raises:
        UsageError: A segment is open.
        EdgeprovError: It cannot be sealed.
    """
    note_event(context, "renamed", None, {"from": context.urn, "to": new})
    seal(context, rest=True)
    verify_nothing_open(state)


def install_identity(context: Context, raw: bytes) -> str:
    """As install_certificates, also where the certificate names another serial number for the same enrollment."""
    return install_certificates(context, raw, end_old_name=end_old_name)
